"""Fixtures of calls that have a plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lossgen.runtime import operators
from lossgen.runtime.loss import RowLoss


@pytest.fixture
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plans of other tests."""
    for loss in operators._LOSSES.values():
        monkeypatch.setattr(loss.plans, "kept", {})
        monkeypatch.setattr(loss.plans, "recent", None)


@pytest.fixture
def only_plans(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on a call that needs more than its plan fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("checked as if for the first time")

    return lambda: monkeypatch.setattr(RowLoss, "_call", refuse)
