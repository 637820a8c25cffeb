"""Random loss formulas."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.campaign.ideas import idea
from tests.campaign.trees import (
    Call,
    Compare,
    Gather,
    Leaf,
    Node,
    Number,
    Operation,
    Spec,
    names_of,
)
from tests.campaign.words import NUMBER_FIRST, OVER_CLASSES, PAIRS, SINGLE, WITH_NUMBERS

__all__ = ["draw"]

#: Class inputs by kind; a formula has at most one of each.
_STREAMS = {"teacher": "t", "logits": "other", "mask": "c", "soft": "w", "groups": "g"}


# ------------------------------------------------------------------------------- drawing
def _op(op: str, a: Node, b: Node) -> Node:
    return Operation(op, a, b)


def _call(func: str, *args: Node, others: bool = False) -> Node:
    return Call(func, args, others)


def _minus(a: Node) -> Node:
    return (
        Operation("-", Number("0"), a)
        if not isinstance(a, Operation)
        else Operation("*", Number("-1"), a)
    )


X, P, LOGP = Leaf("x"), Leaf("p"), Leaf("logp")
P_Y, LOGP_Y, X_Y = Gather(P), Gather(LOGP), Gather(X)
ONE, TWO, HALF = Number("1"), Number("2"), Number("0.5")


class _Drawer:
    """Draws formulas as researchers write them: terms of few ideas, then some odd ones."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.domains: dict[str, tuple[str, float, float]] = {}
        self.streams: dict[str, str] = {}
        self.vocab: dict[str, str] = {}

    def one(self, *makers: Callable[[], Node]) -> Node:
        return self.random.choice(makers)()

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # -------------------------------------------------------------- names
    def parameter(self) -> Node:
        name, domain, low, high = self.random.choice(
            [
                ("q", "(0, 1]", 0.05, 1.0),
                ("gamma", "[0, 5]", 0.0, 5.0),
                ("lam", "[0, 2]", 0.0, 2.0),
                ("tau", "[0.5, 4]", 0.5, 4.0),
                ("m", "[0, 1]", 0.0, 1.0),
                ("s1", "[0.5, 3]", 0.5, 3.0),
                ("r0", "(0, 2]", 0.1, 2.0),
            ]
        )
        self.domains[name] = (domain, low, high)
        return Leaf(name)

    def stream(self, *kinds: str) -> Node:
        kind = self.random.choice(kinds or ("teacher", "logits"))
        name = _STREAMS[kind]
        self.streams[name] = kind
        return Leaf(name)

    def weights(self) -> Node:
        self.vocab["weight"] = "weights"
        return Leaf("weight")

    def number(self) -> Node:
        return Number(self.random.choice(["0.1", "0.3", "0.5", "2", "3", "1.5"]))

    def scalar(self) -> Node:
        return self.one(self.parameter, self.number)

    # -------------------------------------------------------------- classes
    def logits(self) -> Node:
        """A vector to take a softmax of."""
        return self.one(
            lambda: X,
            lambda: X,
            lambda: _op("/", X, self.parameter_above_zero()),
            lambda: _op("+", X, _call("log", self.weights())),
            lambda: _op("-", X, _op("*", self.scalar(), Leaf("onehot"))),
            lambda: self.stream(),
            lambda: _op("/", self.stream(), self.parameter_above_zero()),
        )

    def parameter_above_zero(self) -> Node:
        self.domains["tau"] = ("[0.5, 4]", 0.5, 4.0)
        return Leaf("tau")

    def probability(self) -> Node:
        return self.one(
            lambda: P,
            lambda: P,
            lambda: _call("softmax", self.logits()),
            lambda: self.stream("soft", "mask"),
        )

    def log_probability(self) -> Node:
        return self.one(
            lambda: LOGP,
            lambda: LOGP,
            lambda: _call(
                self.random.choice(["log_softmax", "log_softmax", "logsoftmax"]), self.logits()
            ),
        )

    def vector(self, depth: int) -> Node:
        """A class expression for a sum."""
        if depth <= 0:
            return self.one(
                self.probability, self.log_probability, lambda: X, lambda: Leaf("onehot")
            )
        return self.one(
            lambda: _op("*", self.probability(), self.log_probability()),
            lambda: _op(
                "*", self.probability(), _op("-", self.log_probability(), self.log_probability())
            ),
            lambda: _op("**", self.probability(), self.one(self.parameter, lambda: TWO)),
            lambda: _op("**", _op("-", self.probability(), self.probability()), TWO),
            lambda: _op("*", self.stream("mask", "soft"), _call("log", _op("-", ONE, P))),
            lambda: _call("abs", _op("-", self.probability(), Leaf("onehot"))),
            lambda: _call("relu", _op("+", self.scalar(), _op("-", X, X_Y))),
            lambda: _call("exp", _op("-", X, X_Y)),
            lambda: _call("softplus", self.one(lambda: X, lambda: _op("-", X, X_Y))),
            lambda: _op("*", self.vector(depth - 1), self.vector(depth - 1)),
            lambda: _op("+", self.vector(depth - 1), self.vector(depth - 1)),
            lambda: _op("*", self.weights(), self.vector(depth - 1)),
            lambda: _call("sqrt", self.probability()),
            lambda: _call(self.random.choice(["tanh", "sigmoid", "expm1"]), self.vector(depth - 1)),
            lambda: self.word(self.class_argument, depth - 1),
            lambda: self.word(self.class_argument, depth - 1),
            lambda: _op("*", self.probability(), self.word(self.class_argument, 0)),
            lambda: _op("*", P, _call("abs", _op("-", Leaf("index"), Gather(Leaf("index"))))),
        )

    # -------------------------------------------------------------- words
    def word(self, argument: Callable[[str, int], Node], depth: int) -> Node:
        """A word of the language; ``argument(kind, depth)`` is what it is a word of."""
        form = self.random.choice(["single"] * 4 + ["pair", "numbers"])
        if form == "pair":
            name, kinds = self.random.choice(list(PAIRS.items()))
            return _call(name, *(argument(k, depth) for k in kinds))
        if form == "numbers":
            name, kind, numbers = self.random.choice(WITH_NUMBERS)
            given = [argument(kind, depth), *map(Number, numbers)]
            return _call(name, *(reversed(given) if name in NUMBER_FIRST else given))
        kind = self.random.choice(["real", "real", "real", "positive", "unit", "above one"])
        return _call(self.random.choice(SINGLE[kind]), argument(kind, depth))

    def class_argument(self, kind: str, depth: int) -> Node:
        unit = self.one(lambda: P, self.probability, lambda: _call("sigmoid", X))
        if kind == "unit":
            return unit
        if kind == "positive":
            return self.one(
                lambda: unit,
                lambda: _op("**", _op("-", X, self.stream()), TWO),
                lambda: _call("exp", _op("-", X, X_Y)),
                lambda: _minus(LOGP),
            )
        if kind == "above one":
            return _op("+", ONE, self.class_argument("positive", 0))
        return self.one(
            lambda: X,
            lambda: _op("-", X, self.stream()),
            lambda: _op("-", X, X_Y),
            lambda: _op("/", X, self.parameter_above_zero()),
            lambda: _op("-", P, self.stream("soft")),
            lambda: self.vector(depth - 1),
        )

    def row_argument(self, kind: str, depth: int) -> Node:
        if kind == "unit":
            return self.one(
                lambda: P_Y,
                lambda: _op("-", ONE, P_Y),
                lambda: _call("sum", _op("*", P, self.stream("mask", "soft"))),
                lambda: _call("max", P, others=self.chance(0.5)),
            )
        if kind == "positive":
            return self.positive(depth - 1)
        if kind == "above one":
            return _op("+", ONE, self.positive(depth - 1))
        return self.row(depth - 1)

    # -------------------------------------------------------------- rows
    def row(self, depth: int) -> Node:
        if depth <= 0:
            return self.one(
                lambda: P_Y,
                lambda: _op("-", ONE, P_Y),
                lambda: LOGP_Y,
                lambda: Leaf("u"),
                lambda: _call("sum", self.vector(1), others=self.chance(0.3)),
                lambda: _call("sum", self.vector(1)),
                lambda: _call("logsumexp", self.logits(), others=self.chance(0.3)),
                lambda: _op("-", _call("logsumexp", X, others=self.chance(0.5)), X_Y),
                lambda: _op("-", _call("max", X, others=self.chance(0.6)), X_Y),
                lambda: _call(
                    "max", self.one(lambda: P, lambda: LOGP, lambda: X), others=self.chance(0.5)
                ),
                lambda: _call("norm", _op("-", P, Leaf("onehot"))),
                lambda: Gather(self.log_probability()),
                lambda: _call("mean", self.vector(0)),
                lambda: _call(
                    self.random.choice(OVER_CLASSES),
                    self.one(lambda: X, lambda: P, lambda: LOGP, lambda: self.vector(0)),
                    others=self.chance(0.3),
                ),
                lambda: _call(
                    self.random.choice(["sum", "mean"]), self.word(self.class_argument, 0)
                ),
            )
        return self.one(
            lambda: _op("*", self.row(depth - 1), self.row(depth - 1)),
            lambda: _op("+", self.row(depth - 1), self.row(depth - 1)),
            lambda: _op("-", self.row(depth - 1), self.row(depth - 1)),
            lambda: _op("*", self.scalar(), self.row(depth - 1)),
            lambda: _op("**", self.one(lambda: P_Y, lambda: _op("-", ONE, P_Y)), self.parameter()),
            lambda: _op("/", _op("-", ONE, _op("**", P_Y, Leaf("q"))), self.power_q()),
            lambda: _call("log", _op("+", self.scalar_above_zero(), P_Y)),
            lambda: _call(
                "log",
                _op(
                    "+",
                    ONE,
                    _op(
                        "*", self.scalar(), self.one(lambda: Leaf("u"), lambda: _op("-", ONE, P_Y))
                    ),
                ),
            ),
            lambda: _minus(_call("log", _call("sum", _op("*", self.stream("mask", "soft"), P)))),
            lambda: _call(
                self.random.choice(
                    ["tanh", "softplus", "sigmoid", "relu", "exp", "log1p", "abs", "sqrt"]
                ),
                self.positive(depth - 1),
            ),
            lambda: _call(
                "where",
                Compare(self.random.choice(["<", ">", "<=", ">="]), P_Y, self.number()),
                self.row(depth - 1),
                self.row(depth - 1),
            ),
            lambda: _call("minimum", self.row(depth - 1), self.row(depth - 1)),
            lambda: _op("*", _call("stop_gradient", self.row(depth - 1)), self.row(depth - 1)),
            lambda: self.word(self.row_argument, depth),
            lambda: self.word(self.row_argument, depth),
            lambda: self.word(self.row_argument, depth),
            lambda: _op("/", self.row(depth - 1), self.one(lambda: Leaf("V"), lambda: Leaf("pi"))),
            lambda: self.row(0),
        )

    def power_q(self) -> Node:
        self.domains["q"] = ("(0, 1]", 0.05, 1.0)
        return Leaf("q")

    def scalar_above_zero(self) -> Node:
        return self.one(self.power_q, self.parameter_above_zero, lambda: ONE)

    def positive(self, depth: int) -> Node:
        """Row values that are not negative, for roots and logarithms."""
        return self.one(
            lambda: _op("-", ONE, P_Y),
            lambda: Leaf("u"),
            lambda: _op("*", Number("-1"), LOGP_Y),
            lambda: _op("**", self.row(depth), TWO),
            lambda: _call("sum", _op("**", self.probability(), TWO)),
        )


