"""The kernels of logits that stay on chip, as jobs of the compiling process.

They are made of products: compiled for an NVIDIA GPU with half-precision factors, each must use the
tensor cores.  The number of features is a run-time argument, so one job stands for every width that
is a multiple of the tile (1024, 2304, 4096, 8192), and one for those that are not.
"""

from __future__ import annotations

from typing import Any

from lossgen.runtime import tiles
from lossgen.runtime.arguments import Variant
from lossgen.runtime.tile_shapes import GROUP, Launch, launch_of

__all__ = ["kernel_of", "needs_tensor_cores", "product_jobs", "signature_of", "tiled_jobs"]

_SIZES = {"bf16": 2, "fp32": 4}
#: Arguments that are vectors of one type whatever the dtype of the factors.
_INDICES = {
    **dict.fromkeys(("target", "source_row", "out_row", "index"), "*i64"),
    **dict.fromkeys(("tiles_alive", "slots", "n_slots"), "*i32"),
}
_FLOATS = {"at_y", "row_merged", "state", "loss", "saved", "row_coef", "grad_rows", "bias_sums"}
_FLOATS |= {"stash"}
_FACTORS = {"left", "right", "out"}
_COUNTS = {"n_rows", "n_classes", "n_counted", "n_columns", "n_tiles", "first_tile", "n_splits"}
_COUNTS |= {"out_rows", "n_k", "first_class", "last_class", "n_programs"}
#: Products of gradients: the stride that is 1, and whether their other factor is gathered.
_PRODUCTS = {"to_hidden": ("stride_k", False), "to_weight": ("stride_left", True)}


def tiled_jobs(variant: Variant, vocab: int, target: str, full: bool) -> list[dict[str, Any]]:
    """Every tiled kernel of a variant with ``vocab`` inputs [V], for its class inputs as factors
    and as rows."""
    tiled = variant.tiled
    if tiled is None:
        return []
    roles = [f"{kind}{k}" for k in range(1, 1 + len(tiled.sweeps)) for kind in ("sweep", "merge")]
    roles += ["coefficients"] if tiled.row is not None else []
    roles += [f"gradient{k}" for k in range(1, 1 + len(tiled.sparse))]
    n = 1 + len(variant.streams)
    found = []
    for dtype in ("bf16", "fp32") if full else ("bf16",):
        for made in dict.fromkeys((n, 1)):
            for role in roles:
                kind = "gradient" if role.startswith("gradient") else "sweep"
                work = n + vocab, made, tiled.work
                launch = launch_of(kind, _SIZES[dtype], *work, target)
                plain = role[:-1] == "merge" or role == "coefficients"
                for even in (True,) if plain or not full else (True, False):
                    constants = _constants(variant, role, launch, made, even)
                    warps = max(1, launch.rows // 32) if plain else launch.warps
                    found.append(_job(role, target, dtype, even, launch, constants, warps))
    return found


def product_jobs(target: str, full: bool) -> list[dict[str, Any]]:
    """The products of gradients with weight and hidden, which are those of every loss."""
    found = []
    for dtype in ("bf16", "fp32") if full else ("bf16",):
        launch = launch_of("product", _SIZES[dtype], 1, 1, 0, target)
        for role, (unit, gathered) in _PRODUCTS.items():
            for even in (True, False) if full else (True,):
                for listed in (False, True):
                    constants = {
                        **{unit: 1, "GATHERED": gathered, "LISTED": listed, "EVEN": even},
                        **{"ADDED": not gathered, "TILE": 128, "GROUP": GROUP},
                        **{"PRECISION": "ieee", "BM": launch.rows, "BV": launch.classes},
                        "BK": launch.features,
                    }
                    job = _job(role, target, dtype, even, launch, constants, launch.warps)
                    found.append(job | {"stages": launch.stages + (gathered or listed)})
    return found


def _job(
    role: str,
    target: str,
    dtype: str,
    even: bool,
    launch: Launch,
    constants: dict[str, Any],
    warps: int,
) -> dict[str, Any]:
    return {
        "role": role,
        "target": target,
        "dtype": dtype,
        "aligned": even,
        "constants": constants,
        "warps": warps,
        "stages": launch.stages,
    }


def _constants(
    variant: Variant, role: str, launch: Launch, made: int, even: bool
) -> dict[str, Any]:
    assert variant.tiled is not None
    mask = (1 << made) - 1
    place = int(role[-1]) - 1 if role.startswith("gradient") else 0
    return {
        "MADE": mask,
        "BIASED": mask,
        "EVEN": mask if even else 0,
        "CAPPED": False,
        "PRECISION": "ieee",
        "SOURCE": place,
        "FILTER": variant.tiled.sparse[place],
        "BIAS": True,
        "GROUP": GROUP,
        "BM": launch.rows,
        "BV": launch.classes,
        "BK": launch.features,
        "PART": launch.part or launch.classes,
    }


def kernel_of(variant: Variant, role: str) -> Any:
    """The kernel that a job names."""
    tiled = variant.tiled
    assert tiled is not None
    if role in _PRODUCTS:
        return tiles.product_kernel
    if role[:-1] in ("sweep", "merge"):
        return tiled.sweeps[int(role[-1]) - 1][role[:-1] == "merge"]
    return tiled.row if role == "coefficients" else tiled.gradient


def needs_tensor_cores(job: dict[str, Any]) -> bool:
    """Must the compiled kernel use them?"""
    products = job["role"][:-1] in ("sweep", "gradient") or job["role"] in _PRODUCTS
    return products and job["dtype"] == "bf16" and job["target"].startswith("sm_")


def signature_of(
    kernel: Any, job: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Types, constants and 16-divisible arguments, as the just-in-time compiler would see them."""
    constants = {n: v for n, v in job["constants"].items() if n in kernel.arg_names}
    signature: dict[str, str] = {}
    divisible: list[str] = []
    for name in kernel.arg_names:
        by_feature = name.startswith(("stride_", "features"))
        of, _, part = name.rpartition("_")
        if name in constants:
            signature[name] = "constexpr"
            continue
        if by_feature or name in _COUNTS:
            signature[name] = "i32"
        elif name in _INDICES:
            signature[name] = _INDICES[name]
        elif job["role"] == "to_hidden" and name == "out":
            signature[name] = "*fp32"
        elif name in _FACTORS or (of and part in ("hidden", "weight", "bias")):
            signature[name] = f"*{job['dtype']}"
        elif name in _FLOATS or name.endswith("_ptr"):
            signature[name] = "*fp32"
        else:
            signature[name] = "fp32"
        pointer = signature[name][0] == "*"
        whole = name in ("n_columns", "stride_left", "stride_k")  # of tiles
        if pointer or whole or (job["aligned"] and (by_feature or name == "n_classes")):
            divisible.append(name)
    return signature, constants, divisible
