"""Whole ideas of published losses, with their odd corners: what single words seldom add up to.

Tempered and stopped softmaxes as weights and in exponents, parts of the classes and what they
leave out, standardised rows, powers near 0, parameters at 0 beside what has no bound, rows that
are nearly equal, whole numbers that group the classes.
"""

from __future__ import annotations

from random import Random
from typing import Protocol

from tests.campaign.trees import Call, Compare, Gather, Leaf, Node, Number, Operation

__all__ = ["Names", "idea"]

X, P, LOGP = Leaf("x"), Leaf("p"), Leaf("logp")
P_Y, LOGP_Y, X_Y = Gather(P), Gather(LOGP), Gather(X)
ONE, TWO, HALF = Number("1"), Number("2"), Number("0.5")
#: Parameters of ideas: domain as written, and where values are drawn, its ends among them.
PARAMETERS = {
    "tau": ("[0.5, 4]", 0.5, 4.0),
    "q": ("(0, 1]", 0.001, 1.0),
    "k": ("(0, 1]", 0.01, 1.0),
    "gamma": ("[0, 5]", 0.0, 5.0),
    "lam": ("[0, 2]", 0.0, 2.0),
    "m": ("[0, 1]", 0.0, 1.0),
    "r0": ("(0, 2]", 0.1, 2.0),
}


class Names(Protocol):
    """Where a formula declares what it uses."""

    random: Random
    domains: dict[str, tuple[str, float, float]]

    def stream(self, *kinds: str) -> Node: ...
    def weights(self) -> Node: ...


def idea(names: Names) -> Node:
    """A number of the row."""
    return names.random.choice(_IDEAS)(_Ideas(names))


def _op(op: str, a: Node, b: Node) -> Node:
    return Operation(op, a, b)


def _call(func: str, *args: Node, others: bool = False) -> Node:
    return Call(func, args, others)


def _minus(a: Node) -> Node:
    return _op("*", Number("-1"), a)