def draw(random: Random) -> Spec:
    """A spec: a sum of one to three terms, half of the time of whole ideas."""
    drawer = _Drawer(random)
    ideas = drawer.chance(0.5)
    if ideas:
        total = _of_idea(drawer)
    elif drawer.chance(0.3):
        total = drawer.word(drawer.row_argument, 1)
    else:
        total = drawer.row(random.choice([0, 1, 1, 2]))
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        term = idea(drawer) if ideas and drawer.chance(0.6) else drawer.row(random.choice([0, 1]))
        if drawer.chance(0.5):
            term = _op("*", drawer.scalar(), term)
        total = _op(random.choice("+-"), total, term)
    if not _uses_logits(total):
        total = _op("-", total, LOGP_Y)
    return Spec(
        total,
        _used(drawer.domains, total),
        _used(drawer.streams, total),
        _used(drawer.vocab, total),
    )


def _of_idea(drawer: _Drawer) -> Node:
    """An idea, or what is made of one."""
    return drawer.one(
        lambda: idea(drawer),
        lambda: idea(drawer),
        lambda: _op("*", drawer.scalar(), idea(drawer)),
        lambda: _op("*", drawer.row(0), idea(drawer)),
        lambda: _op("*", _call("stop_gradient", idea(drawer)), drawer.row(0)),
        lambda: _call(drawer.random.choice(["tanh", "softplus", "exp", "abs"]), idea(drawer)),
    )


def _uses_logits(node: Node) -> bool:
    return bool(names_of(node) & {"x", "p", "logp", "u"})


def _used(table: dict, node: Node) -> dict:
    found = names_of(node)
    return {key: value for key, value in table.items() if key in found}
