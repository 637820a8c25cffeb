"""Gradients to parameters, row inputs and numbers per class, for calls that ask for them.

A call asks where such a tensor requires a gradient.  Its derivatives are numbers of the rows,

    dL/dq  =  Σ_i  dL/dL_i · dL_i/dq        of a row input: dL/dr_i = dL/dL_i · dL_i/dr_i

and dL_i/dq is a result of a program of its own, which the compiler makes of the loss's spec at the
first call that asks (``lossgen.spec.derived``) and keeps in the user's cache: modules hold nothing
for it, and calls that do not ask pay nothing.  Of numbers per class the program is the loss itself
with a row of them for each row, whose gradients are summed over the rows.

The sums are float64, in the same order every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant, is_scalar
from lossgen.runtime.autograd import Call, once
from lossgen.runtime.batch import compute_dtype, scaled
from lossgen.runtime.divisor import divisor

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = [
    "Programs",
    "asked",
    "is_vocab",
    "joined",
    "learned",
    "lent",
    "numbers_of",
    "sources_of",
]


def asked(
    loss: RowLoss, parameters: Sequence[Any], inputs: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """The parameters and inputs whose gradients a call wants, by name. Raises TypeError."""
    if not loss.programs.possible or not torch.is_grad_enabled():
        return {}
    found: dict[str, Tensor] = {}
    for declared, value in zip(loss.parameters, parameters, strict=True):
        if isinstance(value, Tensor) and value.requires_grad and is_scalar(value):
            if declared.integer:
                raise TypeError(
                    f"{loss.function}: no gradient is computed for {declared.name}, a whole "
                    f"number; pass {declared.name}.detach()"
                )
            found[declared.name] = value
    for entry, given in zip(loss.others, inputs, strict=True):
        if entry.differentiable and isinstance(given, Tensor) and given.requires_grad:
            found[entry.name] = given
    return found


@dataclass
class Programs:
    """The derivatives of one loss that calls have asked for, compiled."""

    loss: RowLoss

    def __post_init__(self) -> None:
        self.known: dict[tuple[str, str, frozenset[str]], RowLoss] = {}
        self.refused: dict[tuple[str, str, frozenset[str]], str] = {}
        self.derived_of = ""  # the function whose derivative this loss is
        learned = any(i.differentiable for i in self.loss.others)
        self.possible = bool(self.loss.parameters) or learned

    def slope(self, name: str, uses: frozenset[str]) -> RowLoss:
        """The program of dL_i/d(a parameter or a row input), for calls that use ``uses``."""
        return self._found("slope", name, uses)

    def spread(self, name: str, uses: frozenset[str]) -> RowLoss:
        """The loss itself, with a row of the numbers per class ``name`` for each row."""
        return self._found("spread", name, uses)

    def along(self, name: str, uses: frozenset[str]) -> RowLoss:
        """The program of Σ_j v_j·dL_i/dx_j, for the logits x or a class input called ``name``, with
        v as its last class input. Raises NotImplementedError where there is none."""
        loss, key = self.loss, ("along", name, uses)
        if self.derived_of:
            raise NotImplementedError(
                f"{self.derived_of}: derivatives of its compiled derivatives are not formed (third "
                "ones, or second ones to parameters and inputs)"
            )
        self._compiler(f"the derivative along {name}")
        refusal = import_module("lossgen.errors").LossgenError
        if key not in self.refused:
            try:
                return self._found(*key)
            except refusal as error:
                self.refused[key] = str(error)
        raise NotImplementedError(
            f"{loss.function}: the gradient cannot be differentiated a second time, nor the loss "
            f"in forward mode; use the formula in torch for that. {self.refused[key]}"
        )

    def _found(self, kind: str, name: str, uses: frozenset[str]) -> RowLoss:
        loss, key = self.loss, (kind, name, uses)
        if key not in self.known:
            compiler = self._compiler(f"the gradient to {name}")
            facts = (loss.name, loss.key, loss.spec, loss.draft)
            with ThreadPoolExecutor(
                1
            ) as elsewhere:  # which no mode or transform of torch is around
                found = elsewhere.submit(partial(compiler.load_derived, *facts, *key)).result()
            self.known[key] = found.LOSS
            self.known[key].programs.derived_of = loss.function
        return self.known[key]

    def _compiler(self, what: str) -> Any:
        """Raises RuntimeError where it is not installed."""
        try:
            return import_module("lossgen.cache")
        except ImportError:
            raise RuntimeError(
                f"{self.loss.function}: {what} is compiled when it is asked for, and lossgen is "
                'not installed: pip install "lossgen[compiler]"'
            ) from None


def sources_of(
    loss: RowLoss, wanted: dict[str, Tensor], inputs: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """What the rows of a call depend on: parameters, and inputs as the rows have them."""
    pairs = zip(loss.others, inputs, strict=True)
    held = {i.name: v.reshape(-1) for i, v in pairs if v is not None and v.requires_grad}
    return {p.name: wanted[p.name] for p in loss.parameters if p.name in wanted} | held


def learned(
    loss: RowLoss,
    wanted: dict[str, Tensor],
    given: tuple[Any, ...],
    reduction: str,
    backend: str,
    class_dim: int | None,
) -> tuple[Tensor, Tensor | None, torch.Size]:
    """Results [outputs, N] of a call that wants gradients to ``wanted``, what a mean divides by,
    and the shape of one number per row."""
    checked: Any = loss._call
    call, inputs, lead = checked(*given, reduction, backend, False, class_dim)
    count = None
    if reduction == "mean":
        count, ratio = divisor(loss, call.index, call.batch, inputs, wanted)
        if ratio is not None:
            names = [i.name for i in loss.others]
            inputs = scaled(loss.shared, names, inputs, ratio)
            own = dict(zip(names, inputs, strict=True))
            pairs = zip(call.variant.inputs, call.batch.inputs, strict=True)
            held = (v if own[n] is None else own[n].detach().reshape(-1) for n, v in pairs)
            call = replace(call, batch=replace(call.batch, inputs=tuple(held)))
    call = replace(call, learned=True)
    sources = sources_of(loss, wanted, inputs)
    return _with_gradients(loss, call, loss._rows(call), sources), count, lead


def _with_gradients(loss: RowLoss, call: Call, rows: Tensor, sources: dict[str, Tensor]) -> Tensor:
    """``rows`` [outputs, N] of a call, whose gradients go to ``sources`` too."""
    batch = call.batch
    values = numbers_of(loss, call.variant, batch.parameters)
    held = dict(zip(call.variant.inputs, batch.inputs, strict=True))
    streams = {i.name: s.detach() for i, s in zip(loss.streams, batch.streams, strict=True)}
    target = batch.target if loss.has_target else None

    def run(program: RowLoss) -> Tensor:
        found = program._call(
            batch.logits.detach(),
            target,
            [streams[i.name] for i in program.streams],
            values,
            [held.get(i.name) for i in program.others],
            batch.ignore_index,
            "none",
            call.backend,
            False,
            None,
        )[0]
        return program._rows(found)

    others = [t for t in batch.sources if t.requires_grad]
    for name, source in sources.items():
        if is_vocab(loss, name):
            streams[name] = source.to(compute_dtype(batch.logits)).expand(batch.logits.shape)
            rows = joined(rows, run(loss.programs.spread(name, call.variant.uses)))
            del streams[name]
        else:
            with torch.no_grad():
                slopes = run(loss.programs.slope(name, call.variant.uses))
            rows = lent(call.loss, rows, slopes, source, others)
    return rows


def is_vocab(loss: RowLoss, name: str) -> bool:
    """Is it a number per class?"""
    return any(i.name == name and i.kind == "vocab" for i in loss.others)


def numbers_of(loss: RowLoss, variant: Variant, values: Sequence[Any]) -> list[Any]:
    """Of all parameters, where those of a variant have ``values``; the others are off."""
    known = dict(zip(variant.parameters, values, strict=True))
    return [known.get(p.name, p.off) for p in loss.parameters]


def lent(
    name: str, rows: Tensor, slopes: Tensor, source: Tensor, others: Sequence[Tensor]
) -> Tensor:
    """``rows`` [outputs, N], from which ``source`` gets the gradient of ``slopes`` [outputs, N];
    ``others`` are what the rows depend on besides."""
    found: Tensor = _Lent.apply(name, rows, slopes, source, *others)
    return found


class _Lent(torch.autograd.Function):
    """Σ_i g_i·slope_i to a scalar, g_i·slope_i to one number per row."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, rows: Tensor, slopes: Tensor, *tensors: Tensor) -> Tensor:
        return rows.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, _, slopes, *tensors = inputs
        ctx.save_for_backward(slopes, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes, source, *others = ctx.saved_tensors
        wide = slopes.dtype if slopes.device.type == "mps" else torch.float64
        each = (grad.to(wide) * slopes.to(wide)).sum(0)
        slope = each.sum() if source.dim() == 0 else each.reshape(source.shape)
        slope = slope.to(device=source.device, dtype=source.dtype)
        found = once((slope,), (source, *others), ctx.name)
        return None, grad, None, *found, *[None] * len(others)


def joined(rows: Tensor, twin: Tensor) -> Tensor:
    """``rows``, whose gradient goes to ``twin`` too: the same rows, of other tensors."""
    found: Tensor = _Joined.apply(rows, twin)
    return found


class _Joined(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, twin: Tensor) -> Tensor:
        return rows.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad
