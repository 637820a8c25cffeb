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
- A statistic has a *level*: the sweep over the classes that reduces it.  What a sweep sums may
  mention the statistics of earlier sweeps, so the softmax of raw logits is level 1, and a sum of
  something nonlinear in its probabilities is level 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from sympy import Add, Expr, S, Symbol, expand

from lossgen.spec.model import LossSpec

__all__ = [
    "Centre",
    "Cls",
    "Form",
    "GradedLoss",
    "Gradient",
    "Max",
    "Pivot",
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

    ``parts`` are other forms and rates with l = Σ rate·l', for a product of powers of softmaxes.
    Its exponent is formed of their t', and its maximum is relative to theirs: offsets of the rows
    never meet.
    """

    index: int  # numbers the forms of a program
    scale: Expr  # positive row expression
    base: Expr  # class expression that needs no statistic, without additive row constants
    base_y: Expr
    shift_y: Expr
    level: int = 1
    parts: tuple[tuple[int, Expr], ...] = ()

    def mixed(self, values: Mapping[int, Expr]) -> Expr:
        """Σ rate·value of the parts, so that it is exactly their value where that is the same."""
        if expand(Add(*(rate for _, rate in self.parts))) != 1:
            return Add(*(rate * values[k] for k, rate in self.parts))
        last = values[self.parts[-1][0]]
        return Add(last, *(rate * (values[k] - last) for k, rate in self.parts[:-1]))

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
    def top(self) -> Symbol:
        """L - max_{j≠y} l_j = -log of the largest other probability, accurate where that is 1."""
        return self._row("top", nonnegative=True)

    @cached_property
    def joint(self) -> Symbol:
        """log Σ_{j≠y} Π p'^rate of the parts."""
        return self._row("joint")

    @cached_property
    def logp(self) -> Symbol:
        return Symbol(f"logp{self.index}", real=True, nonpositive=True)

    @cached_property
    def logu(self) -> Symbol:
        """log(V·p_j) = t_j - (lam - log V): near 0, and accurate, where p is nearly uniform."""
        return self._row("logu")

    @cached_property
    def logu_y(self) -> Symbol:
        """log(V·P), with the same lam - log V."""
        return self._row("loguy")

    @cached_property
    def R(self) -> Symbol:
        return self._row("R", positive=True)

    @property
    def class_symbols(self) -> tuple[Symbol, ...]:
        return (self.logp, self.R)

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """All of them, and what ``stabilize`` writes in their place."""
        return (*self.row_symbols, *self.class_symbols, self.logu, self.logu_y)

    @property
    def row_symbols(self) -> tuple[Symbol, ...]:
        return (self.z, self.L, self.top, self.joint, self.P, self.Q, self.s, self.r)


@dataclass(frozen=True)
class Centre:
    """A class symbol for factor·(c_j - c_y), a difference of raw streams taken before anything is
    summed: what two close rows share, and what all classes share, cancels there.

    Where c_y is small, the streams are subtracted class by class, which is exact where the rows
    are close; where it is large (rows with different offsets), each loses its own value at y.
    """

    symbol: Symbol
    expr: Expr  # c_j
    expr_y: Expr  # c_y
    factor: Expr = S.One  # a row expression

    @cached_property
    def pairs(self) -> tuple[tuple[Expr, Expr], ...]:
        """The summands of c_j, each with the part of c_y that stands at its place."""
        terms = sorted(Add.make_args(self.expr), key=lambda t: (str(t)[0] == "-", str(t)))
        left, found = list(Add.make_args(self.expr_y)), []
        for term in terms:
            names = {f"{s}_y" for s in term.free_symbols}
            own = [t for t in left if names & {s.name for s in t.free_symbols}]
            left = [t for t in left if t not in own]
            found.append((term, Add(*own)))
        found[0] = (found[0][0], Add(found[0][1], *left))
        return tuple(found)


@dataclass(frozen=True)
class Sum:
    """Σ_{j≠y} body: one number per row.

    ``body`` is the monomial exp(kappa·logp)·logp^power·weight·centre of one form, reduced in the
    form's own sweep, or (``form`` None) any class expression, summed as it stands.  ``against``
    another form it is R·log(R/R'), the divergence of the other classes.
    """

    symbol: Symbol
    body: Expr
    form: int | None = None
    kappa: Expr = S.Zero
    power: int = 0
    weight: Expr = S.One
    centre: Symbol | None = None
    others: bool = False  # exp(logp) is R: normalised over the classes j ≠ y
    level: int = 1
    against: int | None = None


@dataclass(frozen=True)
class Max:
    """max_{j≠y} body, with the index of its first maximum (``select`` is 1 there, else 0).

    Without a target it runs over all classes.
    ``below`` is the statistic whose index is left out: the second largest is the maximum of the
    others.
    """

    symbol: Symbol
    select: Symbol
    index: Symbol  # the class, as a number
    body: Expr
    below: int | None = None
    level: int = 1
    form: int | None = None  # the softmax whose exponent this is the maximum of

    @property
    def rise(self) -> Symbol:
        """select - p_j of that softmax: 1 - p at the maximum itself, without the difference."""
        return Symbol(f"rise{self.symbol.name.removeprefix('max')}", real=True)


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
    def pairs(self) -> tuple[tuple[Symbol, Symbol], ...]:
        """(class symbol, value at y) of everything that varies along the classes."""
        return (*self.streams.values(), *self.vocab.values(), self.index)

    @cached_property
    def class_symbols(self) -> frozenset[Symbol]:
        return frozenset(pair[0] for pair in self.pairs)

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
    outputs: tuple[tuple[str, Expr], ...] = ()  # named row results; none: the loss
    twins: dict[Symbol, Symbol] = field(default_factory=dict)  # live symbol -> its constant twin

    @property
    def last_level(self) -> int:
        """The last sweep that reduces anything."""
        levels = [s.level for s in self.sums] + [f.level for f in self.forms]
        return max([*levels, *(m.level for m in self.maxes)], default=0)

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
    certificate: Certificate | None = field(default=None, compare=False)
    clamp_loss: bool = False
    clamp_gradient: bool = False


@dataclass(frozen=True)
class Certificate:
    """Measured accuracy of the emitted functions in float32 (see ``passes.certify``).

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

    def __str__(self) -> str:
        least = f" of max(|true value|, {self.scale:g})" if self.scale else ""
        return (
            f"loss <= {self.loss_kappa:.1f}, gradient <= {self.gradient_kappa:.1f} "
            f"(1 + kappa) ulp{least} at {self.points} points"
        )
