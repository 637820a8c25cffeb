"""The kernels of logits that stay on chip, as jobs of the compiling process.

They are made of products: compiled for an NVIDIA GPU with half-precision factors, each must use the
tensor cores.  The number of features is a run-time argument, so one job stands for every width that
is a multiple of the tile (1024, 2304, 4096, 8192), and one for those that are not.
"""

from __future__ import annotations

from typing import Any

from lossgen.runtime.arguments import Variant
from lossgen.runtime.tile_shapes import STRIPE, Launch, launch_of, nvidia_family

__all__ = ["kernel_of", "needs_tensor_cores", "signature_of", "tiled_jobs"]

_SPLITS = 2
_SIZES = {"bf16": 2, "fp32": 4}
#: Arguments that are vectors of one type whatever the dtype of the factors.
_INDICES = {"target": "*i64", "source_row": "*i64", "tile_slots": "*i32", "tiles_alive": "*i32"}
_FLOATS = {"at_y", "row_merged", "state", "loss", "saved", "row_coef", "grad_rows", "grad_sums"}
_FACTORS = {"scratch", "grad_weight", "grad_bias", "out"}
_COUNTS = {"n_rows", "n_classes", "n_programs", "n_counted", "first_row", "first_col"}


def tiled_jobs(variant: Variant, vocab: int, target: str, full: bool) -> list[dict[str, Any]]:
    """Every tiled kernel of a variant with ``vocab`` inputs [V], for its class inputs as factors
    and as rows."""
    tiled = variant.tiled
    if tiled is None:
        return []
    roles = [f"{kind}{k}" for k in range(1, 1 + len(tiled.sweeps)) for kind in ("sweep", "merge")]
    roles += ["coefficients"] if tiled.row is not None else []
    roles += ["hidden", "weight"] + (["rows"] if tiled.rows is not None else [])
    n = 1 + len(variant.streams)
    found = []
    for dtype in ("bf16", "fp32") if full else ("bf16",):
        for made in dict.fromkeys((n, 1)):
            for role in roles:
                kind = "sweep" if role[:-1] in ("sweep", "merge") else "gradient"
                launch = launch_of(kind, _SIZES[dtype], n + vocab, tiled.work, _family(target))
                plain = role[:-1] == "merge" or role == "coefficients"
                for even in (True,) if plain or not full else (True, False):
                    found.append(
                        {
                            "role": role,
                            "target": target,
                            "dtype": dtype,
                            "aligned": even,
                            "constants": _constants(variant, role, launch, made, even),
                            "warps": max(1, launch.rows // 32) if plain else launch.warps,
                            "stages": launch.stages,
                        }
                    )
    return found


def _family(target: str) -> str:
    return (
        "hip" if target.startswith("gfx") else nvidia_family(int(target.removeprefix("sm_")) // 10)
    )


def _constants(
    variant: Variant, role: str, launch: Launch, made: int, even: bool
) -> dict[str, Any]:
    assert variant.tiled is not None
    mask = (1 << made) - 1
    sparse = variant.tiled.sparse[0]
    return {
        "MADE": mask,
        "BIASED": mask,
        "EVEN": mask if even else 0,
        "CAPPED": False,
        "PRECISION": "ieee",
        "SPLITS": _SPLITS,
        "SOURCE": int(role == "rows"),
        "FILTER": sparse,
        "KNOWN": sparse,
        "WANT": 3,
        "STRIPE": STRIPE,
        "BM": launch.rows,
        "BV": launch.classes,
        "BK": launch.features,
        "BD": launch.outputs,
    }


def kernel_of(variant: Variant, role: str) -> Any:
    """The kernel that a job names."""
    tiled = variant.tiled
    assert tiled is not None
    if role[:-1] in ("sweep", "merge"):
        return tiled.sweeps[int(role[-1]) - 1][role[:-1] == "merge"]
    return tiled.row if role == "coefficients" else getattr(tiled, role)


def needs_tensor_cores(job: dict[str, Any]) -> bool:
    """Must the compiled kernel use them?"""
    products = job["role"][:-1] == "sweep" or job["role"] in ("hidden", "weight", "rows")
    return products and job["dtype"] == "bf16" and job["target"].startswith("sm_")


def signature_of(
    kernel: Any, job: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Types, constants and 16-divisible arguments, as the just-in-time compiler would see them."""
    constants = {n: v for n, v in job["constants"].items() if n in kernel.arg_names}
    signature: dict[str, str] = {}
    divisible: list[str] = []
    for name in kernel.arg_names:
        by_feature = name.startswith(("stride_", "features_"))
        of, _, part = name.rpartition("_")
        if name in constants:
            signature[name] = "constexpr"
            continue
        if by_feature or name in _COUNTS:
            signature[name] = "i32"
        elif name in _INDICES:
            signature[name] = _INDICES[name]
        elif name in _FACTORS or (of and part in ("hidden", "weight", "bias")):
            signature[name] = f"*{job['dtype']}"
        elif name in _FLOATS or name.endswith("_ptr"):
            signature[name] = "*fp32"
        else:
            signature[name] = "fp32"
        pointer = signature[name][0] == "*"
        if pointer or name == "n_rows" or (job["aligned"] and (by_feature or name == "n_classes")):
            divisible.append(name)
    return signature, constants, divisible
