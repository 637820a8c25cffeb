"""Losses of a linear layer on a GPU: time and peak memory, against what others offer.

Run as ``python benchmarks/gpu.py linear``.  Forward and backward of bfloat16 hidden states and the
weight of the last layer of two language models; the floor is the three products that no such loss
can avoid.  Hidden states are random, and peaked: near the weight of their target, so that the
softmax is as sparse as a trained model's, which is where leaving out tiles pays.  liger-kernel and
cut-cross-entropy take part where they can be imported.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CASES", "COLUMNS", "SMALL", "Case", "candidates", "compared", "peak"]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
COLUMNS = ("loss", "ms", "÷ floor", "peak MB", "gradient off by")


@dataclass(frozen=True)
class Case:
    """One head: N rows, D features, V classes."""

    name: str
    rows: int
    features: int
    classes: int
    softcap: float | None = None
    peaked: bool = False

    def __str__(self) -> str:
        states = "peaked" if self.peaked else "random"
        cap = f", softcap {self.softcap:g}" if self.softcap else ""
        return f"{self.name}: {self.rows} × {self.features} × {self.classes}{cap}, {states} states"

    def draw(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """hidden [N, D], weight [V, D], target [N]."""
        g = torch.Generator(device).manual_seed(0)
        weight = torch.empty(self.classes, self.features, device=device, dtype=torch.float32)
        weight.normal_(0, self.features**-0.5, generator=g)
        # Words are not equally likely: targets as Zipf's law has them.
        uniform = torch.rand(self.rows, device=device, generator=g)
        target = (torch.exp(uniform * math.log(self.classes)) - 1).long()
        hidden = torch.empty(self.rows, self.features, device=device).normal_(0, 1, generator=g)
        if self.peaked:  # logits of 12 above the rest, on average
            strength = torch.rand(self.rows, 1, device=device, generator=g) * 24
            hidden += strength * weight[target]
        return (
            hidden.to(dtype).requires_grad_(),
            weight.to(dtype).requires_grad_(),
            target.clamp_max(self.classes - 1),
        )


CASES = tuple(
    Case(*head, peaked=peaked)
    for head in (
        ("Gemma-2-2B", 8192, 2304, 256000, 30.0),
        ("Llama-3-8B", 16384, 4096, 128256),
    )
    for peaked in (False, True)
)
SMALL = (Case("small", 48, 32, 130, 30.0), Case("small", 48, 32, 130, None, True))


def products(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Made one after the other: hidden · weightᵀ, and with that the two of a backward."""
    logits = hidden @ weight.t()
    return logits @ weight, logits.t() @ hidden


def composite(hidden: Tensor, weight: Tensor, target: Tensor, softcap: float | None) -> Tensor:
    logits = F.linear(hidden, weight).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, target)


def ours(modules: dict[str, Any], case: Case, tiled: bool) -> Iterator[tuple[str, Loss]]:
    """Cross-entropy by every schedule, and another loss."""
    cap = {} if case.softcap is None else {"softcap": case.softcap}
    cross_entropy = partial(modules["cross_entropy"].linear_cross_entropy_loss, **cap)
    gce = partial(modules["gce"].linear_gce_loss, **cap)
    yield "lossgen, chunked", partial(cross_entropy, schedule="chunked")
    yield "lossgen gce, chunked", partial(gce, schedule="chunked")
    if tiled:
        yield "lossgen, tiled", partial(cross_entropy, schedule="tiled")
        yield "lossgen, tiled, every tile", partial(cross_entropy, schedule="tiled", filter=False)
        yield "lossgen gce, tiled", partial(gce, schedule="tiled")


def theirs(case: Case) -> Iterator[tuple[str, Loss]]:
    """What can be had here of others."""
    yield "eager", partial(composite, softcap=case.softcap)
    if case.softcap is None and hasattr(F, "linear_cross_entropy"):
        options = importlib.import_module("torch.nn.modules.linear_cross_entropy_options")
        own = partial(F.linear_cross_entropy, options=options.LinearCrossEntropyOptions())
        yield "F.linear_cross_entropy", own
    try:
        liger = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        pass
    else:
        fused = partial(liger.liger_fused_linear_cross_entropy, softcap=case.softcap)
        yield "liger-kernel", lambda h, w, y: fused(h, w, y)
    try:
        cut = importlib.import_module("cut_cross_entropy")
    except ImportError:
        pass
    else:
        for kind in ("cce", "cce_exact"):
            call = partial(cut.linear_cross_entropy, softcap=case.softcap, impl=kind)
            yield f"cut-cross-entropy, {kind}", call


def step(loss: Loss, hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(hidden, weight, target), (hidden, weight))


def candidates(
    modules: dict[str, Any], case: Case, device: torch.device, compiled: bool, tiled: bool
) -> tuple[dict[str, Callable[[], Any]], tuple[Tensor, Tensor, Tensor]]:
    """Forward and backward of each, by name, the floor first; and the data."""
    data = case.draw(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    hidden, weight, _ = data
    losses = dict([*ours(modules, case, tiled), *theirs(case)])
    if compiled:
        losses["compiled"] = torch.compile(partial(composite, softcap=case.softcap))
    floor = partial(products, hidden.detach(), weight.detach())
    runs: dict[str, Callable[[], Any]] = {"floor: three products": floor}
    runs |= {name: partial(step, loss, *data) for name, loss in losses.items()}
    return runs, data


def compared(case: Case, data: tuple[Tensor, Tensor, Tensor], run: Callable[[], Any]) -> float:
    """How far the gradient of hidden is off, of the largest, on 256 rows against float64."""
    hidden, weight, target = data
    some = slice(0, 256)
    exact = hidden[some].detach().double().requires_grad_()
    total = composite_of_rows(exact, weight.detach(), target[some], case.softcap)
    (wanted,) = torch.autograd.grad(total / len(target), exact)
    found = run()[0][some].double()
    return float((found - wanted).abs().max() / wanted.abs().max())


def composite_of_rows(
    hidden: Tensor, weight: Tensor, target: Tensor, softcap: float | None
) -> Tensor:
    logits = hidden @ weight.double().t()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, target, reduction="sum")


def peak(run: Callable[[], object], device: torch.device) -> float:
    """Bytes above what is held already; 0 where nobody counts."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - held)
