"""The conditional risk Σ_k q_k·loss(x, k), and the logits that minimise it, for many q at once.

Classes that share a level of logits are one unknown: a problem has levels L_a, each of so many
classes ``counts`` and with so much of the label's distribution ``weights``.  A loss of p_y alone,
φ(p_y), is a sum of scalar functions of s_a = L_a − log Σ_b counts_b·exp(L_b), which SymPy
differentiates; of any other loss torch makes the derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from sympy import Expr as Formula
from sympy import Symbol, lambdify
from sympy.core.function import AppliedUndef
from torch import Tensor

from lossgen.properties.labels import NotSymbolic, labelled
from lossgen.properties.minimise import ROUNDS, Derivatives, minimised, polished
from lossgen.properties.setting import Array, Setting
from lossgen.spec.expr import Call
from lossgen.spec.trees import nodes

__all__ = ["Conditional", "conditional", "softmax"]

_S = Symbol("s", real=True)  # log p
_FEW_ROUNDS = 20  # before what finds the corners
_CORNERS = ("relu", "abs", "max", "second_max", "minimum", "maximum", "clip", "where", "norm")


@dataclass(frozen=True)
class Conditional:
    """The risk of one setting, whose inputs are neutral."""

    setting: Setting

    @cached_property
    def phi(self) -> list[Formula]:
        """φ(p), where the loss is a function of p_y alone; its mean over parameters on both sides
        of a removable singularity; else nothing."""
        found = []
        for point in self.setting.points():
            try:
                there = replace(self.setting, parameters=point, singular=())
                alone = labelled(there if self.setting.singular else self.setting)
            except NotSymbolic:
                return []
            if alone.of_p is None or alone.loss.atoms(AppliedUndef):
                return []
            found.append(alone.loss.xreplace({alone.p: sympy.exp(_S)}))
        return found

    @cached_property
    def scalar(self) -> bool:
        """Is the loss a function of p_y alone?"""
        return bool(self.phi)

    @cached_property
    def compiled(self) -> list[Callable[[Array], list[Any]]]:
        """Of s = log p: φ and two derivatives, in numpy."""
        return [lambdify([_S], [f, f.diff(_S), f.diff(_S, 2)], "numpy", cse=True) for f in self.phi]

    def derivatives(self, weights: Array, counts: Sequence[int]) -> Derivatives:
        """Of the risk by the levels; ``weights`` is [problems, levels]."""
        make = self._scalar if self.scalar else self._general
        size = np.asarray(counts, dtype=np.float64)

        def of(levels: Array, which: NDArray[np.int64]) -> tuple[Array, Array, Array]:
            return make(levels, weights[which], size)

        return of

    def values(self, weights: Array, counts: Sequence[int]) -> Derivatives:
        """The risk alone, in the form of derivatives."""
        size = np.asarray(counts, dtype=np.float64)

        def of(levels: Array, which: NDArray[np.int64]) -> tuple[Array, Array, Array]:
            held = weights[which]
            at = torch.tensor(levels, dtype=torch.float64)
            risk = self._risks(at, held, size).numpy()
            return risk, np.zeros_like(levels), np.zeros((*levels.shape, 1))

        return of

    @cached_property
    def corners(self) -> bool:
        """Is the formula one of those that Newton's steps do not suit?"""
        every = (n for tree in self.setting.spec.trees for n in nodes(tree))
        return any(isinstance(n, Call) and n.func in _CORNERS for n in every)

    def best(
        self,
        weights: Array,
        counts: Sequence[int],
        starts: Sequence[Array],
        fits: Callable[[Array], NDArray[np.bool_]] | None = None,
    ) -> tuple[Array, Array]:
        """The best levels [problems, levels] of several starts, and their risks.

        Args:
            fits: which levels may be chosen; the risk is infinite where none may.
        """
        count = len(weights)
        stacked = np.concatenate([weights] * len(starts))
        every = np.concatenate(list(starts))
        rounds = _FEW_ROUNDS if self.corners else ROUNDS
        levels, values = minimised(self.derivatives(stacked, counts), every, rounds)
        if self.corners:
            levels, values = polished(self.values(stacked, counts), levels, values)
        if fits is not None:
            values = np.where(fits(levels), values, np.inf)
        values, found = values.reshape(len(starts), count), levels.reshape(len(starts), count, -1)
        return found[values.argmin(0), np.arange(count)], values.min(0)

    def risk(self, x: Sequence[float], q: Sequence[float]) -> float:
        """Of one row, in mpmath."""
        parts = [self.setting.precise(x, k)[0] * q[k] for k in range(len(q)) if q[k]]
        return float(sum(parts))

    # ------------------------------------------------------------------ derivatives
    def _scalar(self, levels: Array, w: Array, size: Array) -> tuple[Array, Array, Array]:
        top = levels.max(1, keepdims=True)
        s = levels - top - np.log((size * np.exp(levels - top)).sum(1, keepdims=True))
        value, slope, bend = self._phi(s)
        live = w > 0
        p, wf = size * np.exp(s), np.where(live, w * value, 0.0)
        w1, w2 = np.where(live, w * slope, 0.0), np.where(live, w * bend, 0.0)
        all1, all2 = w1.sum(1, keepdims=True), w2.sum(1, keepdims=True)
        gradient = w1 - p * all1
        eye = np.eye(levels.shape[1])
        hessian = eye * w2[:, :, None] - w2[:, :, None] * p[:, None] - p[:, :, None] * w2[:, None]
        hessian = hessian + p[:, :, None] * p[:, None] * all2[:, :, None]
        hessian -= all1[:, :, None] * (eye * p[:, :, None] - p[:, :, None] * p[:, None])
        return wf.sum(1), gradient, hessian

    def _phi(self, s: Array) -> list[Array]:
        """φ at log p = s, and its derivatives by s."""
        at = np.minimum(s, -1e-300)
        with np.errstate(all="ignore"):
            parts = [[np.broadcast_to(d, s.shape) for d in f(at)] for f in self.compiled]
        return [np.mean(d, axis=0) for d in zip(*parts, strict=True)]

    def _general(self, levels: Array, w: Array, size: Array) -> tuple[Array, Array, Array]:
        at = torch.tensor(levels, dtype=torch.float64, requires_grad=True)
        risk = self._risks(at, w, size)
        (slope,) = torch.autograd.grad(risk.sum(), at, create_graph=True)
        columns = []
        for part in slope.unbind(1):
            if part.requires_grad:
                (column,) = torch.autograd.grad(part.sum(), at, retain_graph=True)
            else:
                column = torch.zeros_like(at)
            columns.append(column.detach().numpy())
        return risk.detach().numpy(), slope.detach().numpy(), np.stack(columns, 1)

    def _risks(self, at: Tensor, w: Array, size: Array) -> Tensor:
        held = np.repeat(np.arange(len(size)), size.astype(int))  # the level of each class
        first = [int(np.flatnonzero(held == a)[0]) for a in range(len(size))]
        count = len(at)
        x = at[:, torch.from_numpy(held)].repeat(len(size), 1)
        y = torch.tensor(first).repeat_interleave(count)
        losses = self.setting.values(x, y, torch.zeros_like(y)).reshape(len(size), count).T
        weights = torch.from_numpy(w)
        return torch.where(weights > 0, weights * losses, 0.0).sum(1)


@lru_cache(maxsize=8)
def conditional(setting: Setting) -> Conditional:
    """Its risk, with what was worked out before."""
    return Conditional(setting)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))
