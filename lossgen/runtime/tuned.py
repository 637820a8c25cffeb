"""Launches that were measured, by architecture; `benchmarks/gpu.py --tune` writes this file.

Where there is none, launches follow from counts (lossgen/runtime/launch.py, tile_shapes.py).

ROWS: (kernel, classes up to, crowded, heavy) -> (classes of a tile, warps), as of launch.config.
TILES: (role, bytes of a factor, kind) -> launch constants, as of ``tile_shapes.Launch``.
"""

from __future__ import annotations

__all__ = ["ROWS", "TILES"]

ROWS: dict[str, dict[tuple[str, int, bool, bool], tuple[int, int]]] = {}
TILES: dict[str, dict[tuple[str, int, str], tuple[int, int, int, int, int, int]]] = {}
