"""Measure the emitted functions against mpmath, choose their arithmetic, and refuse what is wrong.

The truth is the literal formula of the spec and its derivatives (:mod:`lossgen.ir.literal`), which
share nothing with the passes: a gradient with a term missing is as wrong as one without digits.
A loss that depends on the row through one z is certified as a scalar function, on z in
[-1e4, 1e4] × the ends of every parameter's domain.  Every loss is certified on whole rows too
(:mod:`lossgen.passes.samples`), and from the worst of them the certificate climbs
(:mod:`lossgen.passes.climb`).

    error <= bound·(1 + kappa) ulp,   kappa(z) = |z·f'(z)/f(z)| + the same for every parameter

An error below 1e-37 times what a row's logits are apart is underflow, not inaccuracy; nor is one
below 1e-34 in a row's gradient, as the distance of two softmaxes' logarithms is clipped to ±80.  A
number that float32 cannot hold is right as ±inf.  A spec may state a scale: errors and kappa are
relative to it where the true value is smaller.

A loss that float32 does not hold to its bound is computed in float64, from float32 numbers and
rounded once.  Where large terms cancel, digits that float64 autograd of the formula loses may be
lost there too: errors are relative to ``worst.LEAST`` at least, and what the formula as it is
written does not have is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import NDArray

from lossgen.errors import CompileError
from lossgen.ir.literal import Truth
from lossgen.ir.rows import Row
from lossgen.ir.stages import Pivot, StableLoss
from lossgen.lower.rows import RoundedRows
from lossgen.lower.work import work_of
from lossgen.passes.clamp import clamped
from lossgen.passes.climb import liked, neighbours
from lossgen.passes.condition import (
    of_gradient,
    of_loss,
    of_roundings,
    only_apart,
    scales,
    sensitivity,
    shaken,
    spread,
    stretch,
)
from lossgen.passes.inaccurate import Inaccurate, check_defaults
from lossgen.passes.samples import rows_masked_alone, sample_rows
from lossgen.passes.scalar import certify_scalar, is_scalar
from lossgen.passes.schedule import schedule
from lossgen.passes.truth import (
    agree,
    as_written,
    is_dominated,
    is_undone,
    true_row,
)
from lossgen.passes.worst import ALIKE, BOUND, ENOUGH, LARGEST, Worst, off

__all__ = ["Trial", "certify", "dearer_than", "unmeasured"]

Evaluate = Callable[[Sequence[Row]], tuple[NDArray[Any], list[NDArray[Any]]]]
_ULP = 2.0**-23
_BESIDE, _WIDE_ULP = 2.0**-48, 2.0**-53
_NORMAL = 2.0**-126  # the least number of which float32 has all digits
_CLIPPED = 1e-34
_ONE = mp.mpf(1)
_MILD = 8.0
#: How the search goes on from the worst rows: rounds of so many moves from so many rows.
ROUNDS, MOVES, SEEDS = 3, 5, 2
#: How many mild rows are followed to where their loss is small.
FOLLOWED = 12


def certify(stable: StableLoss, arithmetic: str = "float32", bound: float = BOUND) -> StableLoss:
    """Attach the certificate; choose clamping at z = ±inf, and the cheapest program that is
    accurate enough: to ``BOUND`` or else to ``ENOUGH``, in float32, else in float64.

    Args:
        arithmetic: the least that is tried.
        bound: the tightest that is tried in float32.

    Raises:
        CompileError: every program has an error above the bound; with the point where it was found.
    """
    cheapest, *dearer = ladder(stable)
    wide = arithmetic == "float64"
    rungs = [
        r for r in (cheapest, *dearer) if r.arithmetic == "float64" or not (wide or r.bound < bound)
    ]
    refused: list[Inaccurate] = []
    for rung in rungs:
        if rung.masks == "as written" and all(e.scaled < inf for e in refused):
            break  # no NaN to be forgiven
        if BOUND < rung.bound < _closest(refused, rung.arithmetic):
            continue  # as inaccurate as it was
        try:
            found = _certified(rung)
        except Inaccurate as error:
            refused.append(error)
        else:
            if replace(rung, bound=cheapest.bound) == cheapest:
                return found
            return dearer_than(found, cheapest, _closest(refused))
    raise refused[-1].of_rungs(cheapest, _closest(refused))


def dearer_than(found: StableLoss, cheapest: StableLoss, refused: float) -> StableLoss:
    """``found``, with what it costs, and how far off the cheaper programs in float32 are."""
    cost = work_of(schedule(found)) / work_of(schedule(cheapest))
    return replace(found, refused=refused, cost=cost)


def _closest(refused: Sequence[Inaccurate], arithmetic: str = "float32") -> float:
    return min((e.scaled for e in refused if e.fields["arithmetic"] == arithmetic), default=0.0)


def ladder(stable: StableLoss) -> list[StableLoss]:
    """The programs of a loss, cheapest first."""
    programs = [stable] if stable.dearer is None else [stable, stable.dearer]
    bounds = (BOUND,) if stable.spec.accuracy else (BOUND, ENOUGH)
    return [
        replace(program, arithmetic=arithmetic, bound=bound, masks=masks)
        for masks in ("limit", "as written")
        for arithmetic in ("float32", "float64")
        for bound in bounds
        for program in programs
    ]


def unmeasured(stable: StableLoss) -> StableLoss:
    """A draft: with the clamping that it needs, the dearer program, and no certificate."""
    return clamped(stable if stable.dearer is None else stable.dearer)


def _certified(stable: StableLoss) -> StableLoss:
    stable = clamped(stable)
    worst = Worst(stable.spec, stable.arithmetic, stable.masks, stable.bound)
    if is_scalar(stable):
        certify_scalar(stable, worst)
    trial = Trial(stable, worst, RoundedRows(schedule(stable)))
    trial.take(sample_rows(stable))
    if not worst.real:
        raise CompileError(
            "the loss is not a real number at any of the points that were tried: it takes a "
            "logarithm, a root or a power of a negative number, or divides by 0"
        )
    check_defaults(stable.spec, [row.parameters for row, _ in trial.tried])
    worst.check()
    trial.climb()
    trial.follow()
    worst.check()
    if any(map(trial.has_none, rows_masked_alone(stable))):
        worst.masks = "as written"  # it is said, and forgives no other row
    return replace(stable, certificate=worst.certificate(), trial=trial)


# ---------------------------------------------------------------------------- whole rows
@dataclass
class Trial:
    """The rows that a program was tried on, with their truth, for other arithmetics of it."""

    stable: StableLoss
    worst: Worst
    evaluate: Evaluate
    program: str = ""  # whose arithmetic it is, for messages
    tried: list[tuple[Row, Truth]] = field(default_factory=list)
    scores: list[tuple[float, float]] = field(default_factory=list)  # of loss and gradient
    sure: list[tuple[Row, Truth]] = field(default_factory=list)  # see ``follow``

    @cached_property
    def apart(self) -> frozenset[str]:
        return only_apart(self.stable)

    def take(self, rows: Sequence[Row]) -> None:
        """Try more rows; those without a real value are left out."""
        known = [(row, truth) for row in rows if (truth := self.truth(row)) is not None]
        self._take(known)

    def _take(self, known: Sequence[tuple[Row, Truth]], starts: bool = True) -> None:
        """Judge rows; ``starts``: from which the search may go on."""
        for group in _alike([row for row, _ in known]):
            values, slopes = self.evaluate([known[k][0] for k in group])
            for i, k in enumerate(group):
                score = self.judge(*known[k], values[i], [s[i] for s in slopes])
                if starts:
                    self.tried.append(known[k])
                    self.scores.append(score)

    def on(self, evaluate: Evaluate, program: str) -> Trial:
        """The same rows, and then worse ones, in another arithmetic."""
        other = Trial(self.stable, self.worst, evaluate, program)
        other._take(self.tried)
        other.worst.check()
        other.climb()
        other._take(self.sure, starts=False)
        return other

    def truth(self, row: Row) -> Truth | None:
        truth = true_row(self.stable.spec, row)
        self.worst.real += truth is not None
        return truth

    def has_none(self, row: Row) -> bool:
        """Is it no number at a row that has a true value, as float64 autograd of the formula has
        none where it meets 0·∞?"""
        if true_row(self.stable.spec, row) is None:
            return False
        values, slopes = self.evaluate([row])
        found = np.concatenate([np.ravel(values), *map(np.ravel, slopes)])
        return not np.isfinite(found).all()

    def forget(self, keep: int) -> None:
        """All rows but the worst."""
        order = sorted(range(len(self.scores)), key=lambda k: (-max(self.scores[k]), k))[:keep]
        self.tried = [self.tried[k] for k in order]
        self.scores = [self.scores[k] for k in order]

    def follow(self) -> None:
        """Try rows that are sure of what the loss asks for.  No search starts there: it ends in
        ties of two large logits, where a slope is what the small ones leave of 1 - 2·p."""
        first = self.tried[0][0].parameters if self.tried else {}
        mild = [
            (row, truth)
            for row, truth in self.tried
            if row.parameters == first and _is_mild(row) and "x" in truth.gradients
        ]
        rows = [r for row, t in mild[:FOLLOWED] for r in liked(row, t.gradients["x"])]
        self.sure = [(row, truth) for row in rows if (truth := self.truth(row)) is not None]
        self._take(self.sure, starts=False)

    def climb(self, seed: int = 0) -> None:
        """Go on from the worst rows, of the loss and of the gradient, within a counted budget."""
        rng = np.random.default_rng(20230712 + seed)
        for _ in range(ROUNDS):
            chosen = [
                k
                for which in (0, 1)
                for k in sorted(range(len(self.scores)), key=lambda k: (-self.scores[k][which], k))[
                    :SEEDS
                ]
            ]
            self.take(
                [
                    moved
                    for k in dict.fromkeys(chosen)
                    for moved in neighbours(self.stable.spec, self.tried[k][0], MOVES, rng)
                ]
            )

    def judge(
        self, row: Row, truth: Truth, values: NDArray[Any], slopes: Sequence[NDArray[Any]]
    ) -> tuple[float, float]:
        """Compare one row's results and gradients; how bad they are, each relative to its
        condition."""
        with mp.workdps(60):
            loss = [self._result(row, truth, k, float(v)) for k, v in enumerate(values)]
            gradient = [
                self._gradient(row, truth, g.stream, slope)
                for g, slope in zip(self.stable.gradients, slopes, strict=True)
            ]
        return max(loss, default=0.0), max(gradient, default=0.0)

    def _result(self, row: Row, truth: Truth, k: int, value: float) -> float:
        stable, worst, gold = self.stable, self.worst, truth.results[k]
        error = off(value, gold)
        worst.points += 1
        apart = spread(row, stable)
        if error <= 2 * len(row.x) * _NORMAL * (1 + apart) or self._nobody_knows(row, error):
            return 0.0  # of a sum of p·(x - x'), of two rows, each p may have underflowed
        moves = of_loss(stable.spec, row, truth, k)
        width = 0.0
        if stable.outputs or stable.twins:
            width = apart  # the gradient says nothing of one value
        elif gold != 0:
            moves += sensitivity(stable, row, truth)
        unit = worst.unit(gold)
        relaxed = max(unit, _ONE) if self._is_dominated(row) else unit
        ulp, kappa = worst.ulp(error, relaxed), width + float(moves / relaxed)
        score = ulp / (1.0 + kappa)
        strict = worst.ulp(error, unit) / (1.0 + width + float(moves / unit))
        if strict > worst.strict["loss"][1] or score > worst.loss[1]:
            moved = of_roundings(stable.spec, row, self.apart)
            if moved is None or not self._certain(row, truth):
                return 0.0
            if self._is_rounding(truth.largest, error) or self._as_written(
                row, truth, error, lambda a, b: abs(a.results[k] - b.results[k])
            ):
                return 0.0
            moves += abs(moved.results[k] - gold) / _ULP
            worst.add_strict("loss", worst.ulp(error, unit), width + float(moves / unit))
            kappa = width + float(moves / relaxed)
            found = f" ({value:.6g} instead of {mp.nstr(gold, 6)})"
            worst.add("loss", ulp, kappa, self._place(row) + found, row)
        return ulp / (1.0 + kappa)

    def _gradient(self, row: Row, truth: Truth, stream: str, slope: NDArray[Any]) -> float:
        worst, gold = self.worst, truth.gradients[stream]
        errors = [off(float(s), g) for s, g in zip(slope, gold, strict=True)]
        error = max(errors)
        worst.points += 1
        if any(abs(r) >= LARGEST for r in truth.results):
            return 0.0  # of a loss that float32 does not hold nobody expects the gradient
        if error <= _CLIPPED or self._nobody_knows(row, error):
            return 0.0
        unit = worst.unit(max(abs(g) for g in gold))
        size = max(abs(r) for r in truth.results)  # a gradient p·(a - Σ p·a) is as good as Σ p·a
        relaxed = max(unit, _ONE, size) if self._is_dominated(row) else unit
        near = spread(row, self.stable) + scales(row)
        score = worst.ulp(error, relaxed) / (1.0 + near)
        strict = worst.ulp(error, unit) / (1.0 + near) > worst.strict["gradient"][1]
        if not (strict or score > worst.gradient[1]):
            return score

        def apart(one: Truth, other: Truth) -> Any:
            pairs = zip(one.gradients[stream], other.gradients[stream], strict=True)
            return max(abs(a - b) for a, b in pairs)

        rounding = self._is_rounding(truth.steepest, error)
        if rounding or self._as_written(row, truth, error, apart):
            return 0.0
        if self._certain(row, truth):
            spec = self.stable.spec
            moves = of_gradient(spec, row, truth, stream)
            worst.add_strict("gradient", worst.ulp(error, unit), near + float(moves / unit))
            kappa = near + float(moves / relaxed)
            at = errors.index(error)
            found = f" ({float(slope[at]):.6g} instead of {mp.nstr(gold[at], 6)}, class {at})"
            ulp = worst.ulp(error, relaxed)
            worst.add("gradient", ulp, kappa, self._place(row) + found, row)
        return score

    def _place(self, row: Row) -> str:
        where = f"a row with logits {_spelled(row.x)}, target {row.y}"
        where += "".join(f", {n} = {_spelled(v)}" for n, v in {**row.streams, **row.vocab}.items())
        where += "".join(f", {n} = {v:g}" for n, v in {**row.rows, **row.parameters}.items())
        return where + (f", {self.program}" if self.program else "")

    def _as_written(
        self, row: Row, truth: Truth, error: Any, apart: Callable[[Truth, Truth], Any]
    ) -> bool:
        """Is the formula as it is written about as far off in float64, where that is what is
        computed? Then that is what everybody takes for the truth.  Numbers that are exact in
        float64 may spare it its roundings: rows beside it count, too."""
        if self.stable.arithmetic != "float64":
            return False
        spec = self.stable.spec
        for step in (0.0, _BESIDE, -_BESIDE):
            beside = shaken(spec, row, step, least=0.0) if step else row
            exact, written = true_row(spec, beside) if step else truth, as_written(spec, beside)
            if exact is not None and written is not None and error <= ALIKE * apart(exact, written):
                return True
        return False

    def _is_rounding(self, largest: Any, error: Any) -> bool:
        """Is it what float64 leaves of the largest number that the formula, or its derivative, adds
        to others?"""
        wide = self.stable.arithmetic == "float64"
        return wide and bool(error <= ALIKE * _WIDE_ULP * largest)

    def _nobody_knows(self, row: Row, error: Any) -> bool:
        """Is it no number where the formula as it is written is none either, and allowed?"""
        allowed = self.stable.masks == "as written" and error == mp.inf
        return allowed and is_undone(self.stable.spec, row)

    def _is_dominated(self, row: Row) -> bool:
        has_own = self.stable.pivot is Pivot.TARGET
        return has_own and is_dominated(row, stretch(self.stable, row))

    def _certain(self, row: Row, truth: Truth) -> bool:
        """Do more digits say the same? Where 0 is a difference of equal numbers, they do not."""
        again = true_row(self.stable.spec, row, more=50)
        return again is not None and agree(truth, again)


def _is_mild(row: Row) -> bool:
    return len(row.x) > 1 and 0.1 < max(map(abs, row.x)) < _MILD


def _alike(rows: Sequence[Row]) -> list[list[int]]:
    """The rows, by number of classes."""
    groups: dict[int, list[int]] = {}
    for k, row in enumerate(rows):
        groups.setdefault(len(row.x), []).append(k)
    return list(groups.values())


def _spelled(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{v:.4g}" for v in values[:12])
    return f"[{shown}{', …' if len(values) > 12 else ''}]"
