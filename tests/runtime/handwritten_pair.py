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
from lossgen.runtime.kernels import rows

# mypy: ignore-errors
# One signature per line would double the file.
# fmt: off


# -------------------------------------------------------------------------- pair, Triton
# The sums run over all classes, so none stands apart (PIVOT -2): the context brings the target's
# index to the gradient.  The values of a row: x_y, t_y, c_y, index_y, scale, tau.
@dl.jit
def _context(y, x_y, t_y, c_y):
    return x_y, t_y, c_y, y.to(tl.float32)


@dl.jit
def _sums(valid, x, c):
    x = tl.where(valid, x, float("-inf"))
    m = dl.row_max(x)
    e = tl.exp(x - tl.where(m == float("-inf"), 0.0, m))
    return m, dl.row_sum(e), dl.row_sum(e * tl.where(valid, c, 0.0))


@dl.jit
def _lift(cols, valid, x, t, c, x_y, t_y, c_y, index_y, scale, tau):
    return _sums(valid, x, c + 0.5 * tau * t * t)


@dl.jit
def _merge(m, a, b, m_b, a_b, b_b):
    top = tl.maximum(m, m_b)
    safe = tl.where(top == float("-inf"), 0.0, top)
    one, two = tl.exp(m - safe), tl.exp(m_b - safe)
    return top, a * one + a_b * two, b * one + b_b * two


@dl.jit
def _across(m, a, b):
    return tl.reduce((m, a, b), 0, _merge)


@dl.jit
def _finish(x_y, t_y, c_y, index_y, scale, tau, m, a, b):
    lse, mean = m + tl.log(a), b / a
    return scale * (mean + lse - x_y), lse, mean


@dl.jit
def _gradient(cols, own, x, t, c, x_y, t_y, c_y, index_y, scale, tau, lse, mean):
    p = tl.exp(x - lse)
    there = tl.where(cols.to(tl.float32) == index_y, 1.0, 0.0)
    return scale * (p * (1.0 + c + 0.5 * tau * t * t - mean) - there), scale * (p * tau * t)


@dl.jit
def _coefficients(x_y, t_y, c_y, index_y, scale, tau, lse, mean):
    return lse, mean


