"""Formula → statistics: the spec's expression tree becomes a row expression over sums.

    sum(p * logp)   →   T0 - P·s        T0 = Σ_{j≠y} p_j·logp_j

Class values are pairs (j ≠ y, j = y), so one-hot algebra disappears and the target never hides
inside a sum.  Parameters and inputs that a variant does not use are their neutral values here.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, TypeAlias

from sympy import Add, Expr, Integer, Rational, exp, log, oo, pi

from lossgen.errors import LossgenError
from lossgen.ir.check import defined
from lossgen.ir.ops import OPS, acosh, asinh, compare, log1p, log_sigmoid, sgn
from lossgen.ir.piecewise import where
from lossgen.ir.stages import Cls, Pivot, SymbolicLoss
from lossgen.ir.statistics import Max
from lossgen.passes.absolute import absolute, root
from lossgen.passes.algebra import complement
from lossgen.passes.equations import Equations
from lossgen.passes.even import even
from lossgen.passes.exponentials import expand_exp, logistic_power, logistic_quotient, opened, power
from lossgen.passes.levels import shift_invariant
from lossgen.passes.maxima import beats, largest_of
from lossgen.passes.reductions import Reductions
from lossgen.passes.subsets import Subsets
from lossgen.passes.symbols import exact, vocabulary
from lossgen.passes.totals import total
from lossgen.spec.expr import Call, NameKind, walk
from lossgen.spec.expr import Expr as Tree
from lossgen.spec.model import LossSpec

__all__ = ["parse"]

Value: TypeAlias = Any  # Cls for class rank, Expr for row and parameter rank
_SOFT = ("softmax", "log_softmax", "logsumexp")
_NEEDS_PIVOT = {"softmax", "log_softmax", "logsumexp", "exp"}
_FUNCTIONS = {name: op.symbol for name, op in OPS.items()} | {
    "exp": exp,
    "log": log,
    "sqrt": root,
    "sign": sgn,
    "log_sigmoid": log_sigmoid,
}


def parse(
    spec: LossSpec, uses: frozenset[str], pivot: Pivot | None = None, whole: bool = False
) -> SymbolicLoss:
    """The symbolic loss of one variant of ``spec`` (``uses``: the optional names it keeps).

    Args:
        pivot: the distinguished class; by default what suits the formula.
        whole: leave sums as they are written, in a sweep of their own.
    """
    algebra = _Pairs(spec, uses, pivot, whole)
    built = algebra.built
    total: Expr = Integer(0)
    for term in spec.terms:
        weight = algebra.parameter(term.weight) if term.weight else Integer(1)
        if weight != 0:  # else its softmaxes would be computed all the same
            total += weight * _row(spec, algebra, term.name or term.role, term.expr)
    values = [_row(spec, algebra, o.name, o.expr) for o in spec.outputs]
    values = [shift_invariant(complement(v, built.forms), built) for v in values]
    outputs = tuple((o.name, v) for o, v in zip(spec.outputs, values, strict=True))
    loss = shift_invariant(complement(total, built.forms), built)
    loss += Add(*(g * v for g, v in zip(built.vocabulary.cotangents, values, strict=True)))
    return SymbolicLoss(
        spec=spec,
        uses=uses,
        pivot=built.pivot,
        vocabulary=built.vocabulary,
        forms=tuple(built.forms),
        sums=tuple(built.sums),
        maxes=tuple(built.maxes),
        loss=loss,
        centres=tuple(built.centres),
        roots=tuple(built.roots),
        outputs=outputs,
        twins=built.twins,
        whole=whole,
    )


def _row(spec: LossSpec, algebra: _Pairs, name: str, tree: Tree) -> Expr:
    """The value of a formula, with errors placed at it."""
    built = algebra.built
    try:
        value = walk(tree, algebra)
        bodies = [*(e.body for e in built.sums), *(m.body for m in built.maxes)]
        defined([value, *bodies, *(e for f in built.forms for e in (f.ell, f.ell_y))])
    except LossgenError as error:
        error.location = error.location or spec.location_of(name, tree.span)
        raise
    assert isinstance(value, Expr)
    return value


def _calls(tree: Tree) -> set[str]:
    found: set[str] = set()
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Call):
            found.add(node.func)
            stack.extend(node.args)
        elif isinstance(node, Tree):
            stack.extend(v for v in vars(node).values() if isinstance(v, Tree))
    return found


class _Pairs:
    """The Algebra of pairs: Cls for class rank, a plain expression for row and parameter rank."""

    def __init__(
        self, spec: LossSpec, uses: frozenset[str], pivot: Pivot | None, whole: bool = False
    ) -> None:
        calls = set().union(*(_calls(t) for t in spec.trees))
        if pivot is None and spec.has_target:
            pivot = Pivot.TARGET
        elif pivot is None:
            pivot = Pivot.ARGMAX if calls & _NEEDS_PIVOT else Pivot.NONE
        self.spec, self.uses = spec, uses
        self.built = Reductions(vocabulary(spec), pivot, whole=whole)
        self.subsets = Subsets(self.built, spec)
        self.lets: dict[str, Value] = {}
        self.equations = Equations(self.built, lambda tree: walk(tree, self))

    # ------------------------------------------------------------------ leaves
    def number(self, value: Fraction) -> Value:
        return Rational(value.numerator, value.denominator)

    def parameter(self, name: str) -> Expr:
        off = self.spec.parameters[name].off
        if off is not None and name not in self.uses:
            return exact(off)
        return self.built.vocabulary.parameters[name]

    def name(self, name: str, kind: NameKind) -> Value:
        names = self.built.vocabulary
        match kind:
            case NameKind.LOGITS:
                return Cls(names.x, names.x_y)
            case NameKind.STREAM:
                return Cls(*names.streams[name])
            case NameKind.INDEX:
                return Cls(*names.index)
            case NameKind.PARAMETER:
                return self.parameter(name)
            case NameKind.CLASSES:
                return names.classes
            case NameKind.CONSTANT:
                return pi
            case NameKind.ONEHOT:
                return Cls(Integer(0), Integer(1))
            case NameKind.UNKNOWN:
                return self.equations.unknowns[name]
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(self.spec.let[name], self)
                return self.lets[name]
        off = self.spec.inputs[name].off
        if off is not None and name not in self.uses:
            constant = exact(off)
            return Cls(constant, constant) if kind is NameKind.VOCAB_INPUT else constant
        if kind is NameKind.VOCAB_INPUT:
            return Cls(*names.vocab[name])
        return names.rows[name]

    # ------------------------------------------------------------------ elementwise
    def _map(self, function: Any, *values: Value) -> Value:
        if not any(isinstance(v, Cls) for v in values):
            return complement(function(*values), self.built.forms)
        pairs = [v if isinstance(v, Cls) else Cls(v, v) for v in values]
        return Cls(
            function(*(p.o for p in pairs)),
            complement(function(*(p.y for p in pairs)), self.built.forms),
        )

    def negate(self, operand: Value) -> Value:
        return self._map(lambda a: -a, operand)

    def binary(self, op: str, left: Value, right: Value) -> Value:
        forms = self.built.forms
        table = {
            "+": lambda a, b: total(a + b, self.subsets),
            "-": lambda a, b: total(a - b, self.subsets),
            "*": lambda a, b: a * b,
            "/": lambda a, b: self.subsets.raised.quotient(logistic_quotient(a / b, forms)),
            "**": lambda a, b: self.subsets.power(a, b) or power(a, b),
        }
        return self._map(table[op], left, right)

    def compare(self, op: str, left: Value, right: Value) -> Value:
        return self._map(lambda a, b: compare(op, a, b), left, right)

    def gather(self, vector: Value) -> Value:
        return vector.y if isinstance(vector, Cls) else vector

    def call(self, node: Call, args: tuple[Value, ...]) -> Value:
        if node.func == "root":
            return self.equations(node, *args)
        special = _OWN.get(node.func)
        if special is not None and node.func in _SOFT:
            if (found := even(node.func, args[0], node.others, self.built)) is not None:
                return found
            return self._thawed(partial(special, self), args[0], node.others)
        if special is not None:
            return special(self, args[0], node.others)
        if node.func == "where":
            return self._map(self.subsets.choice, *args)
        return self._map(_FUNCTIONS[node.func], *map(self._opened, args))

    def _opened(self, value: Value) -> Value:
        return self._map(partial(opened, forms=self.built.forms), value)

    def _exp(self, value: Value, others: bool) -> Value:
        value = self._opened(value)
        if not isinstance(value, Cls):
            return self._map(expand_exp, value)
        # exp(x - max(x)): what is the same for all classes, a maximum, is a factor
        if (share := logistic_power(value.o)) is not None:
            return Cls(share, expand_exp(value.y))
        row, ell = value.o.as_independent(*self.built.class_symbols(), as_Add=True)
        if not self._is_raw(ell):
            return self._map(expand_exp, value)
        form, constant = self.built.form(ell, value.y - row)
        scale = exp(form.L + constant + row)
        return Cls(exp(form.logp) * scale, form.P * scale)

    def _is_raw(self, expr: Expr) -> bool:
        built = self.built
        known = built.statistics() | {f.logp for f in built.forms}
        return built.varies(expr) and not expr.free_symbols & known

    def _log(self, value: Value, others: bool) -> Value:
        if isinstance(value, Cls):
            whole = self._opened(value)
            if any(node.args[0].has(exp) for node in whole.o.atoms(exp)):  # no log-sum-exp
                value = whole
            at_y = complement(self.subsets.log(value.y), self.built.forms)
            return Cls(self.subsets.log_of_class(value.o), at_y)
        return complement(self.subsets.log(value), self.built.forms)

    def _log1p(self, value: Value, others: bool) -> Value:
        """log1p(-p) is log(1 - p), whose rules know probabilities; ``near_one`` makes others."""
        known = self.built.statistics() | {f.logp for f in self.built.forms}
        parts = (value.o, value.y) if isinstance(value, Cls) else (value,)
        if any(part.free_symbols & known for part in parts):
            return self._log(self.binary("+", Integer(1), value), others)
        return self._map(log1p, value)

    def _stop_gradient(self, value: Value, others: bool) -> Value:
        return self._map(self.built.freeze, value)

    def _abs(self, value: Value, others: bool) -> Value:
        return self._map(absolute, value)

    def _acosh(self, value: Value, others: bool) -> Value:
        """acosh(1 + u) of a small u has √(2u): 2·asinh(√(u/2)) has its digits, and its slope."""
        return self._map(self._of_excess, value)

    def _of_excess(self, expr: Expr) -> Expr:
        above = complement(expr - 1, self.built.forms)
        rest, _ = above.as_coeff_Add()
        return acosh(expr) if rest or above.is_number else 2 * asinh(root(above / 2))

    # ------------------------------------------------------------------ softmax and reductions
    def _form(self, value: Value) -> tuple[Any, Expr]:
        assert isinstance(value, Cls)
        return self.built.form(value.o, value.y)

    def _thawed(self, reduce: Callable[..., Value], value: Value, others: bool) -> Value:
        """softmax(stop_gradient(e)) is stop_gradient(softmax(e)), and no softmax of its own."""
        built = self.built
        if isinstance(value, Cls) and built.is_frozen(value.o) and built.is_frozen(value.y):
            live = Cls(built.unfreeze(value.o), built.unfreeze(value.y))
            return self._stop_gradient(reduce(live, others), others)
        return reduce(value, others)

    def _softmax(self, value: Value, others: bool) -> Value:
        form, _ = self._form(value)
        if others:
            return Cls(form.R, Integer(0))
        return Cls(exp(form.logp), form.P)

    def _log_softmax(self, value: Value, others: bool) -> Value:
        form, _ = self._form(value)
        if others:
            return Cls(form.logp + form.r, -oo)
        return Cls(form.logp, -form.s)

    def _logsumexp(self, value: Value, others: bool) -> Value:
        weighted = self.subsets.logsumexp(value, others)
        if weighted is not None:
            return weighted
        form, constant = self._form(value)
        return form.L + constant - (form.r if others else 0)

    def _sum(self, value: Value, others: bool) -> Value:
        assert isinstance(value, Cls)
        rest, chosen = self.subsets.split(value.o)
        total = self.subsets.raised.total(self.built.sum(rest) + self.built.sum(chosen))
        if not others and self.built.pivot is not Pivot.NONE:
            total += value.y
        return complement(total, self.built.forms)

    def _mean(self, value: Value, others: bool) -> Value:
        classes = self.built.vocabulary.classes
        return self._sum(value, others) / (classes - 1 if others else classes)

    def _norm(self, value: Value, others: bool) -> Value:
        return root(self._sum(self._map(lambda a: a**2, value), others))

    def _second_max(self, value: Value, others: bool) -> Value:
        assert isinstance(value, Cls)
        outer, inner = self._monotone(value)
        first = self.built.maximum(inner.o)
        second = self.built.maximum(inner.o, self.built.maxes.index(first))
        if others or not self.built.leaves_out_pivot(inner.o):
            return outer(second)
        at_y = self.built.vocabulary.index[1]
        behind = where(beats(inner.y, at_y, second), value.y, outer(second))
        return where(beats(inner.y, at_y, first), outer(first), behind)

    def _largest(self, value: Value, others: bool) -> tuple[Expr, Expr]:
        """(value, index) of the first largest entry."""
        assert isinstance(value, Cls)
        outer, inner = self._monotone(value)
        target = self.built.pivot is Pivot.TARGET
        owner = next((f.index for f in self.built.forms if f.base == inner.o and target), None)
        entry = self.built.maximum(inner.o, form=owner)
        if others or not self.built.leaves_out_pivot(inner.o):
            return outer(entry), entry.index
        at_y = self.built.vocabulary.index[1]
        wins = beats(inner.y, at_y, entry)
        return where(wins, value.y, outer(entry)), where(wins, at_y, entry.index)

    def _monotone(self, value: Cls) -> tuple[Callable[[Max], Expr], Cls]:
        """Write an increasing function of a class vector as (outer, inner): softmax of x as
        exp(· - L) of x, so that the maximum is one of raw values."""
        for form in self.built.forms:
            logarithm = value.o == form.logp
            at_y = (-form.s,) if logarithm else (form.P, exp(-form.s))
            # the same function at y too: of |p - onehot|, what stands there is 1 - p
            if (logarithm or value.o == exp(form.logp)) and value.y in at_y:
                raw = Cls(form.base, form.base_y + form.shift_y / form.scale)
                return partial(largest_of, form, logarithm, self.built.pivot), raw
        constant, _ = value.o.as_independent(*self.built.class_symbols(), as_Add=True)
        return (lambda m: m.symbol + constant), Cls(value.o - constant, value.y - constant)


#: What is not applied to each class by itself, or has rules of its own.
_OWN: dict[str, Callable[[_Pairs, Value, bool], Value]] = {
    "exp": _Pairs._exp,
    "log": _Pairs._log,
    "log1p": _Pairs._log1p,
    "stop_gradient": _Pairs._stop_gradient,
    "abs": _Pairs._abs,
    "acosh": _Pairs._acosh,
    "softmax": _Pairs._softmax,
    "log_softmax": _Pairs._log_softmax,
    "logsumexp": _Pairs._logsumexp,
    "sum": _Pairs._sum,
    "mean": _Pairs._mean,
    "norm": _Pairs._norm,
    "max": lambda pairs, value, others: pairs._largest(value, others)[0],
    "argmax": lambda pairs, value, others: pairs._largest(value, others)[1],
    "second_max": _Pairs._second_max,
}
