"""Take the body of a sum apart: which sweep can reduce it, and as which monomials.

    t·(logt - logp)   →   t·δ - λ·t          δ_j = (l^t_j - l^p_j) - (l^t_c - l^p_c)
    t·logp            →   t·δ - λ·t          δ_j = l^p_j - l^p_c

A monomial exp(κ·logp)·logp^n·w belongs to the sweep of its softmax.  Logarithms of another softmax
under the same weight are differences of raw exponents, measured from the largest class c of the
weight (and λ is the difference of the log-sum-exps from there): nothing that has a common offset,
and nothing that two close rows share, is ever added up, and no class that the weight masks is the
measure.  All or nothing: a body with one term that does not separate is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sympy import Add, Dummy, Expr, Function, Integer, Mul, Symbol, exp, expand

from lossgen.ir.statistics import Form
from lossgen.passes.algebra import divisors_apart, parted
from lossgen.passes.uniform import excess

if TYPE_CHECKING:
    from lossgen.passes.reductions import Reductions

__all__ = ["Piece", "is_centred", "raw_sums", "separate"]


@dataclass(frozen=True)
class Piece:
    """row · exp(Σ kappa·logp)·Π logp^power·weight·(centre - centre_y), forms by index."""

    row: Expr
    kappa: dict[int, Expr]
    power: dict[int, int]
    weight: Expr
    body: Expr  # the class part as an expression
    live: bool  # no part of it is under stop_gradient
    centre: Symbol | None = None
    others: bool = False  # exp(logp) stands for R

    @property
    def is_mass(self) -> bool:
        """Nothing but exp(κ·logp) of one softmax."""
        return self.live and not self.power and self.weight == 1 and self.centre is None


def separate(body: Expr, built: Reductions) -> list[Piece] | None:
    """The monomials of ``body``, or None where it does not separate."""
    return _Separation(built)(body)


def raw_sums(body: Expr, built: Reductions, centred: bool = False) -> dict[Expr, Dummy]:
    """What expansion must not take apart: sums of raw streams (1 - t is exact, p - t·p not) and
    functions of them (|a·(V - 1) - index| is more accurate than |a·V - a - index|), and factors
    p - 1/V, whose squares and products are small where p is nearly uniform.

    ``centred``: and raw streams less a number of the row, as x - mean(x) is, all of it known."""
    found: dict[Expr, Dummy] = {}
    stack = [body]
    while stack:
        node = stack.pop()
        varies = built.varies(node)
        raw = varies and built.level(node) == 0
        called = isinstance(node, Function) and not isinstance(node, exp)
        near_uniform = varies and node != body and node.is_Add and excess(node) is not None
        apart = centred and node.is_Add and is_centred(node, built)
        if (raw and (_is_sum(node) or called)) or near_uniform or apart:
            found[node] = Dummy(f"raw{len(found)}", real=True)
        elif not raw:
            stack.extend(node.args)
        elif node.is_Mul:  # a sum in it is taken apart: c·(a + b)
            stack.extend(a for a in node.args if not a.is_Add)
    return found


def _is_sum(node: Expr) -> bool:
    """Or a power of one: Σ p·(index - y)², in moments, is a difference of squares of indices."""
    return bool(node.is_Add or (node.is_Pow and node.base.is_Add))


def is_centred(total: Expr, built: Reductions) -> bool:
    """Raw streams, and numbers of the row beside them."""
    wide = [term for term in Add.make_args(total) if built.varies(term)]
    return bool(wide) and not any(map(built.level, wide))


class _Separation:
    def __init__(self, built: Reductions) -> None:
        self.built = built
        twins = built.twins
        self.others = {f.R: exp(f.logp) for f in built.forms}
        self.logps: dict[Symbol, Form] = {f.logp: f for f in built.forms}
        self.logps |= {twins[f.logp]: f for f in built.forms if f.logp in twins}

    def __call__(self, body: Expr) -> list[Piece] | None:
        held = [f for f in self.built.forms if f.R in body.free_symbols]
        alone = len(held) == 1 and not body.atoms(exp) & set(self.others.values())
        if held and not alone:
            body = body.xreplace({f.R: exp(f.logp) / f.Q for f in held})
        pieces = self._pieces(body.xreplace(self.others) if alone else body)
        if not alone or pieces is None:
            return pieces
        if any(p.power or p.kappa != {held[0].index: 1} for p in pieces):
            return None
        back = {value: symbol for symbol, value in self.others.items()}
        return [replace(p, others=True, body=p.body.xreplace(back)) for p in pieces]

    def _pieces(self, body: Expr) -> list[Piece] | None:
        opaque = raw_sums(body, self.built)
        varying = {*self.built.class_symbols(), *opaque.values()}
        whole, divisors = divisors_apart(body.xreplace(opaque), varying)
        flat = expand(whole, deep=True, power_base=False, log=False).xreplace(divisors)
        back = {dummy: node for node, dummy in opaque.items()}
        groups: dict[Expr, list[Expr]] = {}
        for term in Add.make_args(flat):
            weight, rest = parted(term, self._exponential)
            groups.setdefault(weight, []).append(rest)
        pieces: list[Piece] = []
        for weight, parts in groups.items():
            total = self._one_form(weight, Add(*parts))
            if total is None:
                return None
            for term in Add.make_args(total):
                piece = self._monomial((term * weight).xreplace(back))
                if piece is None:
                    return None
                pieces.append(piece)
        return pieces

    def _exponential(self, factor: Expr) -> bool:
        return isinstance(factor, exp) and bool(factor.free_symbols & set(self.logps))

    # ------------------------------------------------------------------ several softmaxes
    def _one_form(self, weight: Expr, rest: Expr) -> Expr | None:
        """``rest`` with the logp of at most one softmax: that of the weight, if it has one."""
        used = {s for s in rest.free_symbols if s in self.logps}
        owners = {self.logps[s].index for s in weight.free_symbols if s in self.logps}
        foreign = [s for s in sorted(used, key=str) if self.logps[s].index not in owners]
        if not foreign or (not owners and len(foreign) == 1):
            return rest
        if len(owners) != 1 or any(s not in {f.logp for f in self.built.forms} for s in used):
            return None
        (own,) = (f for f in self.built.forms if f.index in owners)
        for other in (self.logps[symbol] for symbol in foreign):
            plain = all(map(self._of_streams, (own, other)))
            if own.parts or other.parts or own.level != other.level or not plain:
                return None
            rest = self._foreign(rest, own, other)
        return rest

    def _of_streams(self, form: Form) -> bool:
        """Does its exponent hold nothing along the classes that an earlier sweep made?"""
        varying = form.base.free_symbols & self.built.class_symbols()
        return varying <= self.built.vocabulary.class_symbols

    def _foreign(self, rest: Expr, own: Form, other: Form) -> Expr:
        """logp' = logp - δ + λ, if logp then drops out; else (l' - m') - λ'."""
        apart = self.built.apart(own, (own, 1), (other, -1))
        fused = expand(
            rest.xreplace({other.logp: own.logp - apart.symbol + apart.lse}),
            power_base=False,
            log=False,
        )
        if own.logp not in fused.free_symbols:
            return fused
        alone = self.built.apart(own, (other, 1))
        return expand(
            rest.xreplace({other.logp: alone.symbol - alone.lse}), power_base=False, log=False
        )

    # ------------------------------------------------------------------ one monomial
    def _monomial(self, term: Expr) -> Piece | None:
        row, cls = term.as_independent(*self.built.class_symbols(), as_Add=False)
        kappa: dict[int, Expr] = {}
        power: dict[int, int] = {}
        weight: list[Expr] = []
        centre: Symbol | None = None
        deltas = {c.symbol for c in self.built.centres}
        for factor in Mul.make_args(cls):
            if self._exponential(factor):
                rates = self._rates(factor)
                if rates is None:
                    return None
                for index, rate in rates.items():
                    kappa[index] = kappa.get(index, Integer(0)) + rate
                continue
            base, exponent = factor.as_base_exp()
            if base in deltas:
                if exponent != 1 or centre is not None:
                    return None
                centre = base
            elif base in self.logps and exponent.is_Integer and exponent > 0:
                index = self.logps[base].index
                power[index] = power.get(index, 0) + int(exponent)
            else:
                weight.append(factor)
        kappa = {i: k for i, k in kappa.items() if k != 0}
        owners = {*kappa, *power}
        rest = Mul(*weight)
        before = min((self.built.forms[i].level for i in owners), default=1)
        if any(self.built.level(e) >= before for e in (rest, *kappa.values())):
            return None
        if len(owners) > 1 and (power or rest != 1 or centre):
            return None
        if len({self.built.forms[i].level for i in owners}) > 1:  # no sweep has both exponents
            return None
        return Piece(
            row=row,
            kappa=kappa,
            power=power,
            weight=rest,
            body=cls,
            live=not cls.free_symbols & set(self.built.twins.values()),
            centre=centre,
        )

    def _rates(self, factor: Expr) -> dict[int, Expr] | None:
        """κ by form of exp(Σ κ·logp)."""
        found: dict[int, Expr] = {}
        for part in Add.make_args(expand(factor.args[0])):
            coefficient, symbol = part.as_independent(*self.logps, as_Add=False)
            if symbol not in self.logps or self.built.varies(coefficient):
                return None
            index = self.logps[symbol].index
            found[index] = found.get(index, Integer(0)) + coefficient
        return found
