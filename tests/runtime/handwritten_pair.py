"""Two programs with several streams by hand, to the calling convention of generated modules.

``handwritten_pair_loss``: the cost that softmax(x) expects, with a differentiable stream t
(``teacher``), a constant one (``cost``), a number per row and a parameter.

    p = softmax(x),  c_j = cost_j + tau t_j^2 / 2,  E = sum_j p_j c_j
    loss = scale (E - log p_y)
    dloss/dx_j = scale (p_j (1 + c_j - E) - [j = y]),  dloss/dt_j = scale p_j tau t_j

``handwritten_moments``: two results per row, no target, and two sweeps, so no merge kernel.

    mean = sum_j p_j s_j,  spread = sum_j p_j (s_j - mean)^2
    dmean/dx_j = p_j (s_j - mean),  dspread/dx_j = p_j ((s_j - mean)^2 - spread)
    dmean/ds_j = p_j,  dspread/ds_j = 2 p_j (s_j - mean)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import lossgen.runtime as rt
from lossgen.runtime import device as dl
from lossgen.runtime import launch
from lossgen.runtime.device import tl

# mypy: ignore-errors
# One signature per line would double the file.
# fmt: off


# -------------------------------------------------------------------------- pair, Triton
@dl.jit
def _row(target, n_classes, ignore_index, stride_target):
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(target + row * stride_target).to(tl.int64)
    ignored = y == ignore_index
    wrong = ((y < 0) | (y >= n_classes)) & (y != ignore_index)
    return row, tl.where(ignored | wrong, 0, y), ignored, wrong


@dl.jit
def _tile(x_row, t_row, c_row, cols, tau, n_classes):
    inside = cols < n_classes
    x = tl.load(x_row + cols, mask=inside, other=float("-inf")).to(tl.float32)
    t = tl.load(t_row + cols, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(c_row + cols, mask=inside, other=0.0).to(tl.float32)
    return x, t, c + 0.5 * tau * t * t, inside


@dl.jit
def _join(m, a, b, m_b, a_b, b_b):
    top = tl.maximum(m, m_b)
    safe = tl.where(top == float("-inf"), 0.0, top)
    one, two = tl.exp(m - safe), tl.exp(m_b - safe)
    return top, a * one + a_b * two, b * one + b_b * two


@dl.jit
def _sweep(x_row, t_row, c_row, tau, start, stop, n_classes, BLOCK: tl.constexpr):
    m = tl.full((), float("-inf"), tl.float32)
    a = tl.full((), 0.0, tl.float32)
    b = tl.full((), 0.0, tl.float32)
    for first in range(start, stop, BLOCK):
        x, _, c, _ = _tile(x_row, t_row, c_row, first + tl.arange(0, BLOCK), tau, n_classes)
        top = tl.max(x)
        e = tl.exp(x - tl.where(top == float("-inf"), 0.0, top))
        m, a, b = _join(m, a, b, top, tl.sum(e), tl.sum(e * c))
    return m, a, b


@dl.jit
def _finish(x_row, y, scale, loss, row, ignored, wrong, m, a, b):
    lse = m + tl.log(a)
    mean = b / a
    value = scale * (mean + lse - tl.load(x_row + y).to(tl.float32))
    tl.store(loss + row, tl.where(ignored, 0.0, tl.where(wrong, float("nan"), value)))
    return lse, mean


@dl.jit
def _write(x_row, t_row, c_row, gx_row, gt_row, y, cols, tau, lse, mean, g, n_classes, ignored,
           WANT: tl.constexpr):
    x, t, c, inside = _tile(x_row, t_row, c_row, cols, tau, n_classes)
    p = tl.exp(x - lse)
    tl.debug_barrier()  # the gradient may overwrite the logits
    if WANT & 1:
        grad = g * (p * (1.0 + c - mean) - tl.where(cols == y, 1.0, 0.0))
        tl.store(gx_row + cols, tl.where(ignored, 0.0, grad).to(gx_row.dtype.element_ty),
                 mask=inside)
    if WANT & 2:
        grad = g * (p * tau * t)
        tl.store(gt_row + cols, tl.where(ignored, 0.0, grad).to(gt_row.dtype.element_ty),
                 mask=inside)


@dl.jit
def _forward_kernel(logits, target, teacher_ptr, cost_ptr, scale_ptr, tau, loss, saved, state,
                    stride_row, stride_teacher, stride_cost, n_rows, n_classes,
                    ignore_index, stride_target, stride_scale,
                    SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    row, y, ignored, wrong = _row(target, n_classes, ignore_index, stride_target)
    x_row = logits + row * stride_row
    split = tl.program_id(1)
    share = tl.cdiv(tl.cdiv(n_classes, BLOCK), SPLITS) * BLOCK
    m, a, b = _sweep(x_row, teacher_ptr + row * stride_teacher, cost_ptr + row * stride_cost, tau,
                     split * share, tl.minimum(split * share + share, n_classes), n_classes, BLOCK)
    if SPLITS == 1:
        scale = tl.load(scale_ptr + row * stride_scale).to(tl.float32)
        lse, mean = _finish(x_row, y, scale, loss, row, ignored, wrong, m, a, b)
        tl.store(saved + row, lse)
        tl.store(saved + n_rows + row, mean)
    else:
        tl.store(state + split * n_rows + row, m)
        tl.store(state + (SPLITS + split) * n_rows + row, a)
        tl.store(state + (2 * SPLITS + split) * n_rows + row, b)


@dl.jit
def _merge_kernel(logits, target, teacher_ptr, cost_ptr, scale_ptr, tau, loss, saved, state,
                  stride_row, stride_teacher, stride_cost, n_rows, n_classes,
                  ignore_index, stride_target, stride_scale,
                  SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    row, y, ignored, wrong = _row(target, n_classes, ignore_index, stride_target)
    m = tl.load(state + row)
    a = tl.load(state + SPLITS * n_rows + row)
    b = tl.load(state + 2 * SPLITS * n_rows + row)
    for split in range(1, SPLITS):
        m, a, b = _join(m, a, b, tl.load(state + split * n_rows + row),
                        tl.load(state + (SPLITS + split) * n_rows + row),
                        tl.load(state + (2 * SPLITS + split) * n_rows + row))
    scale = tl.load(scale_ptr + row * stride_scale).to(tl.float32)
    lse, mean = _finish(logits + row * stride_row, y, scale, loss, row, ignored, wrong, m, a, b)
    tl.store(saved + row, lse)
    tl.store(saved + n_rows + row, mean)


@dl.jit
def _backward_kernel(logits, target, teacher_ptr, cost_ptr, scale_ptr, tau, saved, grad_rows,
                     grad_logits, grad_teacher_ptr, stride_row, stride_teacher, stride_cost,
                     stride_grad, stride_grad_teacher, n_rows, n_classes,
                     ignore_index, stride_target, stride_scale, stride_grad_rows,
                     WANT: tl.constexpr, BLOCK: tl.constexpr):
    row, y, ignored, wrong = _row(target, n_classes, ignore_index, stride_target)
    g = tl.load(grad_rows + row * stride_grad_rows)
    g = tl.where(wrong, float("nan"), g * tl.load(scale_ptr + row * stride_scale).to(tl.float32))
    _write(logits + row * stride_row, teacher_ptr + row * stride_teacher,
           cost_ptr + row * stride_cost, grad_logits + row * stride_grad,
           grad_teacher_ptr + row * stride_grad_teacher, y,
           tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tau, tl.load(saved + row),
           tl.load(saved + n_rows + row), g, n_classes, ignored, WANT)


@dl.jit
def _fused_kernel(logits, target, teacher_ptr, cost_ptr, scale_ptr, tau, loss, grad_rows,
                  grad_logits, grad_teacher_ptr, stride_row, stride_teacher, stride_cost,
                  stride_grad, stride_grad_teacher, n_rows, n_classes,
                  ignore_index, stride_target, stride_scale, stride_grad_rows,
                  ONE_TILE: tl.constexpr, WANT: tl.constexpr, BLOCK: tl.constexpr):
    row, y, ignored, wrong = _row(target, n_classes, ignore_index, stride_target)
    x_row = logits + row * stride_row
    t_row = teacher_ptr + row * stride_teacher
    c_row = cost_ptr + row * stride_cost
    scale = tl.load(scale_ptr + row * stride_scale).to(tl.float32)
    m, a, b = _sweep(x_row, t_row, c_row, tau, 0, n_classes, n_classes, BLOCK)
    lse, mean = _finish(x_row, y, scale, loss, row, ignored, wrong, m, a, b)
    g = tl.where(wrong, float("nan"), scale * tl.load(grad_rows + row * stride_grad_rows))
    for first in range(0, n_classes, BLOCK):
        _write(x_row, t_row, c_row, grad_logits + row * stride_grad,
               grad_teacher_ptr + row * stride_grad_teacher, y, first + tl.arange(0, BLOCK), tau,
               lse, mean, g, n_classes, ignored, WANT)


# --------------------------------------------------------------------------- pair, torch
def _torch_forward(x, y, t, cost, scale, tau):
    c = cost + 0.5 * tau * t * t
    x_y, lse = x.gather(1, y), x.logsumexp(1, keepdim=True)
    mean = (x.sub_(lse).exp_() * c).sum(1, keepdim=True)
    return scale * (mean + lse - x_y), torch.cat([lse, mean], 1).t()


def _torch_backward(x, y, t, cost, scale, tau, saved, g):
    lse, mean = saved[0].unsqueeze(1), saved[1].unsqueeze(1)
    g, p = g * scale, (x - lse).exp_()
    grad = g * p * (1.0 + cost + 0.5 * tau * t * t - mean)
    return grad.scatter_add_(1, y, (-g).expand_as(y)), g * p * tau * t


def _torch_fused(x, y, t, cost, scale, tau, g):
    c = cost + 0.5 * tau * t * t
    x_y, lse = x.gather(1, y), x.logsumexp(1, keepdim=True)
    p = x.sub_(lse).exp_()
    mean = (p * c).sum(1, keepdim=True)
    g = g * scale
    grad_t = g * p * tau * t
    grad = p.mul_(g * (1.0 + c - mean)).scatter_add_(1, y, (-g).expand_as(y))
    return scale * (mean + lse - x_y), (grad, grad_t)


# ----------------------------------------------------------------------- moments, Triton
@dl.jit
def _moments_forward_kernel(logits, score_ptr, loss, saved, state, stride_row, stride_score,
                            n_rows, n_classes, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    tl.static_assert(SPLITS == 1)
    row = tl.program_id(0).to(tl.int64)
    x_row, s_row = logits + row * stride_row, score_ptr + row * stride_score
    m, a, b = _sweep(x_row, s_row, s_row, 0.0, 0, n_classes, n_classes, BLOCK)
    lse, mean = m + tl.log(a), b / a
    spread = tl.full((), 0.0, tl.float32)
    for first in range(0, n_classes, BLOCK):
        x, s, _, _ = _tile(x_row, s_row, s_row, first + tl.arange(0, BLOCK), 0.0, n_classes)
        spread += tl.sum(tl.exp(x - lse) * (s - mean) * (s - mean))
    tl.store(loss + row, mean)
    tl.store(loss + n_rows + row, spread)
    tl.store(saved + row, lse)
    tl.store(saved + n_rows + row, mean)
    tl.store(saved + 2 * n_rows + row, spread)


@dl.jit
def _moments_backward_kernel(logits, score_ptr, saved, grad_rows, grad_logits, grad_score_ptr,
                             stride_row, stride_score, stride_grad, stride_grad_score, n_rows,
                             n_classes, stride_grad_rows, stride_grad_out,
                             WANT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    g_mean = tl.load(grad_rows + row * stride_grad_rows)
    g_spread = tl.load(grad_rows + stride_grad_out + row * stride_grad_rows)
    s_row = score_ptr + row * stride_score
    x, s, _, inside = _tile(logits + row * stride_row, s_row, s_row, cols, 0.0, n_classes)
    p = tl.exp(x - tl.load(saved + row))
    d = s - tl.load(saved + n_rows + row)
    if WANT & 1:
        grad = p * (g_mean * d + g_spread * (d * d - tl.load(saved + 2 * n_rows + row)))
        tl.store(grad_logits + row * stride_grad + cols, grad.to(grad_logits.dtype.element_ty),
                 mask=inside)
    if WANT & 2:
        grad = p * (g_mean + 2.0 * g_spread * d)
        tl.store(grad_score_ptr + row * stride_grad_score + cols,
                 grad.to(grad_score_ptr.dtype.element_ty), mask=inside)


# ------------------------------------------------------------------------ moments, torch
def _moments_torch_forward(x, s):
    lse = x.logsumexp(1, keepdim=True)
    p = x.sub_(lse).exp_()
    mean = (p * s).sum(1, keepdim=True)
    spread = (p * (s - mean) ** 2).sum(1, keepdim=True)
    return torch.cat([mean, spread], 1), torch.cat([lse, mean, spread], 1).t()


def _moments_torch_backward(x, s, saved, g):
    lse, mean, spread = (row.unsqueeze(1) for row in saved)
    p, d = (x - lse).exp_(), s - mean
    g_mean, g_spread = g[:, :1], g[:, 1:]
    return p * (g_mean * d + g_spread * (d * d - spread)), p * (g_mean + 2.0 * g_spread * d)


# --------------------------------------------------------------------------------- tables
LOSS = rt.RowLoss(
    name="handwritten_pair",
    key="handwritten_pair_0",
    parameters=(rt.Parameter("tau", default=0.7, lo=0.0, lo_open=False),),
    inputs=(
        rt.Input("teacher", kind="class", differentiable=True),
        rt.Input("cost", kind="class", lo=0.0, lo_open=False),
        rt.Input("scale", kind="row"),
    ),
    has_target=True,
    min_classes=1,
    normalizer=None,
    variants=(
        rt.Variant(
            uses=frozenset(), parameters=("tau",), inputs=("scale",), streams=("teacher", "cost"),
            n_saved=2, n_state=3, torch_forward=_torch_forward, torch_backward=_torch_backward,
            torch_fused=_torch_fused, forward_kernel=_forward_kernel, merge_kernel=_merge_kernel,
            backward_kernel=_backward_kernel, fused_kernel=_fused_kernel,
        ),
    ),
)

MOMENTS = rt.RowLoss(
    name="handwritten_moments",
    key="handwritten_moments_0",
    parameters=(),
    inputs=(rt.Input("score", kind="class", differentiable=True),),
    has_target=False,
    min_classes=1,
    normalizer=None,
    outputs=("mean", "spread"),
    variants=(
        rt.Variant(
            uses=frozenset(), parameters=(), inputs=(), streams=("score",), n_saved=3, n_state=3,
            torch_forward=_moments_torch_forward, torch_backward=_moments_torch_backward,
            torch_fused=None,  # several results are never reduced
            forward_kernel=_moments_forward_kernel, merge_kernel=None,
            backward_kernel=_moments_backward_kernel, fused_kernel=None,
        ),
    ),
)


class Moments(NamedTuple):
    mean: Tensor
    spread: Tensor


def handwritten_pair_loss(
    logits: Tensor, target: Tensor, teacher: Tensor, cost: Tensor, *, tau: float = 0.7,
    scale: Tensor, ignore_index: int = -100, reduction: str = "mean", backend: str = "auto",
    inplace_grad: bool = False,
) -> Tensor:
    return LOSS(
        logits, target, (teacher, cost), (tau,), (scale,), ignore_index, reduction, backend,
        inplace_grad,
    )


def handwritten_moments(logits: Tensor, score: Tensor, *, backend: str = "auto") -> Moments:
    return Moments(*MOMENTS.rows(logits, None, (score,), (), (), -100, backend))


def reference(
    logits: Tensor, target: Tensor, teacher: Tensor, cost: Tensor, *, tau: float = 0.7,
    scale: Tensor, ignore_index: int = -100, reduction: str = "mean",
) -> Tensor:
    """The literal formula, for float64 and autograd."""
    kept = target != ignore_index
    y = torch.where(kept, target, 0).long()[..., None]
    logp = logits.log_softmax(-1)
    expected = (logp.exp() * (cost + tau * teacher**2 / 2)).sum(-1)
    row = torch.where(kept, scale.to(logits) * (expected - logp.gather(-1, y)[..., 0]), 0)
    if reduction == "none":
        return row
    return row.sum() if reduction == "sum" else row.sum() / kept.sum()


def reference_moments(logits: Tensor, score: Tensor) -> Moments:
    """The literal formulas."""
    p = logits.softmax(-1)
    mean = (p * score).sum(-1)
    return Moments(mean, (p * (score - mean[..., None]) ** 2).sum(-1))


# ---------------------------------------------------------------------------- for tests
def draw(n: int = 6, classes: int = 11, seed: int = 0) -> dict[str, Tensor]:
    """x logits, y target, t teacher, c cost, s one number per row."""
    g = torch.Generator().manual_seed(seed)
    x, t = (2 * torch.randn(n, classes, generator=g) for _ in range(2))
    y, c = torch.randint(classes, (n,), generator=g), torch.rand(n, classes, generator=g)
    return {"x": x, "y": y, "t": t, "c": c, "s": 0.5 + torch.rand(n, generator=g)}


def call(f: Callable[..., Tensor], a: dict[str, Tensor], **options: object) -> Tensor:
    return f(a["x"], a["y"], a["t"], a["c"], scale=a["s"], **options)


def leaves(a: dict[str, Tensor], want: tuple[str, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies, floating point as ``dtype``, of which ``want`` require a gradient."""
    moved = {k: v.clone() if k == "y" else v.detach().to(dtype, copy=True) for k, v in a.items()}
    return {k: v.requires_grad_(k in want) for k, v in moved.items()}


def close(a: Tensor, b: Tensor, rtol: float = 2e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * 0.2, equal_nan=True)


class Spy:
    """Records a kernel's grid and compile-time arguments, and launches it."""

    def __init__(self, kernel: object, seen: list[dict[str, object]]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*args: object, **constants: object) -> None:
            self.seen.append({"grid": grid, **constants})
            self.kernel[grid](*args, **constants)

        return run


def spy(monkeypatch: pytest.MonkeyPatch, loss: rt.RowLoss, role: str) -> list[dict[str, object]]:
    """What the launches of one kernel of ``loss`` were given, from now on."""
    seen: list[dict[str, object]] = []
    (variant,) = loss.variants
    kernel = Spy(getattr(variant, f"{role}_kernel"), seen)
    monkeypatch.setitem(vars(loss), "variants", (replace(variant, **{f"{role}_kernel": kernel}),))
    return seen


def small_tiles(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    """Tiles of 16 classes; several programs per row where there are more processors than rows."""
    monkeypatch.setattr(launch, "processors", lambda _: processors)
    monkeypatch.setattr(launch, "_LARGEST_TILE", dict.fromkeys(launch.ROLES, 16))
    monkeypatch.setattr(launch, "_ONE_TILE", 0)
