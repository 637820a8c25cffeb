"""Properties of a call among others: other backends, other losses, autocast, shared memory."""

from __future__ import annotations

import torch
from torch import Tensor

from lossgen.verify.cases import Case
from lossgen.verify.interpreter import overflow_checks
from lossgen.verify.judge import check_literal, close, fail
from lossgen.verify.runner import Runner
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
    loss, grad = run.gradient(case)
    value, slopes = other.gradient(case)
    close("the loss in triton and torch", loss, value, 64.0 * slack(case.spec))
    close("the gradient in triton and torch", grad, slopes, 64.0 * slack(case.spec))


def shared_logits(case: Case, run: Runner) -> None:
    """Logits that another loss reads too: both gradients arrive, whichever comes first."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    one = torch.ones((), device=logits.device)

    def gradient(order: tuple[int, ...]) -> Tensor:
        held = logits.detach().float().requires_grad_()
        hidden = held * one  # not a leaf: what upstream saved must survive
        parts = (
            lambda: run.loss(hidden, target, reduction="sum", **keys),
            lambda: run.loss(hidden, target, reduction="none", **keys).sum(),
        )
        sum(parts[k]() for k in order).backward()
        assert held.grad is not None
        return held.grad.cpu()

    once = gradient((0,))
    limit = 64.0 * slack(case.spec)
    for order in ((0, 1), (1, 0), (0, 0)):
        close(f"the gradient of two losses, order {order}", gradient(order), 2.0 * once, limit)


def inplace_gradient(case: Case, run: Runner) -> None:
    """``inplace_grad`` gives the same gradient, in the memory of the logits."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    results = []
    for inplace in (False, True):
        held = logits.detach().clone().requires_grad_()
        hidden = held * 1.0
        loss = run.loss(hidden, target, reduction="sum", inplace_grad=inplace, **keys)
        loss.backward()
        assert held.grad is not None
        results.append((loss.detach()[None].cpu(), held.grad.cpu()))
    (loss, grad), (again, slopes) = results
    close("the loss with its gradient in place", again, loss, 1.0)
    close("the gradient in place", slopes, grad, 1.0)


def large_offsets(case: Case, run: Runner) -> None:
    """Rows further apart than 2^31 elements are read and written right."""
    x, y = case.numbers()
    apart = 2**30
    try:  # 4 GB that are never touched: no cost
        storage = torch.empty(
            (case.rows - 1) * apart + case.classes, dtype=torch.bfloat16, device=run.device
        )
    except RuntimeError:
        return
    far = storage.as_strided((case.rows, case.classes), (apart, 1))
    far.copy_(torch.from_numpy(x))
    near = far.clone().requires_grad_()
    target = torch.from_numpy(y).to(run.device) if case.spec.has_target else None
    keys = case.keywords(run.device)
    expected = run.loss(near, target, reduction="sum", **keys)
    expected.backward()
    assert near.grad is not None
    with overflow_checks():
        rows = run.loss(far, target, reduction="none", **keys)
        close("the loss of rows far apart", rows.sum()[None], expected.detach()[None], 4.0)
        for reduction in ("none", "sum"):
            held = far.detach().requires_grad_()
            total = run.loss(held, target, reduction=reduction, **keys).sum()
            (grad,) = torch.autograd.grad(total, held)
            close(f"the gradient of rows far apart ({reduction})", grad, near.grad, 4.0)
        hidden = far.detach().requires_grad_().view_as(far)
        run.loss(hidden, target, reduction="sum", inplace_grad=True, **keys)
        close("the gradient in place of rows far apart", far, near.grad, 4.0)


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
        loss, grad = run.gradient(case)
    if loss.dtype is not torch.float32:
        fail(f"the loss is {str(loss.dtype)[6:]} under autocast")
    check_literal(case, loss, grad)
