"""Calls with classes in shards: options, layers, meshes, collectives, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import on_ranks

CHECKS = (
    *("options", "linear", "masked", "dtensors", "fully_sharded", "refused", "means", "learned"),
    "compiled",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every function came to, by rank."""
    function, folder = "tests.distributed.meshes:every", tmp_path_factory.mktemp("ranks")
    return on_ranks(4, function, folder, ["counted", *CHECKS])


@pytest.mark.parametrize("function", CHECKS)
def test_on_four_ranks(found: list[dict[str, Any]], function: str) -> None:
    for rank in found:
        assert rank[function] is None, rank[function]


def test_one_gather_a_sweep_and_nothing_back(found: list[dict[str, Any]]) -> None:
    """But for the sum over all classes that hidden gets."""
    one, two, layer = [1, 0], [2, 0], [1, 1]
    for rank in found:
        assert rank["counted"] == [*one * 3, *two, *layer]


def test_a_rank_that_dies_is_an_error(tmp_path: Path) -> None:
    said = on_ranks(4, "tests.distributed.meshes:deserted", tmp_path)
    for rank in (0, 1, 3):
        assert f"rank {rank} of 4 waited for what the other ranks of group have" in said[rank]
