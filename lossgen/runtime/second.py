"""Second derivatives of the rows, and derivatives along rows (forward mode).

    D(x; v) = Σ_j v_j·dL/dx_j

is a program of its own for the logits, and for each class input that gets a gradient: the compiler
makes it of the loss's spec when a call first asks (``lossgen.spec.derived``).  Its gradient is the
product of L's second derivatives with v, which is all that there is to know:

    the rows, moved by v                        D(x; v)
    the backward of g·dL/dx, of a gradient u    D(x; u) to g,  g·dD(x; u)/dx to x
    g·dL/dx, moved by g' and v                  g'·dL/dx + g·dD(x; v)/dx

What is moved by two tensors at once is the sum of two such programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lossgen.runtime.bilinear import across, added, curved_again
from lossgen.runtime.directions import programs

if TYPE_CHECKING:
    from lossgen.runtime.autograd import Call

__all__ = ["along", "curved"]

Tensors = Sequence[Tensor | None]


def along(call: Call, tensors: Tensors, tangents: Tensors) -> Tensor | None:
    """The rows' derivative [outputs, N] along ``tangents``, one or None for each source."""
    if call.origin is not None:
        return across(call, tensors, tangents)
    found = None
    for program, given in programs(call, tensors, tangents):
        rows, _ = program.applied(given)
        found = added(found, rows)
    return found


def curved(
    call: Call,
    tensors: Tensors,
    tangents: Tensors,
    wanted: tuple[bool, ...],
    grad_rows: Tensor,
    of_rows: bool = True,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The same if ``of_rows``, and what the gradients of Σ ``grad_rows``·rows change by along
    ``tangents``: for each source, None where it is not wanted or nothing is moved."""
    if call.origin is not None:
        found = curved_again(call, tensors, tangents, wanted, grad_rows)
        return (across(call, tensors, tangents) if of_rows else None), found
    total: Tensor | None = None
    found = [None] * len(wanted)
    for program, given in programs(call, tensors, tangents):
        rows, saved = program.applied(given)
        total = added(total, rows)
        if not any(wanted):
            continue
        parts = program.slopes(given, saved, grad_rows, (*wanted, False))
        found = [*map(added, found, parts[:-1])]
    return total, found
