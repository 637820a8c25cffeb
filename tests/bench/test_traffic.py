"""Bytes that each kernel of each loss moves: forward R, backward R + W, fused row R + W."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lossgen.bench.traffic import OTHER, Traffic
from lossgen.runtime import device as dl
from lossgen.runtime.device import tl

from .conftest import GENERATED, Problem

ROWS, CLASSES, BLOCK = 3, 80, 32  # three tiles, the last of them half full

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy under the interpreter


@dl.jit
def copy_kernel(source, out, n, TIMES: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(TIMES):
        total += tl.load(source + cols, mask=cols < n, other=0.0)
    tl.store(out + cols, total, mask=cols < n)


@dl.jit
def scalar_kernel(source, index, out):
    tl.store(out, tl.load(source + tl.load(index)))


@pytest.mark.parametrize("times", [1, 2])
def test_every_read_counts_and_masked_lanes_do_not(times):
    source, out = torch.arange(50.0), torch.zeros(50)
    with Traffic({"source": source, "out": out}) as traffic:
        copy_kernel[(2,)](source, out, 50, TIMES=times, BLOCK=32)
    assert traffic.read == {"source": 200 * times, "out": 0}
    assert traffic.written == {"source": 0, "out": 200}
    assert traffic.loads["source"].tolist() == [times] * 50
    assert torch.equal(out, times * source)


def test_scalars_slices_and_unnamed_tensors():
    whole = torch.arange(20.0)
    index, out = torch.tensor(3), torch.zeros(1)
    with Traffic({"part": whole[2:12:3], "out": out}) as traffic:
        scalar_kernel[(1,)](whole[2:], index, out)
    assert traffic.read == {"part": 4, "out": 0, OTHER: 8}
    assert traffic.loads["part"].tolist() == [0, 0, 0, 1] + [0] * 6
    assert traffic.written == {"part": 0, "out": 4}


def test_the_interpreter_is_as_before_after_an_error():
    from triton.runtime.interpreter import InterpreterBuilder

    before = InterpreterBuilder.create_masked_load
    with pytest.raises(ZeroDivisionError), Traffic({}):
        raise ZeroDivisionError
    assert InterpreterBuilder.create_masked_load is before


def _cases():
    assert GENERATED or not (Path(__file__).parents[2] / "specs").exists(), "generated/ is empty"
    return [pytest.param(path, id=path.stem) for path in GENERATED]


@pytest.mark.parametrize("path", _cases())
def test_each_logit_is_read_once_and_each_gradient_written_once(path, load):
    loss = load(path).LOSS
    for variant in loss.variants:
        problem = Problem(loss, variant, ROWS, CLASSES, torch.float16)
        logits, grad = problem.values["logits"], problem.values["grad_logits"]
        tiles = -(-CLASSES // BLOCK)
        launches = {
            "forward": ((ROWS, 1), {"SPLITS": 1, "BLOCK": BLOCK}),
            "backward": ((ROWS, tiles), {"BLOCK": BLOCK}),
            "fused": ((ROWS,), {"ONE_TILE": True, "BLOCK": 128}),
        }
        for role, (grid, constants) in launches.items():
            with Traffic({"logits": logits, "grad": grad}) as traffic:
                problem.launch(role, grid, **constants)
            # Beside its sweep a program reads its row's target logit, and, where the pivot is
            # the arg-max, the logit there: at most one gather each.
            gathers = ROWS * (tiles if role == "backward" else 1)
            most = (0 if not loss.has_target else 1) + 1
            extra = traffic.read["logits"] // logits.element_size() - logits.numel()
            assert extra in {k * gathers for k in range(most + 1)}, (role, variant.uses, extra)
            assert traffic.loads["logits"].min() == 1
            assert (traffic.loads["logits"] > 1).sum() <= most * ROWS
            written = 0 if role == "forward" else grad.numel() * grad.element_size()
            assert (traffic.written["logits"], traffic.written["grad"]) == (0, written)
            if role != "forward":
                assert (traffic.stores["grad"] == 1).all()
                assert traffic.read["grad"] == 0


@pytest.mark.parametrize("path", _cases())
def test_a_split_row_is_read_once_and_the_merge_reads_no_row(path, load):
    loss = load(path).LOSS
    for variant in loss.variants:
        problem = Problem(loss, variant, ROWS, CLASSES)
        logits, state = problem.values["logits"], problem.values["state"]
        with Traffic({"logits": logits, "state": state}) as traffic:
            problem.launch("forward", (ROWS, 2), SPLITS=2, BLOCK=BLOCK)
        assert traffic.loads["logits"].min() == 1
        assert traffic.read["logits"] - logits.numel() * 4 in {0, 2 * ROWS * 4}
        assert traffic.written["state"] == 2 * ROWS * variant.n_state * 4
        with Traffic({"logits": logits}) as traffic:
            problem.launch("merge", (ROWS,), SPLITS=2, BLOCK=BLOCK)
        assert traffic.read["logits"] <= 2 * ROWS * 4


@pytest.mark.parametrize("path", _cases())
def test_an_ignored_row_is_not_read(path, load):
    loss = load(path).LOSS
    if not loss.has_target:
        return
    for variant in loss.variants:
        problem = Problem(loss, variant, ROWS, CLASSES)
        problem.values["target"].fill_(-100)
        logits = problem.values["logits"]
        for role, grid, constants in (
            ("forward", (ROWS, 1), {"SPLITS": 1, "BLOCK": BLOCK}),
            ("backward", (ROWS, 3), {"BLOCK": BLOCK}),
            ("fused", (ROWS,), {"ONE_TILE": True, "BLOCK": 128}),
            ("fused", (ROWS,), {"ONE_TILE": False, "BLOCK": BLOCK}),
        ):
            with Traffic({"logits": logits}) as traffic:
                problem.launch(role, grid, **constants)
            assert traffic.loads["logits"].view(ROWS, CLASSES)[:, 1:].sum() == 0, role
