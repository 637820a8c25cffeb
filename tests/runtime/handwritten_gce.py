"""Generalized cross-entropy by hand, to the calling convention of generated modules.

The tests of the runtime use it so that they depend neither on the compiler nor on the catalogue.

    z = logsumexp_{j != y} x_j - x_y,  s = softplus(z),  phi = s exprel(-q s) = (1 - e^{-q s}) / q
    dphi/dx_j = phi'(z) e^{x_j - lse_others},  dphi/dx_y = -phi'(z),  phi' = e^{-q s} sigmoid(z)

The first variant is phi; the second multiplies it by ``weight[y]`` (vocab, also the normaliser of
the mean) and by ``scale`` (row).  Saved are m, the largest other logit, and log of
a = sum_{j != y} e^{x_j - m}; the state of a part of a row is (m, a).
"""

from __future__ import annotations

import torch
from torch import Tensor

import lossgen.runtime as rt
from lossgen.runtime import device as dl
from lossgen.runtime import elementwise as el
from lossgen.runtime.device import tl
from lossgen.runtime.kernels import rows

# mypy: ignore-errors
# One signature per line would double the file.
# fmt: off


# ------------------------------------------------------------------------------- Triton
@dl.jit
def _lift(cols, valid, x, x_y, q):
    x = tl.where(valid, x, float("-inf"))
    m = dl.row_max(x)
    return m, dl.row_sum(tl.exp(x - tl.where(m == float("-inf"), 0.0, m)))


@dl.jit
def _merge(m, a, m_b, a_b):
    top = tl.maximum(m, m_b)
    safe = tl.where(top == float("-inf"), 0.0, top)
    return top, a * tl.exp(m - safe) + a_b * tl.exp(m_b - safe)


@dl.jit
def _across(m, a):
    return tl.reduce((m, a), 0, _merge)


@dl.jit
def _z(x_y, m, la):
    return tl.where(la == float("-inf"), -3e38, (m - x_y) + la)


@dl.jit
def _finish(x_y, q, m, a):
    m = tl.where(m == float("-inf"), 0.0, m)
    la = tl.log(a)
    s = dl.softplus(_z(x_y, m, la))
    return s * dl.exprel(-(q * s)), m, la


@dl.jit
def _coefficients(x_y, q, m, la):
    z = _z(x_y, m, la)
    return dl.exp_accurate(-(q * dl.softplus(z))) * dl.sigmoid(z), m, la


@dl.jit
def _gradient(cols, own, x, x_y, q, slope, m, la):
    others = tl.where(la == float("-inf"), 0.0, slope * dl.exp_accurate((x - m) - la))
    return (tl.where(own, -slope, others),)


# The same with a weight of the class and a scale of the row.
@dl.jit
def _lift_all(cols, valid, x, weight, x_y, weight_y, scale, q):
    return _lift(cols, valid, x, x_y, q)


@dl.jit
def _finish_all(x_y, weight_y, scale, q, m, a):
    phi, m, la = _finish(x_y, q, m, a)
    return weight_y * scale * phi, m, la


@dl.jit
def _coefficients_all(x_y, weight_y, scale, q, m, la):
    slope, m, la = _coefficients(x_y, q, m, la)
    return weight_y * scale * slope, m, la


@dl.jit
def _gradient_all(cols, own, x, weight, x_y, weight_y, scale, q, slope, m, la):
    return _gradient(cols, own, x, x_y, q, slope, m, la)


