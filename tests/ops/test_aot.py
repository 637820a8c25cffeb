"""Every device function compiles for NVIDIA and AMD GPUs, without a GPU.

One kernel applies all of them to blocks, to scalars and to literals.  It is compiled in its own
process because the interpreter, which the other tests use, replaces the compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lossgen.ir.ops import BUILTINS, OPS
from lossgen.runtime.device import HAS_TRITON

ALL = {**OPS, **BUILTINS}
LITERALS = (
    "dl.maximum(x, 0.0)",
    "dl.minimum(0.5, x)",
    "dl.clip(x, -1.0, 1.0)",
    "dl.lt(0.0, x)",
    "dl.where(dl.le(x, y), 1.0, 0.0)",
    "dl.power(x, 0.7)",
    "dl.softcap(x, 30.0)",
    "dl.above(x, 0.0)",
    "dl.mercator(x, 3.0)",
    "dl.expm1div(x, -0.5)",
    "dl.xlogy(0.3, x)",
    "dl.polygamma(1.0, x)",
)
MAIN = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for name in sys.argv[1:]:
    cuda = name.startswith("sm_")
    target = GPUTarget("cuda", int(name[3:]), 32) if cuda else GPUTarget("hip", name, 64)
    signature = {"a": "*fp32", "b": "*fp32", "out": "*fp32", "s": "fp32", "BLOCK": "constexpr"}
    source = ASTSource(everything, signature=signature, constexprs={"BLOCK": 256})
    kernel = triton.compile(source, target=target, options={"enable_fp_fusion": True})
    print(name, len(kernel.asm["ptx" if cuda else "amdgcn"]))
"""


def _program() -> str:
    lines = [
        "from lossgen.runtime import device as dl",
        "from lossgen.runtime.device import tl",
        "",
        "@dl.jit",
        "def everything(a, b, out, s, BLOCK: tl.constexpr):",
        "    i = tl.arange(0, BLOCK)",
        "    x = tl.load(a + i)",
        "    y = tl.load(b + i)",
        "    total = x * 0.0",
    ]
    for op in ALL.values():
        for pattern in (("x", "y", "x"), ("x", "s", "s"), ("s", "s", "s")):
            lines.append(f"    total += dl.{op.triton}({', '.join(pattern[: op.arity])})")
    lines += [f"    total += {call}" for call in LITERALS]
    lines.append("    tl.store(out + i, total)")
    return "\n".join(lines) + "\n" + MAIN


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
def test_every_device_function_compiles_ahead_of_time(tmp_path):
    program = tmp_path / "everything.py"
    program.write_text(_program(), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, str(program), "sm_90", "gfx942"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["sm_90", "gfx942"]
