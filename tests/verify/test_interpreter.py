"""The interpreter computes as a GPU does, and says so when it cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from lossgen.verify import interpreter


@triton.jit
def _copy(source, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(source + at).to(out.dtype.element_ty))


@triton.jit
def _low_precision_sum(a, b, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(a + at) * tl.load(b + at) + tl.load(a + at))


@triton.jit
def _exp_log(source, exp, log, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(source + at)
    tl.store(exp + at, tl.exp(x))
    tl.store(log + at, tl.log(tl.abs(x)))


@triton.jit
def _extremes(source, out, BLOCK: tl.constexpr):
    x = tl.load(source + tl.arange(0, BLOCK))
    tl.store(out, tl.max(x))
    tl.store(out + 1, tl.min(x))
    tl.store(out + 2, tl.max(tl.maximum(x, 1.0)))


@triton.jit
def _count(out, start, stop):
    total = 0
    for _ in range(start, stop, 4):
        total += 1
    tl.store(out, total)


@triton.jit
def _product(out, a, b):
    tl.store(out, a * b)


def test_rounding_to_bfloat16_is_to_nearest_even() -> None:
    values = torch.tensor([1.0, 1.00390625, 1.01171875, -0.1, 3e38, 1e-40, torch.inf, torch.nan])
    out = torch.empty(8, dtype=torch.bfloat16)
    _copy[(1,)](values, out, BLOCK=8)
    assert torch.equal(out[:7], values.bfloat16()[:7])
    assert out[7].isnan()
    back = torch.empty(8)
    _copy[(1,)](out, back, BLOCK=8)
    assert torch.equal(back[:7], out.float()[:7])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_arithmetic(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 64, generator=generator).to(dtype)
    out = torch.empty(64, dtype=dtype)
    _low_precision_sum[(1,)](a, b, out, BLOCK=64)
    assert torch.equal(out, a * b + a)


def test_exponentials_are_correctly_rounded() -> None:
    x = torch.linspace(-80.0, 80.0, 1024)
    exp, log = torch.empty(2, 1024)
    _exp_log[(1,)](x, exp, log, BLOCK=1024)
    assert torch.equal(exp, x.double().exp().float())
    assert torch.equal(log, x.double().abs().log().float())


def test_maxima_drop_nan() -> None:
    out = torch.empty(3)
    _extremes[(1,)](torch.tensor([2.0, torch.nan, -3.0, -torch.inf]), out, BLOCK=4)
    assert out.tolist() == [2.0, -np.inf, 2.0]


def test_loops_with_bounds_known_at_run_time() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    _count[(1,)](out, 3, 17)
    assert out.item() == 4


# A loop's variable was a number of Python's where the bounds were: comparing it gave a bool, which
# has no ``to``, unlike the block that it is compiled to.
@triton.jit
def _late(out, first):
    found = 0
    for i in range(0, 4):
        found += i * (i >= first - 1).to(tl.int32)
    tl.store(out, found)


@triton.jit
def _late_of_constants(out, FIRST: tl.constexpr):
    found = 0
    for i in range(0, 4):
        found += i * (i >= FIRST).to(tl.int32)
    for k in tl.static_range(2):  # a tuple is indexed by numbers of Python's
        found += (10, 20)[k]
    tl.store(out, found)


def test_the_variable_of_a_loop_is_a_number_of_the_program() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    _late[(1,)](out, 3)
    assert out.item() == 5
    _late_of_constants[(1,)](out, FIRST=2)
    assert out.item() == 35


@triton.jit
def _larger_of(value, at, value_b, at_b):
    own = (value > value_b) | ((value == value_b) & (at <= at_b))
    return tl.where(own, value, value_b), tl.where(own, at, at_b)


@triton.jit
def _first_largest(source, value, at, KEPT: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    place = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    x = tl.load(source + place)
    found = tl.reduce((x, place), 0, _larger_of, keep_dims=KEPT)
    out = tl.arange(0, C)
    if KEPT:
        out = out[None, :]
    tl.store(value + out, found[0])
    tl.store(at + out, found[1])
    found = tl.reduce((x, place), 1, _larger_of)
    tl.store(value + C + tl.arange(0, R), found[0])
    tl.store(at + C + tl.arange(0, R), found[1])


@triton.jit
def _sum_of(a, b):
    return (a + b,)


@triton.jit
def _sum_and_number(source, out, BLOCK: tl.constexpr):
    x = tl.load(source + tl.arange(0, BLOCK))
    (total,) = tl.reduce((x,), 0, _sum_of)
    tl.store(out, total)


# A state of several numbers is reduced as one, by a function of the kernel's module: only single
# blocks were.
@pytest.mark.parametrize("kept", [False, True])
def test_several_blocks_are_reduced_at_once(kept: bool) -> None:
    x = torch.tensor([[1.0, 7.0], [5.0, 7.0], [5.0, -torch.inf], [0.0, 7.0]])
    value, at = torch.zeros(6), torch.zeros(6, dtype=torch.int32)
    _first_largest[(1,)](x, value, at, KEPT=kept, R=4, C=2)
    assert value.tolist() == [5.0, 7.0, 7.0, 7.0, 5.0, 7.0]
    assert at.tolist() == [2, 1, 1, 3, 4, 7]


def test_a_tuple_of_one_block_is_reduced_to_one() -> None:
    out = torch.zeros(1)
    for width in (1, 8):
        _sum_and_number[(1,)](torch.arange(1.0, width + 1), out, BLOCK=width)
        assert out.item() == width * (width + 1) / 2


def test_int32_overflow_is_an_error_only_when_asked() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with np.errstate(over="ignore"):
        _product[(1,)](out, 2**16, 2**16)
    with (
        interpreter.overflow_checks(),
        pytest.raises(Exception, match="int32 overflow detected for operation mul"),
    ):
        _product[(1,)](out, 2**16, 2**16)
    _product[(1,)](out, 3, 5)
    assert out.item() == 15


@triton.jit
def _whole(out, a, b):
    tl.store(out, a // b)
    tl.store(out + 1, a % b)
    tl.store(out + 2, a / b)
    tl.store(out + 3, (a > b) + a)
    tl.store(out + 4, a * 0.5)


@pytest.mark.parametrize("a", [7, -7])
def test_integers_divide_as_in_c(a: int) -> None:
    out = torch.zeros(5)
    _whole[(1,)](out, a, 2)
    expected = [int(a / 2), a - 2 * int(a / 2), a / 2, a + (a > 2), a / 2]
    assert out.tolist() == expected


@triton.jit
def _far(source, out, at):
    tl.store(out, tl.load(source + at))


@triton.jit
def _unguarded(source, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(source + at, mask=at < 3))


@pytest.mark.parametrize("at", [-1, 4])
def test_what_lies_outside_a_tensor_is_not_read(at: int) -> None:
    with pytest.raises(IndexError, match=f"read outside a tensor: element {at} of 4"):
        _far[(1,)](torch.arange(4.0), torch.zeros(1), at)


def test_what_is_masked_must_not_be_used() -> None:
    out = torch.zeros(4)
    _unguarded[(1,)](torch.arange(4.0), out, BLOCK=4)
    assert out[:3].tolist() == [0.0, 1.0, 2.0]
    assert out[3].isnan()


BOTH_WAYS = """
import sys, torch, lossgen
from lossgen.verify import interpreter
if sys.argv[1] == "ours":
    interpreter.install()
