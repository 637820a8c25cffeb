"""The properties that every loss must have, as a table of plain functions of one drawn case.

``PROPERTIES`` is what pytest and ``lossgen verify`` walk.  A property raises VerificationError
with what was expected; it returns without a word when it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lossgen.spec.model import LossSpec
from lossgen.verify.beside import constant_streams, stream_storage, wanted_gradients
from lossgen.verify.cases import DTYPES, Case
from lossgen.verify.conduct import (
    backward_twice,
    degenerate_shapes,
    grad_output,
    ignored_rows,
    inputs_unchanged,
    no_grad_value,
    options_compose,
    parameters_matter,
    reductions,
    rows_independent,
)
from lossgen.verify.context import (
    autocast,
    backends_agree,
    inplace_gradient,
    label_types,
    large_offsets,
    shared_logits,
)
from lossgen.verify.linear import linear_is_rows, tiles_are_rows
from lossgen.verify.nan import nan_shows
from lossgen.verify.numerics import (
    accurate_when_confident,
    double_precision,
    fused_gradient,
    half_precision_target,
    never_nan,
    permutation,
    shift_invariant,
    tile_independent,
    value_and_gradient,
    zero_sum_gradient,
)
from lossgen.verify.runner import Runner
from lossgen.verify.streams import streams, vectors
from lossgen.verify.whole import batch_formula

__all__ = ["PROPERTIES", "Property"]

Check = Callable[[Case, Runner], None]


@dataclass(frozen=True)
class Property:
    """One property, and the fields of the cases that it pins."""

    name: str
    check: Check
    fixed: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = DTYPES[:3]
    needs_target: bool = False
    needs: Callable[[LossSpec], bool] | None = None  # what else the loss must have
    triton_only: bool = False
    needs_tiles: bool = False  # programs whose logits stay on chip; a loss in float64 has none
    torch_only: bool = False
    share: float = 1.0  # of the examples asked for
    # each value is always tried
    axes: tuple[str, ...] = (
        *("kind", "layout", "dtype", "variant", "relation"),
        *("block", "classes"),
    )

    @property
    def doc(self) -> str:
        """The first line of the function's docstring."""
        return (self.check.__doc__ or self.name).strip().splitlines()[0]

    def applies(self, spec: LossSpec, backend: str, tiled: bool = True) -> bool:
        """Does the property say anything about this loss and backend?"""
        if self.needs_tiles and not tiled:
            return False
        if (self.triton_only and backend != "triton") or (self.torch_only and backend != "torch"):
            return False
        if self.fixed.get("classes", spec.min_classes) < spec.min_classes:
            return False
        if self.needs is not None and not self.needs(spec):
            return False
        return spec.has_target or not self.needs_target


def _reduces(spec: LossSpec) -> bool:
    return not spec.outputs


def _constant(spec: LossSpec) -> bool:
    return len(vectors(spec)) <= len(streams(spec))


def _differentiable(spec: LossSpec) -> bool:
    return len(vectors(spec)) > 1


_FLOAT = DTYPES[:1]
# Two results are compared on the scale of the result: nothing may cancel.
_FREE = {"relation": "free"}
_PLAIN = {"kind": "plain", "layout": "contiguous", **_FREE}
_SETTING = ("variant",)

