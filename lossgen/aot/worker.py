"""The process that compiles: jobs as JSON lines on standard input, results on standard output.

Run as ``python -m lossgen.aot.worker`` with TRITON_INTERPRET unset.  It is a process of its own
because an assertion of the compiler ends the process, and because the interpreter and the
compiler cannot share one.  Requests:

    {"list": PATH, "targets": [...], "full": bool, "tiled": bool}     → {"jobs": [job, ...]}
    {"list": PATH, "targets": [...], "launches": [[role, V], ...]}    → {"jobs": [job, ...]}
    job (see :func:`jobs_of`)                          → {"registers": ..., "shared": ..., ...}

A job with ``"assembly": true`` is also answered with the machine code as text.

Requires no GPU and no driver: nothing is loaded, only compiled.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from lossgen.aot.tiled_jobs import (
    kernel_of,
    needs_tensor_cores,
    product_jobs,
    signature_of,
    tiled_jobs,
)
from lossgen.spec.spelling import spelled

__all__ = ["compile_job", "jobs_of", "launches_of", "main"]

#: Kernels of a variant, and the compile-time constants that their launch chooses.
_SHAPE = ("ROWS", "BLOCK", "LANE", "ALIGNED")
CONSTANTS = {
    "forward": ("SPLITS", *_SHAPE),
    "merge": ("SPLITS",),
    "backward": ("WANT", "SPLITS", *_SHAPE),
    "fused": ("ONE_TILE", "WANT", *_SHAPE),
}
SPLITS = 4  # programs to a row, where it is split at all

#: What the launch table is asked for.  V = 32000 and 128256 are Llama's two vocabularies; 50257
#: (GPT-2's) is odd, so that its rows are not aligned and its loads are narrower.
VOCABULARIES = (32000, 128256)
UNALIGNED = 50257
SHORT = 10  # a row to a thread

SHARED_LIMIT = {
    "sm_80": 166912,
    "sm_86": 101376,
    "sm_89": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_103": 232448,
    "sm_120": 101376,
    "gfx90a": 65536,
    "gfx942": 65536,
    "gfx950": 163840,
}


@lru_cache(maxsize=64)
def _module(path: str) -> ModuleType:
    spec = spec_from_file_location(f"lossgen_aot_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------- jobs
def jobs_of(path: str, targets: list[str], full: bool, tiled: bool) -> list[dict[str, Any]]:
    """Every kernel of every variant × target × dtype × launch configuration, without repeats.

    Not ``full``: bfloat16 logits, two vocabularies, and the longest row that the fused kernel
    keeps on chip.  Launches that the table makes equal are compiled once.  ``tiled``: the kernels
    of logits that stay on chip, instead of those of rows.
    """
    jobs: list[dict[str, Any]] = []
    loss = _module(path).LOSS
    for index, variant in enumerate(loss.variants):
        own = {"path": path, "variant": index, "uses": sorted(variant.uses)}
        if tiled:
            kinds = {i.name: i.kind for i in loss.inputs}
            vocab = sum(kinds[name] == "vocab" for name in variant.inputs)
            for target in targets:
                jobs += [own | job for job in tiled_jobs(variant, vocab, target, full)]
                if index == 0 and variant.tiled is not None:
                    jobs += [own | job for job in product_jobs(target, full)]
            continue
        for role in CONSTANTS:
            if getattr(variant, f"{role}_kernel", None) is None:
                continue
            for target in targets:
                for config in _configurations(role, variant, target, full):
                    splits = config["constants"].get("SPLITS", 1)
                    if splits > 1 and getattr(variant, "merge_kernel", None) is None:
                        continue
                    job = {**own, "role": role, "target": target, **config}
                    if job not in jobs:
                        jobs.append(job)
    return jobs


def launches_of(
    path: str, targets: list[str], launches: list[tuple[str, int]]
) -> list[dict[str, Any]]:
    """The kernels that rows of ``launches`` (role, classes) take in bfloat16, unsplit, every
    gradient wanted; with what their machine code has to be read with: ``classes`` of a row,
    ``streams`` and ``vectors`` that are read along it, ``gradients`` that are written."""
    from lossgen.runtime.launch import config_of

    jobs = []
    loss = _module(path).LOSS
    written = 1 + sum(i.differentiable for i in loss.streams)
    kinds = {i.name: i.kind for i in loss.inputs}
    for index, variant in enumerate(loss.variants):
        vectors = sum(kinds[name] == "vocab" for name in variant.inputs)
        for role, classes in launches:
            if getattr(variant, f"{role}_kernel", None) is None:
                continue
            for target in targets:
                chosen = config_of(role, variant, classes, target.startswith("gfx"))
                jobs.append(
                    {
                        **{"path": path, "variant": index, "uses": sorted(variant.uses)},
                        **{"role": role, "target": target, "dtype": "bf16"},
                        **_launch(role, classes, chosen, 1),
                        **{"classes": classes, "streams": 1 + len(variant.streams)},
                        **{"gradients": written, "vectors": vectors, "assembly": True},
                    }
                )
    return jobs


def _launch(
    role: str, classes: int, chosen: Any, splits: int, dtype: str = "bf16"
) -> dict[str, Any]:
    """The constants and warps of a launch of contiguous rows, as the table chose it."""
    from lossgen.runtime.launch import shape

    # a kernel without WANT ignores it; -1: every gradient
    known = {"ONE_TILE": chosen.one_tile, "WANT": -1, "SPLITS": splits}
    known |= shape(chosen, [classes], classes, 2 if dtype == "bf16" else 4)
    wanted = {name: known[name] for name in CONSTANTS[role]}
    warps = 1 if role == "merge" else chosen.warps
    return {"aligned": classes % 16 == 0, "constants": wanted, "warps": warps}


def _configurations(role: str, variant: Any, target: str, full: bool) -> list[dict[str, Any]]:
    """The launches that the runtime's table chooses."""
    from lossgen.runtime.launch import config_of

    found = []
    hip = target.startswith("gfx")
    vocabularies: tuple[int, ...] = (*VOCABULARIES, UNALIGNED) if full else VOCABULARIES
    on_chip = [1 << k for k in range(18) if config_of(role, variant, 1 << k, hip).one_tile]
    vocabularies += tuple(on_chip[-1:])  # the longest row that is kept in registers
    vocabularies += (SHORT,)
    for dtype in ("bf16", "fp32") if full else ("bf16",):
        for classes in vocabularies:
            if role == "merge" and classes == SHORT:
                continue
            chosen = config_of(role, variant, classes, hip)
            several = (1, SPLITS) if chosen.rows == 1 else (1,)
            for splits in {"forward": several, "merge": (SPLITS,)}.get(role, (1,)):
                found.append({"dtype": dtype, **_launch(role, classes, chosen, splits, dtype)})
    return found


