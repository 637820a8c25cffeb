"""The declarations of a spec: places, names, parameters and inputs, in the order of the file."""

from __future__ import annotations

import keyword
import math
import re
from typing import Any, NoReturn

from lossgen.errors import (
    BadDomain,
    BadName,
    BadRange,
    BadValue,
    DuplicateName,
    NotForKind,
    NotInteger,
    OutsideDomain,
    ReservedName,
    SpecError,
)
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Expr, NameKind, Rank
from lossgen.spec.model import Input, Parameter, SpecFile
from lossgen.spec.size import Sizes
from lossgen.spec.source import Formula, Node, Source, shorten
from lossgen.spec.vocabulary import RESERVED, RESERVED_OUTPUTS

__all__ = ["FINITE", "IDENTIFIER", "REQUIRED", "Declarations", "paragraph", "spell"]

IDENTIFIER = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,63}")
_IDENTIFIERS = "letters, digits and _, at most 64, without a digit or __ first; no Python keyword"
_TAKEN = {  # names that a kind of declaration may not have; RESERVED for the others
    "a let": {name: what for name, what in RESERVED.items() if name != "logits"},
    "an output": RESERVED_OUTPUTS,
}
REQUIRED = "inputs of kind class are always required"
_KINDS = {
    "class": (NameKind.STREAM, Rank.CLASS),
    "vocab": (NameKind.VOCAB_INPUT, Rank.CLASS),
    "row": (NameKind.ROW_INPUT, Rank.ROW),
}


