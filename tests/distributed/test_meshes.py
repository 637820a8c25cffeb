"""Calls with classes in shards: options, layers, meshes, collectives, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import on_ranks

_MESHES = "tests.distributed.meshes"


@pytest.mark.parametrize(
    "function",
    ["options", "linear", "masked", "dtensors", "fully_sharded", "refused", "means", "compiled"],
)
def test_on_four_ranks(tmp_path: Path, function: str) -> None:
    on_ranks(4, f"{_MESHES}:{function}", tmp_path)


def test_one_gather_a_sweep_and_nothing_back(tmp_path: Path) -> None:
    """But for the sum over all classes that hidden gets."""
    one, two, layer = [1, 0], [2, 0], [1, 1]
    assert on_ranks(4, f"{_MESHES}:counted", tmp_path) == [[*one * 3, *two, *layer]] * 4


def test_a_rank_that_dies_is_an_error(tmp_path: Path) -> None:
    found = on_ranks(4, f"{_MESHES}:deserted", tmp_path)
    for rank in (0, 1, 3):
        assert f"rank {rank} of 4 waited for what the other ranks of group have" in found[rank]
