"""Hypothesis draws of whole calls, adversarial by construction.

A case is a few small choices (shapes, kind of rows, dtype, storage, parameters) and a seed for
the numbers, so that Hypothesis shrinks it to the simplest call that still fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from lossgen.passes.points import parameter_points
from lossgen.spec.model import LossSpec
from lossgen.verify.reference import Arguments
from lossgen.verify.streams import RELATIONS, beside, draw, streams

__all__ = ["BLOCKS", "DTYPES", "KINDS", "LAYOUTS", "Case", "cases", "store"]

KINDS = ("plain", "peaked", "wrong", "tiny", "large", "offset", "masked", "tied")
LAYOUTS = ("contiguous", "sliced", "transposed", "expanded")
BLOCKS = (1, 16, 32, 64)  # tiles of the Triton kernels; 1: short rows, each in a thread
CLASSES = (1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Case:
    """One call of a loss, still without tensors."""

    spec: LossSpec
    rows: int
    classes: int
    kind: str = "plain"
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32
    point: int = 0  # which parameter setting
    variant: int = 0  # which of the spec's sets of optional parameters and inputs is used
    block: int = 16  # tile of the Triton kernels
    seed: int = 3
    relation: str = "free"  # how the first class input lies to the logits
    chosen: frozenset[str] | None = None  # options that the call gives, in place of a variant's

    def __str__(self) -> str:
        values = ", ".join(
            [f"{k}={v:g}" for k, v in self.parameters().items()]
            + list(self.inputs())
            + [f"{name} ({self.relation})" for name in streams(self.spec)[:1]]
            + list(streams(self.spec)[1:])
        )
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.rows} x {self.classes} {self.kind} {dtype} logits, {self.layout}, tile "
            f"{self.block}, seed {self.seed}{', ' + values if values else ''}"
        )

    def with_(self, **changes: Any) -> Case:
        return replace(self, **changes)

    @property
    def uses(self) -> frozenset[str]:
        """The optional parameters and inputs that the call gives."""
        if self.chosen is not None:
            return self.chosen
        return self.spec.variants[self.variant % len(self.spec.variants)]

    # ------------------------------------------------------------------ numbers
    def parameters(self) -> dict[str, float]:
        """One setting from the ends of every domain; optional ones off unless used."""
        entries = self.spec.parameters
        points = parameter_points(self.spec, entries)
        chosen = dict(points[self.point % len(points)])
        for name, entry in entries.items():
            if entry.off is not None and name not in self.uses:
                chosen[name] = float(entry.off)
            elif entry.off is not None and chosen[name] == entry.off:
                low = entry.domain.lo if math.isfinite(entry.domain.lo) else 0.0
                high = entry.domain.hi if math.isfinite(entry.domain.hi) else low + 4.0
                chosen[name] = float(np.float32(low + 0.3 * (high - low)))
        return chosen

    def numbers(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Logits [N, V] in float64 (exact in ``dtype``) and targets [N]."""
        rng = np.random.default_rng(self.seed)
        rows, classes = self.rows, self.classes
        x = rng.normal(0.0, 2.0, (rows, classes))
        y = rng.integers(0, classes, rows)
        at = np.arange(rows)
        if self.kind == "peaked":
            x[at, y] += rng.choice([6.9, 12.0, 17.0, 25.0], rows)
        elif self.kind == "wrong" and classes > 1:
            x[at, (y + 1) % classes] += rng.choice([6.0, 15.0], rows)
        elif self.kind == "tiny":
            x *= 1e-3
        elif self.kind == "tied":
            x = np.round(x)
            x[:, 0] = x[:, -1] = x.max(1)  # equal maxima in different tiles
        elif self.kind == "large":
            x *= 40.0
        elif self.kind == "offset":
            x += np.array([1e4, -3e3, 300.0])[at % 3][:, None]
        elif self.kind == "masked":
            hidden = rng.random((rows, classes)) < 0.4
            hidden[:, : min(16, classes - 1)] = True  # the whole first tile of the smallest size
            hidden[at, y] = False
            x[hidden] = -np.inf
        if self.layout == "expanded":
            x[:] = x[0]
        return self._round(x), y

    def streams(self) -> dict[str, np.ndarray[Any, Any]]:
        """Class inputs [N, V] in float64, exact in ``dtype``."""
        drawn = draw(self.spec, self.numbers()[0], self.kind, self.relation, self.seed)
        if self.layout == "expanded":
            drawn = {name: np.broadcast_to(v[0], v.shape) for name, v in drawn.items()}
        return {name: self._round(v) for name, v in drawn.items()}

    def _round(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return torch.from_numpy(values.copy()).to(self.dtype).double().numpy()

    def inputs(self) -> dict[str, Tensor]:
        """Vocab [V] and row [N] tensors; optional ones if used."""
        rng = np.random.default_rng(self.seed + 1)
        found = {}
        for name, entry in self.spec.inputs.items():
            if entry.kind == "class" or (entry.off is not None and name not in self.uses):
                continue
            size = self.classes if entry.kind == "vocab" else self.rows
            values = beside(entry, (size,), self.classes, rng).astype(np.float32)
            held = torch.from_numpy(values)
            # every second number of a larger tensor
            found[name] = held.repeat_interleave(2)[::2] if self.layout == "transposed" else held
        return found

    def arguments(self, dtype: torch.dtype = torch.float64) -> Arguments:
        """What the literal formula needs."""
        x, y = self.numbers()
        given = {name: torch.from_numpy(v).to(dtype) for name, v in self.streams().items()}
        inputs = self.inputs()
        for name, entry in self.spec.inputs.items():
            if entry.kind != "class":
                size = self.classes if entry.kind == "vocab" else self.rows
                given[name] = inputs.get(name, torch.full((size,), float(entry.off or 0.0)))
        target = torch.from_numpy(y) if self.spec.has_target else None
        return Arguments(torch.from_numpy(x).to(dtype), target, self.parameters(), given)

    # ------------------------------------------------------------------ tensors
    def tensors(self, device: str = "cpu") -> tuple[Tensor, Tensor | None]:
        """Logits and target as the loss gets them, in the case's storage."""
        x, y = self.numbers()
        logits = store(torch.from_numpy(x).to(device, self.dtype), self.layout)
        if not self.spec.has_target:
            return logits, None
        target = torch.from_numpy(y).to(device)
        if self.layout == "sliced":  # labels at an odd address of a larger tensor
            target = torch.cat([target.new_zeros(1), target])[1:]
        elif self.layout == "transposed":  # every second label of a larger tensor
            target = torch.stack([target, target], 1).reshape(-1)[::2]
        return logits, target

    def keywords(self, device: str = "cpu") -> dict[str, Any]:
        """Parameters and inputs of the call, the class inputs in the case's storage."""
        return {
            **self.parameters(),
            **{k: v.to(device) for k, v in self.inputs().items()},
            **{
                name: store(torch.from_numpy(v).to(device, self.dtype), self.layout, 4 + k)
                for k, (name, v) in enumerate(self.streams().items())
            },
        }


def store(values: Tensor, layout: str, pad: int = 3) -> Tensor:
    """The same numbers in another storage; a slice's rows are ``pad`` apart."""
    rows, classes = values.shape
    if layout == "sliced":
        wide = values.new_full((rows, classes + pad), math.nan)
        wide[:, 2 : 2 + classes] = values
        return wide[:, 2 : 2 + classes]
    if layout == "transposed":
        return values.t().contiguous().t()
    if layout == "expanded":  # stride 0: every row is the first
        return values[:1].expand(rows, classes)
    return values.clone()


def cases(
    spec: LossSpec,
    dtypes: tuple[torch.dtype, ...] = DTYPES[:3],
    fixed: Mapping[str, Any] | None = None,
) -> st.SearchStrategy[Case]:
    """Cases of ``spec``; ``fixed`` pins fields."""
    classes = [v for v in CLASSES if v >= spec.min_classes]
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "spec": st.just(spec),
        "rows": st.integers(1, 4),
        "classes": st.sampled_from(classes),
        "kind": st.sampled_from(KINDS),
        "layout": st.sampled_from(LAYOUTS[:3]),
        "dtype": st.sampled_from(dtypes),
        "point": st.integers(0, 12),
        "variant": st.integers(0, len(spec.variants) - 1),
        "block": st.sampled_from(BLOCKS),
        "seed": st.integers(0, 2**16),
        "relation": st.sampled_from(RELATIONS if streams(spec) else RELATIONS[:1]),
    }
    strategies |= {k: st.just(v) for k, v in (fixed or {}).items()}
    return st.builds(Case, **strategies)