class _Ideas:
    """Draws the parts of ideas."""

    def __init__(self, names: Names) -> None:
        self.names, self.random = names, names.random

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def pick(self, *nodes: Node) -> Node:
        return self.random.choice(nodes)

    def parameter(self, *among: str) -> Node:
        name = self.random.choice(among)
        self.names.domains[name] = PARAMETERS[name]
        return Leaf(name)

    def scale(self) -> Node:
        return self.pick(self.parameter("tau"), TWO, HALF)

    def mask(self) -> Node:
        """A part of the classes, or its complement."""
        mask = self.names.stream("mask")
        return mask if self.chance(0.7) else _op("-", ONE, mask)

    def stopped(self, node: Node, share: float = 0.5) -> Node:
        return _call("stop_gradient", node) if self.chance(share) else node

    # ------------------------------------------------------------------ rows
    def scaled(self, row: Node) -> Node:
        """x, x/tau or tau*x"""
        kind = self.random.choice("1/*")
        if kind == "1":
            return row
        return _op("/", row, self.scale()) if kind == "/" else _op("*", self.scale(), row)

    def source(self) -> Node:
        return self.pick(X, X, self.names.stream("teacher", "logits"))

    def standard(self, row: Node) -> Node:
        """A row with mean 0 and deviation 1, as it is written in many ways."""
        apart = _op("-", row, _call("mean", row))
        form = self.random.choice(["std", "written", "inside", "var"])
        small = Number(self.random.choice(["1e-7", "1e-5", "0.001", "0.1"]))
        written = _call("mean", _op("**", apart, TWO))
        if form == "std":
            return _op("/", apart, _op("+", _call("std", row), small))
        if form == "written":
            return _op("/", apart, _op("+", _call("sqrt", written), small))
        inside = written if form == "inside" else _call("var", row)
        return _op("/", apart, _call("sqrt", _op("+", inside, small)))

    def exponents(self) -> Node:
        """A row to take a softmax of."""
        form = self.random.choice(["scaled"] * 3 + ["mask", "weight", "stopped", "standard"])
        if form == "mask":
            return _op("-", X, _op("*", self.parameter("m", "lam"), self.mask()))
        if form == "weight":
            return _op("*", X, _op("-", TWO, self.mask()))
        if form == "stopped":
            own = _call("stop_gradient", _call("softmax", self.scaled(X)))
            if self.chance(0.5):
                return _op("*", X, _op("+", ONE, own))
            return _op("-", X, _op("*", self.parameter("m", "lam", "gamma"), own))
        return self.standard(self.source()) if form == "standard" else self.scaled(self.source())

    def softmax(self) -> Node:
        return self.pick(P, _call("softmax", self.exponents()))

    def pair(self) -> tuple[Node, Node]:
        """The exponents of two rows, tempered alike."""
        scale = self.scale()
        rows = (X, self.names.stream("teacher", "logits"))
        if self.chance(0.3):
            return rows
        if self.chance(0.3):
            return self.standard(rows[0]), self.standard(rows[1])
        return _op("/", rows[0], scale), _op("/", rows[1], scale)

    # ------------------------------------------------------------------ ideas
    def stopped_exponent(self) -> Node:
        own = _call("stop_gradient", self.softmax())
        return self.pick(
            _op("*", _minus(LOGP_Y), _call("exp", _op("*", self.scale(), Gather(own)))),
            _op("*", _op("**", _op("-", ONE, P_Y), Gather(own)), LOGP_Y),
            _call("sum", _op("*", _call("exp", _minus(own)), self.softmax())),
            _call("sum", _op("*", _op("**", own, self.parameter("q", "gamma")), LOGP)),
            _call("logsumexp", _op("-", X, _op("*", self.parameter("lam"), own))),
            Gather(_call("log_softmax", _op("*", X, _op("-", ONE, own)))),
            Gather(_call("log_softmax", _op("+", X, _call("log", own)))),
        )

    def tempered(self) -> Node:
        """A softmax as the weight of the logarithm of another."""
        weight = self.stopped(_call("softmax", self.exponents()))
        logarithm = self.pick(LOGP, _call("log_softmax", self.exponents()))
        if self.chance(0.3):
            logarithm = _op("-", _call("log_softmax", self.exponents()), logarithm)
        return _call("sum", _op("*", weight, logarithm), others=self.chance(0.2))

    def product_log(self) -> Node:
        one, other = self.softmax(), self.softmax()
        return self.pick(
            _call("sum", _call("xlogy", one, other)),
            _call("sum", _call("entr", one)),
            _call("sum", _call("xlogy", one, _op("/", one, other))),
            _call("sum", _call("xlogy", _op("**", one, TWO), other)),
            _call("sum", _call("xlog1py", one, _minus(other))),
            _call("sum", _call("xlogy", _op("-", ONE, one), _op("-", ONE, one))),
            _call("entr", P_Y),
            _call("xlogy", _op("-", ONE, P_Y), _op("-", ONE, P_Y)),
            _call("xlogy", P_Y, Gather(other)),
            _call("sum", _call("xlogy", self.names.stream("soft", "mask"), one)),
        )

    def masked_exponent(self) -> Node:
        mask, row = self.mask(), self.scaled(X)
        return self.pick(
            _call("logsumexp", _op("*", row, mask)),
            _call("sum", _call("exp", _minus(_op("*", mask, self.softmax())))),
            _call("sum", _op("*", mask, _call("exp", _minus(_op("-", X, X_Y))))),
            _call("log", _op("+", ONE, _call("sum", _op("*", mask, _call("exp", row))))),
            _call("log", _op("+", ONE, _call("sum", _op("*", mask, _call("exp", _minus(row)))))),
            Gather(
                _call("log_softmax", _op("-", row, _op("*", self.parameter("gamma", "lam"), mask)))
            ),
            _call("sum", _op("*", mask, _call("softplus", _op("*", self.scale(), X)))),
            _call("mean", _call("exp", _minus(_op("*", self.parameter("k"), _op("*", mask, P))))),
        )

    def part(self) -> Node:
        """The share of a part of the classes, or its logarithm."""
        scale, mask = self.scale(), self.mask()
        row = self.pick(X, _op("*", scale, X), _op("/", X, scale))
        raised = _call("exp", row)
        some, whole = _call("sum", _op("*", mask, raised)), _call("sum", raised)
        left = _call("sum", _op("*", _op("-", ONE, mask), raised))
        share = _op("/", some, whole)
        mass = _call("sum", _op("*", mask, _call("softmax", row)))
        return self.pick(
            _minus(_call("log", share)),
            _call("log", _op("-", ONE, share)),
            _op("-", _call("log", some), _call("log", whole)),
            _op("-", _call("log", left), _call("log", some)),
            _minus(_call("log", _op("/", some, left))),
            share,
            _op("**", share, self.parameter("q", "gamma")),
            _minus(_call("log", _op("/", Gather(raised), _op("+", Gather(raised), left)))),
            _minus(_call("log", mass)),
            _call("log", _op("-", ONE, mass)),
            _op("*", _op("-", ONE, mass), _call("log", mass)),
            _op(
                "/",
                _minus(_call("sum", _op("*", mask, _call("log_softmax", row)))),
                _op("+", ONE, _call("sum", mask)),
            ),
        )

    def standardised(self) -> Node:
        own, other = self.standard(X), self.standard(self.names.stream("teacher", "logits"))
        return self.pick(
            Gather(_call("log_softmax", _op("*", self.scale(), own))),
            _call("mean", _op("**", _op("-", own, other), TWO)),
            _call("mean", _op("*", own, other)),
            _op("-", ONE, _call("mean", _op("*", own, other))),
            _call("sum", _op("*", _call("softmax", other), _call("log_softmax", own))),
            _call("mean", _call("abs", _op("-", own, other))),
            Gather(own),
            _call("logsumexp", own),
            _op("-", _call("max", own, others=True), Gather(own)),
            _call("mean", _op("**", own, Number("4"))),
        )

    def power(self) -> Node:
        small = self.parameter("q", "k")
        chosen = self.softmax()
        return self.pick(
            _op("/", _op("-", ONE, _op("**", P_Y, small)), small),
            _op("/", _op("-", ONE, _call("sum", _op("**", P, _op("+", ONE, small)))), small),
            _call("sum", _op("**", chosen, small)),
            _op("/", _call("log", _call("sum", _op("**", P, small))), _op("-", TWO, small)),
            _op("**", Leaf("u"), small),
            _op("/", _op("-", _op("**", Leaf("u"), small), ONE), small),
            _op("**", _call("sum", _op("**", chosen, TWO)), small),
            _op("**", _op("-", ONE, _op("**", P_Y, small)), self.parameter("gamma", "r0")),
            _op("*", _op("**", _op("-", ONE, P_Y), small), LOGP_Y),
            _op(
                "/",
                _op("-", ONE, _op("**", _op("-", ONE, P_Y), self.parameter("r0"))),
                self.parameter("r0"),
            ),
        )

    def beside_zero(self) -> Node:
        """A parameter that may be 0, and something without a bound."""
        zero = self.parameter("lam", "gamma", "m")
        unbounded = self.pick(
            LOGP_Y,
            Leaf("u"),
            _op("**", _op("-", X_Y, _call("max", X, others=True)), TWO),
            _call("logsumexp", X),
            _op("/", ONE, P_Y),
            _call("sum", _call("log", _op("-", ONE, P))),
        )
        return self.pick(
            _op("*", zero, unbounded),
            _call("log", _op("+", ONE, _op("*", zero, Leaf("u")))),
            _op("**", _op("+", ONE, Leaf("u")), zero),
            _op("*", _op("**", _op("-", ONE, P_Y), zero), unbounded),
            _op("*", _op("**", P_Y, zero), LOGP_Y),
            _call("softplus", _op("*", zero, _op("-", _call("max", X, others=True), X_Y))),
            _op("*", _call("exp", _minus(zero)), unbounded),
        )

    def nearly_equal(self) -> Node:
        one, other = self.pair()
        p, q = _call("softmax", one), _call("softmax", other)
        log_p, log_q = _call("log_softmax", one), _call("log_softmax", other)
        middle = _op("*", HALF, _op("+", p, q))
        return self.pick(
            _call("sum", _op("*", q, _op("-", log_q, log_p))),
            _call("sum", _op("*", self.stopped(p), _op("-", log_p, log_q))),
            _call("sum", _op("*", _op("-", p, q), _op("-", log_p, log_q))),
            _call("sum", _op("**", _op("-", p, q), TWO)),
            _call("sum", _op("**", _op("-", log_p, log_q), TWO)),
            _call("sum", _op("*", p, _op("**", _op("-", log_p, log_q), TWO))),
            _call("sum", _op("**", _op("-", _call("sqrt", p), _call("sqrt", q)), TWO)),
            _minus(_call("log", _call("sum", _call("sqrt", _op("*", p, q))))),
            _op(
                "-",
                ONE,
                _op(
                    "/",
                    _call("sum", _op("*", p, q)),
                    _op("*", _call("norm", p), _call("norm", q)),
                ),
            ),
            _call("sum", _call("abs", _op("-", p, q))),
            _call("sum", _op("*", p, _op("-", log_p, _call("log", middle)))),
            _op("-", Gather(log_p), Gather(log_q)),
            _op("**", _op("-", Gather(p), Gather(q)), TWO),
            _op("-", _call("sum", _op("/", _op("**", p, TWO), q)), ONE),
        )

    def grouped(self) -> Node:
        """Whole numbers: groups or grades of the classes."""
        groups = self.names.stream("groups")
        own, apart = Gather(groups), _call("abs", _op("-", groups, Gather(groups)))
        same, nothing = Compare("==", groups, own), Number("0")
        within = _call("sum", _call("where", same, P, nothing))
        return self.pick(
            _minus(_call("log", within)),
            _op("-", ONE, within),
            _call("sum", _op("*", apart, self.softmax())),
            _op("**", _op("-", own, _call("sum", _op("*", groups, P))), TWO),
            _call("sum", _call("where", same, nothing, _call("relu", _op("-", X, X_Y)))),
            _call("logsumexp", _op("+", X, _op("*", self.parameter("m", "lam"), apart))),
            _minus(_call("sum", _op("*", _call("softmax", _minus(apart)), LOGP))),
            _call("max", _call("where", same, X_Y, X)),
            _minus(
                _op(
                    "/",
                    _call("sum", _call("where", same, LOGP, nothing)),
                    _call("sum", _call("where", same, ONE, nothing)),
                )
            ),
        )

    def largest(self) -> Node:
        whole, rival = _call("max", P), _call("max", P, others=True)
        return self.pick(
            _call("log", _op("-", ONE, whole)),
            _minus(_call("log", _op("-", ONE, rival))),
            _op("**", _op("-", ONE, whole), self.parameter("gamma", "q")),
            _op("-", whole, _call("second_max", P)),
            _op("-", P_Y, rival),
            _op("*", _op("-", ONE, whole), LOGP_Y),
            _call("log", _op("/", P_Y, whole)),
            _call("log", _op("/", whole, _op("-", ONE, whole))),
        )


_IDEAS = (
    _Ideas.stopped_exponent,
    _Ideas.tempered,
    _Ideas.product_log,
    _Ideas.masked_exponent,
    _Ideas.part,
    _Ideas.part,
    _Ideas.standardised,
    _Ideas.power,
    _Ideas.beside_zero,
    _Ideas.nearly_equal,
    _Ideas.grouped,
    _Ideas.largest,
)
