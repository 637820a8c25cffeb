"""Random loss formulas as trees of this module's own, and their text in the spec language.

Nothing here imports lossgen: the trees are what the oracle evaluates, so that the compiler, its
parser included, is judged by something that shares only the grammar with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

__all__ = [
    "Call",
    "Compare",
    "Gather",
    "Leaf",
    "Node",
    "Number",
    "Operation",
    "Spec",
    "draw",
    "text",
]


@dataclass(frozen=True)
class Number:
    text: str


@dataclass(frozen=True)
class Leaf:
    """x, p, logp, onehot, u, V, a parameter or an input."""

    name: str


@dataclass(frozen=True)
class Gather:
    vector: Node


@dataclass(frozen=True)
class Operation:
    op: str  # + - * / **
    left: Node
    right: Node


@dataclass(frozen=True)
class Call:
    func: str
    args: tuple[Node, ...]
    others: bool = False


@dataclass(frozen=True)
class Compare:
    op: str
    left: Node
    right: Node


Node: TypeAlias = "Number | Leaf | Gather | Operation | Call | Compare"


@dataclass(frozen=True)
class Spec:
    """A formula and the names it uses. Parameter values lie in ``domains``."""

    formula: Node
    domains: dict[str, tuple[str, float, float]]  # interval as written, and where values are drawn
    streams: dict[str, str]  # class inputs: "logits" (differentiable), "teacher", "mask", "soft"
    vocab: dict[str, str]  # vocab inputs: "weights"

    def yaml(self, name: str) -> str:
        """The spec as a file."""
        lines = [f"name: {name}"]
        if self.domains:
            lines.append("parameters:")
            for key, (domain, low, high) in self.domains.items():
                lines.append(f'  {key}: {{default: {_middle(low, high)}, domain: "{domain}"}}')
        if self.streams or self.vocab:
            lines.append("inputs:")
            for key, kind in self.streams.items():
                lines.append(f"  {key}: {{kind: class{_KINDS[kind]}}}")
            for key in self.vocab:
                lines.append(f'  {key}: {{kind: vocab, domain: "(0, inf)", range: [0.2, 2]}}')
        lines.append(f'transform: "{text(self.formula)}"')
        return "\n".join(lines) + "\n"


_KINDS = {
    "logits": ", differentiable: true",
    "teacher": "",
    "mask": ", values: [0, 1]",
    "soft": ', domain: "[0, 1]"',
}


def _middle(low: float, high: float) -> str:
    return f"{(low + high) / 2:g}"


# ------------------------------------------------------------------------------- text
_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 4}


def text(node: Node) -> str:
    """The formula as an author writes it."""
    return _text(node)[0]


def _text(node: Node) -> tuple[str, int]:
    match node:
        case Number(text=t):
            return t, 1 if t.startswith("-") else 9
        case Leaf(name=name):
            return name, 9
        case Gather(vector=vector):
            inner, strength = _text(vector)
            return f"{inner}[y]" if strength == 9 else f"({inner})[y]", 9
        case Operation(op=op, left=left, right=right):
            mine = _STRENGTH[op]
            a, of_a = _text(left)
            b, of_b = _text(right)
            a = f"({a})" if of_a < mine or (op == "**" and of_a < 9) else a
            b = f"({b})" if of_b <= mine or (op == "**" and of_b < 9) else b
            space = "" if op == "**" else " "
            return f"{a}{space}{op}{space}{b}", mine
        case Compare(op=op, left=left, right=right):
            return f"{text(left)} {op} {text(right)}", 0
        case Call(func=func, args=args, others=others):
            inside = ", ".join([*map(text, args), *(["over=others"] if others else [])])
            return f"{func}({inside})", 9


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
        name = {"teacher": "t", "logits": "other", "mask": "c", "soft": "w"}[kind]
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
        return self.one(lambda: LOGP, lambda: LOGP, lambda: _call("log_softmax", self.logits()))

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
        )

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
                "where", Compare("<", P_Y, self.number()), self.row(depth - 1), self.row(depth - 1)
            ),
            lambda: _call("minimum", self.row(depth - 1), self.row(depth - 1)),
            lambda: _op("*", _call("stop_gradient", self.row(depth - 1)), self.row(depth - 1)),
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
    """A spec: a sum of one to three terms."""
    drawer = _Drawer(random)
    total = drawer.row(random.choice([0, 1, 1, 2]))
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        term = drawer.row(random.choice([0, 1]))
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


def _names(node: Node) -> set[str]:
    match node:
        case Leaf(name=name):
            return {name}
        case Gather(vector=vector):
            return _names(vector)
        case Operation(left=left, right=right) | Compare(left=left, right=right):
            return _names(left) | _names(right)
        case Call(args=args):
            return set().union(*map(_names, args))
    return set()


def _uses_logits(node: Node) -> bool:
    return bool(_names(node) & {"x", "p", "logp", "u"})


def _used(table: dict, node: Node) -> dict:
    found = _names(node)
    return {key: value for key, value in table.items() if key in found}
