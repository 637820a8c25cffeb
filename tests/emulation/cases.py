"""Calls of the row kernels, emulated, against the torch backend in float64.

A case chooses rows, their storage and how many processors the GPU has; the launch follows from
that as it does for any call.  Rows: one with the target in its first class and a masked class;
one whose first two thirds are masked, with the target in its last class; an ignored one of NaN;
one with ties of the maximum in three tiles, the target at one in the middle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import lossgen
from lossgen.runtime import launch, torch_backend
from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch
from tests.emulation.driver import Launch, present
from tests.emulation.memory import Fault

__all__ = ["BF16", "F32", "FEW", "Case", "every", "outcome"]

ROWS = 4
GUARD = 777.0
ULPS = 32  # of float32, of the largest value of a row
LOG_ULPS = 8  # results are made of logarithms of probabilities, as large as that of the classes
COMMON = ("label_smoothing", "weight", "z_loss")
EVERYTHING = ("label_smoothing", "softcap", "temperature", "weight", "z_loss")
VALUES = {
    **{"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 20.0, "temperature": 1.5},
    **{"T": 2.0, "alpha": 0.5},
}


@dataclass(frozen=True)
class Case:
    """``pad``: what stands between the rows that are read; ``out_pad``: between those that are
    written; ``shift``: elements before the first row; ``processors``: above ROWS, rows are
    split; ``inplace``: the fused kernel writes over the logits."""

    loss: str
    classes: int
    dtype: str
    uses: tuple[str, ...] = ()
    pad: int = 0
    out_pad: int = 0
    shift: int = 0
    processors: int = 1
    inplace: bool = False

    def __str__(self) -> str:
        """What differs from the plainest case."""
        options = f" [{', '.join(self.uses)}]" if self.uses else ""
        rest = list(asdict(self).items())[4:]
        plain = {"processors": 1}
        told = "".join(f" {k}={v}" for k, v in rest if v != plain.get(k, 0))
        return f"{self.loss}{options} {self.classes} {self.dtype}{told}"


F32, BF16 = "float32", "bfloat16"
FEW = (
    Case("gce", 7, F32),
    Case("gce", 1001, F32, inplace=True),
    Case("cross_entropy", 1000, F32, EVERYTHING, shift=1),
    Case("cross_entropy", 65, F32, COMMON, pad=3, out_pad=3),
    Case("kd_forward_kl", 5000, F32, processors=8),
    Case("dice", 1001, F32, pad=3),
    Case("trades", 64, F32, pad=1),
    Case("trades", 1001, F32, out_pad=1),
    Case("token_stats", 20001, F32, pad=3, out_pad=3),
    Case("gce", 5000, BF16, processors=8),
    Case("gce", 20001, BF16, inplace=True),
    Case("cross_entropy", 1001, BF16, COMMON, pad=3),
    Case("cross_entropy", 9000, BF16, EVERYTHING, processors=16),
    Case("kd_forward_kl", 64, BF16),
    Case("kd_forward_kl", 1000, BF16, pad=3, out_pad=3),
    Case("dice", 65, BF16),
    Case("dice", 5000, BF16, inplace=True),
    Case("trades", 5000, BF16),
    Case("token_stats", 1000, BF16, shift=1),
)


def every() -> Iterator[Case]:
    """All variants of the six losses, all lengths and dtypes, each with three ways to be stored."""
    for name in ("gce", "cross_entropy", "kd_forward_kl", "dice", "trades", "token_stats"):
        for variant in lossgen.load(name).LOSS.variants:
            for dtype in (BF16, F32):
                for classes in (7, 64, 65, 1000, 1001, 5000, 20001):
                    case = Case(name, classes, dtype, tuple(sorted(variant.uses)))
                    yield replace(case, inplace=True)
                    yield replace(case, pad=3, out_pad=3, shift=1)
                    yield replace(case, pad=3)
                    if classes > 2048:
                        yield replace(case, processors=16)


# ------------------------------------------------------------------------------- calls
def _stored(values: Tensor, pad: int, shift: int, fill: float = torch.nan) -> Tensor:
    """``values`` in memory that otherwise holds ``fill``."""
    rows, classes = values.shape
    stride = classes + pad
    whole = torch.full((shift + rows * stride,), fill, dtype=values.dtype)
    return whole.as_strided((rows, classes), (stride, 1), shift).copy_(values)


def _call(case: Case) -> tuple[Variant, Batch]:
    loss = lossgen.load(case.loss).LOSS
    (variant,) = (v for v in loss.variants if v.uses == frozenset(case.uses))
    g = torch.Generator().manual_seed(case.classes)
    classes, dtype = case.classes, getattr(torch, case.dtype)
    last, middle = classes - 1, classes // 2
    x = 2 * torch.randn(ROWS, classes, generator=g)
    noise = torch.randn(ROWS, classes, generator=g)
    x[0, middle] = -torch.inf
    x[1, : 2 * classes // 3] = -torch.inf
    x[3, [0, middle, last]] = x[3].max() + 1.0
    noise[3, [0, middle, last]] = 0.0
    y = torch.tensor([0, last, 0, middle])
    streams = tuple(_stored((x + noise).to(dtype), case.pad, case.shift) for _ in variant.streams)
    if loss.has_target:
        y[2] = -100
        x[2] = torch.nan
    values = {p.name: VALUES.get(p.name, p.default) for p in loss.parameters}
    kinds = {i.name: i.kind for i in loss.inputs}
    return variant, Batch(
        _stored(x.to(dtype), case.pad, case.shift),
        y if loss.has_target else None,
        streams,
        tuple(i.differentiable for i in loss.inputs if i.kind == "class"),
        tuple(torch.rand(classes, generator=g) for _ in variant.inputs),
        tuple(kinds[name] for name in variant.inputs),
        tuple(float(values[name]) for name in variant.parameters),
        -100,
        tuple(loss.outputs),
    )


@dataclass(frozen=True)
class Results:
    """Of every kernel: results [outputs, N] and gradients [N, V]."""

    losses: tuple[Tensor, ...]
    gradients: tuple[tuple[Tensor, ...], ...]


def _slopes(batch: Batch) -> Tensor:
    return torch.linspace(-1.5, 2.0, batch.n_out * ROWS).reshape(batch.n_out, ROWS)


def _expected(variant: Variant, batch: Batch) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    wide = replace(
        batch,
        logits=batch.logits.double(),
        streams=tuple(s.double() for s in batch.streams),
        inputs=tuple(i.double() for i in batch.inputs),
    )
    loss, saved = torch_backend.forward(variant, wide)
    wanted = [True] * batch.n_gradients
    return loss, torch_backend.backward(variant, wide, saved, _slopes(batch).double(), wanted)


def _found(case: Case, variant: Variant, batch: Batch) -> Results:
    """By the kernels: forward and backward, then both at once."""

    def guarded(like: Tensor) -> Tensor:
        return _stored(torch.full_like(like, GUARD), case.out_pad, case.shift, GUARD)

    slopes, wanted = _slopes(batch), [True] * batch.n_gradients
    with mock.patch.object(launch, "empty_like", guarded):
        first, saved = launch.forward(variant, batch)
        apart = launch.backward(variant, batch, saved, slopes, wanted)
    outs = [guarded(batch.logits) for _ in wanted]
    if case.inplace:
        copied = _stored(batch.logits, case.pad, case.shift, GUARD)
        batch, outs[0] = replace(batch, logits=copied), copied
    second = launch.fused(variant, batch, slopes, outs)
    return Results((first, second), (tuple(g for g in apart if g is not None), tuple(outs)))


# ------------------------------------------------------------------------------- comparison
def _error(found: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """In units of what is allowed, ``least`` ulp of 1 if not more; inf where one of them is NaN or
    infinite alone."""
    size = expected.abs().nan_to_num(0.0, 0.0, 0.0)
    size = size if least else size.amax(-1, keepdim=True)
    allowed = 2.0**-23 * (ULPS * size).clamp_min(least) + 1e-30
    if found.dtype is torch.bfloat16:  # to the nearest of 8 bits
        allowed = allowed + 2.0**-8 * expected.abs()
    gap = (found.double() - expected).abs() / allowed
    same = (found == expected) | (found.isnan() & expected.isnan())
    return float(torch.where(same, 0.0, gap).nan_to_num(torch.inf).max())


def _written(gradient: Tensor) -> bool:
    """Is anything of the memory around it written to?"""
    whole = gradient.as_strided(
        (gradient.untyped_storage().nbytes() // gradient.itemsize,), (1,), 0
    )
    own = torch.zeros(whole.shape, dtype=torch.bool)
    own.as_strided(gradient.shape, gradient.stride(), gradient.storage_offset())[:] = True
    return bool((whole[~own] != GUARD).any())


def outcome(case: Case, change: Callable[[str], str] = str) -> dict[str, Any]:
    """What came out: ``error`` (1 is allowed), ``problem`` ("" if none), ``launches``, seconds."""
    began = time.process_time()
    launches: Sequence[Launch] = ()
    error, problem = 0.0, ""
    variant, batch = _call(case)
    loss, gradients = _expected(variant, batch)
    try:
        with present(change) as launches, mock.patch.object(launch, "processors") as asked:
            asked.return_value = case.processors
            found = _found(case, variant, batch)
        least = LOG_ULPS * math.log(case.classes)
        error = max(_error(one, loss, least) for one in found.losses)
        for some in found.gradients:
            pairs = zip(some, gradients, strict=True)
            error = max(error, *(_error(one, right) for one, right in pairs))
            if any(_written(one) for one in some):
                problem = "memory beside a gradient was written"
        if error > 1:
            problem = f"off by {error:.1f} times what is allowed"
    except Fault as fault:
        problem = str(fault)
    return {
        "case": str(case),
        "error": error,
        "problem": problem,
        "launches": [asdict(one) for one in launches],
        "seconds": round(time.process_time() - began, 2),
    }
