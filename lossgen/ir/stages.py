"""The data model of the compiler: what each pass takes and returns.

Principles
- Every stage is frozen; a pass returns a new stage and never edits one.
- A class vector is a *pair* (:class:`Cls`): its value for j ≠ y, an expression in class symbols,
  and its value at j = y, a row expression.  The target never hides inside a sum.
- Every sum and softmax runs over the classes j ≠ y.  A loss without a target takes the arg-max
  class as ``y`` (``Pivot.ARGMAX``); a loss that needs no distinguished class has ``Pivot.NONE``
  and its sums run over all classes.
- Row symbols that the algebra understands belong to a :class:`Form` (one softmax): with
  lo = logsumexp_{j≠y} l_j,
      z = lo - l_y      P = p_y = sigmoid(-z)    s = softplus(z)  = -log P
      L = logsumexp_j l_j    Q = 1 - P = sigmoid(z)    r = softplus(-z) = -log Q
  and class symbols  logp_j = l_j - L (<= 0)  and  R_j = exp(l_j - lo) = p_j / Q.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from sympy import Expr, S, Symbol

from lossgen.spec.model import LossSpec

__all__ = [
    "Cls",
    "Form",
    "GradedLoss",
    "KernelPlan",
    "Max",
    "Moment",
    "Pivot",
    "RowScalar",
    "StableLoss",
    "Sum",
    "SymbolicLoss",
    "Vocabulary",
]


class Pivot(Enum):
    """Which class is the distinguished one, ``y``."""

    TARGET = "target"  # the label
    ARGMAX = "argmax"  # the class with the largest l_j of the first form
    NONE = "none"  # no class: sums run over all of them


@dataclass(frozen=True)
class Cls:
    """A class vector: ``o`` its value at j ≠ y (class expression), ``y`` at j = y (row)."""

    o: Expr
    y: Expr


@dataclass(frozen=True)
class Form:
    """One softmax: the exponent l_j, and the symbols the algebra knows about it.

    l_j = scale·base for j ≠ y and l_y = scale·base_y + shift_y.  The running maximum is of
    ``base``, and the exponent is scale·(base - max): forming x/T - m at |x| = 3000 would lose
    three digits that (x - m)/T keeps.
    """

    index: int  # numbers the forms of a program
    scale: Expr  # positive row expression
    base: Expr  # class expression that needs no statistic, without additive row constants
    base_y: Expr
    shift_y: Expr

    @cached_property
    def ell(self) -> Expr:
        """l_j for j ≠ y."""
        return self.scale * self.base

    @cached_property
    def ell_y(self) -> Expr:
        """l_y."""
        return self.scale * self.base_y + self.shift_y

    def _row(self, letter: str, **assumptions: bool) -> Symbol:
        return Symbol(f"{letter}{self.index}", real=True, **assumptions)

    @cached_property
    def z(self) -> Symbol:
        return self._row("z")

    @cached_property
    def L(self) -> Symbol:
        return self._row("L")

    @cached_property
    def P(self) -> Symbol:
        return self._row("P", positive=True)

    @cached_property
    def Q(self) -> Symbol:
        return self._row("Q", positive=True)

    @cached_property
    def s(self) -> Symbol:
        """softplus(z) = -log P."""
        return self._row("s", positive=True)

    @cached_property
    def r(self) -> Symbol:
        """softplus(-z) = -log Q."""
        return self._row("r", positive=True)

    @cached_property
    def logp(self) -> Symbol:
        return Symbol(f"logp{self.index}", real=True, nonpositive=True)

    @cached_property
    def R(self) -> Symbol:
        return self._row("R", positive=True)

    @property
    def class_symbols(self) -> tuple[Symbol, ...]:
        return (self.logp, self.R)

    @property
    def row_symbols(self) -> tuple[Symbol, ...]:
        return (self.z, self.L, self.P, self.Q, self.s, self.r)


@dataclass(frozen=True)
class Sum:
    """Σ_{j≠y} body: one number per row.

    ``body`` is either free of statistics (an elementwise function of the raw streams) or the
    monomial exp(kappa·logp)·logp^power·weight of one form; ``symbol`` stands for the result.
    """

    symbol: Symbol
    body: Expr
    form: int | None = None  # None: a plain sum
    kappa: Expr = S.Zero
    power: int = 0
    weight: Expr = S.One


@dataclass(frozen=True)
class Max:
    """max_{j≠y} body, with the index of its first maximum (``select`` is 1 there, else 0)."""

    symbol: Symbol
    select: Symbol
    body: Expr


@dataclass(frozen=True)
class Vocabulary:
    """The raw symbols of a program: streams along classes, and their values at ``y``."""

    x: Symbol
    x_y: Symbol
    vocab: dict[str, tuple[Symbol, Symbol]]  # input name -> (class symbol, value at y)
    rows: dict[str, Symbol]  # row input name -> row symbol
    parameters: dict[str, Symbol]
    classes: Symbol  # V

    @cached_property
    def class_symbols(self) -> frozenset[Symbol]:
        return frozenset({self.x, *(v for v, _ in self.vocab.values())})


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
    loss: Expr
    twins: dict[Symbol, Symbol] = field(default_factory=dict)  # live symbol -> its constant twin

    def __str__(self) -> str:
        from lossgen.ir.show import show

        return show(self)


@dataclass(frozen=True)
class RowScalar:
    """A named row expression: what the backward kernel computes once per row."""

    symbol: Symbol
    expr: Expr


@dataclass(frozen=True)
class GradedLoss(SymbolicLoss):
    """After ``differentiate``: dloss/dx_j = Σ coefficient·basis, and its value at y, written."""

    gradient: tuple[tuple[Expr, Expr], ...] = ()  # (coefficient: row, basis: class)
    gradient_y: Expr = S.Zero


@dataclass(frozen=True)
class StableLoss(GradedLoss):
    """After ``stabilize``: the same functions in the accurate vocabulary of ``ir.ops``.

    ``loss`` and ``gradient_y`` mention z, L, sums and raw symbols only (no P, Q, s, r).
    ``clamp_loss``/``clamp_gradient``: evaluate at z clamped to the finite float range, where
    the unclamped form is 0·∞ although the limit is finite.
    """

    rules: tuple[str, ...] = ()
    before: GradedLoss | None = field(default=None, repr=False, compare=False)  # for `certify`
    certificate: Certificate | None = field(default=None, compare=False)
    clamp_loss: bool = False
    clamp_gradient: bool = False


@dataclass(frozen=True)
class Moment:
    """One accumulator: Σ_{j≠y} weight·exp(kappa·t_j)·t_j^power with t = l - m, m the running max.

    Merging two maxima multiplies by exp(kappa·d) and shifts t by d (binomial rule), so lower
    powers of the same (form, kappa, weight) are kept beside it.
    """

    name: str
    form: int | None
    kappa: Expr
    power: int
    weight: Expr


@dataclass(frozen=True)
class KernelPlan:
    """After ``schedule``: everything a template needs, still symbolic."""

    stable: StableLoss
    moments: tuple[Moment, ...]
    saved: tuple[str, ...]  # names of the row scalars the backward reads, in storage order
    forward_sums: tuple[Sum, ...]  # sums that the loss needs
    gradient_sums: tuple[Sum, ...]  # sums that the gradient needs
    coefficients: tuple[RowScalar, ...]  # row scalars of the gradient
    gradient: Expr  # class expression in the coefficients' symbols

    @property
    def certificate(self) -> Certificate | None:
        """The accuracy measured by ``certify``."""
        return self.stable.certificate

    @property
    def statistics(self) -> int:
        """How many numbers are reduced over the classes (the pair (m, log A) of a form is one)."""
        own = {(m.form, m.kappa, m.power, m.weight) for m in self.moments if not _is_mass(m)}
        return len(self.stable.forms) + len(own) + len(self.stable.maxes)

    @property
    def sweeps(self) -> int:
        """Reduction sweeps over the classes before the gradient: one in this release."""
        return 1 if self.moments or self.stable.maxes else 0

    @property
    def formula(self) -> str:
        spec = self.stable.spec
        return " + ".join(
            (f"{t.weight} * ({t.source})" if t.weight else t.source) for t in spec.terms
        )

    def bytes_per_logit(self, itemsize: int) -> tuple[int, int, int]:
        """Traffic per logit: (forward, backward, forward with gradient while on chip)."""
        return itemsize, 2 * itemsize, 2 * itemsize

    def __str__(self) -> str:
        from lossgen.ir.show import show

        return show(self)


def _is_mass(moment: Moment) -> bool:
    """True for A = Σ exp(t), which belongs to the form's (m, log A) pair."""
    return (
        moment.form is not None and moment.kappa == 1 and moment.power == 0 and moment.weight == 1
    )


@dataclass(frozen=True)
class Certificate:
    """Measured accuracy of the emitted functions in float32 (see ``passes.certify``).

    Errors are in ulp (2^-23 relative); ``*_kappa`` divide by 1 + condition number.
    """

    loss_ulp: float
    loss_kappa: float
    gradient_ulp: float
    gradient_kappa: float
    points: int
    bound: float

    def __str__(self) -> str:
        return (
            f"loss <= {self.loss_kappa:.1f}, gradient <= {self.gradient_kappa:.1f} "
            f"(1 + kappa) ulp at {self.points} points"
        )
