"""Trees of loss formulas, and their text in the spec language.

Nothing here imports lossgen: the trees are what the oracle evaluates, so that the compiler, its
parser included, is judged by something that shares only the grammar with it.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    "names_of",
    "text",
]


@dataclass(frozen=True)
class Number:
    text: str


@dataclass(frozen=True)
class Leaf:
    """x, p, logp, onehot, u, V, index, pi, a parameter or an input."""

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
    streams: dict[str, str]  # class inputs: logits (differentiable), teacher, mask, soft, groups
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
    "groups": ", integer: true",
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


def names_of(node: Node) -> set[str]:
    """The leaves of a tree."""
    match node:
        case Leaf(name=name):
            return {name}
        case Gather(vector=vector):
            return names_of(vector)
        case Operation(left=left, right=right) | Compare(left=left, right=right):
            return names_of(left) | names_of(right)
        case Call(args=args):
            return set().union(*map(names_of, args))
    return set()
