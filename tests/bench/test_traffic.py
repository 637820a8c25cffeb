"""Bytes that each kernel of each loss moves: forward R, backward R + W, fused row R + W."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lossgen.bench.traffic import OTHER, Traffic
from lossgen.runtime import device as dl
from lossgen.runtime.device import tl

from .conftest import GENERATED, Problem

# Three tiles, the last of them half full; the rows begin inside of 16 bytes.
ROWS, CLASSES, BLOCK = 3, 77, 32
TILES = -(-CLASSES // BLOCK)
LONG = {"BLOCK": BLOCK}
SHORT = {"ROWS": 2, "BLOCK": BLOCK, "ALIGNED": 0}  # two programs of two rows, one of them too many


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


def test_nothing_is_counted_after_an_error():
    source, index, out = torch.arange(4.0), torch.tensor(3), torch.zeros(1)
    traffic = Traffic({"out": out})
    with pytest.raises(ZeroDivisionError), traffic:
        raise ZeroDivisionError
    scalar_kernel[(1,)](source, index, out)
    assert traffic.written == {"out": 0}


def _cases(left=()):
    assert GENERATED or not (Path(__file__).parents[2] / "specs").exists(), "generated/ is empty"
    return [pytest.param(path, id=path.stem) for path in GENERATED if path.stem not in left]


#: losses that take two reduction sweeps before the gradient; all others take one
TWO_SWEEPS = {
    "dice",
    "dist_row",
    "jsd_beta",
    "lk_alpha",
    "lk_hybrid",
    "logit_norm",
    "mart",
    "mbls",
    "nfl",
    "seesaw",
    "skew_kl",
    "skew_reverse_kl",
    "taid",
    "tvd",
    "unlikelihood",
}


#: losses with a sweep that is repeated until a root is found
REPEATED = {"entmax15", "sparsemax"}


@pytest.mark.parametrize("name", sorted(REPEATED))
def test_a_row_of_one_tile_stays_on_chip_however_often_it_is_swept(name, load):
    (path,) = (path for path in GENERATED if path.stem == name)
    loss = load(path).LOSS
    problem = Problem(loss, loss.variants[0], ROWS, CLASSES, torch.float16)
    (stream,) = problem.read.values()
    times = []
    for one_tile, constants in ((True, {"BLOCK": 128}), (False, LONG)):
        with Traffic(problem.read) as traffic:
            problem.launch("fused", (ROWS,), ONE_TILE=one_tile, **constants)
        times.append((traffic.read["logits"] // stream.element_size() - ROWS) / stream.numel())
    assert times[0] == 1
    assert 4 < times[1] < 20  # maximum, trials, sums at the root, gradient


@pytest.mark.parametrize("path", _cases(REPEATED))
def test_each_logit_is_read_once_and_each_gradient_written_once(path, load):
    loss = load(path).LOSS
    sweeps = 2 if path.stem in TWO_SWEEPS else 1
    launches = [  # and how often each program reads: a row that is not kept on chip again
        ("forward", (ROWS, 1), LONG, sweeps),
        ("forward", (2, 1), SHORT, sweeps),
        ("backward", (ROWS, TILES), {**LONG, "SPLITS": TILES}, 1),
        ("backward", (2, 1), SHORT, 1),
        ("fused", (ROWS,), {"ONE_TILE": True, "BLOCK": 128}, 1),
        ("fused", (ROWS,), {"ONE_TILE": False, **LONG}, sweeps + 1),
        ("fused", (2,), {"ONE_TILE": False, **SHORT}, sweeps + 1),
    ]
    for variant in loss.variants:
        problem = Problem(loss, variant, ROWS, CLASSES, torch.float16)
        streams, grads = problem.read, problem.written
        for role, grid, constants, times in launches:
            with Traffic({**streams, **grads}) as traffic:
                problem.launch(role, grid, **constants)
            for name, stream in streams.items():
                # Beside its sweeps a program reads its row's target logit, or the logit at the
                # pivot, once: a gather.
                gathers = torch.Size(grid).numel() * constants.get("ROWS", 1)
                extra = traffic.read[name] // stream.element_size() - times * stream.numel()
                assert extra in (0, gathers), (role, name, variant.uses, extra)
                assert traffic.loads[name].min() == times
                assert (traffic.loads[name] > times).sum() <= ROWS
                assert traffic.written[name] == 0
            for name, grad in grads.items():
                written = 0 if role == "forward" else grad.numel() * grad.element_size()
                assert (traffic.read[name], traffic.written[name]) == (0, written)
                if role != "forward":
                    assert (traffic.stores[name] == 1).all()


@pytest.mark.parametrize("path", _cases())
def test_a_gradient_that_is_not_wanted_is_not_written(path, load):
    loss = load(path).LOSS
    for variant in loss.variants:
        problem = Problem(loss, variant, ROWS, CLASSES)
        grads = problem.written
        problem.launch("forward", (ROWS, 1), **LONG)  # what backward reads
        for k in range(len(grads) if len(grads) > 1 else 0):
            for role, grid, constants in (
                ("backward", (ROWS, TILES), {**LONG, "SPLITS": TILES}),
                ("backward", (2, 1), SHORT),
                ("fused", (ROWS,), {"ONE_TILE": True, "BLOCK": 128}),
                ("fused", (ROWS,), {"ONE_TILE": False, **LONG}),
            ):
                with Traffic(grads) as traffic:
                    problem.launch(role, grid, **constants, WANT=2**k)
                assert [bool(traffic.written[n]) for n in grads] == [
                    at == k for at in range(len(grads))
                ]


@pytest.mark.parametrize("path", _cases())
def test_a_split_row_is_read_once_and_the_merge_reads_no_row(path, load):
    loss = load(path).LOSS
    for variant in loss.variants:
        assert (variant.merge_kernel is None) == (path.stem in TWO_SWEEPS | REPEATED)
        if variant.merge_kernel is None:
            continue
        problem = Problem(loss, variant, ROWS, CLASSES)
        streams, state = problem.read, problem.values["state"]
        with Traffic({**streams, "state": state}) as traffic:
            problem.launch("forward", (ROWS, 2), SPLITS=2, **LONG)
        for name, stream in streams.items():
            assert traffic.loads[name].min() == 1
            assert traffic.read[name] - stream.numel() * 4 in {0, 2 * ROWS * 4}
        assert traffic.written["state"] == 2 * ROWS * variant.n_state * 4
        with Traffic(streams) as traffic:
            problem.launch("merge", (ROWS,), SPLITS=2)
        for name in streams:
            assert traffic.read[name] <= 2 * ROWS * 4


@pytest.mark.parametrize("path", _cases())
def test_an_ignored_row_is_not_read(path, load):
    loss = load(path).LOSS
    if not loss.has_target:
        return
    for variant in loss.variants:
        problem = Problem(loss, variant, ROWS, CLASSES)
        problem.values["target"].fill_(-100)
        streams = problem.read
        for role, grid, constants in (
            ("forward", (ROWS, 1), LONG),
            ("backward", (ROWS, TILES), {**LONG, "SPLITS": TILES}),
            ("fused", (ROWS,), {"ONE_TILE": True, "BLOCK": 128}),
            ("fused", (ROWS,), {"ONE_TILE": False, **LONG}),
        ):
            with Traffic(streams) as traffic:
                problem.launch(role, grid, **constants)
            for name in streams:
                assert traffic.loads[name].view(ROWS, CLASSES)[:, 1:].sum() == 0, (role, name)
