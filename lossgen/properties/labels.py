"""The loss as a sum over classes, in symbols: what is left of it when labels are summed over.

    logp[y] / sum(logp)   →   log(P_y) / S,  S = Σ_j log(P_j)   →   Σ_y: S / S = 1

``P`` stands for the entry of a softmax at a class, ``D`` for onehot; the index is j within a sum
and y at the label.  Sums are linear, Σ_j P_j = 1, and D picks the entry at y; of what is left under
a sum a symbol is made, equal sums being the same symbol.  Parameters are exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from sympy import Expr as Formula
from sympy import Function, Rational, Symbol

from lossgen.properties.enclosure import enclosed
from lossgen.properties.setting import Setting
from lossgen.spec.expr import Binary, Call, Expr, Gather, Name, NameKind, walk
from lossgen.spec.vocabulary import ROOT

__all__ = ["Labelled", "NotSymbolic", "labelled"]

_D = Symbol("D_j", nonnegative=True)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": sympy.exp,
    "log": sympy.log,
    "log1p": lambda a: sympy.log(1 + a),
    "expm1": lambda a: sympy.exp(a) - 1,
    "sqrt": sympy.sqrt,
    "abs": sympy.Abs,
}


class NotSymbolic(Exception):
    """The formula mixes classes in a way that the rules above do not open."""


@dataclass
class Labelled:
    """A loss in symbols: ``loss`` at the label, and what its symbols of sums stand for."""

    loss: Formula
    algebra: _Labels

    @property
    def p(self) -> Symbol:
        """The target's probability."""
        return self.algebra.at(self.algebra.softmax("x"))

    @property
    def of_p(self) -> Formula | None:
        """The loss, where it is a function of the target's probability alone."""
        return self.loss if self.loss.free_symbols <= {self.p} else None

    def total(self) -> Formula:
        """The sum over the labels."""
        return sympy.simplify(self.algebra.summed(self.loss, at_label=True))

    def separated(self) -> tuple[Formula, Formula] | None:
        """(g, h) in p where the loss is g(p_y) + Σ_j h(p_j) + a number; else None."""
        label, inside = self.p, self.algebra.softmax("x")
        terms = sympy.Add.make_args(sympy.expand(self.loss))
        own = sympy.Add(*(t for t in terms if t.has(label)))
        h: Formula = sympy.S.Zero
        for term in (t for t in terms if not t.has(label)):
            factor, symbols = term.as_independent(*self.algebra.sums.values())
            if symbols == 1:
                if not factor.is_number:
                    return None
                continue
            if symbols not in self.algebra.sums.values() or not factor.is_number:
                return None
            (inner,) = [e for e, s in self.algebra.sums.items() if s == symbols]
            h += factor * inner
        if own.free_symbols - {label} or h.free_symbols - {inside}:
            return None
        p = Symbol("p", positive=True)
        return own.xreplace({label: p}), h.xreplace({inside: p})


@lru_cache(maxsize=8)
def labelled(setting: Setting) -> Labelled:
    """The loss in symbols.

    Raises:
        NotSymbolic: it cannot be had.
    """
    algebra = _Labels(setting)
    loss = enclosed(setting, algebra)
    if not isinstance(loss, sympy.Basic) or loss.has(sympy.nan, sympy.zoo):
        raise NotSymbolic
    return Labelled(loss, algebra)


