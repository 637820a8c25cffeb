"""The emulator on a few lines of PTX: what it computes, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.emulation.instructions import decoded
from tests.emulation.machine import Machine
from tests.emulation.memory import Fault
from tests.emulation.ptx import parse

HEAD = """
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u32 kernel_param_1
)
.reqntid 64
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<99>;
	.reg .b64 	%rd<9>;
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b32 	%r1, [kernel_param_1];
	mov.u32 	%r2, %tid.x;
	mov.u32 	%r3, %ctaid.x;
	mad.lo.s32 	%r4, %r3, 64, %r2;      // which lane of all
	mul.wide.u32 	%rd2, %r4, 4;
	add.s64 	%rd3, %rd1, %rd2;
	shl.b32 	%r5, %r2, 2;
"""
LANES = 128


def run(body: str, n: int = 0, of: Tensor | None = None) -> Tensor:
    """Two programs of 64 threads; each thread has an int32 of its own at ``%rd3``."""
    given = torch.arange(LANES, dtype=torch.int32) if of is None else of
    program = parse(HEAD + body + "\n\tret;\n}")
    Machine(program, decoded(program), (2, 1, 1), [given, n], 256).run()
    return given


LOAD, STORE = "ld.global.b32 { %r10 }, [ %rd3 + 0 ];\n", "st.global.b32 [ %rd3 + 0 ], { %r10 };\n"


def test_lanes_that_part_meet_again():
    body = """
	mov.b32 	%r10, 0;
	and.b32 	%r11, %r2, 7;
$L__BB0_1:
	add.s32 	%r10, %r10, %r11;
	add.s32 	%r11, %r11, -1;
	setp.gt.s32 	%p1, %r11, 0;
	@%p1 bra 	$L__BB0_1;
	shfl.sync.bfly.b32 	%r12, %r10, 1, 31, -1;
	add.s32 	%r10, %r10, %r12;
"""
    alone = torch.arange(LANES) % 8
    sums = alone * (alone + 1) // 2
    expected = sums + sums.view(-1, 2).flip(1).reshape(-1)
    assert run(body + STORE).tolist() == expected.tolist()


def test_a_guard_is_a_mask():
    body = f"setp.lt.s32 %p1, %r4, %r1; mov.b32 %r10, -1; @!%p1 bra $L_end; @%p1 {STORE} $L_end:"
    assert run(body.replace("; ", ";\n"), 5).tolist() == [-1] * 5 + list(range(5, LANES))


def test_shared_memory_belongs_to_a_program():
    body = """
	st.shared.b32 	[ %r5 + 0 ], %r4;
	bar.sync 	0;
	xor.b32 	%r6, %r5, 252;
	ld.shared.b32 	%r10, [%r6];
"""
    expected = torch.arange(LANES).view(2, 64).flip(1).reshape(-1)
    assert run(body + STORE).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("instruction", "value", "expected"),
    [
        ("fma.rn.f32 %r10, %r10, %r10, 0fBF800000;", 3.0, 8.0),
        ("mul.f32 %r10, %r10, 0f3F000000;", 2.0**-126, 2.0**-127),
        ("mul.ftz.f32 %r10, %r10, 0f3F000000;", 2.0**-126, 0.0),
        ("max.f32 %r10, %r10, 0fC0000000;", math.nan, -2.0),
        ("max.NaN.f32 %r10, %r10, 0fC0000000;", math.nan, math.nan),
        ("cvt.rmi.ftz.f32.f32 %r10, %r10;", -1.5, -2.0),
        ("cvt.rn.bf16.f32 %rs1, %r10; cvt.f32.bf16 %r10, %rs1;", 1 + 2.0**-8, 1.0),
        ("cvt.rn.bf16x2.f32 %r10, %r10, 0f00000000; mov.b32 {%rs1, %rs2}, %r10;"
         " cvt.f32.bf16 %r10, %rs2;", 1 + 3 * 2.0**-8, 1 + 2.0**-6),
        ("setp.neu.f32 %p1, %r10, %r10; selp.f32 %r10, 0f40000000, %r10, %p1;", math.nan, 2.0),
        ("setp.ne.f32 %p1, %r10, %r10; selp.f32 %r10, 0f40000000, %r10, %p1;", math.nan, math.nan),
        ("cvt.rzi.s32.f32 %r10, %r10; cvt.rn.f32.s32 %r10, %r10;", -2.75, -2.0),
        ("ex2.approx.ftz.f32 %r10, %r10;", -3.0, 0.125),
        ("ex2.approx.ftz.f32 %r10, %r10;", -math.inf, 0.0),
    ],
)  # fmt: skip
def test_arithmetic(instruction, value, expected):
    found = run(LOAD + instruction + "\n" + STORE, of=torch.full((LANES,), value))
    torch.testing.assert_close(
        found, torch.full((LANES,), expected), rtol=0, atol=0, equal_nan=True
    )


def test_approximate_instructions_are_as_bad_as_they_may_be():
    x = torch.linspace(-5, 5, LANES)
    found = run(LOAD + "ex2.approx.ftz.f32 %r10, %r10;\n" + STORE, of=x.clone())
    error = found.double() / torch.exp2(x.double()) - 1
    assert 2**-22.5 < error.max() < 2**-21.5
    assert -(2**-21.5) < error.min() < -(2**-22.5)


FAULTS = {
    "no multiple": "ld.global.v2.b32 { %r10, %r11 }, [ %rd3 + 4 ];",
    "outside of what": "ld.global.b32 { %r10 }, [ %rd3 + 512 ];",
    "beyond the program's shared": "ld.shared.b32 %r10, [ %r5 + 4 ];",
    # The other warp may not have written yet.
    "no barrier keeps": "st.shared.b32 [ %r5 + 0 ], %r2; xor.b32 %r6, %r5, 128;"
    " ld.shared.b32 %r10, [ %r6 + 0 ];",
    # ... or not have read.
    "a store that no barrier": "ld.shared.b32 %r10, [global_smem]; setp.eq.b32 %p1, %r2, 0;"
    " @%p1 st.shared.b32 [ %r5 + 0 ], %r2;",
    # No barrier stands between two programs.
    "st.global": "shl.b32 %r6, %r2, 2; cvt.u64.u32 %rd4, %r6; add.s64 %rd5, %rd1, %rd4;"
    " bar.sync 0; st.global.b32 [ %rd5 + 0 ], { %r2 };",
    "not every thread": "setp.lt.s32 %p1, %r2, 32; @%p1 bra $L_far; bar.sync 0;\n$L_far:",
    "not whole": "setp.lt.s32 %p1, %r2, 3; @%p1 bra $L_far;"
    " shfl.sync.bfly.b32 %r10, %r2, 1, 31, -1;\n$L_far:",
    "not known here": "sin.approx.f32 %r10, %r10;",
    "no end": "$L_again: bra $L_again;",
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_a_gpu_would_not_do_is_refused(text, monkeypatch):
    monkeypatch.setattr("tests.emulation.machine.MOST_STEPS", 1000)
    with pytest.raises(Fault, match=text):
        run(FAULTS[text])