@dl.jit
def _forward_kernel(logits, teacher_ptr, cost_ptr, stride_row, stride_teacher, stride_cost,
                    scale_ptr, stride_scale, tau, target, stride_target, ignore_index,
                    loss, saved, state, n_rows, n_classes, SPLITS: tl.constexpr,
                    ROWS: tl.constexpr, BLOCK: tl.constexpr, LANE: tl.constexpr,
                    ALIGNED: tl.constexpr):
    rows.forward(((_lift, _merge, _across, (float("-inf"), 0.0, 0.0), ()),), (), _finish, _context,
                 -2, 0, False, 1, tl.float32,
                 (logits, teacher_ptr, cost_ptr), (stride_row, stride_teacher, stride_cost), (),
                 (scale_ptr,), (stride_scale,), (tau,), (target, stride_target, ignore_index),
                 loss, saved, state, n_rows, n_classes, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _merge_kernel(logits, teacher_ptr, cost_ptr, stride_row, stride_teacher, stride_cost,
                  scale_ptr, stride_scale, tau, target, stride_target, ignore_index,
                  loss, saved, state, n_rows, n_classes, SPLITS: tl.constexpr):
    rows.merge((_lift, _merge, _across, (float("-inf"), 0.0, 0.0), ()), _finish, _context,
               False, 1, tl.float32,
               (logits, teacher_ptr, cost_ptr), (stride_row, stride_teacher, stride_cost), (),
               (scale_ptr,), (stride_scale,), (tau,), (target, stride_target, ignore_index),
               loss, saved, state, n_rows, n_classes, SPLITS)


@dl.jit
def _backward_kernel(logits, teacher_ptr, cost_ptr, stride_row, stride_teacher, stride_cost,
                     scale_ptr, stride_scale, tau, target, stride_target, ignore_index,
                     saved, grad_rows, stride_grad_rows, grad_logits, grad_teacher_ptr,
                     stride_grad, stride_grad_teacher, n_rows, n_classes,
                     WANT: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
                     BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.backward(_coefficients, _gradient, _context, -2, False, 2, 1, False, tl.float32,
                  (logits, teacher_ptr, cost_ptr), (stride_row, stride_teacher, stride_cost), (),
                  (scale_ptr,), (stride_scale,), (tau,), (target, stride_target, ignore_index),
                  saved, grad_rows, 0, stride_grad_rows, (grad_logits, grad_teacher_ptr),
                  (stride_grad, stride_grad_teacher), n_rows, n_classes,
                  WANT, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _fused_kernel(logits, teacher_ptr, cost_ptr, stride_row, stride_teacher, stride_cost,
                  scale_ptr, stride_scale, tau, target, stride_target, ignore_index,
                  loss, grad_rows, stride_grad_rows, grad_logits, grad_teacher_ptr,
                  stride_grad, stride_grad_teacher, n_rows, n_classes,
                  ONE_TILE: tl.constexpr, WANT: tl.constexpr, ROWS: tl.constexpr,
                  BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.fused(((_lift, _merge, _across, (float("-inf"), 0.0, 0.0), ()),), (), _finish,
               _coefficients, _gradient, _context, -2, 0, False, 1, 1, False, tl.float32,
               (logits, teacher_ptr, cost_ptr), (stride_row, stride_teacher, stride_cost), (),
               (scale_ptr,), (stride_scale,), (tau,), (target, stride_target, ignore_index),
               loss, grad_rows, 0, stride_grad_rows, (grad_logits, grad_teacher_ptr),
               (stride_grad, stride_grad_teacher), n_rows, n_classes,
               ONE_TILE, WANT, ROWS, BLOCK, LANE, ALIGNED)


# --------------------------------------------------------------------------- pair, torch
def _torch_rows(x, y, t, cost, scale, tau, g=None):
    c = cost + 0.5 * tau * t * t
    x_y, lse = x.gather(1, y), x.logsumexp(1, keepdim=True)
    p = x.sub_(lse).exp_()
    mean = (p * c).sum(1, keepdim=True)
    loss = scale * (mean + lse - x_y)
    if g is None:
        return loss, torch.cat([lse, mean], 1).t()
    g = g * scale
    grad_t = g * p * tau * t
    grad = p.mul_(g * (1.0 + c - mean)).scatter_add_(1, y, (-g).expand_as(y))
    return loss, (grad, grad_t)


def _torch_backward(x, y, t, cost, scale, tau, saved, g):
    lse, mean = saved[0].unsqueeze(1), saved[1].unsqueeze(1)
    g, p = g * scale, (x - lse).exp_()
    grad = g * p * (1.0 + cost + 0.5 * tau * t * t - mean)
    return grad.scatter_add_(1, y, (-g).expand_as(y)), g * p * tau * t


# ----------------------------------------------------------------------- moments, Triton
# No values of the row but what its sweeps find: m, a, b, and then the spread about b / a.
@dl.jit
def _moments_lift(cols, valid, x, s):
    return _sums(valid, x, s)


@dl.jit
def _moments_between(m, a, b):
    return m + tl.log(a), b / a


@dl.jit
def _spread_lift(cols, valid, x, s, lse, mean):
    return (dl.row_sum(tl.where(valid, tl.exp(x - lse) * (s - mean) * (s - mean), 0.0)),)


@dl.jit
def _spread_merge(a, b):
    return (a + b,)


@dl.jit
def _spread_across(a):
    return tl.reduce((a,), 0, _spread_merge)


@dl.jit
def _moments_finish(m, a, b, spread):
    mean = b / a
    return mean, spread, m + tl.log(a), mean, spread


@dl.jit
def _moments_coefficients(g_mean, g_spread, lse, mean, spread):
    return g_mean, g_spread, lse, mean, spread


@dl.jit
def _moments_gradient(cols, own, x, s, g_mean, g_spread, lse, mean, spread):
    p, d = tl.exp(x - lse), s - mean
    return p * (g_mean * d + g_spread * (d * d - spread)), p * (g_mean + 2.0 * g_spread * d)


@dl.jit
def _moments_forward_kernel(logits, score_ptr, stride_row, stride_score, loss, saved, state,
                            n_rows, n_classes, SPLITS: tl.constexpr, ROWS: tl.constexpr,
                            BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.forward(((_moments_lift, _merge, _across, (float("-inf"), 0.0, 0.0), ()),
                  (_spread_lift, _spread_merge, _spread_across, (0.0,), ())),
                 (_moments_between,), _moments_finish, None, -2, 0, False, 2, tl.float32,
                 (logits, score_ptr), (stride_row, stride_score), (), (), (), (), (),
                 loss, saved, state, n_rows, n_classes, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _moments_backward_kernel(logits, score_ptr, stride_row, stride_score, saved, grad_rows,
                             stride_grad_rows, stride_grad_out, grad_logits, grad_score_ptr,
                             stride_grad, stride_grad_score, n_rows, n_classes,
                             WANT: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
                             BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.backward(_moments_coefficients, _moments_gradient, None, -2, False, 3, 2, True, tl.float32,
                  (logits, score_ptr), (stride_row, stride_score), (), (), (), (), (),
                  saved, grad_rows, stride_grad_out, stride_grad_rows,
                  (grad_logits, grad_score_ptr), (stride_grad, stride_grad_score),
                  n_rows, n_classes, WANT, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


# ------------------------------------------------------------------------ moments, torch
def _moments_torch_rows(x, s):
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
            n_saved=2, n_state=3, torch_rows=_torch_rows, torch_backward=_torch_backward,
            forward_kernel=_forward_kernel, merge_kernel=_merge_kernel,
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
            torch_rows=_moments_torch_rows,  # several results are never reduced
            torch_backward=_moments_torch_backward,
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
    monkeypatch.setattr(launch, "_LARGEST_TILE", dict.fromkeys(launch._LARGEST_TILE, 16))
    monkeypatch.setattr(launch, "_ONE_TILE", 0)
    monkeypatch.setattr(launch, "_SHORT", 0)
