"""The literal formula of one row in many digits, with its derivatives: the truth of a certificate.

It walks the formula as the author wrote it and shares nothing with the passes: no rewrite, no
statistic, and derivatives of its own, in reverse over a tape of whole vectors.  As many digits as
the caller works with.

    (1 - p[y]) * logp[y]   →   0.31…, [dloss/dx_0, dloss/dx_1, …]

Numbers come and go as mpmath's; on the way they are those of :mod:`lossgen.ir.reals`.

Conventions where the formula alone is silent: 0·∞ is 0, in the value and in the chain rule; the
maximum's derivative goes to the first index, the second maximum's to the second occurrence;
minimum and maximum split ties; relu'(0) = 0, and a root or a norm of zeros has derivative 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import gmpy2
import mpmath as mp

from lossgen.ir.literal_along import along
from lossgen.ir.literal_root import at_root
from lossgen.ir.literal_rules import (
    COMPARE,
    GENTLE,
    REDUCTIONS,
    RULES,
    Vector,
    flag,
    times,
    total_exponential,
)
from lossgen.ir.reals import INF, ONE, ZERO, as_mpf, bounded, ordered, real, reals
from lossgen.spec.expr import Call, Expr, NameKind, walk
from lossgen.spec.model import LossSpec

__all__ = ["Truth", "formula", "literal"]

_NARROW = 53  # bits, of which
_DOUBLE = 1024  # float64 ends at 2**1024


@dataclass(frozen=True)
class Truth:
    """The results of a row, and the derivatives of their sum, each times its cotangent."""

    results: Vector
    gradients: dict[str, Vector]  # by stream: "x", or a differentiable class input
    slopes: dict[str, Any]  # by parameter and row input
    largest: Any = 0  # number that is added to another on the way
    steepest: Any = 0  # derivative of any of them

    @property
    def real(self) -> bool:
        """Are all of them finite real numbers?"""
        parts = (self.results, *self.gradients.values())
        return all(mp.isfinite(v) for part in parts for v in part)


def literal(
    spec: LossSpec,
    x: Sequence[Any],
    y: int | None,
    given: Mapping[str, Any],
    cotangents: Sequence[float] = (1.0,),
    double: bool = False,
    frozen: dict[int, Vector] | None = None,
) -> Truth:
    """Value and derivatives of one row at the caller's precision.

    Args:
        given: numbers, and a list [V] for vocab and class inputs; what is missing stands at its
            ``off``, or at its default.
        cotangents: what the outputs are multiplied by before they are differentiated; repeated.
        double: no number may be beyond those of float64.
        frozen: what ``stop_gradient`` held in a pass before, which is held still; filled by the
            first.

    Raises:
        ZeroDivisionError, ValueError, TypeError, OverflowError: the formula has no real value.
    """
    if spec.origin is not None and spec.tangent:
        return _along(spec, spec.origin, x, y, given, cotangents, double)
    with reals():
        if spec.origin is not None:
            return _derivatives(spec.origin, spec.by, x, y, given)
        return _differentiated(spec, x, y, given, cotangents, double, frozen)


def formula(
    spec: LossSpec, expr: Expr | None, x: Sequence[Any], y: int | None, given: Mapping[str, Any]
) -> Vector:
    """The value of a formula, or of the loss itself, one number or one for each class, and NaN
    where it is none. Raises what ``literal`` raises."""
    with reals():
        algebra = Literal(spec, list(map(real, x)), y, given)
        return list(map(as_mpf, (algebra.loss() if expr is None else walk(expr, algebra)).value))


def _differentiated(
    spec: LossSpec,
    x: Sequence[Any],
    y: int | None,
    given: Mapping[str, Any],
    cotangents: Sequence[float],
    double: bool,
    frozen: dict[int, Vector] | None,
) -> Truth:
    algebra = Literal(spec, list(map(real, x)), y, given, double=double, frozen=frozen)
    results = algebra.results()
    for result in results:  # nor is anything asked of its derivatives
        bounded(result.value[0])
    for k, result in enumerate(results):
        algebra.seed(result, real(cotangents[k % len(cotangents)]))
    algebra.backward()
    size, leaves = len(x), algebra.leaves
    gradients = {
        n: list(map(as_mpf, algebra.slope(leaves.get(n), size)))
        for n in (
            "x",
            *(n for n, e in spec.inputs.items() if e.kind == "class" and e.differentiable),
        )
    }
    rows = [*spec.parameters, *(n for n, e in spec.inputs.items() if e.kind == "row")]
    slopes = {n: as_mpf(algebra.slope(leaves.get(n), 1)[0]) for n in rows}
    values = [as_mpf(r.value[0]) for r in results]
    return Truth(values, gradients, slopes, as_mpf(algebra.largest), as_mpf(algebra.steepest))


def _derivatives(
    origin: LossSpec, by: str, x: Sequence[Any], y: int | None, given: Mapping[str, Any]
) -> Truth:
    """What ``spec.derived`` has the formulas of, without these: of each result of the original."""
    found, largest, count = list[Any](), ZERO, max(1, len(origin.outputs))
    for k in range(count):
        algebra = Literal(origin, list(map(real, x)), y, given, moved=by)
        algebra.seed(algebra.results()[k], ONE)
        algebra.backward()
        found += algebra.slope(algebra.leaves.get(by), 1)
        largest = max(largest, algebra.largest)
    return Truth(list(map(as_mpf, found)), {"x": [mp.mpf(0)] * len(x)}, {}, as_mpf(largest))


def _along(
    spec: LossSpec,
    origin: LossSpec,
    x: Sequence[Any],
    y: int | None,
    given: Mapping[str, Any],
    cotangents: Sequence[float],
    double: bool,
) -> Truth:
    """The same of a derivative along a row, with its gradients."""

    def original(
        row: Mapping[str, Any], weights: Sequence[Any], frozen: dict[int, Vector] | None = None
    ) -> Truth:
        beside = {name: value for name, value in row.items() if name != "x"}
        narrow = double and mp.mp.prec == _NARROW
        return literal(origin, row["x"], y, beside, weights, narrow, frozen)

    count = max(1, len(origin.outputs))
    weights = [cotangents[k % len(cotangents)] for k in range(count)]
    found = along(original, spec.by, spec.tangent, {**given, "x": x}, weights)
    results, gradients, largest = found
    return Truth(results, gradients, {}, largest)


@dataclass(eq=False)
class Node:
    """A value on the tape, and how its derivative goes back to what it was made of."""

    value: Vector
    back: Callable[[Vector], None] | None = None
    slope: Vector | None = None


@dataclass
class Literal:
    """The algebra of one row: every value is a node of the tape."""

    spec: LossSpec
    x: Vector
    y: int | None
    given: Mapping[str, Any]
    tape: list[Node] = field(default_factory=list)
    leaves: dict[str, Node] = field(default_factory=dict)
    totals: dict[Any, tuple[Any, Vector]] = field(default_factory=dict)
    largest: Any = ZERO  # number of the row that is added to another
    steepest: Any = ZERO  # derivative on the way, which is added to others
    moved: str = ""  # the parameter whose slope is asked for
    double: bool = False
    frozen: dict[int, Vector] | None = None
    stops: int = 0  # so far
    unknowns: dict[str, Node] = field(default_factory=dict)  # of the equations around this place

    # ------------------------------------------------------------------ the tape
    def node(self, value: Vector, back: Callable[[Vector], None] | None = None) -> Node:
        if self.double:
            value = [bounded(v, _DOUBLE) for v in value]
        self.tape.append(Node(value, back))
        return self.tape[-1]

    def seed(self, node: Node, slope: Any) -> None:
        self._add(node, [slope] * len(node.value))

    def backward(self) -> None:
        for node in reversed(self.tape):
            if node.slope is not None and node.back is not None:
                node.back(node.slope)

    def slope(self, node: Node | None, size: int) -> Vector:
        if node is None or node.slope is None:
            return [ZERO] * size
        return node.slope

    def _add(self, node: Node, slope: Vector) -> None:
        self.steepest = max((self.steepest, *map(abs, slope)))
        if len(node.value) == 1 and len(slope) > 1:
            slope = [gmpy2.fsum(slope)]
        if node.slope is None:
            node.slope = list(slope)
        else:
            node.slope = [a + b for a, b in zip(node.slope, slope, strict=True)]

    def results(self) -> list[Node]:
        """The outputs, or the loss."""
        return [walk(o.expr, self) for o in self.spec.outputs] or [self.loss()]

    def loss(self) -> Node:
        """Σ weight·term, without the terms that are turned off."""
        total = self.node([ZERO])
        for weight, expr in ((t.weight, t.expr) for t in self.spec.terms):
            factor = None if weight is None else self.name(weight, NameKind.PARAMETER)
            if factor is not None and factor.value[0] == 0 and weight != self.moved:
                continue  # it may mention inputs that nobody gave
            value = walk(expr, self)
            total = self.binary("+", total, self.binary("*", factor, value) if factor else value)
        return total

    # ------------------------------------------------------------------ leaves
    def number(self, value: Fraction) -> Node:
        return self.node([real(value.numerator) / value.denominator])

    def name(self, name: str, kind: NameKind) -> Node:
        if kind is NameKind.UNKNOWN:
            return self.unknowns[name]
        if name not in self.leaves:
            if kind is NameKind.LET:
                self.leaves[name] = walk(self.spec.let[name], self)
            else:
                self.leaves[name] = self.node(self._value(name, kind))
        return self.leaves[name]

    def _value(self, name: str, kind: NameKind) -> Vector:
        size = len(self.x)
        match kind:
            case NameKind.LOGITS:
                return self.x
            case NameKind.CLASSES:
                return [real(size)]
            case NameKind.CONSTANT:
                return [gmpy2.const_pi()]
            case NameKind.ONEHOT:
                return [flag(j == self.y) for j in range(size)]
            case NameKind.INDEX:
                return [real(j) for j in range(size)]
        entry: Any = self.spec.parameters.get(name) or self.spec.inputs.get(name)
        value = self.given.get(name)
        if value is None:
            value = entry.off if entry.off is not None else entry.default
        wide = kind in (NameKind.VOCAB_INPUT, NameKind.STREAM)
        if wide and not isinstance(value, Sequence):
            return [real(value)] * size
        return list(map(real, value)) if wide else [real(value)]

    # ------------------------------------------------------------------ elementwise
    def apply(self, rule: str, *args: Node) -> Node:
        function, slopes = RULES[rule]
        size = max(len(a.value) for a in args)
        columns = [a.value if len(a.value) == size else a.value * size for a in args]
        if rule not in GENTLE:
            columns = [list(map(bounded, column)) for column in columns]
        value = [function(*row) for row in zip(*columns, strict=True)]

        def back(slope: Vector) -> None:
            partials: list[Vector] = [[] for _ in args]
            for g, v, row in zip(slope, value, zip(*columns, strict=True), strict=True):
                if g == 0:
                    for part in partials:
                        part.append(ZERO)
                    continue
                for part, d in zip(partials, slopes(*row, v), strict=True):
                    part.append(times(g, d))
            for a, part in zip(args, partials, strict=True):
                self._add(a, part)

        return self.node(value, back)

    def negate(self, operand: Node) -> Node:
        return self.apply("negate", operand)

    def binary(self, op: str, left: Node, right: Node) -> Node:
        if op in "+-" and len(left.value) == len(right.value) == 1:
            self.largest = max(self.largest, abs(left.value[0]), abs(right.value[0]))
        return self.apply(op, left, right)

    def compare(self, op: str, left: Node, right: Node) -> Node:
        size = max(len(left.value), len(right.value))
        a, b = (n.value if len(n.value) == size else n.value * size for n in (left, right))
        ordered(*a, *b)
        return self.node([flag(COMPARE[op](v, w)) for v, w in zip(a, b, strict=True)])

    def gather(self, vector: Node) -> Node:
        y = self.y
        assert y is not None

        def back(slope: Vector) -> None:
            size = len(vector.value)
            self._add(vector, [slope[0] if j == y % size else ZERO for j in range(size)])

        return self.node([vector.value[y % len(vector.value)]], back)

    # ------------------------------------------------------------------ over classes
    def call(self, node: Call, args: tuple[Node, ...]) -> Node:
        func, first = node.func, args[0]
        if func == "root":
            return at_root(self, node, *args)
        if func == "stop_gradient":
            self.stops += 1
            held = {} if self.frozen is None else self.frozen
            return self.node(held.setdefault(self.stops, first.value))
        if func not in REDUCTIONS and func not in ("softmax", "log_softmax", "argmax"):
            return self.apply(func, *args)
        size = len(self.x)
        full = self._broadcast(first, size)
        kept = [j for j in range(size) if not node.others or j != self.y]
        values = [full.value[j] for j in kept]
        if func not in GENTLE:
            values = list(map(bounded, values))
        if func == "argmax":
            ordered(*values)
            return self.node([real(max(kept, key=lambda j: full.value[j], default=0))])
        if func in ("softmax", "log_softmax"):
            return self._normalised(func, full, kept, values)
        value, slopes = REDUCTIONS[func](values)

        def back(slope: Vector) -> None:
            part = [ZERO] * size
            for j, d in zip(kept, slopes, strict=True):
                part[j] = times(slope[0], d)
            self._add(full, part)

        return self.node([value], back)

    def _broadcast(self, node: Node, size: int) -> Node:
        if len(node.value) == size:
            return node
        return self.node(node.value * size, lambda slope: self._add(node, slope))

    def _normalised(self, func: str, full: Node, kept: list[int], values: Vector) -> Node:
        key = (id(full), tuple(kept))  # p and log p of the same logits
        if key not in self.totals:
            self.totals[key] = total_exponential(values)
        total, p = self.totals[key]
        logs = func == "log_softmax"
        value = [-INF if logs else ZERO] * len(full.value)
        for j, v, q in zip(kept, values, p, strict=True):
            value[j] = v - total if logs else q

        def back(slope: Vector) -> None:
            own = [slope[j] for j in kept]
            part = [ZERO] * len(full.value)
            mean = gmpy2.fsum(own if logs else list(map(times, own, p)))
            for j, g, q in zip(kept, own, p, strict=True):
                part[j] = g - times(q, mean) if logs else times(q, g - mean)
            self._add(full, part)

        return self.node(value, back)
