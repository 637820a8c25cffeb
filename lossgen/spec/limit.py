"""The identities that a spec declares."""

from __future__ import annotations

import re
from collections.abc import Callable

from lossgen.errors import BadLimit, OutsideDomain, UnknownParameter
from lossgen.spec.declarations import Declarations, spell
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Expr
from lossgen.spec.model import Limit, Parameter
from lossgen.spec.source import shorten
from lossgen.spec.vocabulary import LEAVES, SUGAR, repair

__all__ = ["LOSS_NAME", "limit_of"]

LOSS_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def limit_of(
    checker: Declarations,
    row: Callable[..., Expr],
    i: int,
    parameters: dict[str, Parameter],
) -> Limit:
    """Entry ``i`` of a spec's limits; ``row(label, what, *path)`` parses a formula of a row.

    Raises:
        SpecError: with the place of what is wrong.
    """
    entry, path = checker.spec.limits[i], ("limits", i)
    for name, value in entry.when.items():
        if name not in parameters:
            checker.fail(
                UnknownParameter,
                *path,
                "when",
                name,
                key=True,
                where="when",
                name=shorten(name),
                hint=repair(name, list(parameters)),
            )
        domain = parameters[name].domain
        if not Interval(domain.lo, domain.hi, False, False).contains(value):
            checker.fail(
                OutsideDomain,
                *path,
                "when",
                name,
                what="the limit's value",
                value=spell(value),
                name=name,
                domain=domain,
            )
    text = entry.equals.strip()
    catalogue = LOSS_NAME.fullmatch(text) and text not in {*checker.names, *LEAVES, *SUGAR}
    equals: str | Expr = text
    if not catalogue:
        equals = row(f"limits[{i}]", "the limit of a loss", *path, "equals")
        if entry.with_:
            checker.fail(
                BadLimit,
                *path,
                "with",
                key=True,
                problem="'with' sets the parameters of another loss, not of a formula",
            )
    return Limit(
        when={k: float(v) for k, v in entry.when.items()},
        equals=equals,
        with_={k: float(v) for k, v in entry.with_.items()},
        source=text,
    )
