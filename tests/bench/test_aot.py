"""Ahead-of-time compilation: what passes, what fails, and what a dying compiler does."""

from __future__ import annotations

import textwrap

import pytest

from lossgen.aot import Report, Row, compile_all
from lossgen.errors import BuildError

MODULE = """
import os
from types import SimpleNamespace
from lossgen.runtime import device as dl
from lossgen.runtime.device import tl


@dl.jit
def forward(logits, stride_row, weight_ptr, q, target, stride_target, ignore_index, loss, saved,
            state, n_rows, n_classes, SPLITS: tl.constexpr, ROWS: tl.constexpr,
            BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(target + row * stride_target)
    total = tl.zeros((), tl.float32)
    for first in range(0, n_classes, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride_row + cols, mask=cols < n_classes, other=0.0)
        total += tl.sum(x.to(tl.float32) * q) * tl.load(weight_ptr + y)
    tl.store(loss + row, total)


@dl.jit
def backward(logits, stride_row, grad_logits, stride_grad, n_classes, BLOCK: tl.constexpr):
    # Every element of a long row is alive twice: more registers than a thread has.
    cols = tl.arange(0, 32 * BLOCK)
    inside = cols < n_classes
    x = tl.load(logits + cols, mask=inside, other=0.0).to(tl.float32)
    m = tl.max(x)
    e = tl.exp(x - m)
    tl.store(grad_logits + cols, (e / tl.sum(e * x) + x).to(tl.bfloat16), mask=inside)


class Dies:
    params = ()

    @property
    def arg_names(self):
        print("Assertion `false' failed: the compiler gives up", file=__import__("sys").stderr)
        __import__("sys").stderr.flush()
        os._exit(134)


HELD = dict(uses=frozenset(), streams=(), inputs=(), indexed=False, n_saved=2, n_state=2,
            merge_kernel=None,
            tiled=None, arithmetic="float32")
LOSS = SimpleNamespace(variants=(SimpleNamespace(**HELD, KERNELS),))
"""


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def write(tmp_path, kernels):
    path = tmp_path / "sample.py"
    path.write_text(textwrap.dedent(MODULE).replace("KERNELS", kernels), encoding="utf-8")
    return path


def test_a_good_kernel_passes_on_every_kind_of_target(tmp_path):
    path = write(tmp_path, "forward_kernel=forward")
    report = compile_all([path], ["sm_80", "gfx942"])
    assert report.ok
    assert not report.failed
    assert {row.target for row in report.rows} == {"sm_80", "gfx942"}
    for row in report.rows:
        assert (row.loss, row.kernel, row.dtype) == ("sample", "forward", "bf16")
        assert 4 <= row.registers <= 128  # few classes take few
        assert 0 <= row.shared <= row.limit
    for target in ("sm_80", "gfx942"):  # one warp alone, of a few classes, needs none
        assert any(row.shared > 0 for row in report.rows if row.target == target)
    assert "0 failed" in str(report)


def test_a_spill_fails_and_the_others_still_compile(tmp_path):
    path = write(tmp_path, "forward_kernel=forward, backward_kernel=backward")
    report = compile_all([path], ["sm_90", "gfx942"])
    assert not report.ok
    assert {row.kernel for row in report.failed} == {"backward"}
    assert {row.target for row in report.failed} == {"sm_90", "gfx942"}
    assert all(row.spill_stores > 0 and row.spill_loads > 0 for row in report.failed)
    assert "spills" in str(report)


def test_a_compiler_that_dies_is_a_failed_row(tmp_path):
    path = write(tmp_path, "fused_kernel=Dies(), forward_kernel=forward")
    report = compile_all([path], ["sm_90"], jobs=1)
    assert {row.kernel for row in report.failed} == {"fused"}
    assert all("Assertion `false' failed" in row.problem for row in report.failed)
    assert any(row.kernel == "forward" and not row.problem for row in report.rows)


def test_shared_memory_over_the_limit_fails():
    row = Row("l", (), "forward", "sm_86", "bf16", "BLOCK=1", shared=101377, limit=101376)
    assert row.problem == "needs 101377 bytes of shared memory, sm_86 has 101376"
    assert not Report((row,), 0.0).ok
    assert not Report((), 0.0).ok


def test_bad_requests(tmp_path):
    with pytest.raises(BuildError, match="unknown target 'h100'"):
        compile_all([], ["h100"])
    with pytest.raises(BuildError, match="no generated module nothing_here"):
        compile_all(["nothing_here"], ["sm_90"])
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n", encoding="utf-8")
    with pytest.raises(BuildError, match="ModuleNotFoundError"):
        compile_all([broken], ["sm_90"])
