"""How the tiled kernels are launched, in one table; what was measured (``tuned``) goes before."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossgen.runtime.architectures import family_of
from lossgen.runtime.tuned import TILES

__all__ = ["GROUP", "Launch", "launch_of"]


@dataclass(frozen=True)
class Launch:
    """Launch constants of a kernel."""

    rows: int  # BM, of a tile
    classes: int  # BV; of a product to hidden or weight, features
    features: int  # BK, what a product sums at once
    warps: int
    stages: int
    part: int = 0  # classes that are worked on at once, if not all of a tile; see kernels/tiled.py


#: By role, bytes of a factor, and the kind of a loss, see ``_kind``. `lossgen build --all --aot
#: --tiled` shows no spill; not tuned on silicon. A product of float32 has no tensor cores, unless
#: TF32 is allowed.
_LAUNCHES = {
    ("sweep", 2, "light"): Launch(128, 256, 64, 8, 3),
    ("sweep", 2, "heavy"): Launch(128, 256, 64, 8, 3, part=32),
    ("sweep", 2, "pair"): Launch(128, 128, 64, 8, 3, part=32),
    ("gradient", 2, "light"): Launch(128, 128, 64, 8, 3),
    ("gradient", 2, "heavy"): Launch(128, 256, 64, 8, 3, part=32),
    ("gradient", 2, "pair"): Launch(128, 128, 64, 8, 3, part=32),
    ("product", 2, "light"): Launch(128, 256, 64, 8, 3),
    **{
        (role, 4, kind): Launch(64, 64, 32, 8, 3)
        for role in ("sweep", "gradient", "product")
        for kind in ("light", "heavy", "pair")
    },
    ("sweep", 4, "heavy"): Launch(64, 64, 32, 8, 3, part=16),
}
#: What other families of GPUs than Hopper have instead in half precision: 256 classes spill there.
#: AMD has 64 KB of shared memory.
_INSTEAD: dict[tuple[str, str, str], dict[str, int]] = {
    **{
        (family, role, kind): {"classes": 128} | ({"stages": 2} if family == "hip" else {})
        for family in ("ampere", "blackwell", "hip")
        for role in ("sweep", "gradient", "product")
        for kind in ("light", "heavy", "pair")
    },
    ("ampere", "product", "light"): {"classes": 128, "features": 32},
    ("blackwell", "sweep", "pair"): {"classes": 128, "part": 16},
    ("hip", "sweep", "light"): {"classes": 128, "stages": 2, "part": 32},
}
#: Operations on a tile: losses with fewer work on all of a tile in registers.
_LITTLE = 12
#: Tiles of rows that go through the classes together, so that what they read is in cache.
GROUP = 16


def launch_of(
    role: str, itemsize: int, vectors: int, products: int, work: int, architecture: str
) -> Launch:
    """For factors of ``itemsize`` bytes, and a loss that takes ``vectors`` tiles, of which
    ``products`` are made, and does ``work`` operations on them; role "sweep", "gradient" or
    "product"; architecture as of ``architecture_of``."""
    kind = "light" if role == "product" else _kind(vectors, products, work)
    measured = TILES.get(architecture, {}).get((role, itemsize, kind))
    if measured is not None:
        return Launch(*measured)
    launch = _LAUNCHES[role, itemsize, kind]
    if itemsize != 2:
        return launch
    return replace(launch, **_INSTEAD.get((family_of(architecture), role, kind), {}))


def _kind(vectors: int, products: int, work: int) -> str:
    if products > 1:
        return "pair"
    return "light" if vectors == 1 and work <= _LITTLE else "heavy"
