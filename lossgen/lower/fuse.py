"""Passes over the row program of whole rows, before it is printed: less work, the same values.

A row program is a list of lines here, from all functions that are called one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lossgen.ir.program import (
    REDUCTIONS,
    Call,
    Line,
    Name,
    Node,
    Number,
    is_pivot_mask,
    product,
    rewritten,
    variables,
    without_padding,
)

__all__ = ["folded", "masked", "needed", "once"]


# ------------------------------------------------------------------------------- masks
def masked(lines: list[Line]) -> list[Line]:
    """``select`` by a mask that leaves one class out as ``put``: (values, class, value there)."""
    masks: dict[str, Node] = {}  # names of masks, and the class that they leave out
    truths: set[str] = set()  # names that are true for every class

    def pivot_of(condition: Node) -> Node | None:
        if isinstance(condition, Name):
            return masks.get(condition.name)
        if is_pivot_mask(condition) and isinstance(condition, Call):
            at = condition.args[1]
            return at if at == Name("y") or isinstance(at, Call) else Call("index", (at,))
        return None

    def change(node: Node) -> Node | None:
        match node:
            case Name(name=name) if name in truths:
                return Name("inside")
            case Call(op="select", args=[condition, value, Number() as other]):
                at = pivot_of(condition)
                if at is not None:
                    return Call("put", (rewritten(value, change), at, other))
                match condition:
                    case Call(op="&", args=[first, second]) if (at := pivot_of(first)) is not None:
                        put = Call("put", (rewritten(value, change), at, other))
                        return Call("select", (rewritten(second, change), put, other))
        return None

    found: list[Line] = []
    for line in lines:
        value = without_padding(rewritten(line.value, change))
        if value == Name("inside"):
            truths.add(line.name)
            continue
        at = pivot_of(value)
        if at is not None:
            masks[line.name] = at
        found.append(Line(line.name, value))
    return found


# ------------------------------------------------------------------------------- values twice
def once(lines: list[Line], exponents: set[str]) -> list[Line]:
    """Without the lines that name a value again.  The ``exponents`` of a sweep, and what they are
    raised to, are those of the next but for the class that it leaves out, where nothing counts."""
    version: Counter[str] = Counter()
    known: dict[str, object] = {}
    found: list[Line] = []
    for line in lines:
        value = (line.value, tuple((n, version[n]) for n in sorted(variables(line.value))))
        if known.get(line.name) == value or (line.name in exponents and line.name in known):
            continue
        known[line.name] = value
        version[line.name] += 1
        found.append(line)
    return found


# ------------------------------------------------------------------------------- row factors
def folded(lines: list[Line], streams: Iterable[str]) -> list[Line]:
    """A product of a class value and several row values as one of each: r = e·a, g = c·r is
    g = e·(c·a)."""
    tiles = {"cols", *streams}
    products: dict[str, list[Node]] = {}
    found: list[Line] = []
    for name, value in ((line.name, line.value) for line in lines):
        factors = [
            f
            for factor in _factors(value)
            for f in products.get(factor.name if isinstance(factor, Name) else "", [factor])
        ]
        wide = [f for f in factors if _is_wide(f, tiles)]
        rows = [f for f in factors if not _is_wide(f, tiles)]
        for key in [k for k, known in products.items() if any(name in variables(f) for f in known)]:
            del products[key]
        products.pop(name, None)
        if len(wide) == 1 and rows:
            found.append(Line(name, wide[0] * product(rows)))
            products[name] = [f for f in factors if name not in variables(f)]
            if len(products[name]) < len(factors):
                del products[name]
        else:
            found.append(Line(name, value))
        tiles = tiles | {name} if wide or _is_wide(value, tiles) else tiles - {name}
    return found


def needed(lines: list[Line], results: Iterable[str]) -> list[Line]:
    """Without those that nothing reads."""
    live, found = set(results), list[Line]()
    for line in reversed(lines):
        if line.name in live:
            live = (live - {line.name}) | variables(line.value)
            found.append(line)
    return found[::-1]


def _factors(node: Node) -> list[Node]:
    if isinstance(node, Call) and node.op == "*":
        return [*_factors(node.args[0]), *_factors(node.args[1])]
    return [node]


def _is_wide(node: Node, tiles: set[str]) -> bool:
    """One number per class?"""
    if isinstance(node, Name):
        return node.name in tiles
    if isinstance(node, Call) and node.op not in (*REDUCTIONS, "take"):
        return any(_is_wide(a, tiles) for a in node.args)
    return False
