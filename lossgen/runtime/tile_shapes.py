"""How the tiled kernels are launched, in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["STRIPE", "Launch", "family_of", "launch_of", "nvidia_family"]


@dataclass(frozen=True)
class Launch:
    """Launch constants of a kernel."""

    rows: int  # BM, of a tile
    classes: int  # BV
    features: int  # BK, of a product to logits
    outputs: int  # BD, of a product to hidden or weight
    warps: int
    stages: int


#: By role, bytes of a factor, and whether a loss takes the logits alone and does little with them.
#: `lossgen build --all --aot --tiled` shows no spill on sm_90 and gfx942 in bfloat16, and 8 bytes
#: in five kernels of sm_80 and sm_100; not tuned on silicon.
_LAUNCHES = {
    ("sweep", 2, True): Launch(128, 128, 64, 64, 8, 3),
    ("sweep", 2, False): Launch(64, 64, 64, 64, 8, 3),
    ("gradient", 2, True): Launch(64, 128, 64, 64, 8, 3),
    ("gradient", 2, False): Launch(64, 64, 32, 32, 8, 3),
    ("sweep", 4, True): Launch(64, 64, 32, 64, 8, 3),
    ("sweep", 4, False): Launch(64, 64, 32, 64, 8, 3),
    ("gradient", 4, True): Launch(64, 64, 32, 64, 8, 3),
    ("gradient", 4, False): Launch(64, 64, 32, 64, 8, 3),
}
#: What other families of GPUs than Hopper have instead in half precision.  AMD has 64 threads to a
#: warp and 64 KB of shared memory; Blackwell's products leave registers for fewer classes only.
_INSTEAD: dict[tuple[str, str, bool], dict[str, int]] = {
    ("ampere", "sweep", False): {"rows": 32},
    ("ampere", "gradient", False): {"features": 64},
    ("blackwell", "sweep", False): {"classes": 32},
    ("blackwell", "gradient", True): {"rows": 128, "classes": 32},
    ("blackwell", "gradient", False): {"rows": 32, "classes": 32, "features": 64},
    ("hip", "sweep", True): {"rows": 64, "warps": 4, "stages": 2},
    ("hip", "sweep", False): {"rows": 32, "classes": 32, "warps": 4, "stages": 2},
    ("hip", "gradient", True): {"warps": 4, "stages": 2},
    ("hip", "gradient", False): {"warps": 4, "stages": 2},
}
#: By the major number of the compute capability; consumer Blackwell (12) has Ampere's products.
_FAMILIES = {9: "hopper", 10: "blackwell"}
#: Operations on a tile: of the losses with fewer, a larger one fits the registers.
_LITTLE = 11
#: Tiles of gradients that a program keeps before it takes them to hidden or weight.
STRIPE = 8


def launch_of(role: str, itemsize: int, vectors: int, work: int, family: str) -> Launch:
    """For factors of ``itemsize`` bytes, and a loss that takes ``vectors`` tiles and does ``work``
    operations on them; role "sweep" or "gradient"; family as of ``family_of``."""
    light = vectors == 1 and work <= _LITTLE
    launch = _LAUNCHES[role, itemsize, light]
    return replace(launch, **_INSTEAD.get((family, role, light), {})) if itemsize == 2 else launch


def family_of(tensor: Tensor) -> str:
    """Of GPUs, by the device of ``tensor``."""
    if torch.version.hip is not None:
        return "hip"
    major = torch.cuda.get_device_capability(tensor.device)[0] if tensor.is_cuda else 9
    return nvidia_family(major)


def nvidia_family(major: int) -> str:
    """Of NVIDIA's GPUs, by the major number of their compute capability."""
    return _FAMILIES.get(major, "ampere")
