"""The functions of a generated module: of logits, and of hidden states and a weight."""

from __future__ import annotations

from dataclasses import dataclass

from lossgen.emit.docstring import docstring
from lossgen.emit.normalizer import literal
from lossgen.emit.text import python_docstring
from lossgen.spec.model import Batch, LossSpec

__all__ = ["Argument", "BatchView", "FunctionView", "batch_functions", "functions"]


@dataclass(frozen=True)
class Argument:
    """As Python source; without ``default`` it is required.  ``choices`` is what ``losses.pyi``
    calls the values that a text may have."""

    name: str
    type: str
    default: str | None = None
    choices: str | None = None


#: Of a class input; ``Entries``, ``Group`` and ``Ranks`` are the runtime's.
_STREAM = "Tensor | Entries"
_STREAM_OR_FACTORS = "Tensor | tuple[Tensor, ...] | Entries"
_HIDDEN = (Argument("hidden", "Tensor"), Argument("linear_weight", "Tensor"))
_BIAS = Argument("linear_bias", "Tensor | None", "None")
_SOFTCAP = Argument("softcap", "float | None", "None")
_TEMPERATURE = Argument("temperature", "float", "1.0")
_SHIFT = Argument("shift", "int", "0")
_BUDGET = Argument("memory_budget", "int | None", "None")
_SCHEDULE = Argument("schedule", "str", '"auto"', "_Schedule")
_FILTER = Argument("filter", "bool", "True")
_SKIP = Argument("skip_ignored", "bool | None", "None")
_IGNORE = Argument("ignore_index", "int", "-100")
_REDUCTION = Argument("reduction", "str", '"mean"', "_Reduction")
_BACKEND = Argument("backend", "str", '"auto"', "_Backend")
_INPLACE = Argument("inplace_grad", "bool", "False")
_CLASS_DIM = Argument("class_dim", "int | None", "None")
_GROUP = Argument("group", "Group | None", "None")
_BY = Argument("by", "Tensor | None", "None")
_BATCH_GROUP = Argument("batch_group", "Ranks | None", "None")
#: What every reduced loss takes, unless its spec has an argument of that name: fields of Weights.
_WEIGHT = Argument("weight", "Tensor | None", "None")
_ROW_WEIGHT = Argument("row_weight", "Tensor | None", "None")
_NORMALIZER = Argument("normalizer", "Tensor | float | None", "None")


class FunctionView:
    """What ``templates/row_api.jinja`` renders of one function and its module."""

    def __init__(self, spec: LossSpec, linear: bool) -> None:
        self.linear = linear
        self.name = f"{'linear_' if linear else ''}{spec.function}"
        self.class_name = f"{'Linear' if linear else ''}{spec.class_name}"
        classes = [n for n, i in spec.inputs.items() if i.kind == "class"]
        stream = _STREAM_OR_FACTORS if linear else _STREAM
        target = (Argument("target", "Tensor"),) if spec.has_target else ()
        first = _HIDDEN if linear else (Argument("logits", "Tensor"),)
        self.arguments = (*first, *target, *(Argument(n, stream) for n in classes))
        numbers = {name: literal(p.default) for name, p in spec.parameters.items()}
        declared = [Argument(name, "float", default) for name, default in numbers.items()]
        vocab, rows = (
            [_input(n, spec) for n in spec.inputs if spec.inputs[n].kind == kind]
            for kind in ("vocab", "row")
        )
        taken = {*spec.parameters, *spec.inputs}
        scaling = [a for a in (_SOFTCAP, _TEMPERATURE) if a.name not in taken]
        #: fields of LinearOptions
        shift = [_SHIFT] if spec.has_target else []
        skip = [_SKIP] if spec.has_target else []
        group = [] if _GROUP.name in taken else [_GROUP]
        after = [_BUDGET, _SCHEDULE, _FILTER, *skip, *group]
        self.group = "group" if group else "None"  # as the template passes it on
        self.scaling = [*scaling, *shift, *after] if linear else []
        common = [_IGNORE] if spec.has_target else []
        common += [_BACKEND] if spec.outputs else [_REDUCTION, _BACKEND]
        common += [] if linear or spec.outputs else [_INPLACE]
        common += [] if linear else [_CLASS_DIM, *group]
        free = () if spec.outputs else (_WEIGHT, _ROW_WEIGHT, _NORMALIZER)
        weights = [a for a in free if a.name not in taken and (a is not _WEIGHT or target)]
        #: as the template passes them on; None: the loss has another argument of that name
        self.weights = [a.name if a in weights else "None" for a in free]
        per_class = [a for a in weights if a is _WEIGHT]
        per_call = [a for a in weights if a is not _WEIGHT]
        bias = [_BIAS] if linear else []
        #: options that a module keeps, and what its forward takes by name
        self.kept = [*declared, *vocab, *per_class, *self.scaling, *common]
        self.given = [*rows, *per_call, *bias]
        in_order = [_input(n, spec) for n in spec.inputs if spec.inputs[n].kind != "class"]
        self.options = [*declared, *in_order, *weights, *bias, *self.scaling, *common]
        told = f"As :func:`{spec.function}`, of a linear layer without its logits."
        self.docstring = python_docstring(told) if linear else docstring(spec)


