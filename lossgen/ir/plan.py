"""What the templates render: accumulators, saved scalars, coefficients, gradients per stream.

Still symbolic; the names are those that the emitted code uses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Symbol

from lossgen.ir.stages import Certificate, StableLoss
from lossgen.ir.statistics import Root, Sum

__all__ = ["SWEEPS", "KernelPlan", "Moment", "RowScalar", "StreamGradient"]

#: a root is found in at most so many: from the 12th on every second halves the interval
SWEEPS = 64


@dataclass(frozen=True)
class RowScalar:
    """A named row expression: what the backward kernel computes once per row."""

    symbol: Symbol
    expr: Expr


@dataclass(frozen=True)
class Moment:
    """One accumulator: Σ_{j≠y} weight·centre·exp(kappa·t_j)·t_j^power, t = l - m, m running.

    Merging two maxima multiplies by exp(kappa·d) and shifts t by d (binomial rule), so lower
    powers of the same kind are kept beside it; a centre that is measured from the maxima moves with
    them, so the same without the centre is kept too.

    ``against`` another form, in place of the exponential: exp(t'_j) - exp(t_j), by the centre where
    that is small.
    """

    name: str
    form: int | None
    kappa: Expr
    power: int
    weight: Expr
    centre: Symbol | None = None
    level: int = 1
    rest: bool = False  # without the largest term: Σ exp(t) - 1, which loses nothing to the 1
    against: int | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What it accumulates."""
        own = (self.form, self.kappa, self.power, self.weight, self.centre)
        return (*own, self.level, self.rest, self.against)

    @property
    def plain(self) -> Moment:
        """Without the form, where the sum has nothing of it: no exponential, and no t."""
        alone = self.kappa == 0 and self.power == 0 and self.centre is None
        return replace(self, form=None) if alone and self.against is None else self


@dataclass(frozen=True)
class StreamGradient:
    """The gradient of one stream as the kernels compute it."""

    stream: str
    expr: Expr  # class expression in the symbols of the coefficients
    at_y: Expr
    sparse: bool = False  # every term of expr falls with a probability: tiny tiles may be left out


@dataclass(frozen=True)
class KernelPlan:
    """After ``schedule``: everything a template needs, still symbolic."""

    stable: StableLoss
    moments: tuple[Moment, ...]
    saved: tuple[str, ...]  # names of the row scalars the backward reads, in storage order
    sums: tuple[Sum, ...]  # sums that the results or the gradient need
    coefficients: tuple[RowScalar, ...]  # row scalars of the gradient
    gradients: tuple[StreamGradient, ...]
    roots: tuple[Root, ...] = ()  # likewise

    @property
    def certificate(self) -> Certificate | None:
        """The accuracy measured by ``certify``."""
        return self.stable.certificate

    @property
    def statistics(self) -> int:
        """How many numbers are reduced over the classes (the pair (m, log A) of a form is one)."""
        own = {m.kind for m in self.moments if not _is_mass(m)}
        return len(self.stable.forms) + len(own) + len(self.stable.maxes)

    @property
    def sweeps(self) -> int:
        """Reduction sweeps over the classes before the gradient."""
        stable = self.stable
        levels = [m.level for m in self.moments] + [f.level for f in stable.forms]
        return max([*levels, *(m.level for m in stable.maxes)], default=0)

    @property
    def formula(self) -> str:
        spec = self.stable.spec
        if spec.outputs:
            return "; ".join(f"{o.name} = {o.source}" for o in spec.outputs)
        return " + ".join(
            (f"{t.weight} * ({t.source})" if t.weight else t.source) for t in spec.terms
        )

    def bytes_per_logit(self, itemsize: int) -> tuple[int, int, int]:
        """Traffic per class: (forward, backward, forward with gradient while on chip)."""
        names = self.stable.vocabulary
        read, written = len(names.streams) * itemsize, len(self.gradients) * itemsize
        return max(1, self.sweeps) * read, read + written, read + written

    def __str__(self) -> str:
        from lossgen.ir.show import show

        return show(self)


def _is_mass(moment: Moment) -> bool:
    """True for A = Σ exp(t), which belongs to the form's (m, log A) pair."""
    plain = moment.kind[1:5] == (1, 0, 1, None) and moment.against is None
    return moment.form is not None and plain and not moment.rest
