"""Gradients times the gradient of the loss, without a word to the host."""

from __future__ import annotations

from lossgen.runtime.primitives import kernel, tl

__all__ = ["scale_kernel"]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@kernel
def scale_kernel(
    grad,
    factor,
    target,
    target_stride,
    ignore_index,
    n_classes,
    n_elements,
    n_programs,
    HAS_TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad *= factor, and nothing at all where it is 1; an ignored row stays 0 in any case."""
    scale = tl.load(factor)
    if scale != 1.0:
        first = tl.program_id(0).to(tl.int64) * BLOCK
        for _ in range(tl.program_id(0), tl.cdiv(n_elements, BLOCK), n_programs):
            at = first + tl.arange(0, BLOCK)
            inside = at < n_elements
            value = tl.load(grad + at, mask=inside).to(tl.float32) * scale
            if HAS_TARGET:  # noqa: SIM102
                if (scale != scale) | (tl.abs(scale) == float("inf")):
                    y = tl.load(target + at // n_classes * target_stride, mask=inside)
                    value = tl.where(y == ignore_index, 0.0, value)
            tl.store(grad + at, value.to(grad.dtype.element_ty), mask=inside)
            first += n_programs * BLOCK