def functions(spec: LossSpec) -> list[FunctionView]:
    """Of logits that exist, and of logits that do not."""
    return [FunctionView(spec, linear) for linear in (False, True)]


class BatchView:
    """The same of a loss of the whole batch."""

    def __init__(self, spec: LossSpec, linear: bool) -> None:
        assert spec.batch is not None
        batch, self.linear = spec.batch, linear
        self.name = f"{'linear_' if linear else ''}{spec.name}_loss"
        self.class_name = f"{'Linear' if linear else ''}{batch.class_name}"
        stream = _STREAM_OR_FACTORS if linear else _STREAM
        kinds = {n: i.kind for n, i in batch.inputs.items()}
        target = (Argument("target", "Tensor"),) if spec.has_target else ()
        first = _HIDDEN if linear else (Argument("logits", "Tensor"),)
        classes = [Argument(n, stream) for n, kind in kinds.items() if kind == "class"]
        self.arguments = (*first, *target, *classes)
        declared = [Argument(n, "float", literal(p.default)) for n, p in batch.parameters.items()]
        others = [_input(n, batch) for n, kind in kinds.items() if kind != "class"]
        taken = {*batch.parameters, *batch.inputs}
        per_call = [a for a in (_ROW_WEIGHT, _BY) if a.name not in taken]
        group = [] if _BATCH_GROUP.name in taken else [_BATCH_GROUP]
        free = (_ROW_WEIGHT, _BY, _BATCH_GROUP)
        #: as the template passes them on; None: the loss has another argument of that name
        self.weights = [a.name if a.name not in taken else "None" for a in free]
        scaling = [a for a in (_SOFTCAP, _TEMPERATURE) if a.name not in taken]
        after = [_SHIFT, _BUDGET, _SKIP] if spec.has_target else [_BUDGET]
        self.scaling = [*scaling, *after] if linear else []
        common = [*([_IGNORE] if spec.has_target else []), _BACKEND]
        common += [*([] if linear else [_CLASS_DIM]), *group]
        bias = [_BIAS] if linear else []
        vocab = [a for a in others if kinds[a.name] == "vocab"]
        self.kept = [*declared, *vocab, *self.scaling, *common]
        self.given = [*(a for a in others if kinds[a.name] == "row"), *per_call, *bias]
        self.options = [*declared, *others, *per_call, *bias, *self.scaling, *common]
        told = f"As :func:`{spec.name}_loss`, of a linear layer without its logits."
        self.docstring = python_docstring(told) if linear else docstring(spec, batch)


def batch_functions(spec: LossSpec) -> list[BatchView]:
    """Those of a loss of the whole batch; none of a loss of rows."""
    return [BatchView(spec, linear) for linear in (False, True)] if spec.batch else []


def _input(name: str, spec: LossSpec | Batch) -> Argument:
    if spec.inputs[name].off is None:
        return Argument(name, "Tensor")
    return Argument(name, "Tensor | None", "None")
