"""The launches that the runtime's table chooses, as ahead-of-time configurations."""

from __future__ import annotations

from typing import Any

__all__ = ["launches"]


def launches(
    role: str, target: str, rows: int, classes: int, itemsize: int
) -> list[tuple[dict[str, Any], int]]:
    """(constants, warps) of every way the runtime may launch the kernel ``role``."""
    tile, warps = 4096 if itemsize == 2 else 2048, 8
    if role == "forward":
        return [({"SPLITS": s, "BLOCK": tile}, warps) for s in (1, 4)]
    if role == "merge":
        return [({"SPLITS": 4, "BLOCK": tile}, 1)]
    if role == "backward":
        return [({"BLOCK": tile}, warps)]
    return [({"ONE_TILE": True, "BLOCK": 32768}, 16), ({"ONE_TILE": False, "BLOCK": tile}, warps)]
