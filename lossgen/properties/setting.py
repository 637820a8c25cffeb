"""A loss at chosen parameters and inputs, as a function of rows of logits and labels.

Everything numeric of a sheet is computed here, from the literal formula in float64 (torch, with
its derivatives), and said again in mpmath where it becomes a witness.  ``stop_gradient`` is the
identity: a sheet speaks of the loss's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import mpmath as mp
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossgen.ir.literal import Truth
from lossgen.ir.literal import literal as precisely
from lossgen.properties.model import number, vector
from lossgen.spec.expr import Binary, Call, Compare, Expr, Gather, Unary
from lossgen.spec.model import Input, LossSpec
from lossgen.spec.trees import nodes
from lossgen.verify.reference import Arguments, literal
from lossgen.verify.streams import beside, onto

__all__ = ["DRAWS", "Array", "Setting", "setting"]

Array = NDArray[np.float64]
DRAWS = 6  # of the inputs beside the logits
_DIGITS = 60
_STEP = 1e-6  # beside a parameter at which the formula is 0/0
_FINE_STEP = mp.mpf(10) ** -20


@dataclass(frozen=True, eq=False)
class Setting:
    """The loss with its parameters and inputs fixed; a setting equals itself alone.

    ``inputs`` holds a number per draw ("row"), per class ("vocab"), or both ("class"); None is
    the row of logits itself.
    """

    spec: LossSpec
    parameters: Mapping[str, float]
    classes: int
    inputs: Mapping[str, Array | None]
    draws: int
    assumed: tuple[str, ...]  # inputs that were filled in, in words
    singular: tuple[str, ...] = ()  # parameters at a removable singularity of the formula

    # ------------------------------------------------------------------ float64
    def values(self, x: Tensor, y: Tensor, draw: Tensor) -> Tensor:
        """The loss of each row; NaN where the formula has none."""
        parts = []
        for point in self.points():
            inputs = {n: self._chosen(n, x, draw) for n in self.inputs}
            target = y if self.spec.has_target else None
            parts.append(literal(self.spec, Arguments(x, target, point, inputs)))
        return torch.stack(parts).mean(0)

    def evaluated(self, x: Array, y: NDArray[Any], draw: NDArray[Any], order: int = 0) -> list[Any]:
        """[loss], [loss, gradient] or [loss, gradient, Hessian] of each row, as numpy arrays."""
        logits = torch.tensor(x, dtype=torch.float64, requires_grad=order > 0)
        loss = self.values(logits, torch.as_tensor(y), torch.as_tensor(draw))
        found = [loss.detach().numpy()]
        if order:
            (slope,) = torch.autograd.grad(loss.sum(), logits, create_graph=order > 1)
            found.append(slope.detach().numpy())
        if order > 1:
            found.append(np.stack([_column(s, logits) for s in slope.unbind(1)], 1))
        return found

    def _chosen(self, name: str, x: Tensor, draw: Tensor) -> Tensor:
        held = self.inputs[name]
        if held is None:
            return x
        values = torch.as_tensor(held, dtype=torch.float64)
        return values if self.spec.inputs[name].kind == "vocab" else values[draw]

    def points(self, step: Any = _STEP) -> list[dict[str, Any]]:
        """The parameters; where the formula is 0/0, those on both sides: the mean is its limit."""
        sides = product(*([(n, -step), (n, step)] for n in self.singular))
        return [{**self.parameters, **{n: self.parameters[n] + d for n, d in s}} for s in sides]

    # ------------------------------------------------------------------ mpmath
    def precise(
        self, x: Sequence[Any], y: int, draw: int = 0, digits: int = _DIGITS
    ) -> tuple[Any, list[Any]]:
        """Loss and gradient of one row, of the literal formula in mpmath."""
        with mp.workdps(digits):
            found = [self._truth(point, x, y, draw) for point in self.points(_FINE_STEP)]
            loss = mp.fsum(t.results[0] for t in found) / len(found)
            slopes = [
                mp.fsum(s) / len(found)
                for s in zip(*(t.gradients["x"] for t in found), strict=True)
            ]
            return loss, slopes

    def _truth(self, point: Mapping[str, Any], x: Sequence[Any], y: int, draw: int) -> Truth:
        given: dict[str, Any] = dict(point)
        for name, held in self.inputs.items():
            if held is None:
                given[name] = list(x)
            elif self.spec.inputs[name].kind == "vocab":
                given[name] = held.tolist()
            else:
                given[name] = held[draw].tolist()
        return precisely(self.spec, x, y if self.spec.has_target else None, given)

    # ------------------------------------------------------------------ words
    def said(self, x: Sequence[float], y: int | None = None, draw: int = 0) -> str:
        """A row as a witness names it."""
        parts = [f"x = {vector(x)}"]
        if y is not None and self.spec.has_target:
            parts.append(f"y = {y}")
        for name, held in self.inputs.items():
            if held is None or self.spec.inputs[name].off is not None:
                continue
            value = held if self.spec.inputs[name].kind == "vocab" else held[draw]
            parts.append(
                f"{name} = {vector(value.tolist()) if np.ndim(value) else number(float(value))}"
            )
        return ", ".join(parts)


def _column(slope: Tensor, logits: Tensor) -> Array:
    if not slope.requires_grad:
        return np.zeros(logits.shape)
    (found,) = torch.autograd.grad(slope.sum(), logits, retain_graph=True, allow_unused=True)
    return np.zeros(logits.shape) if found is None else found.numpy()


def setting(
    spec: LossSpec, parameters: Mapping[str, float], classes: int, neutral: bool = False
) -> Setting:
    """The loss at these parameters, and at inputs of our own.

    Args:
        neutral: inputs without an effect of their own, so that the label alone matters: 1 or 0,
            and the logits themselves for a second row of logits.  Else they are drawn.
    """
    make = _neutral if neutral else _drawn
    rng = np.random.default_rng(2)
    inputs = {name: make(entry, classes, rng) for name, entry in spec.inputs.items()}
    words = tuple(f"{n} {_word(spec.inputs[n], inputs[n], neutral)}" for n in inputs)
    assumed = tuple(w for n, w in zip(inputs, words, strict=True) if spec.inputs[n].off is None)
    draws = 1 if neutral or not any(e.kind != "vocab" for e in spec.inputs.values()) else DRAWS
    values = {n: float(e.default) for n, e in spec.parameters.items()} | dict(parameters)
    plain = Setting(_unstopped(spec), values, classes, inputs, draws, assumed)
    return replace(plain, singular=_singular(plain))


def _drawn(entry: Input, classes: int, rng: np.random.Generator) -> Array | None:
    if entry.off is not None:
        return _constant(entry, classes, DRAWS, float(entry.off))
    if entry.kind == "class":
        return onto(entry, rng.normal(0.0, 2.0, (DRAWS, classes)), rng)
    shape = (classes,) if entry.kind == "vocab" else (DRAWS,)
    return np.round(beside(entry, shape, classes, rng), 3)


def _neutral(entry: Input, classes: int, rng: np.random.Generator) -> Array | None:
    if entry.off is not None:
        return _constant(entry, classes, 1, float(entry.off))
    if entry.kind == "class":
        return None
    wanted = 1.0 if entry.kind == "row" else 0.0
    low, high = (-np.inf, np.inf) if entry.domain is None else (entry.domain.lo, entry.domain.hi)
    fits = [v for v in (wanted, 1 / classes if high <= 1 else 1.0, low, high) if _holds(entry, v)]
    return _constant(entry, classes, 1, float(fits[0]))


def _holds(entry: Input, value: float) -> bool:
    inside = entry.domain is None or entry.domain.contains(value)
    return inside and np.isfinite(value) and (not entry.values or value in entry.values)


def _constant(entry: Input, classes: int, draws: int, value: float) -> Array:
    shape = {"class": (draws, classes), "vocab": (classes,), "row": (draws,)}[entry.kind]
    return np.full(shape, value)


def _word(entry: Input, held: Array | None, neutral: bool) -> str:
    if held is None:
        return "is the row of logits itself"
    if neutral:
        return f"is {number(held.flat[0])}"
    return f"is drawn, {'once' if entry.kind == 'vocab' else f'{DRAWS} times'}"


def _singular(plain: Setting) -> tuple[str, ...]:
    """The parameters at whose values alone the formula is 0/0 on an ordinary row."""
    x = np.random.default_rng(0).normal(0.0, 1.0, (4, plain.classes))
    y, draw = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)

    def real(one: Setting) -> bool:
        try:
            return bool(np.isfinite(one.evaluated(x, y, draw)[0]).all())
        except ArithmeticError:  # of numbers alone
            return False

    if real(plain):
        return ()
    for name in plain.parameters:
        beside_it = replace(plain, singular=(name,))
        if not plain.spec.parameters[name].integer and real(beside_it):
            return (name,)
    return ()


def _unstopped(spec: LossSpec) -> LossSpec:
    """The spec with the identity in place of ``stop_gradient``."""
    every = (n for tree in spec.trees for n in nodes(tree))
    if not any(isinstance(n, Call) and n.func == "stop_gradient" for n in every):
        return spec
    terms = tuple(t.model_copy(update={"expr": _opened(t.expr)}) for t in spec.terms)
    let = {name: _opened(expr) for name, expr in spec.let.items()}
    return spec.model_copy(update={"terms": terms, "let": let})


def _opened(expr: Expr) -> Expr:
    match expr:
        case Call(func="stop_gradient", args=(inner,)):
            return _opened(inner)
        case Call(args=args):
            return replace(expr, args=tuple(map(_opened, args)))
        case Unary(operand=operand):
            return replace(expr, operand=_opened(operand))
        case Binary(left=left, right=right) | Compare(left=left, right=right):
            return replace(expr, left=_opened(left), right=_opened(right))
        case Gather(vector=inner):
            return replace(expr, vector=_opened(inner))
    return expr
