"""Compiled loss → source text of its module: header, Jinja template, one pass of the formatter.

The text depends on the spec, the templates and the compiler only: not on the hash seed, the date,
the machine, or the installed torch and Triton.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import textwrap
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import jinja2

from lossgen.compiler import Compiled, compile_loss, dearest
from lossgen.emit.allowed import check_module
from lossgen.emit.fill import filled
from lossgen.emit.module_names import ModuleNames
from lossgen.emit.normalizer import literal, normalizer
from lossgen.emit.printers import TRITON
from lossgen.emit.row_c import CRow, wrapped
from lossgen.emit.signature import functions
from lossgen.emit.sweep_torch import TorchProgram
from lossgen.emit.text import python_comment, python_docstring
from lossgen.errors import CompilerBug
from lossgen.ir.given import Given
from lossgen.ir.ops import BUILTINS, OPS
from lossgen.ir.program import REDUCTIONS, Call, Function, walk
from lossgen.ir.show import differences
from lossgen.lower.constants import MASKED
from lossgen.lower.functions import lowered
from lossgen.lower.model import RowModel
from lossgen.passes.certify_torch import load_torch, measured
from lossgen.passes.inaccurate import Inaccurate
from lossgen.passes.worst import BOUND, ENOUGH
from lossgen.paths import templates_dir
from lossgen.runtime import arguments
from lossgen.spec.model import Input, LossSpec, Parameter
from lossgen.spec.spelling import said

__all__ = ["render_module", "rendered"]

_TEMPLATE = "row.py.jinja"


def render_module(compiled: Compiled, standalone: bool = False) -> str:
    """The formatted source of ``generated/<name>.py``.

    ``standalone`` imports the runtime as ``lossgen_runtime``, vendored beside the module.
    """
    loss = _loss(compiled)
    try:
        found = _measured(compiled, loss["variants"])
    except Inaccurate as error:  # of the torch program, which is arranged differently
        if compiled.arithmetic == "float64":
            raise
        spec = compiled.spec
        if not spec.accuracy and compiled.bound < ENOUGH and error.scaled <= ENOUGH:
            return render_module(compile_loss(spec, bound=ENOUGH), standalone)
        wide = compile_loss(spec, arithmetic="float64")
        return render_module(wide.after(error.scaled), standalone)
    text = _rendered(found, loss, standalone)
    text = _format(text, compiled.spec.name)
    check_module(text)
    return text


def rendered(compiled: Compiled) -> str:
    """The same before the torch programs are measured and the text is formatted and checked."""
    return _rendered(compiled, _loss(compiled), False)


def _rendered(compiled: Compiled, loss: dict[str, Any], standalone: bool) -> str:
    names = ModuleNames(
        [n for f in loss["functions"] for n in (f.name, f.class_name)] + [loss["class_name"]],
        [a.name for f in loss["functions"] for a in (*f.arguments, *f.options)],
    )
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            loss=loss,
            header=_header(compiled),
            standalone=standalone,
            own=names.own,
            called=names.called,
            bound=names.bound,
            apart=names.apart,
        )
    )


def _measured(compiled: Compiled, views: list[_VariantView]) -> Compiled:
    """With certificates that cover the rendered torch programs too."""
    template = _environment().get_template("row_torch.jinja")
    functions = load_torch("\n\n".join(template.render(v=view) for view in views))
    try:
        plans = [
            measured(plan, functions[f"_torch_rows{view.suffix}"], view.torch_arguments)
            for plan, view in zip(compiled.variants, views, strict=True)
        ]
    except Inaccurate as error:
        raise error.at(dearest(compiled.spec), "", float(error.fields["scaled"])) from None
    return replace(compiled, variants=tuple(plans))


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.globals["numbered"] = lambda names: list(enumerate(names))
    made.filters["triton"] = lambda function: TRITON.lines(function.lines)
    return made


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _format(text: str, name: str) -> str:
    from ruff.__main__ import find_ruff_bin

    command = [
        find_ruff_bin(),
        "format",
        "--isolated",
        "--line-length",
        "100",
        "--target-version",
        "py310",
        "--config",
        "format.skip-magic-trailing-comma=true",
        "--stdin-filename",
        f"{name}.py",
        "-",
    ]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise CompilerBug(f"the rendered module of {name} does not parse:\n{done.stderr}")
    return filled(done.stdout)


def _header(compiled: Compiled) -> str:
    base, spec = compiled.variants[0], compiled.spec
    lets = "; ".join(f"{name} = {text}" for name, text in spec.let_sources.items())
    optional = sorted({n for v in compiled.variants for n in v.stable.uses})
    facts = [
        ("formula", base.formula),
        *([("with", lets)] if lets else []),
        *([("of the call without", ", ".join(optional))] if optional else []),
        ("statistics", str(base.statistics)),
        ("sweeps", str(base.sweeps)),
        ("saved", ", ".join(base.saved) or "nothing"),
        *([("arithmetic", rung)] if (rung := base.stable.precision) != "float32" else []),
        ("certificate", "none, it is a DRAFT" if compiled.draft else str(base.certificate)),
    ]
    if spec.accuracy:
        key = "absolute" if spec.accuracy.scale else f"bound {spec.accuracy.ulp:g}"
        facts.append((key, spec.accuracy.reason))
    elsewhere = spec.path is not None and spec.path.parent.name != "specs"
    path = f"{'' if elsewhere else 'specs/'}{spec.name}.yaml"
    lines = [
        "@generated by lossgen - do not edit",
        f"spec: {path} sha256 {_digest(spec.source)}",
        f"rebuild: lossgen build {path}",
        *(["DRAFT: its accuracy and its limits were not checked"] * compiled.draft),
        "",
        *(f"{key}: {value}" for key, value in facts),
    ]
    text = python_docstring(f"{spec.title}.\n\n{textwrap.fill(spec.reference, 95)}\n")
    return f"{python_comment(lines)}\n{text}\n"


# ---------------------------------------------------------------------------- the loss
def _loss(compiled: Compiled) -> dict[str, Any]:
    spec = compiled.spec
    offered = functions(spec)
    kinds = {name: entry.kind == "class" for name, entry in spec.inputs.items()}
    classes = [spec.class_name] if spec.outputs else [f.class_name for f in offered]
    return {
        "name": spec.name,
        "class_name": spec.class_name,
        "key": f"{spec.name}_{_digest(spec.source)[:8]}{'_draft' if compiled.draft else ''}",
        "draft": compiled.draft,
        "device": "device64" if compiled.arithmetic == "float64" else "device",
        "tiled": compiled.arithmetic == "float32",
        "bound": None if compiled.bound == BOUND else compiled.bound,
        "parameters": list(spec.parameters),
        "declared": [_declared(arguments.Parameter, *entry) for entry in spec.parameters.items()],
        "inputs": [_declared(arguments.Input, *entry) for entry in spec.inputs.items()],
        "streams": [name for name, along in kinds.items() if along],
        "keyword_inputs": [name for name, along in kinds.items() if not along],
        "outputs": [o.name for o in spec.outputs],
        "has_target": spec.has_target,
        "min_classes": spec.min_classes,
        "functions": offered,
        "exports": sorted([*classes, *(f.name for f in offered)]),
        "normalizer": normalizer(spec),
        "shared": spec.shared,
        "counted": _counted(spec),
        "normalizer_doc": python_docstring(
            f"{spec.normalizer_source} per row [N]: what the mean divides by the sum of."
        ),
        "variants": [_variant(compiled, k) for k in range(len(compiled.variants))],
    }


def _counted(spec: LossSpec) -> tuple[str, ...]:
    """The parameters at whose neutral value 0 no counted term is there; none: one always is."""
    weights = [term.weight for term in spec.terms if term.counted]
    silent = [w for w in weights if w is not None and spec.parameters[w].off == 0]
    return tuple(silent) if len(silent) == len(weights) else ()


def _declared(kind: type[Any], name: str, entry: Parameter | Input) -> str:
    """The arguments of the runtime's ``kind`` of declaration, but for what it assumes itself."""
    facts = [f'"{name}"']
    for field in fields(kind)[1:]:
        owner = entry if hasattr(entry, field.name) else entry.domain
        value: Any = getattr(owner, field.name, field.default)
        if value != field.default:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            text = literal(value) if number else json.dumps(value) if value == str(value) else value
            facts.append(f"{field.name}={text}")
    return ", ".join(facts)


# ---------------------------------------------------------------------------- one variant
class _VariantView:
    """RowModel plus the rendered lines, as the template reads them."""

    def __init__(self, model: RowModel, title: str, comments: list[str]) -> None:
        self._model = model
        rule = "=" * 86
        self.comment = python_comment([rule, title, *(f"  {line}" for line in comments), rule])
        stable = model.plan.stable
        self.target = model.pivot == "target"
        self.from_first = self.target and not stable.spec.has_target
        self.uses = sorted(stable.uses)
        self.gradients = model.gradients
        self.arithmetic = stable.arithmetic
        program = lowered(model)
        self.lift = _by_level(program.lifts)
        self.merge = _by_level(program.merges)
        self.between = _by_level(program.betweens)
        self.finish, self.coefficients = program.finish, program.coefficients
        self.gradient, self.context = program.gradient, program.context
        argmax = model.pivot == "argmax"
        state, places = model.sweep_models[0].state, {"target": -1, "none": -2}
        self.pivot_at = state.index("pivot") if argmax else places[model.pivot]
        self.carried = len(model.at_y) if argmax else 0
        self.saved_pivot = model.saved.index("pivot") if argmax else places[model.pivot]
        self.starts = tuple(
            sum(len(e.state) for e in model.sweep_models[:k]) for k in range(len(model.levels))
        )
        self.work = max(map(_operations, [*program.lifts, program.gradient]))
        self.parameters_tuple = repr(tuple(map(said, model.parameters)))
        self.inputs_tuple = repr(tuple(map(said, model.inputs)))
        self.streams_tuple = repr(tuple(map(said, model.streams)))
        self.torch_arguments = [
            "x",
            *(["y"] if self.target else []),
            *model.streams,
            *model.inputs,
            *model.parameters,
        ]
        self.torch_setup = ["V = float(x.shape[1])"] if model.needs_classes else []
        self.torch = TorchProgram(model)
        view = _environment().get_template("row_c.jinja").render(v=self, c=CRow(model))
        self.c_source = wrapped(view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _by_level(functions: Iterable[Function]) -> dict[int, Function]:
    return dict(enumerate(functions, 1))


def _operations(function: Function) -> int:
    """A rough count: a line is one, a reduction another, a function of the vocabulary four."""
    lines = function.lines
    calls = [n.op for line in lines for n in walk(line.value) if isinstance(n, Call)]
    reductions = sum(op in REDUCTIONS or op == "take" for op in calls)
    return len(lines) + reductions + 4 * sum(op in BUILTINS or op in OPS for op in calls)


def _unique(*lists: list[str]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def _suffixes(compiled: Compiled) -> list[str]:
    """Of the variants' functions: what they use, numbered where that could be misread."""
    found = ["".join(f"_{n}" for n in sorted(v.stable.uses)) for v in compiled.variants]
    if len(found) > 1:
        found[-1] = "_all"
    levels = max(v.sweeps for v in compiled.variants)
    every = [f"{s}_{k}" for s in found for k in range(2, levels + 1)] + found
    if len(set(every)) == len(every):
        return found
    return [f"_v{k}{suffix}" for k, suffix in enumerate(found)]


def _variant(compiled: Compiled, index: int) -> _VariantView:
    plan = compiled.variants[index]
    uses, suffix = sorted(plan.stable.uses), _suffixes(compiled)[index]
    title = f"{compiled.spec.title}" + (f", with {', '.join(uses)}" if uses else "")
    model, stable = RowModel(plan, suffix), plan.stable
    results = stable.outputs or (("loss", stable.loss),)
    comments = [f"{name:<8} = {value}" for name, value in results]
    comments += [f"{c.symbol}       = {c.expr}" for c in plan.coefficients]
    for entry in model.gradients:
        comments.append(f"dloss/d{entry.stream} = {entry.expr}")
        if stable.pivot.value != "none":
            comments.append(f"dloss/d{entry.stream}_y = {entry.at_y}")
    if declared := sorted({s for s in model.used if isinstance(s, Given)}, key=str):
        comments.append(f"names of the spec begin with u_: {declared[0]} is its {declared[0].said}")
    over = "j" if stable.pivot.value == "none" else "j != y"
    measured = {k for centre in stable.centres for k, _ in centre.softmaxes}
    for form in stable.forms:
        i = form.index
        among = over if stable.pivot.value == "target" else "j"
        at = f", m{i} = max_({among}) {form.base}" if i in measured else ""
        comments.append(
            f"with l{i}_j = {form.ell}, z{i} = logsumexp_(j != y) l{i}_j - l{i}_y, "
            f"logp{i} = l{i}_j - logsumexp l{i}, R{i} = exp(l{i}_j - logsumexp_(j != y) l{i}_j)"
            f"{at}"
        )
    comments += [f"{name} = {value}" for name, value in differences(stable)]
    comments += [f"{s.symbol} = sum_({over}) {s.body}" for s in plan.sums]
    if stable.vocabulary.x_ref in {s for f in stable.forms for s in f.ell.free_symbols}:
        comments.append(f"x_ref = x_y, or 0 where that is not above {float(MASKED):g}")
    for k, largest in enumerate(stable.maxes):
        comments.append(
            f"max{k} = max_({over}) {largest.body}, first at index{k}; is_max{k} = [j is index{k}]"
        )
        if largest.form is not None:
            i = largest.form
            comments.append(f"top{i} = logsumexp l{i} - max_({over}) l{i}")
            comments.append(f"rise{k} = is_max{k} - exp(logp{i})")
    wrapped = [w for c in comments for w in textwrap.wrap(c, 94, subsequent_indent="    ")]
    return _VariantView(model, title, wrapped)