torch.manual_seed(0)
found = []
for name in ("gce", "nfl", "cross_entropy"):
    for dtype in (torch.float32, torch.float16):
        x = (3 * torch.randn(5, 300)).to(dtype).requires_grad_()
        loss = getattr(lossgen.load(name), f"{name}_loss")
        value = loss(x, torch.tensor([0, 299, -100, 7, 7]), backend="triton", reduction="none")
        value.sum().backward()
        found += [value.detach(), x.grad]
torch.save(found, sys.argv[2])
"""


def test_tritons_own_interpreter_agrees(tmp_path: Path) -> None:
    """Where that one is right: float32 and float16, no NaN; its exponentials are a few ulp off."""
    results = []
    for which in ("stock", "ours"):
        at = tmp_path / which
        subprocess.run([sys.executable, "-c", BOTH_WAYS, which, str(at)], check=True)
        results.append(torch.load(at))
    for stock, ours in zip(*results, strict=True):
        digits = torch.finfo(stock.dtype).eps
        torch.testing.assert_close(ours, stock, rtol=8 * digits, atol=8 * digits * 1e-2)


def test_without_the_interpreter_there_is_a_clear_error() -> None:
    program = "from lossgen.verify import interpreter\ninterpreter.install()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error LG400: Triton's interpreter is not active" in done.stderr
    assert "set TRITON_INTERPRET=1 before triton is imported" in done.stderr
