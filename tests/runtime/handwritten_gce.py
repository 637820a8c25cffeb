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

# mypy: ignore-errors
# One signature per line would double the file.
# fmt: off


# ------------------------------------------------------------------------------- Triton
@dl.jit
def _row(logits, target, stride_row, n_classes, ignore_index, stride_target):
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride_row
    y = tl.load(target + row * stride_target).to(tl.int64)
    ignored = y == ignore_index
    wrong = ((y < 0) | (y >= n_classes)) & (y != ignore_index)
    y = tl.where(ignored | wrong, 0, y)
    return row, base, y, ignored, wrong, tl.load(base + y).to(tl.float32)


@dl.jit
def _factors(weight, scale, y, row, stride_scale):
    return tl.load(weight + y).to(tl.float32) * tl.load(scale + row * stride_scale).to(tl.float32)


@dl.jit
def _join(m, a, m_b, a_b):
    top = tl.maximum(m, m_b)
    safe = tl.where(top == float("-inf"), 0.0, top)
    return top, a * tl.exp(m - safe) + a_b * tl.exp(m_b - safe)


@dl.jit
def _sweep(base, y, start, stop, n_classes, BLOCK: tl.constexpr):
    m = tl.full((), float("-inf"), tl.float32)
    a = tl.full((), 0.0, tl.float32)
    for first in range(start, stop, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        x = tl.load(base + cols, mask=cols < n_classes, other=float("-inf")).to(tl.float32)
        x = tl.where(cols == y, float("-inf"), x)
        top = tl.max(x)
        m, a = _join(m, a, top, tl.sum(tl.exp(x - tl.where(top == float("-inf"), 0.0, top))))
    return m, a


@dl.jit
def _z(x_y, m, la):
    return tl.where(la == float("-inf"), -3e38, (m - x_y) + la)


@dl.jit
def _phi(x_y, q, m, la):
    s = dl.softplus(_z(x_y, m, la))
    return s * dl.exprel(-(q * s))


@dl.jit
def _store(loss, saved, row, n_rows, ignored, wrong, value, m, la):
    value = tl.where(wrong, float("nan"), value)
    tl.store(loss + row, tl.where(ignored, 0.0, value))
    tl.store(saved + row, tl.where(ignored, 0.0, m))
    tl.store(saved + n_rows + row, tl.where(ignored, 0.0, la))


@dl.jit
def _gradient(base, y, cols, x_y, q, m, la, g, n_classes, ignored, wrong):
    inside = cols < n_classes
    x = tl.load(base + cols, mask=inside, other=0.0).to(tl.float32)
    z = _z(x_y, m, la)
    slope = dl.exp_accurate(-(q * dl.softplus(z))) * dl.sigmoid(z)
    others = tl.where(la == float("-inf"), 0.0, slope * dl.exp_accurate((x - m) - la))
    grad = tl.where(cols == y, -slope, others) * tl.where(wrong, float("nan"), g)
    return tl.where(ignored, 0.0, grad), inside


@dl.jit
def _forward(logits, target, q, factor, loss, saved, state, stride_row, n_rows, n_classes,
             ignore_index, stride_target, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    row, base, y, ignored, wrong, x_y = _row(
        logits, target, stride_row, n_classes, ignore_index, stride_target)
    split = tl.program_id(1)
    share = tl.cdiv(tl.cdiv(n_classes, BLOCK), SPLITS) * BLOCK
    m, a = _sweep(base, y, split * share, tl.minimum(split * share + share, n_classes),
                  n_classes, BLOCK)
    if SPLITS == 1:
        m = tl.where(m == float("-inf"), 0.0, m)
        la = tl.log(a)
        _store(loss, saved, row, n_rows, ignored, wrong, factor * _phi(x_y, q, m, la), m, la)
    else:
        tl.store(state + split * n_rows + row, m)
        tl.store(state + (SPLITS + split) * n_rows + row, a)


@dl.jit
def _merge(logits, target, q, factor, loss, saved, state, stride_row, n_rows, n_classes,
           ignore_index, stride_target, SPLITS: tl.constexpr):
    row, _, _, ignored, wrong, x_y = _row(
        logits, target, stride_row, n_classes, ignore_index, stride_target)
    m = tl.load(state + row)
    a = tl.load(state + SPLITS * n_rows + row)
    for split in range(1, SPLITS):
        m, a = _join(m, a, tl.load(state + split * n_rows + row),
                     tl.load(state + (SPLITS + split) * n_rows + row))
    m = tl.where(m == float("-inf"), 0.0, m)
    la = tl.log(a)
    _store(loss, saved, row, n_rows, ignored, wrong, factor * _phi(x_y, q, m, la), m, la)


@dl.jit
def _backward(logits, target, q, factor, saved, grad_rows, grad_logits, stride_row, stride_grad,
              n_rows, n_classes, ignore_index, stride_target, stride_grad_rows,
              BLOCK: tl.constexpr):
    row, base, y, ignored, wrong, x_y = _row(
        logits, target, stride_row, n_classes, ignore_index, stride_target)
    g = tl.load(grad_rows + row * stride_grad_rows) * factor
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    grad, inside = _gradient(base, y, cols, x_y, q, tl.load(saved + row),
                             tl.load(saved + n_rows + row), g, n_classes, ignored, wrong)
    tl.store(grad_logits + row * stride_grad + cols, grad.to(grad_logits.dtype.element_ty),
             mask=inside)


@dl.jit
def _fused(logits, target, q, factor, loss, grad_rows, grad_logits, stride_row, stride_grad,
           n_rows, n_classes, ignore_index, stride_target, stride_grad_rows,
           BLOCK: tl.constexpr):
    row, base, y, ignored, wrong, x_y = _row(
        logits, target, stride_row, n_classes, ignore_index, stride_target)
    g = tl.load(grad_rows + row * stride_grad_rows) * factor
    m, a = _sweep(base, y, 0, n_classes, n_classes, BLOCK)
    m = tl.where(m == float("-inf"), 0.0, m)
    la = tl.log(a)
    value = tl.where(wrong, float("nan"), factor * _phi(x_y, q, m, la))
    tl.store(loss + row, tl.where(ignored, 0.0, value))
    for first in range(0, n_classes, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        grad, inside = _gradient(base, y, cols, x_y, q, m, la, g, n_classes, ignored, wrong)
        tl.store(grad_logits + row * stride_grad + cols, grad.to(grad_logits.dtype.element_ty),
                 mask=inside)


@dl.jit
def _factor(weight, scale, target, n_classes, ignore_index, stride_target, stride_scale):
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(target + row * stride_target).to(tl.int64)
    y = tl.where((y < 0) | (y >= n_classes) | (y == ignore_index), 0, y)
    return _factors(weight, scale, y, row, stride_scale)


@dl.jit
def _forward_kernel(logits, target, q, loss, saved, state, stride_row, n_rows, n_classes,
                    ignore_index, stride_target, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    _forward(logits, target, q, 1.0, loss, saved, state, stride_row, n_rows, n_classes,
             ignore_index, stride_target, SPLITS, BLOCK)


@dl.jit
def _merge_kernel(logits, target, q, loss, saved, state, stride_row, n_rows, n_classes,
                  ignore_index, stride_target, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    _merge(logits, target, q, 1.0, loss, saved, state, stride_row, n_rows, n_classes,
           ignore_index, stride_target, SPLITS)


@dl.jit
def _backward_kernel(logits, target, q, saved, grad_rows, grad_logits, stride_row, stride_grad,
                     n_rows, n_classes, ignore_index, stride_target, stride_grad_rows,
                     BLOCK: tl.constexpr):
    _backward(logits, target, q, 1.0, saved, grad_rows, grad_logits, stride_row, stride_grad,
              n_rows, n_classes, ignore_index, stride_target, stride_grad_rows, BLOCK)


@dl.jit
def _fused_kernel(logits, target, q, loss, grad_rows, grad_logits, stride_row, stride_grad,
                  n_rows, n_classes, ignore_index, stride_target, stride_grad_rows,
                  ONE_TILE: tl.constexpr, BLOCK: tl.constexpr):
    _fused(logits, target, q, 1.0, loss, grad_rows, grad_logits, stride_row, stride_grad,
           n_rows, n_classes, ignore_index, stride_target, stride_grad_rows, BLOCK)


@dl.jit
def _forward_kernel_all(logits, target, weight, scale, q, loss, saved, state, stride_row, n_rows,
                        n_classes, ignore_index, stride_target, stride_scale,
                        SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    factor = _factor(weight, scale, target, n_classes, ignore_index, stride_target, stride_scale)
    _forward(logits, target, q, factor, loss, saved, state, stride_row, n_rows, n_classes,
             ignore_index, stride_target, SPLITS, BLOCK)


@dl.jit
def _merge_kernel_all(logits, target, weight, scale, q, loss, saved, state, stride_row, n_rows,
                      n_classes, ignore_index, stride_target, stride_scale,
                      SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    factor = _factor(weight, scale, target, n_classes, ignore_index, stride_target, stride_scale)
    _merge(logits, target, q, factor, loss, saved, state, stride_row, n_rows, n_classes,
           ignore_index, stride_target, SPLITS)


@dl.jit
def _backward_kernel_all(logits, target, weight, scale, q, saved, grad_rows, grad_logits,
                         stride_row, stride_grad, n_rows, n_classes, ignore_index, stride_target,
                         stride_scale, stride_grad_rows, BLOCK: tl.constexpr):
    factor = _factor(weight, scale, target, n_classes, ignore_index, stride_target, stride_scale)
    _backward(logits, target, q, factor, saved, grad_rows, grad_logits, stride_row, stride_grad,
              n_rows, n_classes, ignore_index, stride_target, stride_grad_rows, BLOCK)


@dl.jit
def _fused_kernel_all(logits, target, weight, scale, q, loss, grad_rows, grad_logits, stride_row,
                      stride_grad, n_rows, n_classes, ignore_index, stride_target, stride_scale,
                      stride_grad_rows, ONE_TILE: tl.constexpr, BLOCK: tl.constexpr):
    factor = _factor(weight, scale, target, n_classes, ignore_index, stride_target, stride_scale)
    _fused(logits, target, q, factor, loss, grad_rows, grad_logits, stride_row, stride_grad,
           n_rows, n_classes, ignore_index, stride_target, stride_grad_rows, BLOCK)


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


def _torch_forward(x: Tensor, y: Tensor, q: float) -> tuple[Tensor, Tensor]:
    _, m, a, z = _statistics(x, y)
    return _value(z, q), torch.cat([m, a.log()], 1).t()


def _torch_backward(
    x: Tensor, y: Tensor, q: float, saved: Tensor, g: Tensor
) -> tuple[Tensor, ...]:
    m, la = saved[0].unsqueeze(1), saved[1].unsqueeze(1)
    slope = g * _slope((m - x.gather(1, y) + la).clamp_min(-3e38), q)
    inverse = torch.where(la == float("-inf"), 0.0, (-la).exp())
    return ((x - m).exp_().mul_(slope * inverse).scatter_(1, y, -slope),)


def _torch_fused(
    x: Tensor, y: Tensor, q: float, g: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    _, _, a, z = _statistics(x, y)
    slope = g * _slope(z, q)
    grad = x.mul_(torch.where(a == 0, 0.0, slope / a)).scatter_(1, y, -slope)
    return _value(z, q), (grad,)


def _torch_forward_all(
    x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, q: float
) -> tuple[Tensor, Tensor]:
    loss, saved = _torch_forward(x, y, q)
    return loss * weight[y] * scale, saved


def _torch_backward_all(
    x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, q: float, saved: Tensor, g: Tensor
) -> tuple[Tensor, ...]:
    return _torch_backward(x, y, q, saved, g * weight[y] * scale)


def _torch_fused_all(
    x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, q: float, g: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    factor = weight[y] * scale
    loss, grad = _torch_fused(x, y, q, g * factor)
    return loss * factor, grad


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
            torch_forward=_torch_forward, torch_backward=_torch_backward,
            torch_fused=_torch_fused, forward_kernel=_forward_kernel, merge_kernel=_merge_kernel,
            backward_kernel=_backward_kernel, fused_kernel=_fused_kernel,
        ),
        rt.Variant(
            uses=frozenset({"weight", "scale"}), parameters=("q",), inputs=("weight", "scale"),
            streams=(), n_saved=2, n_state=2, torch_forward=_torch_forward_all,
            torch_backward=_torch_backward_all, torch_fused=_torch_fused_all,
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