class Declarations:
    """What a spec declares, and where it says so."""

    def __init__(self, spec: SpecFile, root: Node, source: Source) -> None:
        self.spec, self.root, self.source = spec, root, source
        self.declared: dict[str, str] = {}  # every declared name and what it is
        self.names: dict[str, tuple[NameKind, Rank]] = {}
        self.integers: dict[str, Interval] = {}
        self.formulas: dict[str, Formula] = {}
        self.let: dict[str, Expr] = {}
        self.sizes = Sizes(self.let)

    # ------------------------------------------------------------------ places
    def node(self, *path: str | int) -> Node:
        node = self.root
        for part in path:
            node = node.get(part) or node
        return node

    def fail(
        self, error: type[SpecError], *path: str | int, key: bool = False, **fields: Any
    ) -> NoReturn:
        """Raise ``error`` at a value of the file, or at its key."""
        node = self.node(*path)
        if key:
            node = self.node(*path[:-1]).key(path[-1]) or node
        raise error(location=self.source.of(node), **fields)

    def declare(self, name: str, what: str, *path: str | int, key: bool = True) -> None:
        if not IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
            self.fail(
                BadName,
                *path,
                key=key,
                name=repr(shorten(name)),
                hint=f"it is a word of Python: call it {'lam' if name == 'lambda' else name + '_'}"
                if keyword.iskeyword(name)
                else _IDENTIFIERS,
            )
        taken = _TAKEN.get(what, RESERVED)
        if name in taken:
            self.fail(ReservedName, *path, key=key, name=name, what=taken[name])
        if name in self.declared:
            self.fail(
                DuplicateName, *path, key=key, name=name, first=self.declared[name], second=what
            )
        self.declared[name] = what

    # ------------------------------------------------------------------ parameters and inputs
    def parameter(self, name: str) -> Parameter:
        entry, path = self.spec.parameters[name], ("parameters", name)
        self.declare(name, "a parameter", *path)
        domain = self.domain(entry.domain, *path)
        for what, value in (("default", entry.default), ("off", entry.off)):
            if value is None:
                continue
            if entry.integer and not (math.isfinite(value) and value == int(value)):
                self.fail(NotInteger, *path, what, what=what, value=spell(value), name=name)
            if not domain.contains(value):
                self.fail(
                    OutsideDomain,
                    *path,
                    what,
                    what=what,
                    value=spell(value),
                    name=name,
                    domain=domain,
                )
        self.names[name] = (NameKind.PARAMETER, Rank.PARAMETER)
        if entry.integer:
            self.integers[name] = domain
        return Parameter(
            default=int(entry.default) if entry.integer else entry.default,
            domain=domain,
            doc=paragraph(entry.doc),
            off=None if entry.off is None else float(entry.off),
            integer=entry.integer,
            range=self.range(entry.range, domain, name, *path),
        )

    def input(self, name: str) -> Input:
        entry, path = self.spec.inputs[name], ("inputs", name)
        self.declare(name, "an input", *path)
        self.fits(entry.kind, *path)
        domain = None if entry.domain is None else self.domain(entry.domain, *path)
        values = self.values(entry.values, domain, name, *path)
        if values and domain is None:
            domain = Interval(min(values), max(values), False, False)
        if entry.integer:
            self.whole(name, entry.off, values, *path)
        if values and entry.range is not None:
            problem = "an input has values or a range to draw from, not both"
            self.fail(BadValue, *path, "range", key=True, problem=problem)
        if entry.off is not None and not (domain or FINITE).contains(entry.off):
            self.fail(
                OutsideDomain,
                *path,
                "off",
                what="off",
                value=spell(entry.off),
                name=name,
                domain=domain or FINITE,
            )
        self.names[name] = _KINDS[entry.kind]
        return Input(
            kind=entry.kind,
            differentiable=entry.differentiable,
            doc=paragraph(entry.doc),
            off=None if entry.off is None else float(entry.off),
            domain=domain,
            range=self.range(entry.range, domain, name, *path),
            integer=entry.integer,
            values=values,
        )

    def values(
        self, values: list[float] | None, domain: Interval | None, name: str, *path: str | int
    ) -> tuple[float, ...]:
        """The only numbers that an input may hold, in ascending order."""
        if values is None:
            return ()
        if not values or len(set(values)) < len(values):
            problem = "values are different numbers: [0, 1]"
            self.fail(BadValue, *path, "values", problem=problem)
        for k, value in enumerate(values):
            if not (domain or FINITE).contains(value):
                self.fail(
                    OutsideDomain,
                    *path,
                    "values",
                    k,
                    what="value",
                    value=spell(value),
                    name=name,
                    domain=domain or FINITE,
                )
        return tuple(sorted(float(v) for v in values))

    def whole(
        self, name: str, off: float | None, values: tuple[float, ...], *path: str | int
    ) -> None:
        """Refuse what an integer input cannot hold."""
        for key, value in [("off", off), *(("values", v) for v in values)]:
            if value is not None and not float(value).is_integer():
                problem = f"{spell(value)} is not a whole number, as '{name}' is an integer input"
                self.fail(BadValue, *path, key, problem=problem)

    def fits(self, kind: str, *path: str | int) -> None:
        """Refuse keys that have no meaning for an input of this kind."""
        if kind == "class" and self.node(*path).get("off"):
            self.fail(NotForKind, *path, "off", key=True, name="off", kind=kind, hint=REQUIRED)

    def domain(self, text: str, *path: str | int) -> Interval:
        try:
            return Interval.parse(text)
        except ValueError as error:
            self.fail(BadDomain, *path, "domain", text=repr(shorten(text)), problem=error)

    def range(
        self, values: list[float] | None, domain: Interval | None, name: str, *path: str | int
    ) -> tuple[float, float] | None:
        if values is None:
            return None
        path = (*path, "range")
        if len(values) != 2:
            self.fail(BadValue, *path, problem="a range is two numbers: [low, high]")
        lo, hi = map(float, values)
        problem = (
            "it is empty"
            if not lo < hi
            else "it is not finite"
            if not math.isfinite(hi - lo)
            else f"it leaves the domain {domain}"
            if domain and not (domain.contains(lo) and domain.contains(hi))
            else None
        )
        if problem:
            self.fail(BadRange, *path, lo=spell(lo), hi=spell(hi), name=name, problem=problem)
        return lo, hi


FINITE = Interval(-math.inf, math.inf, True, True)


def paragraph(text: str) -> str:
    """A text on one line: line breaks and other blanks are one blank each."""
    return " ".join(text.split())


def spell(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
