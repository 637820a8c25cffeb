"""The identities that a spec declares, checked on literal formulas at 80 digits.

    limits: [{when: {q: 1}, equals: "1 - p[y]"}]   →   nothing, or FalseLimit with both values

Rows are few and fixed: a false identity differs at the first of them.  Where a formula has no value
at the limit (0/0), it is evaluated just beside it.
"""

from __future__ import annotations

from typing import Any

import mpmath as mp

from lossgen import paths
from lossgen.errors import BadLimit, OutsideDomain, SpecError, UnknownParameter
from lossgen.ir.literal import formula
from lossgen.ir.rows import Row
from lossgen.passes.samples import plain_rows
from lossgen.spec.declarations import spell
from lossgen.spec.load import load_spec
from lossgen.spec.model import Limit, LossSpec, Term
from lossgen.spec.vocabulary import repair

__all__ = ["check_limits"]

_DIGITS = 80
_SAME = 1e-12
_NEAR = mp.mpf(10) ** -25  # how far from the limit a formula is evaluated that is 0/0 at it
_FAR = mp.mpf(10) ** 25  # what stands for an infinite one


class FalseLimit(SpecError):
    """Both sides of an identity, where they differ."""

    id = "LG132"
    template = (
        "the limit does not hold: {left} is {here}, but {right} is {there}, at a row with logits "
        "{where}"
    )
    advice = "mend the formula or the limit; `--draft` builds without checking either"


def check_limits(spec: LossSpec) -> int:
    """Check every declared limit; returns how many there are.

    Raises:
        SpecError: one does not hold, or names a loss or a parameter that there is not; with its
            place.
    """
    for number, limit in enumerate(spec.limits):
        _check(spec, number, limit)
    return len(spec.limits)


def _other(spec: LossSpec, number: int) -> LossSpec:
    """The loss that limit ``number`` names.

    Raises:
        SpecError: there is no such loss, or it cannot be loaded.
    """
    name = spec.limits[number].equals
    assert isinstance(name, str)
    path = paths.specs_dir() / f"{name}.yaml"
    if not path.is_file():
        raise BadLimit(
            problem=f"no loss of the catalogue is called '{name}'",
            hint=repair(name, list(paths.spec_names())) or "see `lossgen list`, or write a formula",
            location=spec.location_of_value("limits", number, "equals"),
        )
    return load_spec(path)


def _check(spec: LossSpec, number: int, limit: Limit) -> None:
    if isinstance(limit.equals, str):
        other = _other(spec, number)
        _comparable(spec, other, number)
        given = _other_parameters(spec, other, number)
    else:
        term = Term(role="transform", name=None, weight=None, expr=limit.equals, source="")
        other = spec.model_copy(update={"terms": (term,)})
        given = {name: mp.mpf(value) for name, value in limit.when.items()}
    with mp.workdps(_DIGITS):
        for row in plain_rows((spec, other)):
            here = _near(spec, limit, row)
            there = _value(other, row, given)
            if here is None or there is None or not abs(here - there) <= _SAME * (1 + abs(there)):
                raise FalseLimit(
                    left=_text(spec.name, limit.when),
                    here=_shown(here),
                    right=_text(limit.source, limit.with_),
                    there=_shown(there),
                    where=_where(row, spec.has_target),
                    location=spec.location_of_value("limits", number, "equals"),
                )


# ---------------------------------------------------------------------------- the other loss
def _comparable(spec: LossSpec, other: LossSpec, number: int) -> None:
    """Refuse a loss that takes what this one does not have."""
    problem = ""
    missing = [n for n, e in other.inputs.items() if e.off is None and n not in spec.inputs]
    if other.outputs:
        problem = f"'{other.name}' has several outputs: it is not a loss"
    elif other.has_target and not spec.has_target:
        problem = f"'{other.name}' has a target, and this loss has none"
    elif missing:
        problem = f"'{other.name}' takes '{missing[0]}', and this loss has no input of that name"
    if problem:
        place = spec.location_of_value("limits", number, "equals")
        raise BadLimit(problem=problem, location=place, hint="write a formula instead")


def _other_parameters(spec: LossSpec, other: LossSpec, number: int) -> dict[str, Any]:
    for name, value in spec.limits[number].with_.items():
        place = spec.location_of_value("limits", number, "with", name)
        if name not in other.parameters:
            where, known = f"'with' of '{other.name}'", list(other.parameters)
            hint = repair(name, known) or f"its parameters: {', '.join(known) or 'none'}"
            raise UnknownParameter(where=where, name=name, hint=hint, location=place)
        domain = other.parameters[name].domain
        if not domain.contains(value):
            what = f"'{other.name}' with the value"
            raise OutsideDomain(
                what=what, value=spell(value), name=name, domain=domain, location=place
            )
    return {name: mp.mpf(value) for name, value in spec.limits[number].with_.items()}


# ---------------------------------------------------------------------------- values
def _value(spec: LossSpec, row: Row, given: dict[str, Any]) -> Any:
    """The loss of a row, or None where the formula has no finite real value."""
    known = {**row.rows, **row.vocab, **row.streams, **given}
    try:
        value = formula(spec, None, row.x, row.y, known)[0]
    except (ZeroDivisionError, ValueError, TypeError, OverflowError):
        return None
    return value if mp.isfinite(value) else None


def _near(spec: LossSpec, limit: Limit, row: Row) -> Any:
    """The loss at the limit, or just beside it where the formula is 0/0."""
    exact = {name: mp.mpf(value) for name, value in limit.when.items()}
    value = _value(spec, row, exact)
    if value is not None:
        return value
    moved = {}
    for name, at in exact.items():
        below = at >= spec.parameters[name].domain.hi
        beside = at - _NEAR if below else at + _NEAR
        moved[name] = mp.sign(at) * _FAR if mp.isinf(at) else beside
    return _value(spec, row, moved)


# ---------------------------------------------------------------------------- words
def _text(name: str, given: dict[str, float]) -> str:
    values = ", ".join(f"{key} = {spell(value)}" for key, value in given.items())
    return f"{name} at {values}" if given else name


def _shown(value: Any) -> str:
    return "not finite" if value is None else mp.nstr(value, 7)


def _where(row: Row, target: bool) -> str:
    parts = {"target": row.y} if target else {}
    found = f"[{', '.join(f'{v:.6g}' for v in row.x)}]"
    found += "".join(f", {name} {value}" for name, value in parts.items())
    for name, values in {**row.streams, **row.vocab}.items():
        found += f", {name} = [{', '.join(f'{v:.6g}' for v in values)}]"
    return found + "".join(f", {name} = {value:.6g}" for name, value in row.rows.items())
