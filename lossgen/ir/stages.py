"""The data model of the compiler: what each pass takes and returns.

Principles
- Every stage is frozen; a pass returns a new stage and never edits one.
- A class vector is a *pair* (:class:`Cls`): its value for j ≠ y, an expression in class symbols,
  and its value at j = y, a row expression.  The target never hides inside a sum.
- Every sum and softmax runs over the classes j ≠ y.  A loss without a target takes the arg-max
  class as ``y`` (``Pivot.ARGMAX``), or class 0 where that would be known too late; a loss that
  needs no distinguished class has ``Pivot.NONE`` and its sums run over all classes.
- Row symbols that the algebra understands belong to a :class:`Form` (one softmax): with
  lo = logsumexp_{j≠y} l_j,
      z = lo - l_y      P = p_y = sigmoid(-z)    s = softplus(z)  = -log P
      L = logsumexp_j l_j    Q = 1 - P = sigmoid(z)    r = softplus(-z) = -log Q
  and class symbols  logp_j = l_j - L (<= 0)  and  R_j = exp(l_j - lo) = p_j / Q.
- A statistic has a *level*: the sweep over the classes that reduces it.  What a sweep sums may
  mention the statistics of earlier sweeps, so the softmax of raw logits is level 1, and a sum of
  something nonlinear in its probabilities is level 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from math import ceil, inf
from typing import Any, TypeVar

from sympy import Expr, Symbol

from lossgen.ir.statistics import Centre, Form, Max, Root, Sum
from lossgen.spec.model import LossSpec

__all__ = [
    "Cls",
    "GradedLoss",
    "Gradient",
    "Pivot",
    "StableLoss",
    "SymbolicLoss",
    "Vocabulary",
    "mapped",
]


class Pivot(Enum):
    """Which class is the distinguished one, ``y``."""

    TARGET = "target"  # the label; class 0 where a loss without a target needs y from the start
    ARGMAX = "argmax"  # the class with the largest l_j of the first form
    NONE = "none"  # no class: sums run over all of them


@dataclass(frozen=True)
class Cls:
    """A class vector: ``o`` its value at j ≠ y (class expression), ``y`` at j = y (row)."""

    o: Expr
    y: Expr


@dataclass(frozen=True)
class Vocabulary:
    """The raw symbols of a program: streams along classes, and their values at ``y``."""

    streams: dict[str, tuple[Symbol, Symbol]]  # "x" first -> (class symbol, value at y)
    differentiable: tuple[str, ...]  # streams that get a gradient
    vocab: dict[str, tuple[Symbol, Symbol]]  # input name -> (class symbol, value at y)
    rows: dict[str, Symbol]  # row input name -> row symbol
    parameters: dict[str, Symbol]
    classes: Symbol  # V
    index: tuple[Symbol, Symbol]  # the class as a number: j, y
    cotangents: tuple[Symbol, ...] = ()  # dL/d(output), where a program has several

    @property
    def x(self) -> Symbol:
        return self.streams["x"][0]

    @property
    def x_y(self) -> Symbol:
        return self.streams["x"][1]

    @cached_property
    def x_ref(self) -> Symbol:
        """x_y, and 0 where that is masked (below -4000: by -1e4, -1e9 or -∞): what exponents may be
        measured from."""
        return Symbol("x_ref", real=True)

    @cached_property
    def x_own(self) -> Symbol:
        """x_y - x_ref: 0, or x_y where that is masked.  It moves with x_y; x_ref does not."""
        return Symbol("x_own", real=True)

    @cached_property
    def pairs(self) -> tuple[tuple[Symbol, Symbol], ...]:
        """(class symbol, value at y) of everything that varies along the classes."""
        return (*self.streams.values(), *self.vocab.values(), self.index)

    @cached_property
    def class_symbols(self) -> frozenset[Symbol]:
        return frozenset(pair[0] for pair in self.pairs)

    @property
    def constants(self) -> frozenset[Symbol]:
        """What is the same for all rows."""
        return frozenset({*self.parameters.values(), self.classes})

    @cached_property
    def at_y(self) -> dict[Symbol, Symbol]:
        """Class symbol -> its value at y."""
        return dict(self.pairs)


@dataclass(frozen=True)
class SymbolicLoss:
    """After ``parse``: the loss as a row expression over statistics."""

    spec: LossSpec
    uses: frozenset[str]  # the optional parameters and inputs this variant keeps
    pivot: Pivot
    vocabulary: Vocabulary
    forms: tuple[Form, ...]
    sums: tuple[Sum, ...]
    maxes: tuple[Max, ...]
    loss: Expr  # of several outputs: their sum, each times its cotangent
    centres: tuple[Centre, ...] = ()
    roots: tuple[Root, ...] = ()
    outputs: tuple[tuple[str, Expr], ...] = ()  # named row results; none: the loss
    twins: dict[Symbol, Symbol] = field(default_factory=dict)  # live symbol -> its constant twin
    whole: bool = False  # sums are as they are written: none is made of what its terms add up to

    @property
    def last_level(self) -> int:
        """The last sweep that reduces anything."""
        levels = [s.level for s in self.sums] + [f.level for f in self.forms]
        levels += [r.level for r in self.roots]
        return max([*levels, *(m.level for m in self.maxes)], default=0)

    def measures(self, centre: Centre) -> bool:
        """Is the largest class of the weight known? An arg-max pivot is that of the first softmax;
        under another weight the running maxima are the origin."""
        target = self.pivot is Pivot.TARGET
        return bool(centre.softmaxes) and (target or centre.weight == 0)

    def __str__(self) -> str:
        from lossgen.ir.show import show

        return show(self)


@dataclass(frozen=True)
class Gradient:
    """dloss/dv_j = Σ coefficient·basis of one stream v, and its value at y, written, not added."""

    stream: str
    terms: tuple[tuple[Expr, Expr], ...]  # (coefficient: row, basis: class)
    at_y: Expr


@dataclass(frozen=True)
class GradedLoss(SymbolicLoss):
    """After ``differentiate``: the gradient of every differentiable stream."""

    gradients: tuple[Gradient, ...] = ()

    @property
    def coefficients(self) -> tuple[Expr, ...]:
        """Every row expression of the gradients."""
        return tuple(e for g in self.gradients for e in (*(c for c, _ in g.terms), g.at_y))

    @property
    def bases(self) -> tuple[Expr, ...]:
        return tuple(basis for g in self.gradients for _, basis in g.terms)

    @property
    def results(self) -> tuple[Expr, ...]:
        """What the forward returns per row."""
        return tuple(e for _, e in self.outputs) or (self.loss,)


@dataclass(frozen=True)
class StableLoss(GradedLoss):
    """After ``stabilize``: the same functions in the accurate vocabulary of ``ir.ops``.

    row expressions mention z, L, sums and raw symbols only (no P, Q, s, r).
    ``clamp_loss``/``clamp_gradient``: evaluate at z clamped to the finite float range, where
    the unclamped form is 0·∞ although the limit is finite.
    """

    rules: tuple[str, ...] = ()
    before: GradedLoss | None = field(default=None, repr=False, compare=False)  # for `certify`
    dearer: StableLoss | None = field(default=None, repr=False, compare=False)  # more accurate
    certificate: Certificate | None = field(default=None, compare=False)
    trial: Any = field(default=None, repr=False, compare=False)  # passes.certify.Trial
    arithmetic: str = "float32"  # of every operation; or float64, of numbers that are float32
    bound: float = 4.0  # ulp / (1 + kappa) that the certificate allows, unless the spec states it
    refused: float = 0.0  # ulp / (1 + kappa) of the best cheaper program in float32; 0: not tried
    cost: float = 1.0  # times the operations per class of the cheapest program
    masks: str = "limit"  # of a masked class; "as written": no number where float64 has none
    clamp_loss: bool = False
    clamp_gradient: bool = False

    def measures(self, centre: Centre) -> bool:
        """A divergence of the other classes alone is as accurate from the running maxima."""
        own = {centre.symbol, centre.symbol_y, centre.lse}
        own |= {s.symbol for s in self.sums if s.centre == centre.symbol and s.against is None}
        exprs = [*self.results, *self.coefficients, *self.bases]
        exprs += [s.body for s in self.sums if s.form is None]
        return super().measures(centre) and any(own & e.free_symbols for e in exprs)

    @property
    def precision(self) -> str:
        """The arithmetic, and what is not usual about it: the rung, its cost, and why."""
        rung = f"{self.arithmetic}, sums as they are written" if self.whole else self.arithmetic
        if self.cost != 1.0 or self.arithmetic != "float32":
            rung += f", {self.cost:.1f} times the operations"
        if not self.refused:
            return rung
        off = "not finite" if self.refused == inf else f"off by {self.refused:.2g} (1 + kappa) ulp"
        cheaper = "the cheapest program" if self.arithmetic == "float32" else "in float32 it"
        return f"{rung}; {cheaper} is {off}"


Stage = TypeVar("Stage", bound=SymbolicLoss)


def mapped(stage: Stage, function: Callable[[Expr], Expr]) -> Stage:
    """A stage with ``function`` of every expression of rows and classes but exponents and maxima,
    whose bodies are compared."""
    changed = replace(
        stage,
        sums=tuple(
            replace(s, body=function(s.body), weight=function(s.weight)) for s in stage.sums
        ),
        roots=tuple(
            replace(
                r,
                residual=function(r.residual),
                slope=function(r.slope),
                low=function(r.low),
                high=function(r.high),
            )
            for r in stage.roots
        ),
        loss=function(stage.loss),
        outputs=tuple((n, function(v)) for n, v in stage.outputs),
    )
    if not isinstance(changed, GradedLoss):
        return changed
    gradients = tuple(
        Gradient(
            g.stream,
            tuple((function(c), function(b)) for c, b in g.terms),
            function(g.at_y),
        )
        for g in changed.gradients
    )
    return replace(changed, gradients=gradients)


@dataclass(frozen=True)
class Certificate:
    """Measured accuracy of the emitted functions in their arithmetic (see ``passes.certify``).

    Errors are in ulp (2^-23 relative to the true value, or to ``scale`` where that is smaller);
    ``*_kappa`` divide by 1 + condition number.
    """

    loss_ulp: float
    loss_kappa: float
    gradient_ulp: float
    gradient_kappa: float
    points: int
    bound: float
    scale: float = 0.0
    masks: str = "limit"
    dominated: str = ""  # the class that dominates where errors are relative to 1

    def __str__(self) -> str:
        least = f" of max(|true value|, {self.scale:g})" if self.scale else ""
        least += f" (absolute where {self.dominated} dominates)" if self.dominated else ""
        undone = "; no number where the formula as it is written is none in float64"
        masks = "" if self.masks == "limit" else undone
        loss, gradient = (ceil(10 * v) / 10 for v in (self.loss_kappa, self.gradient_kappa))
        return (
            f"loss <= {loss:.1f}, gradient <= {gradient:.1f} "
            f"(1 + kappa) ulp{least} at {self.points} points{masks}"
        )
