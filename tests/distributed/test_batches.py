"""Losses of a whole batch, of the rows of all ranks."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.launch import on_ranks


def test_the_rows_of_all_ranks(tmp_path: Path) -> None:
    """Loss and averaged gradients are those of one process; one rank has no rows."""
    on_ranks(3, "tests.distributed.batches:every", tmp_path, 3)
