"""What an instruction is: the class it counts as, and the bytes that it loads or stores.

class_of("FFMA.FTZ")           "float"
access_of("LDG.E.128")         ("load", 16)
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["CLASSES", "access_of", "class_of", "is_exp2"]

#: In the order in which tables show them.
CLASSES = (
    "load",  # from global memory
    "store",
    "spill",  # local memory, either way
    "shared",
    "shuffle",  # between the threads of a warp
    "barrier",
    "special",  # the unit that computes approximate functions: 16 lanes per clock and SM
    "float",
    "compare",  # and select, on numbers of either kind and on predicates
    "convert",
    "integer",
    "uniform",  # once per warp, on NVIDIA's uniform and AMD's scalar registers
    "move",
    "control",
    "tensor",
    "other",
)

_NVIDIA = {
    "load": "LDG LDGSTS LD UTMALDG",
    "store": "STG ST RED ATOM ATOMG UTMASTG",
    "spill": "LDL STL",
    "shared": "LDS STS LDSM STSM ATOMS",
    "shuffle": "SHFL REDUX CREDUX VOTE MATCH",
    "barrier": "BAR",
    "special": "MUFU",
    "float": "FADD FMUL FFMA FMNMX FMNMX3 FADD2 FMUL2 FFMA2 FHADD FHFMA FSWZADD FCHK DADD DMUL "
    "DFMA HADD2 HMUL2 HFMA2 HMNMX2",
    "compare": "FSETP FSEL FSET SEL ISETP DSETP HSETP2 PLOP3 PSETP P2R R2P",
    "convert": "F2F F2FP F2I I2F I2FP I2IP FRND PRMT",
    "integer": "IADD IADD3 IMAD LEA LOP3 SHF SHL SHR IABS IMNMX VIADD VIADDMNMX VIMNMX VIMNMX3 "
    "IDP POPC FLO BREV BMSK SGXT LOP",
    "move": "MOV CS2R S2R LDC MOV32I",
    "control": "BRA EXIT RET CALL BSSY BSYNC BREAK NOP WARPSYNC DEPBAR LDGDEPBAR ERRBAR MEMBAR "
    "FENCE NANOSLEEP YIELD BRX JMX CCTL BMOV SYNCS ACQBULK WARPGROUP",
    "uniform": "R2UR S2UR LDCU ULDC",
    "tensor": "HMMA HGMMA QGMMA IGMMA DMMA",
}
_BY_NAME = {name: kind for kind, names in _NVIDIA.items() for name in names.split()}

#: The first pattern that matches from the start.
_AMD = (
    (r"(global|buffer|flat)_load|s_buffer_load", "load"),
    (r"(global|buffer|flat)_(store|atomic)", "store"),
    (r"scratch_|v_accvgpr", "spill"),
    (r"ds_(bpermute|permute|swizzle)|v_permlane|v_readlane|v_writelane|v_\w+_dpp", "shuffle"),
    (r"ds_", "shared"),
    (r"s_barrier", "barrier"),
    (r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_", "special"),
    (r"v_(smfmac|mfma)", "tensor"),
    (r"v_cmpx?_|v_cndmask", "compare"),
    (r"v_cvt_|v_perm_|v_frexp|v_(floor|rndne|trunc|fract|ceil)_", "convert"),
    (r"v_(pk_)?(add|sub|subrev|mul|mac|fma|fmac|fmaak|fmamk|mad|max3?|min3?|med3|ldexp|div_\w+?)"
     r"_(legacy_)?f(16|32|64)", "float"),
    (r"v_(pk_)?(mov|swap|readfirstlane)", "move"),
    (r"s_(c?branch|endpgm|nop|waitcnt|setpc|sleep|barrier|inst_prefetch|setprio)", "control"),
    (r"s_", "uniform"),
    (r"v_", "integer"),
)  # fmt: skip


@lru_cache(maxsize=1024)
def class_of(name: str) -> str:
    """The class that an instruction counts as, of ``CLASSES``."""
    if name[0].islower():
        return next((kind for pattern, kind in _AMD if re.match(pattern, name)), "other")
    base, *rest = name.split(".")
    if base == "IMAD" and rest[:1] == ["MOV"]:
        return "move"
    found = _BY_NAME.get(base)
    if found is None and base.startswith("UTC"):
        return "tensor"
    if found is None and base.startswith("U"):
        return "uniform"
    return found or "other"


_WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_AMD_WIDTHS = (("dwordx4", 16), ("dwordx3", 12), ("dwordx2", 8), ("dword", 4), ("short", 2))


@lru_cache(maxsize=1024)
def access_of(name: str) -> tuple[str, int]:
    """("load" or "store", bytes per thread) of an access to global memory, ("", 0) of others."""
    kind = class_of(name)
    if kind not in ("load", "store"):
        return "", 0
    if name[0].islower():
        return kind, next((size for word, size in _AMD_WIDTHS if word in name), 1)
    parts = name.split(".")
    return kind, next((_WIDTHS[part] for part in parts if part in _WIDTHS), 4)


def is_exp2(name: str) -> bool:
    """Is it the hardware's exponential?"""
    return name == "MUFU.EX2" or name.startswith("v_exp_f32")