@dataclass
class _Labels:
    setting: Setting
    vectors: dict[str, Symbol] = field(default_factory=dict)  # by what they are a softmax of, …
    labels: dict[Symbol, Symbol] = field(default_factory=dict)  # j → y
    sums: dict[Formula, Symbol] = field(default_factory=dict)
    lets: dict[str, Formula] = field(default_factory=dict)

    # ------------------------------------------------------------------ symbols
    def vector(self, key: str, positive: bool = False) -> Symbol:
        if key not in self.vectors:
            number = len(self.vectors)
            known = {"positive": True} if positive else {"real": True}
            self.vectors[key] = Symbol(f"v{number}_j", **known)
            self.labels[self.vectors[key]] = Symbol(f"v{number}_y", **known)
        return self.vectors[key]

    def softmax(self, of: str) -> Symbol:
        return self.vector(f"softmax {of}", positive=True)

    def at(self, formula: Formula) -> Formula:
        """The entry at the label."""
        return formula.xreplace({**self.labels, _D: sympy.S.One})

    def summed(self, formula: Formula, at_label: bool = False) -> Formula:
        """Σ over the classes, or over the labels."""
        if at_label:
            if formula.has(_D):
                raise NotSymbolic
            back = {y: j for j, y in self.labels.items()}
            formula = formula.xreplace(back)
        axis = (*self.vectors.values(), _D)
        total: Formula = sympy.S.Zero
        for term in sympy.Add.make_args(sympy.expand(formula)):
            factor, inner = term.as_independent(*axis, as_Add=False)
            total += factor * self._sum(inner)
        return total

    def _sum(self, inner: Formula) -> Formula:
        if inner == 1:
            return sympy.Integer(self.setting.classes)
        powers = inner.as_powers_dict()
        if _D in powers:
            if not (powers[_D].is_positive and powers[_D].is_number):
                raise NotSymbolic
            return self.at(inner)
        if inner.has(_D) or inner.free_symbols & {*self.labels.values()}:
            raise NotSymbolic  # depends on the label within a function
        if any(inner == s for k, s in self.vectors.items() if k.startswith("softmax ")):
            return sympy.S.One
        if inner not in self.sums:
            self.sums[inner] = Symbol(f"S{len(self.sums)}", real=True)
        return self.sums[inner]

    # ------------------------------------------------------------------ the algebra
    def number(self, value: Fraction) -> Formula:
        return Rational(value.numerator, value.denominator)

    def name(self, name: str, kind: NameKind) -> Formula:
        match kind:
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(self.setting.spec.let[name], self)
                return self.lets[name]
            case NameKind.PARAMETER:
                value = self.setting.parameters[name]
                return sympy.oo if value == float("inf") else Rational(repr(value))
            case NameKind.CLASSES:
                return sympy.Integer(self.setting.classes)
            case NameKind.CONSTANT:
                return sympy.pi
            case NameKind.ONEHOT:
                return _D
            case NameKind.LOGITS:
                return self.vector("x")
        held = self.setting.inputs.get(name)
        if kind is NameKind.INDEX or held is None or len({*held.flat}) > 1:
            return self.vector("x" if name in self.setting.inputs and held is None else name)
        return Rational(repr(float(held.flat[0])))

    def negate(self, operand: Formula) -> Formula:
        return -operand

    def binary(self, op: str, left: Formula, right: Formula) -> Formula:
        match op:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left / right
        return left**right

    def compare(self, op: str, left: Formula, right: Formula) -> Formula:
        return Function(f"compare{op}")(left, right)

    def gather(self, vector: Formula) -> Formula:
        return self.at(vector)

    def call(self, node: Call, args: tuple[Formula, ...]) -> Formula:
        func, first = node.func, args[0]
        if func in ROOT:
            raise NotSymbolic
        if func in ("softmax", "log_softmax"):
            if node.others or first.has(_D) or first.free_symbols & {*self.labels.values()}:
                raise NotSymbolic
            p = self.softmax("x" if first == self.vectors.get("x") else str(first))
            return sympy.log(p) if func == "log_softmax" else p
        if func == "sum":
            if node.others:
                odds = self._odds(node.args[0], first)
                return odds if odds is not None else self.summed(first) - self.at(first)
            return self.summed(first)
        if func == "mean" and not node.others:
            return self.summed(first) / self.setting.classes
        if func == "norm" and not node.others:
            return sympy.sqrt(self.summed(first**2))
        if func == "softcap" and args[1] == sympy.oo:
            return first
        if func in ("max", "logsumexp", "second_max", "argmax", "mean", "norm"):
            if node.others or first.has(_D) or first.free_symbols & {*self.labels.values()}:
                raise NotSymbolic
            key = Function(func)(first)
            return self.sums.setdefault(key, Symbol(f"S{len(self.sums)}", real=True))
        return _FUNCTIONS.get(func, Function(func))(*args)

    def _odds(self, expr: Expr, value: Formula) -> Formula | None:
        """Σ_{j≠y} exp(v_j − v_y) = 1/softmax(v)_y − 1."""
        match expr:
            case Call(func="exp", args=(Binary(op="-", left=left, right=Gather(vector=right)),)):
                if left == right and isinstance(left, Name) and left.kind is NameKind.LOGITS:
                    return 1 / self.at(self.softmax("x")) - 1
        return None