# ---------------------------------------------------------------------------------- compiling
def compile_job(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one kernel for one target and read what the compiler used.

    Returns:
        registers per thread, spill_stores and spill_loads in bytes per thread (AMD: vector
        registers spilled × 4), shared memory in bytes per program and its limit.
    """
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lossgen.runtime.deferred import made

    variant = _module(job["path"]).LOSS.variants[job["variant"]]
    if job["role"] in CONSTANTS:
        kernel = made(getattr(variant, f"{job['role']}_kernel"))
        signature, constants, divisible = _specialisation(kernel, job, variant)
    else:
        kernel = made(kernel_of(variant, job["role"]))
        signature, constants, divisible = signature_of(kernel, job)
    attributes = {(kernel.arg_names.index(a),): [["tt.divisibility", 16]] for a in divisible}
    name: str = job["target"]
    cuda = name.startswith("sm_")
    target = GPUTarget("cuda", int(name[3:]), 32) if cuda else GPUTarget("hip", name, 64)
    compiled = compile_kernel(
        ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=target,
        options={"enable_fp_fusion": True, "num_warps": job["warps"]}
        | ({"num_stages": job["stages"]} if "stages" in job else {}),
    )
    # The gradient of a class input may need no logits: then no product is left.
    none = job["role"].startswith("gradient") and "tt.dot" not in compiled.asm["ttir"]
    if not none and needs_tensor_cores(job) and not _tensor_instructions(compiled):
        raise RuntimeError("no tensor-core instruction")
    used: dict[str, Any] = _nvidia(compiled, int(name[3:])) if cuda else _amd(compiled)
    if job.get("assembly"):
        used["assembly"] = _disassembled(compiled) if cuda else compiled.asm["amdgcn"]
    return {**used, "shared": compiled.metadata.shared, "limit": SHARED_LIMIT.get(name, 65536)}


def _specialisation(
    kernel: Any, job: dict[str, Any], variant: Any
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Types, constants and 16-divisible arguments, as the just-in-time compiler would see them."""
    fixed = {p.name for p in kernel.params if p.do_not_specialize}
    constants: dict[str, Any] = {n: v for n, v in job["constants"].items() if n in kernel.arg_names}
    signature, divisible = {}, []
    called = [spelled(n) for n in variant.streams]
    real = {"float32": "*fp32", "float64": "*fp64"}[variant.arithmetic]  # of state and saved
    by_class = {f"{kind}{n}_ptr" for n in called for kind in ("", "grad_")}
    by_class |= {"logits", "grad_logits"}
    by_row = {f"stride_{kind}{n}" for n in called for kind in ("", "grad_")}
    by_row |= {"stride_row", "stride_grad", "n_classes"}
    for name in kernel.arg_names:
        if name in constants:
            kind = "constexpr"
        elif name in by_class:
            kind = f"*{job['dtype']}"
        elif name == "target":
            kind = "*i64"
        elif name in ("saved", "state"):
            kind = real
        elif name in ("loss", "grad_rows") or name.endswith("_ptr"):
            kind = "*fp32"
        elif name.startswith("stride_") or name in ("n_rows", "n_classes", "ignore_index"):
            kind = "i32"
            rows = {*by_row, "n_rows", "stride_grad_out"}
            if name not in rows and name.startswith("stride_") and name not in fixed:
                kind, constants[name] = "constexpr", 1  # contiguous vectors: the compiler knows 1
        else:
            kind = "fp32"
        signature[name] = kind
        aligned = name in ("n_rows", "stride_grad_out") or (name in by_row and job["aligned"])
        if (kind[0] == "*" or aligned) and name not in fixed:
            divisible.append(name)
    return signature, constants, divisible


# ---------------------------------------------------------------------------------- reading
def _nvidia(compiled: Any, arch: int) -> dict[str, int]:
    """From the cubin; the bytes of a spill are known only to the assembler, which is asked when
    there is local memory at all."""
    from triton.backends.nvidia import compiler as backend

    tool = Path(backend.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    text = (done.stdout + done.stderr).split("Function", 1)[-1]
    usage = {k: int(v) for k, v in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", text)}
    used = {"registers": usage["REG"], "spill_stores": 0, "spill_loads": 0}
    if usage.get("STACK", 0) or usage.get("LOCAL", 0):
        used |= _assembler(compiled.asm["ptx"], arch)
    return used


def _tensor_instructions(compiled: Any) -> int:
    """Matrix instructions of the machine code: HMMA, HGMMA or UTCHMMA."""
    return len(re.findall(r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b", _disassembled(compiled)))


def _disassembled(compiled: Any) -> str:
    """The machine code of an NVIDIA kernel as text, with labels."""
    from triton.backends.nvidia import compiler as backend

    tool = Path(backend.__file__).parent / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "-c", file.name]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def _assembler(ptx: str, arch: int) -> dict[str, int]:
    """Run the assembler again as Triton does, and read its report."""
    import inspect

    from triton.backends.nvidia import compiler as backend

    try:
        program = backend.get_ptxas(arch).path
    except TypeError:  # triton 3.4 and 3.5 have one assembler
        program = backend.get_ptxas().path
    flags = ["-lineinfo", "-v"]
    if "regAllocOptLevel" in inspect.getsource(backend):
        flags.append("--regAllocOptLevel=2")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        flags += [f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}", str(source)]
        command = [program, *flags, "-o", str(Path(folder) / "kernel.cubin")]
        log = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stderr
    stores = re.search(r"(\d+) bytes spill stores", log)
    loads = re.search(r"(\d+) bytes spill loads", log)
    return {
        "spill_stores": int(stores.group(1)) if stores else 0,
        "spill_loads": int(loads.group(1)) if loads else 0,
    }


def _amd(compiled: Any) -> dict[str, int]:
    text = compiled.asm["amdgcn"]

    def read(key: str) -> int:
        found = re.search(rf"^\s*(?:- )?\.{key}:\s*(\d+)", text, re.MULTILINE)
        return int(found.group(1)) if found else 0

    spilled = 4 * read("vgpr_spill_count")
    return {"registers": read("vgpr_count"), "spill_stores": spilled, "spill_loads": spilled}


# ---------------------------------------------------------------------------------- the loop
def _innermost(error: BaseException) -> str:
    """What went wrong in the function where it went wrong: the errors around it are its callers."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the compiler prints to standard output when it fails
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "launches" in request:
                jobs = launches_of(request["list"], request["targets"], request["launches"])
                answer: dict[str, Any] = {"jobs": jobs}
            elif "list" in request:
                jobs = jobs_of(
                    request["list"], request["targets"], request["full"], request["tiled"]
                )
                answer = {"jobs": jobs}
            else:
                answer = compile_job(request)
        except Exception as error:
            answer = {"error": _innermost(error)[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
