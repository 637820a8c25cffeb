"""The sheet of a loss: every property, its verdict, and what stands behind it.

print(sheet("gce"))                  # text
sheet("comp_sum", tau=1).as_dict()   # for JSON
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, cast

from lossgen import paths
from lossgen.errors import BuildError
from lossgen.properties.calibration import regrets
from lossgen.properties.consistency import Point
from lossgen.properties.model import Statement, number
from lossgen.properties.setting import Setting, setting
from lossgen.properties.table import PROPERTIES, Property, without_label
from lossgen.spec.load import load_spec
from lossgen.spec.model import LossSpec

__all__ = ["CLASSES", "VERSION", "Sheet", "sheet", "spec_at"]

CLASSES = 3
#: Raised where a search or a proof comes to say something else: docs/sheets.md is made anew.
VERSION = 1
_NAME, _VERDICT, _WIDTH = 21, 13, 110


class NoSuchValue(BuildError):
    id = "LG322"
    template = "{loss} cannot have {name} = {value}"


@dataclass(frozen=True)
class Sheet:
    """What is known of a loss at these parameters, for rows of so many classes."""

    loss: str
    title: str
    parameters: Mapping[str, float]
    classes: int
    assumed: tuple[str, ...]
    statements: tuple[Statement, ...]

    def __getitem__(self, name: str) -> Statement:
        return next(s for s in self.statements if s.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: infinities are Python's."""
        return {
            "loss": self.loss,
            "parameters": dict(self.parameters),
            "classes": self.classes,
            "inputs": list(self.assumed),
            "properties": [s.as_dict() for s in self.statements],
        }

    def __str__(self) -> str:
        values = "".join(f", {k} = {number(v)}" for k, v in self.parameters.items())
        lines = [f"{self.loss}: {self.title}{values}; rows of {self.classes} classes"]
        lines += [f"  {line}" for line in self.assumed]
        return "\n".join([*lines, *(line for s in self.statements for line in _lines(s))])


def _lines(statement: Statement) -> Iterator[str]:
    basis = f"{statement.basis}: " if statement.basis == "proof" else ""
    head = f"{statement.name:{_NAME}}{statement.verdict:{_VERDICT}} "
    under = " " * len(head)
    for line in (f"{basis}{statement.because}", *statement.witness):
        width = max(40, _WIDTH - len(under))
        for part in wrap(line, width, break_long_words=False, subsequent_indent="  ") or [""]:
            yield f"{head}{part}".rstrip()
            head = under


def sheet(loss: str | Path | LossSpec, classes: int = CLASSES, **parameters: float) -> Sheet:
    """Every property of a loss.

    Args:
        loss: a catalogue name, the path of a spec, or a spec.
        classes: of a row.
        parameters: other values than the defaults.

    Raises:
        LossgenError: no such loss, a wrong spec, or a value outside its domain.
    """
    spec = spec_at(loss, parameters)
    values = {n: float(e.default) for n, e in spec.parameters.items()} | parameters
    classes = max(classes, spec.min_classes, 2)
    if spec.outputs:
        reason = "does not apply: several outputs, no loss"
        none = tuple(Statement(p.name, reason) for p in PROPERTIES)
        return Sheet(spec.name, spec.title, values, classes, (), none)
    plain = setting(spec, parameters, classes)
    reason = without_label(spec)
    neutral = None if reason else setting(spec, parameters, classes, neutral=True)
    points: list[Point] | None = None
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, at rows without a value
        for entry in PROPERTIES:
            if entry.of_regrets and neutral is not None and points is None:
                points = regrets(neutral)
            found.append(_stated(entry, plain, neutral, points, reason))
    assumed = [f"{line}, for a property of the logits" for line in plain.assumed]
    if neutral is not None:
        assumed += [f"{line}, for a property of the label" for line in neutral.assumed]
    return Sheet(spec.name, spec.title, values, classes, tuple(assumed), tuple(found))


def _stated(
    entry: Property,
    plain: Setting,
    neutral: Setting | None,
    points: list[Point] | None,
    reason: str,
) -> Statement:
    if not entry.of_label:
        return cast("Callable[[Setting], Statement]", entry.check)(plain)
    if neutral is None:
        return Statement(entry.name, reason)
    if entry.of_regrets:
        return cast("Callable[..., Statement]", entry.check)(neutral, points)
    return cast("Callable[[Setting], Statement]", entry.check)(neutral)


def spec_at(loss: str | Path | LossSpec, parameters: Mapping[str, float]) -> LossSpec:
    """The spec; an error where these are no values of its parameters."""
    spec = loss if isinstance(loss, LossSpec) else load_spec(paths.require_spec(loss))
    for name, value in parameters.items():
        entry = spec.parameters.get(name)
        if entry is None:
            hint = f"its parameters: {', '.join(spec.parameters) or 'none'}"
            raise NoSuchValue(loss=spec.name, name=name, value=f"{value:g}", hint=hint)
        if not entry.domain.contains(value) or (entry.integer and value != int(value)):
            hint = f"{name} lies in {entry.domain}{', a whole number' if entry.integer else ''}"
            raise NoSuchValue(loss=spec.name, name=name, value=f"{value:g}", hint=hint)
    return spec
