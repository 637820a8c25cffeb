"""Names of GPUs' architectures: keys of the tables of launches."""

from __future__ import annotations

from functools import lru_cache

import torch

__all__ = ["architecture_of", "family_of"]

#: By the major number of the compute capability; consumer Blackwell (12) has Ampere's products.
_FAMILIES = {9: "hopper", 10: "blackwell"}


@lru_cache
def architecture_of(device: torch.device) -> str:
    """As compilers call it, e.g. "sm_90" or "gfx942"; "" for a CPU."""
    if device.type != "cuda":
        return ""
    if torch.version.hip is not None:
        name: str = torch.cuda.get_device_properties(device).gcnArchName
        return name.partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def family_of(architecture: str) -> str:
    """Of GPUs that take the same launches unless something was measured; the interpreter takes
    Hopper's."""
    if architecture.startswith("gfx"):
        return "hip"
    number = architecture.removeprefix("sm_")
    return _FAMILIES.get(int(number) // 10, "ampere") if number else "hopper"
