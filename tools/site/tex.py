"""Formulas of the spec language as LaTeX.

    (1 - p[y]**q) / q          →   \\frac{1 - p_y^{q}}{q}
    sum(p * logp)              →   \\sum_{j} p_j \\, \\log \\, p_j

A value of class rank is printed at an index: j, or y where it is gathered, or none, as the argument
of softmax or norm, which take the whole vector.  So an expression becomes a function of the index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import partial

from lossgen.spec.expr import Call, Expr, NameKind, Rank, walk

__all__ = ["Binds", "Piece", "formula", "indexed", "name_of", "negated"]


class Binds(IntEnum):
    """How tightly: a weaker one is put in parentheses where a stronger one is wanted."""

    SUM = 0
    SLASH = 1
    PRODUCT = 2
    POWER = 3
    ATOM = 4


@dataclass(frozen=True)
class Piece:
    """LaTeX, and what its neighbours have to know of it."""

    text: str
    binds: Binds = Binds.ATOM
    open: bool = False  # what follows would be read into it: \log p_y, a sum over j
    tall: bool = False  # a fraction, a sum: too high for an exponent
    of: Piece | None = None  # what this is the negative of
    flat: Piece | None = None  # the same without fractions, for exponents and arguments

    def within(self, least: Binds, last: bool = True) -> str:
        """In parentheses where it binds less, or is open and not the last."""
        enclosed = self.binds < least or (self.open and not last)
        return _round(self) if enclosed else self.text


At = Callable[[str], Piece]  # of the index: "j", "k", "y", or "" for the vector
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi"),
    "omega",
)
_LETTERS = {**{name: rf"\{name}" for name in _GREEK}, "lam": r"\lambda"}
_COMPARISONS = {"<": "<", "<=": r"\le", ">": ">", ">=": r"\ge", "==": "=", "!=": r"\ne"}


def name_of(name: str) -> str:
    """A letter, or a Greek one with what follows it as an index; other words upright. The name
    of the number of rows is empty."""
    if not name:
        return "n"
    head, _, rest = name.partition("_")
    stem = head.rstrip("0123456789")
    digits = head[len(stem) :]
    if stem not in _LETTERS and (rest or len(stem) != 1 or not stem.isalpha()):
        return rf"\mathrm{{{name}}}".replace("_", r"\_")
    letter = _LETTERS.get(stem, stem)
    below = digits + (rf"\mathrm{{{rest}}}".replace("_", r"\_") if rest else "")
    return f"{letter}_{{{below}}}" if below else letter


def indexed(name: str, index: str) -> str:
    """x_j; of a name that has an index already, π_{1,j}."""
    if not index:
        return name
    return f"{name[:-1]},{index}}}" if "_{" in name else f"{name}_{index}"


def formula(expr: Expr, vectors: frozenset[str] = frozenset()) -> Piece:
    """An expression of the language, at index j where it has class rank.

    Args:
        vectors: the lets of class rank.
    """
    return walk(expr, _Latex(vectors))("j" if expr.rank is Rank.CLASS else "")


def negated(piece: Piece) -> Piece:
    """Its negative; a sum is put in parentheses."""
    flat = negated(piece.flat) if piece.flat else None
    text = f"-{piece.within(Binds.SLASH)}"
    return Piece(text, Binds.SUM, piece.open, piece.tall, of=piece, flat=flat)


def _sum(left: Piece, right: Piece) -> Piece:
    text = f"{left.text} - {right.text[1:]}" if right.of else f"{left.text} + {right.text}"
    flat = None
    if left.flat or right.flat:
        flat = _sum(left.flat or left, right.flat or right)
    return Piece(text, Binds.SUM, right.open, left.tall or right.tall, flat=flat)


def _round(piece: Piece) -> str:
    return rf"\left( {piece.text} \right)" if piece.tall else f"({piece.text})"


def _product(left: Piece, right: Piece) -> Piece:
    if left.of:
        return negated(_product(left.of, right))
    second = right.within(Binds.PRODUCT)
    dot = r" \cdot " if second[0].isdigit() else r" \, "
    text = left.within(Binds.PRODUCT, last=False) + dot + second
    flat = None
    if left.flat or right.flat:
        flat = _product(left.flat or left, right.flat or right)
    return Piece(text, Binds.PRODUCT, right.open, left.tall or right.tall, flat=flat)


def _quotient(left: Piece, right: Piece) -> Piece:
    if left.of:
        return negated(_quotient(left.of, right))
    flat = None
    if not (left.tall or right.tall):
        text = f"{left.within(Binds.PRODUCT, last=False)} / {right.within(Binds.POWER)}"
        flat = Piece(text, Binds.SLASH)
    return Piece(rf"\frac{{{left.text}}}{{{right.text}}}", tall=True, flat=flat)


def _power(base: Piece, exponent: Piece) -> Piece:
    exponent = exponent.flat or exponent
    text = base.text if base.binds is Binds.ATOM and not base.open else _round(base)
    return Piece(f"{{{text}}}^{{{exponent.text}}}", Binds.POWER, tall=base.tall)


_BINARY: dict[str, Callable[[Piece, Piece], Piece]] = {
    "+": _sum,
    "-": lambda left, right: _sum(left, negated(right)),
    "*": _product,
    "/": _quotient,
    "**": _power,
}


def _number(value: Fraction) -> Piece:
    if value.denominator == 1:
        return Piece(str(value.numerator))
    number = float(value)
    if abs(number) >= 1e-3:
        return Piece(f"{number:g}")
    digits, _, power = f"{number:.15g}".partition("e")
    tens = f"10^{{{int(power)}}}" if power else digits
    return Piece(tens if digits == "1" or not power else rf"{digits} \cdot {tens}", Binds.PRODUCT)


# ------------------------------------------------------------------------- functions of numbers
def _called(name: str, *args: Piece) -> Piece:
    return _listed(name, *(arg.flat or arg for arg in args))


def _listed(name: str, *args: Piece) -> Piece:
    inner = ", ".join(arg.text for arg in args)
    tall = any(arg.tall for arg in args)
    return Piece(f"{name}{_round(Piece(inner, tall=tall))}", tall=tall)


def _log(arg: Piece) -> Piece:
    if arg.binds is Binds.ATOM and not arg.open and not arg.tall and "(" not in arg.text:
        return Piece(rf"\log \, {arg.text}", Binds.PRODUCT, open=True)
    return _called(r"\log", arg)


def _exp(arg: Piece) -> Piece:
    arg = arg.flat or arg
    return _called(r"\exp", arg) if arg.tall else Piece(f"e^{{{arg.text}}}", Binds.POWER)


def _where(condition: Piece, then: Piece, otherwise: Piece) -> Piece:
    first, second = rf"{then.text} & \quad \text{{if }} {condition.text}", otherwise.text
    text = rf"\begin{{cases}} {first} \\ {second} & \quad \text{{otherwise}} \end{{cases}}"
    return Piece(text, Binds.PRODUCT, open=True, tall=True)


def _softcap(arg: Piece, cap: Piece) -> Piece:
    return _product(cap, _called(r"\tanh", _quotient(arg, cap)))


def _mercator(arg: Piece, terms: Piece) -> Piece:
    power = _power(arg, Piece("k"))
    text = rf"\sum_{{k=1}}^{{{terms.text}}} \frac{{{power.text}}}{{k}}"
    return Piece(text, Binds.PRODUCT, open=True, tall=True)


def _between(bar: str, arg: Piece) -> Piece:
    tall = rf"\left{bar} {arg.text} \right{bar}"
    return Piece(tall if arg.tall else f"{bar}{arg.text}{bar}", tall=arg.tall)


_ELEMENTWISE: dict[str, Callable[..., Piece]] = {
    "exp": _exp,
    "log": _log,
    "sqrt": lambda arg: Piece(rf"\sqrt{{{arg.text}}}", tall=arg.tall),
    "abs": partial(_between, "|"),
    "sigmoid": lambda arg: _called(r"\sigma", arg),
    "minimum": lambda a, b: _listed(r"\mathrm{min}", a, b),
    "maximum": lambda a, b: _listed(r"\mathrm{max}", a, b),
    "where": _where,
    "lgamma": lambda arg: _called(r"\log\Gamma", arg),
    "digamma": lambda arg: _called(r"\psi", arg),
    "polygamma": lambda n, arg: _called(rf"\psi^{{({n.text})}}", arg),
    "softcap": _softcap,
    "mercator": _mercator,
    **{name: lambda arg, name=name: _called(rf"\{name}", arg) for name in ("tanh", "sin", "cos")},
}
_RENAMED = {"stop_gradient": "sg", "log_sigmoid": r"log\,sigmoid"}


# ------------------------------------------------------------------------- functions of a vector
def _over(others: bool, index: str) -> tuple[str, str]:
    """The index of what is summed up, and what stands below the sign."""
    own = "k" if index == "j" else "j"
    return own, rf"{own} \ne y" if others else own


def _total(others: bool, vector: At, index: str, before: str = "") -> Piece:
    own, below = _over(others, index)
    body = vector(own)
    text = before + rf"\sum_{{{below}}} {body.within(Binds.SLASH)}"
    return Piece(text, Binds.PRODUCT, open=True, tall=True)


def _mean(others: bool, vector: At, index: str) -> Piece:
    return _total(others, vector, index, r"\frac{1}{V - 1} " if others else r"\frac{1}{V} ")


def _max(name: str) -> Callable[[bool, At, str], Piece]:
    def at(others: bool, vector: At, index: str) -> Piece:
        own, below = _over(others, index)
        text = rf"{name}_{{{below}}} {vector(own).within(Binds.PRODUCT)}"
        return Piece(text, Binds.PRODUCT, open=True)

    return at


def _logsumexp(others: bool, vector: At, index: str) -> Piece:
    own, below = _over(others, index)
    text = rf"\log \sum_{{{below}}} {_exp(vector(own)).text}"
    return Piece(text, Binds.PRODUCT, open=True, tall=True)


def _norm(others: bool, vector: At, index: str) -> Piece:
    whole = _between(r"\|", vector(""))
    return Piece(whole.text + (r"_{j \ne y}" if others else ""), tall=whole.tall)


def _softmax(others: bool, vector: At, index: str) -> Piece:
    arg = vector("")
    if arg.text == "x" and not others:
        return Piece(indexed("p", index))
    below = r"_{\ne y}" if others else ""
    whole = _called(rf"\mathrm{{softmax}}{below}", arg)
    return Piece(f"{whole.text}_{index}" if index else whole.text, tall=arg.tall)


def _log_softmax(others: bool, vector: At, index: str) -> Piece:
    arg = _softmax(others, vector, index)
    return Piece(
        rf"\log \, {arg.text}", Binds.PRODUCT, open="softmax" not in arg.text, tall=arg.tall
    )


_OVER_CLASSES: dict[str, Callable[[bool, At, str], Piece]] = {
    "sum": _total,
    "mean": _mean,
    "max": _max(r"\mathrm{max}"),
    "second_max": _max(r"\mathrm{second\ max}"),
    "argmax": _max(r"\mathrm{arg} \, \mathrm{max}"),
    "logsumexp": _logsumexp,
    "norm": _norm,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}


# ------------------------------------------------------------------------- the walk
class _Latex:
    """The algebra of :func:`lossgen.spec.expr.walk` whose values are functions of the index."""

    def __init__(self, vectors: frozenset[str]) -> None:
        self.vectors = vectors

    def number(self, value: Fraction) -> At:
        piece = _number(value)
        return lambda index: piece

    def name(self, name: str, kind: NameKind) -> At:
        if kind is NameKind.ONEHOT:
            return lambda index: Piece(f"[{index} = y]" if index else r"\mathbf{1}_y")
        if kind is NameKind.INDEX:
            return lambda index: Piece(index)
        spelled = {"pi": r"\pi"}[name] if kind is NameKind.CONSTANT else name_of(name)
        vector = kind in (NameKind.LOGITS, NameKind.STREAM, NameKind.VOCAB_INPUT)
        if vector or name in self.vectors:
            return lambda index: Piece(indexed(spelled, index))
        return lambda index: Piece(spelled)

    def negate(self, operand: At) -> At:
        return lambda index: negated(operand(index))

    def binary(self, op: str, left: At, right: At) -> At:
        return lambda index: _BINARY[op](left(index), right(index))

    def compare(self, op: str, left: At, right: At) -> At:
        sign = _COMPARISONS[op]
        return lambda index: Piece(f"{left(index).text} {sign} {right(index).text}", Binds.SUM)

    def gather(self, vector: At) -> At:
        return lambda index: vector("y")

    def call(self, node: Call, args: tuple[At, ...]) -> At:
        if over := _OVER_CLASSES.get(node.func):
            return lambda index: over(node.others, args[0], index)
        named = rf"\mathrm{{{_RENAMED.get(node.func, node.func)}}}".replace("_", r"\_")
        print_ = _ELEMENTWISE.get(node.func)
        if print_ is None:
            return lambda index: _called(named, *(arg(index) for arg in args))
        return lambda index: print_(*(arg(index) for arg in args))
