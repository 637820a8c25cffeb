"""The root of an equation, between two sweeps of the same sums.

    start   from its two ends
    step    from the value f and the slope d < 0 of the equation at the trial t:
            t - f/d, where that lies between the ends; else their middle

The ends close in: f falls as t grows, so the root is not below a t with f ≥ 0.  From the
``PATIENCE``-th step on every second one is the middle.  A row that has found its root keeps it,
whatever the rows beside it do.
"""

from __future__ import annotations

from lossgen.ir.plan import SWEEPS
from lossgen.ir.program import Line, Name, Number, call, eq, ne, where
from lossgen.ir.statistics import Root
from lossgen.lower.expressions import ROW, assignments

__all__ = ["LAST", "start", "step"]

_BITS = 26  # that halving alone is sure of
PATIENCE = SWEEPS - 2 * _BITS
#: of a trial: the program that is printed and the row that is measured are in one of these
LAST = {"float32": 2.0**-23, "float64": 2.0**-51}


def start(root: Root) -> list[Line]:
    """The trial is the lower end: of a convex equation every step stays below the root."""
    t, below, above, age, moving = root.state
    ends = assignments([(below, root.low), (above, root.high)], ROW, f"s{root.index}_")
    return [*ends, Line(t, Name(below)), Line(age, Number(0.0)), Line(moving, Number(1.0))]


def step(root: Root, arithmetic: str) -> list[Line]:
    """The next trial."""
    t, below, above, age, moving = map(Name, root.state)
    k = root.index
    f, d, newton, middle = (Name(f"{word}{k}") for word in ("off", "slope", "newton", "middle"))
    close, stays, turn = (Name(f"{word}{k}") for word in ("close", "stays", "turn"))
    apart, least = call("absf", newton - t), LAST[arithmetic] * call("absf", t)
    narrow = (middle <= below) | (middle >= above)
    outside = (newton <= below) | (newton >= above) | ne(newton, newton)
    chosen = where(turn, middle, newton)
    chosen = where(close, newton, where(stays, t, chosen))
    last = float(PATIENCE)
    return [
        *assignments([(f.name, root.residual), (d.name, root.slope)], ROW, f"s{k}_"),
        Line(newton.name, t - f / d),
        Line(below.name, where(f >= 0.0, t, below)),
        Line(above.name, where(f >= 0.0, above, t)),
        Line(middle.name, 0.5 * (below + above)),
        Line(close.name, apart <= least),
        Line(stays.name, eq(f, 0.0) | narrow),
        Line(turn.name, (age >= last) | outside),
        Line(newton.name, where(moving > 0.0, chosen, t)),
        Line(t.name, where(ne(f, f), f, newton)),
        Line(moving.name, where(close | stays | ne(f, f), 0.0, moving)),
        Line(age.name, where(age >= last, last - 1.0, age + 1.0)),
    ]
