"""NaN shows: what a formula reads and is NaN makes its row's loss NaN, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lossgen.verify.cases import Case
from lossgen.verify.judge import fail, naming
from lossgen.verify.reference import Arguments
from lossgen.verify.runner import Runner, gradients
from lossgen.verify.streams import LOGITS, streams

__all__ = ["nan_shows", "spoilt_calls"]

_ROW = 0  # the row that gets the NaN, where one row can
_LEFT_OUT = 1  # the row that is ignored, where the loss has a target


@dataclass(frozen=True)
class Spoilt:
    """One call with a NaN in it."""

    name: str  # of what holds it
    place: str
    given: Arguments  # float64
    holds: Tensor  # [N]: the rows that hold a NaN, or may read one

    def __str__(self) -> str:
        return f"NaN in {self.name} at {self.place}"


def nan_shows(case: Case, run: Runner) -> None:
    """A NaN that the formula reads makes its row's loss NaN, and the gradients that depend on it.

    The literal formula in float64 says which rows and entries; where it reads a value and then
    multiplies it by 0, either will do: defaults stand in for a setting with a parameter of 0.
    Ignored rows are 0 whatever they hold.
    """
    if 0.0 in case.parameters().values():
        case = case.with_(point=0)
    for spoilt in spoilt_calls(case):
        _shows(case, run, spoilt)
    if case.spec.has_target and case.rows > _LEFT_OUT:
        _ignored(case, run)


def spoilt_calls(case: Case) -> Iterator[Spoilt]:
    """Every vector with a NaN at y and at another class, every other input with one."""
    given = case.arguments()
    one_row = torch.arange(case.rows) == _ROW
    y = 0 if given.target is None else int(given.target[_ROW])
    places = {"y": y, "another class": (y + 1) % case.classes}
    given_inputs = case.inputs()
    for name in (LOGITS, *case.spec.inputs):
        own = given.logits if name == LOGITS else given.inputs[name]
        kind = "class" if name == LOGITS else case.spec.inputs[name].kind
        if kind != "class" and name not in given_inputs:
            continue
        for place, at in places.items() if kind != "row" else [("its row", _ROW)]:
            values = own.clone()
            values[(_ROW, at) if kind == "class" else at] = math.nan
            holds = one_row
            if kind == "vocab":
                holds = given.target == at if given.target is not None else torch.ones(1).bool()
            yield Spoilt(name, place, given.with_(**{name: values}), holds)


def _called(
    case: Case, run: Runner, given: Arguments, target: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    owned = {n: given.inputs[n].float() for n in (*streams(case.spec), *case.inputs())}
    return run.slopes(given.logits.float(), target, {**case.parameters(), **owned})


def _shows(case: Case, run: Runner, spoilt: Spoilt) -> None:
    given = spoilt.given
    try:
        loss, grads = _called(case, run, given, given.target)
    except ValueError:
        if not _has_domain(case, spoilt.name):
            raise
        return  # NaN is in no domain, which the CPU looks at: that shows it too
    exact, slopes = gradients(case.spec, given)
    before, _ = gradients(case.spec, case.arguments())
    lost, out = _rows(exact) & ~_rows(before), _rows(loss) & ~_rows(before)
    if bool((lost & ~out).any()):
        fail(f"{spoilt} is lost: the loss is {loss[lost & ~out][0].tolist()}")
    if bool((out & ~lost & ~spoilt.holds).any()):
        fail(f"{spoilt} reaches the loss of a row that does not read it")
    for name, grad in grads.items():
        hidden = slopes[name].isnan() & lost[:, None] & ~grad.isnan()
        if bool(hidden.any()):
            i, j = hidden.nonzero()[0].tolist()
            fail(f"{spoilt} is lost: {naming(name)} at [{i}, {j}] is {grad[i, j]:.6g}")
        reached = _rows(grad) & ~_rows(slopes[name]) & ~spoilt.holds
        if bool(reached.any()):
            fail(f"{spoilt} reaches {naming(name)} of a row that does not read it")


def _ignored(case: Case, run: Runner) -> None:
    """NaN in a row that does not count."""
    given = case.arguments()
    assert given.target is not None
    target = given.target.clone()
    target[_LEFT_OUT] = -100
    for name in (LOGITS, *case.spec.inputs):
        own = given.logits if name == LOGITS else given.inputs[name]
        if name != LOGITS and (case.spec.inputs[name].kind == "vocab" or _has_domain(case, name)):
            continue
        values = own.clone()
        values[_LEFT_OUT] = math.nan
        loss, grads = _called(case, run, given.with_(**{name: values}), target)
        for what, found in {"loss": loss, **grads}.items():
            if bool((found[_LEFT_OUT] != 0).any()):
                fail(f"NaN in {name} of an ignored row reaches its {what}")
            if bool(found.isnan().any()):
                fail(f"NaN in {name} of an ignored row reaches another row")


def _has_domain(case: Case, name: str) -> bool:
    entry = case.spec.inputs.get(name)
    return entry is not None and bool(entry.domain or entry.values or entry.integer)


def _rows(found: Tensor) -> Tensor:
    """[N]: is anything of the row NaN?"""
    return found.isnan().reshape(len(found), -1).any(1)