PROPERTIES: tuple[Property, ...] = (
    Property("value_and_gradient", value_and_gradient),
    Property("fused_gradient", fused_gradient, needs=_reduces),
    Property(
        "double_precision",
        double_precision,
        dtypes=(torch.float64,),
        torch_only=True,
        axes=("kind", "variant"),
        fixed=_FREE,
    ),
    Property(
        "accurate_when_confident",
        accurate_when_confident,
        needs_target=True,
        share=0.2,
        dtypes=_FLOAT,
        axes=("relation",),
        fixed={"kind": "peaked", "classes": 7, "layout": "contiguous", "variant": 0},
    ),
    Property(
        "half_precision_target",
        half_precision_target,
        needs_target=True,
        share=0.5,
        dtypes=DTYPES[1:3],
        axes=("dtype", "variant", "relation"),
        fixed={"kind": "peaked", "classes": 17},
    ),
    Property(
        "never_nan", never_nan, dtypes=_FLOAT, share=0.5, axes=("kind", "variant", "relation")
    ),
    Property(
        "nan_shows",
        nan_shows,
        dtypes=_FLOAT,
        share=0.1,
        axes=_SETTING,
        fixed={"rows": 3, **_PLAIN},
    ),
    Property(
        "shift_invariant", shift_invariant, dtypes=_FLOAT, share=0.5, axes=_SETTING, fixed=_PLAIN
    ),
    Property(
        "zero_sum_gradient",
        zero_sum_gradient,
        dtypes=_FLOAT,
        share=0.5,
        axes=_SETTING,
        fixed={"kind": "peaked", "layout": "contiguous", **_FREE},
    ),
    Property("permutation", permutation, dtypes=_FLOAT, share=0.5, axes=_SETTING, fixed=_PLAIN),
    Property(
        "parameters_matter",
        parameters_matter,
        dtypes=_FLOAT,
        share=0.1,
        axes=(),
        torch_only=True,
        fixed={
            "layout": "contiguous",
            **_FREE,
        },  # of equal rows a divergence is 0 whatever they are
    ),
    Property(
        "options_compose",
        options_compose,
        dtypes=_FLOAT,
        share=0.1,
        axes=("kind",),
        fixed={"layout": "contiguous", **_FREE},
        needs=lambda spec: len(spec.variants) > 1,
    ),
    Property(
        "tile_independent",
        tile_independent,
        triton_only=True,
        share=0.5,
        axes=("kind", "variant"),
        fixed={"rows": 2, "block": 16, **_FREE},
    ),
    Property(
        "backends_agree",
        backends_agree,
        triton_only=True,
        axes=("kind", "variant"),
        share=0.5,
        fixed=_FREE,
    ),
    Property("rows_independent", rows_independent, share=0.3, axes=("layout",)),
    Property("degenerate_shapes", degenerate_shapes, dtypes=_FLOAT, share=0.2, axes=_SETTING),
    Property(
        "reductions",
        reductions,
        share=0.3,
        axes=_SETTING,
        fixed={"kind": "plain"},
        needs=_reduces,
    ),
    Property(
        "grad_output",
        grad_output,
        share=0.5,
        fixed={"rows": 3},
        axes=("layout", "dtype", "variant"),
    ),
    Property(
        "ignored_rows",
        ignored_rows,
        needs_target=True,
        share=0.3,
        axes=_SETTING,
        fixed={"rows": 3, "kind": "plain"},
    ),
    Property(
        "label_types", label_types, needs_target=True, share=0.1, axes=(), fixed={"kind": "plain"}
    ),
    Property("no_grad_value", no_grad_value, share=0.3, axes=("kind", "variant")),
    Property("inputs_unchanged", inputs_unchanged, share=0.3, axes=("layout", "variant")),
    Property("backward_twice", backward_twice, share=0.3, axes=_SETTING, fixed=_FREE),
    Property("shared_logits", shared_logits, share=0.2, axes=("variant",), fixed=_PLAIN),
    Property(
        "inplace_gradient",
        inplace_gradient,
        share=0.3,
        axes=("dtype", "variant"),
        fixed=_PLAIN,
        needs=_reduces,
    ),
    Property(
        "linear_is_rows",
        linear_is_rows,
        dtypes=_FLOAT,
        share=0.2,
        axes=_SETTING,
        fixed={"rows": 3, **_PLAIN},
    ),
    Property(
        "tiles_are_rows",
        tiles_are_rows,
        triton_only=True,
        needs_tiles=True,
        needs=lambda spec: spec.batch is None,
        dtypes=_FLOAT,
        share=0.1,
        axes=_SETTING,
        fixed={"rows": 3, **_PLAIN},
    ),
    Property("autocast", autocast, share=0.2, axes=("dtype",), fixed={"kind": "plain"}),
    Property(
        "large_offsets",
        large_offsets,
        triton_only=True,
        share=0.1,
        axes=_SETTING,
        dtypes=(torch.bfloat16,),
        fixed={"rows": 3, "classes": 17, **_PLAIN},
    ),
    Property(
        "wanted_gradients",
        wanted_gradients,
        share=0.3,
        axes=("kind", "dtype", "variant"),
        fixed=_FREE,
        needs=_differentiable,
    ),
    Property(
        "constant_streams",
        constant_streams,
        share=0.1,
        axes=(),
        fixed=_PLAIN,
        needs=_constant,
    ),
    Property(
        "batch_formula",
        batch_formula,
        share=0.5,
        axes=("kind", "dtype"),
        fixed={"layout": "contiguous", "rows": 4, **_FREE},
        needs=lambda spec: spec.batch is not None,
    ),
    Property(
        "stream_storage",
        stream_storage,
        share=0.1,
        axes=("dtype",),
        fixed=_PLAIN,
        needs=lambda spec: bool(streams(spec)),
    ),
)
