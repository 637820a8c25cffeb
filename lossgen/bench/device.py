"""A generated loss on a device, at real sizes, against float64: what must hold before it is timed.

Needs torch and the generated modules alone, so that a machine with a GPU and without the compiler
can run it.  The reference is the loss's composite (``benchmarks/composites.py``) in float64.  There
are two yardsticks: the same composite in float32, and what the reference itself does when every
logit moves by one float32 rounding, which is how well the value is determined at all.  A kernel may
be four times as wrong as the worse of them, plus eight units of the output's own dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["CHECKS", "Check", "Outcome", "Shape", "Subject", "check_huge", "run_check"]

Composite = Callable[..., Tensor]
IGNORED = -100


@dataclass(frozen=True)
class Shape:
    rows: int
    classes: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.rows} × {self.classes} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Outcome:
    """One check of one loss at one shape; ``detail`` says what was wrong, "" if nothing."""

    loss: str
    check: str
    shape: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Subject:
    """One generated loss with its plain-PyTorch counterpart, on a device."""

    name: str
    module: ModuleType
    composite: Composite
    device: torch.device
    backend: str = "auto"

    @property
    def loss(self) -> Any:
        return self.module.LOSS

    def inputs(self, shape: Shape) -> dict[str, Tensor]:
        """The required inputs, [V] and [N], in [0.2, 0.8], or as far above a larger least one;
        and the class inputs [N, V]: like logits, or probabilities where a domain is declared."""
        generator = torch.Generator(self.device).manual_seed(7)
        found = {}
        for entry in self.loss.inputs:
            if entry.kind == "class":
                grid = (shape.rows, shape.classes)
                scores = torch.empty(grid, device=self.device, dtype=torch.float32)
                scores.normal_(0, 2, generator=generator)
                bounded = not entry.domain.everything
                found[entry.name] = (scores.softmax(-1) if bounded else scores).to(shape.dtype)
            elif entry.off is None:
                size = shape.classes if entry.kind == "vocab" else shape.rows
                values = torch.rand(size, device=self.device, generator=generator)
                if entry.values:
                    chosen = torch.tensor(entry.values, device=self.device)
                    found[entry.name] = chosen[(values * len(chosen)).long()]
                elif entry.integer:
                    found[entry.name] = (values * shape.classes).floor()
                else:
                    least = entry.lo if entry.lo >= 0.8 else 0.0
                    found[entry.name] = least + 0.2 + 0.6 * values
        return found

    def draw(self, shape: Shape, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(self.device).manual_seed(seed)
        size = (shape.rows, shape.classes)
        logits = torch.empty(size, device=self.device, dtype=shape.dtype)
        logits.normal_(0, scale, generator=generator)
        target = torch.randint(
            shape.classes, (shape.rows,), device=self.device, generator=generator
        )
        return logits, target

    def call(self, logits: Tensor, target: Tensor, inputs: dict[str, Tensor], **how: Any) -> Tensor:
        function = getattr(self.module, self.loss.function)
        positional = (logits, target) if self.loss.has_target else (logits,)
        if not self.loss.outputs:
            return function(*positional, **inputs, backend=self.backend, **how)
        reduction = how.pop("reduction", "mean")
        rows = torch.stack(function(*positional, **inputs, backend=self.backend, **how), -1).sum(-1)
        return rows if reduction == "none" else getattr(rows, reduction)()

    def plain(self, logits: Tensor, target: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The composite per row, in the dtype of ``logits``, at the default parameters."""
        values = [p.default for p in self.loss.parameters if p.off is None]
        positional = (logits, target) if self.loss.has_target else (logits,)
        given = [v.to(logits.dtype) if v.dim() == 2 else v for v in inputs.values()]
        found = self.composite(*positional, *given, *values)
        return found.sum(-1) if self.loss.outputs else found

    def rows(
        self, logits: Tensor, target: Tensor, inputs: dict[str, Tensor], weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss per row, and the gradient of its sum weighted by ``weight`` [N]."""
        leaves, inputs = self.leaves(logits.detach(), inputs)
        loss = self.call(leaves[0], target, inputs, reduction="none")
        return loss.detach(), gradient(loss, leaves, weight)

    def leaves(
        self, logits: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What a gradient is wanted for, the logits first; the inputs with those leaves in."""
        wanted = [
            entry.name
            for entry in self.loss.inputs
            if entry.kind == "class" and entry.differentiable
        ]
        streams = {name: inputs[name].detach().requires_grad_() for name in wanted}
        return [logits.requires_grad_(), *streams.values()], inputs | streams

    def references(
        self, logits: Tensor, target: Tensor, inputs: dict[str, Tensor], weight: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Loss and gradient [float64, float32, float64 of logits off by a float32 rounding]."""
        generator = torch.Generator(self.device).manual_seed(11)
        sign = torch.empty(logits.shape, device=self.device, dtype=torch.float64)
        sign.uniform_(-1, 1, generator=generator).sign_()
        exact = logits.detach().double()
        nudged = exact * (1 + torch.finfo(torch.float32).eps * sign)
        found = []
        for values in (exact, exact.float(), nudged):
            given = {n: v.to(values.dtype) if v.dim() == 2 else v for n, v in inputs.items()}
            leaves, given = self.leaves(values.clone(), given)
            loss = self.plain(leaves[0], target, given)
            found.append((loss.detach(), gradient(loss, leaves, weight.to(values.dtype))))
        if exact.isinf().any():
            # where() turns the NaN of 0·∞ into a number: what a finite mask contradicts is unknown
            finite = self.plain(exact.clamp_min(-1e30), target, inputs).detach()
            agrees = torch.isclose(finite, found[0][0])
            found[0] = (found[0][0].where(agrees, torch.nan), found[0][1])
        return found


def gradient(loss: Tensor, leaves: list[Tensor], weight: Tensor, **how: bool) -> Tensor:
    """The gradients [N, n·V] side by side; zeros for a stream that the loss holds constant."""
    how |= {"allow_unused": True, "materialize_grads": True}
    return torch.cat(torch.autograd.grad(loss, leaves, weight, **how), -1)


def excess(out: Tensor, gold: Tensor, yardsticks: list[Tensor], dtype: torch.dtype) -> float:
    """Largest error over what is allowed (≤ 1 passes); rows are the first axis.

    NaN or infinity where the reference is finite is infinite excess; where the reference itself
    is not finite nothing is asked.  Errors below 1e-12 are the reference's own.
    """
    if not out.numel():
        return 0.0
    out, gold, *others = (t.reshape(len(t), -1).double() for t in (out, gold, *yardsticks))
    known, zero = gold.isfinite(), torch.zeros_like(gold)
    if not out[known].isfinite().all():
        return float("inf")
    limits = torch.finfo(dtype)
    # A gradient of two rows has rounded a dozen operations per class, vectors of other lengths
    # others than these.
    size = torch.where(known, gold.abs(), zero).amax(-1, keepdim=True)
    wrong = [torch.where(known & t.isfinite(), (t - gold).abs(), zero) for t in others]
    off = torch.stack(wrong).amax(0).amax(-1, keepdim=True)
    # Which row a difference of two rows spoils is luck: jsd's worst of 1280 is off by 300 eps in
    # eager torch too, its median by 4.
    spoiled = torch.where(size > 0, off / size, 0.0).amax()
    allowed = 32 * limits.eps * size + 4 * torch.maximum(off, spoiled * size)
    allowed += 1e-12 + limits.smallest_normal * limits.eps
    return float((torch.where(known, (out - gold).abs(), zero) / allowed).max())


def worst(out: tuple[Tensor, Tensor], references: list[tuple[Tensor, Tensor]]) -> str:
    """The excess of loss and gradient where there is any."""
    (loss, grad), (gold, gold_grad), *others = out, *references
    parts = {
        "loss": excess(loss, gold, [o[0] for o in others], torch.float32),
        "gradient": excess(grad, gold_grad, [o[1] for o in others], grad.dtype),
    }
    return "; ".join(f"{name} {value:.2g} × allowed" for name, value in parts.items() if value > 1)


def _compare(subject: Subject, logits: Tensor, target: Tensor, shape: Shape) -> str:
    inputs = subject.inputs(shape)
    weight = torch.linspace(-1.0, 2.0, shape.rows, device=subject.device)
    out = subject.rows(logits, target, inputs, weight)
    return worst(out, subject.references(logits, target, inputs, weight))


# ---------------------------------------------------------------------------------- the checks
def values(subject: Subject, shape: Shape) -> str:
    """Loss and gradient, rows weighted differently, against float64."""
    return _compare(subject, *subject.draw(shape), shape)


def confident(subject: Subject, shape: Shape) -> str:
    """Rows whose target has nearly all of the probability."""
    logits, target = subject.draw(shape, scale=1.0)
    top = torch.linspace(10.0, 40.0, shape.rows, device=subject.device).to(shape.dtype)
    logits.scatter_(1, target[:, None], top[:, None])
    return _compare(subject, logits, target, shape)


def masked(subject: Subject, shape: Shape) -> str:
    """The first half of the classes is −inf, the target is not."""
    logits, target = subject.draw(shape)
    logits[:, : shape.classes // 2] = -torch.inf
    target = target.clamp_min(shape.classes // 2)
    return _compare(subject, logits, target, shape)


def strided(subject: Subject, shape: Shape) -> str:
    """Rows of a wider tensor, at an offset that no vector load likes."""
    wide, target = subject.draw(Shape(shape.rows, shape.classes + 3, shape.dtype))
    return _compare(subject, wide[:, 1:-2], target.clamp_max(shape.classes - 1), shape)


def repeatable(subject: Subject, shape: Shape) -> str:
    """Twice the same bits."""
    (logits, target), inputs = subject.draw(shape), subject.inputs(shape)
    weight = torch.ones(shape.rows, device=subject.device)
    first, second = (subject.rows(logits, target, inputs, weight) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return "" if same or first[0].isnan().any() else "two runs differ"


def ignored(subject: Subject, shape: Shape) -> str:
    """Every third row is ignored: loss and gradient exactly 0, the others as without them."""
    if not subject.loss.has_target:
        return ""
    (logits, target), inputs = subject.draw(shape), subject.inputs(shape)
    weight = torch.ones(shape.rows, device=subject.device)
    whole = subject.rows(logits, target, inputs, weight)
    hidden = torch.arange(shape.rows, device=subject.device) % 3 == 1
    for _ in range(2):  # poison what the allocator hands out next
        torch.full((2 * shape.rows, shape.classes), torch.nan, device=subject.device)
    logits[hidden] = torch.nan
    loss, grad = subject.rows(logits, torch.where(hidden, IGNORED, target), inputs, weight)
    if loss[hidden].any() or grad[hidden].any():
        return "an ignored row is not zero"
    same = torch.equal(loss[~hidden], whole[0][~hidden])
    return "" if same and torch.equal(grad[~hidden], whole[1][~hidden]) else "other rows changed"


def fused(subject: Subject, shape: Shape) -> str:
    """Mean with gradient in the forward = rows then backward; a second backward agrees."""
    (logits, target), inputs = subject.draw(shape), subject.inputs(shape)
    leaves, given = subject.leaves(logits.detach(), inputs)
    loss = subject.call(leaves[0], target, given, reduction="sum")
    first = gradient(loss, leaves, torch.ones_like(loss), retain_graph=True)
    second = gradient(loss, leaves, torch.full_like(loss, 2.0))
    weight = torch.ones(shape.rows, device=subject.device)
    rows, grad = subject.rows(logits, target, inputs, weight)
    size = grad.abs().amax(-1, keepdim=True).float()
    limits = torch.finfo(shape.dtype)
    bound = 4 * limits.eps * (size + limits.smallest_normal)
    if not ((first.float() - grad.float()).abs() <= bound).all():
        return "the fused gradient is another one"
    if not ((second.float() - 2 * grad.float()).abs() <= 2 * bound).all():
        return "a second backward differs"
    total = rows.double().sum()
    good = (loss.double() - total).abs() <= 1e-5 * rows.double().abs().sum()
    return "" if good else f"sum {loss.item()} of rows {total.item()}"


def unchanged(subject: Subject, shape: Shape) -> str:
    """The caller's logits and labels are not written to."""
    (logits, target), inputs = subject.draw(shape), subject.inputs(shape)
    before = logits.clone(), target.clone()
    subject.rows(logits, target, inputs, torch.ones(shape.rows, device=subject.device))
    leaf = logits.detach().requires_grad_()
    subject.call(leaf, target, inputs).backward()
    same = torch.equal(logits, before[0]) and torch.equal(target, before[1])
    return "" if same else "an argument was changed"


def compiled(subject: Subject, shape: Shape) -> str:
    """torch.compile(fullgraph=True) gives the same values."""
    (logits, target), inputs = subject.draw(shape), subject.inputs(shape)
    leaf = logits.detach().requires_grad_()

    def objective(x: Tensor) -> Tensor:
        return subject.call(x, target, inputs)

    found = []
    for function in (objective, torch.compile(objective, fullgraph=True)):
        loss = function(leaf)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    close = [
        torch.allclose(a, b, rtol=8 * torch.finfo(a.dtype).eps, atol=1e-7, equal_nan=True)
        for a, b in zip(*found, strict=True)
    ]
    return "" if all(close) else f"compiled loss, gradient equal: {close}"


Check = Callable[[Subject, Shape], str]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        values,
        confident,
        masked,
        strided,
        repeatable,
        ignored,
        fused,
        unchanged,
        compiled,
    )
}


def run_check(subject: Subject, check: Check, shape: Shape) -> Outcome:
    """The outcome of one check; an exception is a failed check."""
    began = time.perf_counter()
    try:
        detail = check(subject, shape)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return Outcome(subject.name, check.__name__, str(shape), detail, time.perf_counter() - began)


def check_huge(subject: Subject, shape: Shape) -> str:
    """N·V > 2^31: the last rows, which an int32 offset would not reach, against float64."""
    logits, target = subject.draw(shape)
    inputs = subject.inputs(shape)
    weight = torch.ones(shape.rows, device=subject.device)
    loss, grad = subject.rows(logits, target, inputs, weight)
    last = slice(shape.rows - 4, shape.rows)
    kinds = {entry.name: entry.kind for entry in subject.loss.inputs}
    part = {n: t if kinds[n] == "vocab" else t[last] for n, t in inputs.items()}
    references = subject.references(logits[last], target[last], part, weight[last])
    return worst((loss[last], grad[last]), references)