@dl.jit
def _forward_kernel(logits, stride_row, q, target, stride_target, ignore_index,
                    loss, saved, state, n_rows, n_classes, SPLITS: tl.constexpr,
                    ROWS: tl.constexpr, BLOCK: tl.constexpr, LANE: tl.constexpr,
                    ALIGNED: tl.constexpr):
    rows.forward(((_lift, _merge, _across, (float("-inf"), 0.0), ()),), (), _finish, None,
                 -1, 0, False, 1, tl.float32,
                 (logits,), (stride_row,), (), (), (), (q,), (target, stride_target, ignore_index),
                 loss, saved, state, n_rows, n_classes, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _merge_kernel(logits, stride_row, q, target, stride_target, ignore_index,
                  loss, saved, state, n_rows, n_classes, SPLITS: tl.constexpr):
    rows.merge((_lift, _merge, _across, (float("-inf"), 0.0), ()), _finish, None,
               False, 1, tl.float32,
               (logits,), (stride_row,), (), (), (), (q,), (target, stride_target, ignore_index),
               loss, saved, state, n_rows, n_classes, SPLITS)


@dl.jit
def _backward_kernel(logits, stride_row, q, target, stride_target, ignore_index,
                     saved, grad_rows, stride_grad_rows, grad_logits, stride_grad,
                     n_rows, n_classes, SPLITS: tl.constexpr, ROWS: tl.constexpr,
                     BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.backward(_coefficients, _gradient, None, -1, False, 2, 1, False, tl.float32,
                  (logits,), (stride_row,), (), (), (), (q,), (target, stride_target, ignore_index),
                  saved, grad_rows, 0, stride_grad_rows, (grad_logits,), (stride_grad,),
                  n_rows, n_classes, 1, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _fused_kernel(logits, stride_row, q, target, stride_target, ignore_index,
                  loss, grad_rows, stride_grad_rows, grad_logits, stride_grad,
                  n_rows, n_classes, ONE_TILE: tl.constexpr, ROWS: tl.constexpr,
                  BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.fused(((_lift, _merge, _across, (float("-inf"), 0.0), ()),), (), _finish,
               _coefficients, _gradient, None, -1, 0, False, 1, 1, False, tl.float32,
               (logits,), (stride_row,), (), (), (), (q,), (target, stride_target, ignore_index),
               loss, grad_rows, 0, stride_grad_rows, (grad_logits,), (stride_grad,),
               n_rows, n_classes, ONE_TILE, 1, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _forward_kernel_all(logits, stride_row, weight, scale, stride_scale, q, target, stride_target,
                        ignore_index, loss, saved, state, n_rows, n_classes,
                        SPLITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
                        LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.forward(((_lift_all, _merge, _across, (float("-inf"), 0.0), ()),), (), _finish_all, None,
                 -1, 0, False, 1, tl.float32,
                 (logits,), (stride_row,), (weight,), (scale,), (stride_scale,), (q,),
                 (target, stride_target, ignore_index),
                 loss, saved, state, n_rows, n_classes, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _merge_kernel_all(logits, stride_row, weight, scale, stride_scale, q, target, stride_target,
                      ignore_index, loss, saved, state, n_rows, n_classes, SPLITS: tl.constexpr):
    rows.merge((_lift_all, _merge, _across, (float("-inf"), 0.0), ()), _finish_all, None,
               False, 1, tl.float32,
               (logits,), (stride_row,), (weight,), (scale,), (stride_scale,), (q,),
               (target, stride_target, ignore_index),
               loss, saved, state, n_rows, n_classes, SPLITS)


@dl.jit
def _backward_kernel_all(logits, stride_row, weight, scale, stride_scale, q, target, stride_target,
                         ignore_index, saved, grad_rows, stride_grad_rows, grad_logits,
                         stride_grad, n_rows, n_classes, SPLITS: tl.constexpr,
                         ROWS: tl.constexpr, BLOCK: tl.constexpr, LANE: tl.constexpr,
                         ALIGNED: tl.constexpr):
    rows.backward(_coefficients_all, _gradient_all, None, -1, False, 2, 1, False, tl.float32,
                  (logits,), (stride_row,), (weight,), (scale,), (stride_scale,), (q,),
                  (target, stride_target, ignore_index),
                  saved, grad_rows, 0, stride_grad_rows, (grad_logits,), (stride_grad,),
                  n_rows, n_classes, 1, SPLITS, ROWS, BLOCK, LANE, ALIGNED)


@dl.jit
def _fused_kernel_all(logits, stride_row, weight, scale, stride_scale, q, target, stride_target,
                      ignore_index, loss, grad_rows, stride_grad_rows, grad_logits, stride_grad,
                      n_rows, n_classes, ONE_TILE: tl.constexpr, ROWS: tl.constexpr,
                      BLOCK: tl.constexpr, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    rows.fused(((_lift_all, _merge, _across, (float("-inf"), 0.0), ()),), (), _finish_all,
               _coefficients_all, _gradient_all, None, -1, 0, False, 1, 1, False, tl.float32,
               (logits,), (stride_row,), (weight,), (scale,), (stride_scale,), (q,),
               (target, stride_target, ignore_index),
               loss, grad_rows, 0, stride_grad_rows, (grad_logits,), (stride_grad,),
               n_rows, n_classes, ONE_TILE, 1, ROWS, BLOCK, LANE, ALIGNED)


# -------------------------------------------------------------------------------- torch
def _slope(z: Tensor, q: float) -> Tensor:
    return el.exp(-q * el.softplus(z)) * el.sigmoid(z)


def _statistics(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """x becomes e^{x - m}, and 0 at the target."""
    x_y = x.gather(1, y)
    x.scatter_(1, y, float("-inf"))
    m = x.amax(1, keepdim=True)
    m = torch.where(m == float("-inf"), 0.0, m)
    a = x.sub_(m).exp_().sum(1, keepdim=True)
    return x_y, m, a, (m - x_y + a.log()).clamp_min(-3e38)


def _value(z: Tensor, q: float) -> Tensor:
    s = el.softplus(z)
    return s * el.exprel(-q * s)


def _torch_rows(
    x: Tensor, y: Tensor, q: float, g: Tensor | None = None
) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    _, m, a, z = _statistics(x, y)
    if g is None:
        return _value(z, q), torch.cat([m, a.log()], 1).t()
    slope = g * _slope(z, q)
    grad = x.mul_(torch.where(a == 0, 0.0, slope / a)).scatter_(1, y, -slope)
    return _value(z, q), (grad,)


def _torch_backward(
    x: Tensor, y: Tensor, q: float, saved: Tensor, g: Tensor
) -> tuple[Tensor, ...]:
    m, la = saved[0].unsqueeze(1), saved[1].unsqueeze(1)
    slope = g * _slope((m - x.gather(1, y) + la).clamp_min(-3e38), q)
    inverse = torch.where(la == float("-inf"), 0.0, (-la).exp())
    return ((x - m).exp_().mul_(slope * inverse).scatter_(1, y, -slope),)


def _torch_rows_all(
    x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, q: float, g: Tensor | None = None
) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    factor = weight[y] * scale
    loss, rest = _torch_rows(x, y, q, None if g is None else g * factor)
    return loss * factor, rest


def _torch_backward_all(
    x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, q: float, saved: Tensor, g: Tensor
) -> tuple[Tensor, ...]:
    return _torch_backward(x, y, q, saved, g * weight[y] * scale)


def _normalizer(
    target: Tensor, inputs: dict[str, Tensor | None], dtype: torch.dtype
) -> Tensor:
    weight = inputs["weight"]
    return torch.ones_like(target, dtype=dtype) if weight is None else weight[target].to(dtype)


LOSS = rt.RowLoss(
    name="handwritten_gce",
    key="handwritten_gce_0",
    parameters=(rt.Parameter("q", default=0.7, lo=0.0, hi=1.0, lo_open=True, hi_open=False),),
    inputs=(rt.Input("weight", kind="vocab", off=1.0), rt.Input("scale", kind="row", off=1.0)),
    has_target=True,
    min_classes=1,
    normalizer=_normalizer,
    variants=(
        rt.Variant(
            uses=frozenset(), parameters=("q",), inputs=(), streams=(), n_saved=2, n_state=2,
            torch_rows=_torch_rows, torch_backward=_torch_backward,
            forward_kernel=_forward_kernel, merge_kernel=_merge_kernel,
            backward_kernel=_backward_kernel, fused_kernel=_fused_kernel,
        ),
        rt.Variant(
            uses=frozenset({"weight", "scale"}), parameters=("q",), inputs=("weight", "scale"),
            streams=(), n_saved=2, n_state=2, torch_rows=_torch_rows_all,
            torch_backward=_torch_backward_all,
            forward_kernel=_forward_kernel_all, merge_kernel=_merge_kernel_all,
            backward_kernel=_backward_kernel_all, fused_kernel=_fused_kernel_all,
        ),
    ),
)


def handwritten_gce_loss(
    logits: Tensor, target: Tensor, *, q: float = 0.7, weight: Tensor | None = None,
    scale: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean",
    backend: str = "auto", inplace_grad: bool = False,
) -> Tensor:
    return LOSS(
        logits, target, (), (q,), (weight, scale), ignore_index, reduction, backend, inplace_grad
    )


def reference(
    logits: Tensor, target: Tensor, *, q: float = 0.7, weight: Tensor | None = None,
    scale: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean",
) -> Tensor:
    """The literal formula, for float64 and autograd."""
    kept = target != ignore_index
    y = torch.where(kept, target, 0).long()
    row = (1 - logits.log_softmax(-1).gather(-1, y[..., None])[..., 0].mul(q).exp()) / q
    w = kept.to(logits.dtype) if weight is None else torch.where(kept, weight.to(logits)[y], 0)
    row = torch.where(kept, row if scale is None else row * scale.to(logits), 0)
    row = row * (1 if weight is None else weight.to(logits)[y])
    if reduction == "none":
        return row
    return row.sum() if reduction == "sum" else row.sum() / w.sum()
