"""Properties of a call among others: other backends, other losses, autocast, shared memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossgen.verify.cases import Case
from lossgen.verify.interpreter import overflow_checks
from lossgen.verify.judge import check_literal, close, close_gradients, fail
from lossgen.verify.runner import Runner
from lossgen.verify.streams import LOGITS, streams, vectors
from lossgen.verify.tolerances import slack

__all__ = [
    "autocast",
    "backends_agree",
    "inplace_gradient",
    "label_types",
    "large_offsets",
    "shared_logits",
]


def backends_agree(case: Case, run: Runner) -> None:
    """Triton and torch compute the same numbers."""
    other = Runner(run.module, run.spec, "torch", run.device)
    loss, grads = run.gradient(case)
    value, slopes = other.gradient(case)
    close("the loss in triton and torch", loss, value, 64.0 * slack(case.spec))
    close_gradients(case, "in triton and torch", grads, slopes, 64.0 * slack(case.spec))


def shared_logits(case: Case, run: Runner) -> None:
    """Logits that another loss reads too: both gradients arrive, whichever comes first."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    keys |= {name: keys[name].float() for name in streams(case.spec)}
    owned = {LOGITS: logits.float(), **keys}
    one = torch.ones((), device=logits.device)

    def gradient(order: tuple[int, ...]) -> dict[str, Tensor]:
        held = {n: owned[n].detach().requires_grad_() for n in vectors(case.spec)}
        # not leaves: what upstream saved must survive
        options = {**keys, **{n: leaf * one for n, leaf in held.items()}}
        hidden = options.pop(LOGITS)
        kinds = ("none", "none") if case.spec.outputs else ("sum", "none")
        parts = [
            lambda kind=kind: run.loss(hidden, target, reduction=kind, **options).sum()
            for kind in kinds
        ]
        sum(parts[k]() for k in order).backward()
        return {n: _gradient(leaf).cpu() for n, leaf in held.items()}

    once = gradient((0,))
    doubled = {n: 2.0 * grad for n, grad in once.items()}
    limit = 64.0 * slack(case.spec)
    for order in ((0, 1), (1, 0), (0, 0)):
        close_gradients(case, f"of two losses, order {order}", gradient(order), doubled, limit)


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def inplace_gradient(case: Case, run: Runner) -> None:
    """``inplace_grad`` gives the same gradient, in the memory of the logits."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    owned = {LOGITS: logits, **keys}
    results = []
    for inplace in (False, True):
        held = {n: owned[n].detach().clone().requires_grad_() for n in vectors(case.spec)}
        options = {**keys, **held}
        hidden = options.pop(LOGITS) * 1.0
        loss = run.loss(hidden, target, reduction="sum", inplace_grad=inplace, **options)
        loss.backward()
        grads = {n: _gradient(leaf).cpu() for n, leaf in held.items()}
        results.append((loss.detach()[None].cpu(), grads))
    (loss, grads), (again, slopes) = results
    close("the loss with its gradient in place", again, loss, 1.0)
    close_gradients(case, "in place", slopes, grads, 1.0)


def large_offsets(case: Case, run: Runner) -> None:
    """Rows further apart than 2^31 elements are read and written right."""
    x, y = case.numbers()
    try:
        far = {LOGITS: _far(x, run.device)}
        far |= {name: _far(v, run.device) for name, v in case.streams().items()}
    except RuntimeError:
        return
    target = torch.from_numpy(y).to(run.device) if case.spec.has_target else None
    keys = case.keywords(run.device)
    kinds = ("none",) if case.spec.outputs else ("none", "sum")
    near = {n: v.clone() for n, v in far.items()}
    logits = far.pop(LOGITS)
    beside = {**keys, **far}
    expected, grads = run.slopes(near.pop(LOGITS), target, {**keys, **near, "reduction": kinds[-1]})
    with overflow_checks():
        rows = run.loss(logits, target, reduction="none", **beside)
        near_rows = rows if case.spec.outputs else rows.sum()[None]  # outputs cancel in a sum
        close("the loss of rows far apart", near_rows, expected.reshape(near_rows.shape), 4.0)
        for kind in kinds:
            _, slopes = run.slopes(logits, target, {**beside, "reduction": kind})
            close_gradients(case, f"of rows far apart ({kind})", slopes, grads, 4.0)
        if case.spec.outputs:
            return
        hidden = logits.detach().requires_grad_().view_as(logits)
        run.loss(hidden, target, reduction="sum", inplace_grad=True, **beside)
        one, other = {LOGITS: logits}, {LOGITS: grads[LOGITS]}
        close_gradients(case, "in place of rows far apart", one, other, 4.0)


def _far(values: Any, device: str) -> Tensor:
    """The same rows, 2^30 elements apart: gigabytes that are never touched cost nothing."""
    apart = 2**30
    rows, classes = values.shape
    storage = torch.empty((rows - 1) * apart + classes, dtype=torch.bfloat16, device=device)
    far = storage.as_strided((rows, classes), (apart, 1))
    far.copy_(torch.from_numpy(values))
    return far


def label_types(case: Case, run: Runner) -> None:
    """Labels of every integer type and any address mean the same."""
    logits, target = case.tensors(run.device)
    assert target is not None
    keys = case.keywords(run.device)
    expected = run.loss(logits, target, reduction="none", **keys)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        rows = run.loss(logits, target.to(dtype), reduction="none", ignore_index=255, **keys)
        close(f"the loss with {str(dtype)[6:]} labels", rows, expected, 0.0)
    table = torch.full((case.rows, 3), -7, device=target.device)
    table[:, 1] = target
    odd = run.loss(logits, table[:, 1], reduction="none", **keys)
    close("the loss with labels sliced from a table", odd, expected, 0.0)


def autocast(case: Case, run: Runner) -> None:
    """Under autocast the loss is computed in float32 all the same."""
    with torch.autocast(run.device, dtype=torch.bfloat16):
        loss, grads = run.gradient(case)
    if loss.dtype is not torch.float32:
        fail(f"the loss is {str(loss.dtype)[6:]} under autocast")
    check_literal(case, loss, grads)
