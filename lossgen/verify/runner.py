"""One loss on one backend: how the properties call it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.runtime import launch, tiled, tiled_gradients
from lossgen.runtime.waves import Panel
from lossgen.spec.model import LossSpec
from lossgen.verify.cases import Case
from lossgen.verify.reference import Arguments, literal
from lossgen.verify.reproduce import Called
from lossgen.verify.streams import LOGITS, normal, streams, vectors

__all__ = ["Gold", "Gradients", "Runner", "gold", "gradients", "shaken", "tiles"]

_SMALL = tiled.Launch(rows=16, classes=16, features=16, warps=1, stages=1)

Gradients = Mapping[str, Tensor]  # [N, V] each: "logits", and the differentiable class inputs


@contextmanager
def tiles(block: int | None, splits: int = 1) -> Iterator[None]:
    """Launch the Triton kernels with this tile and number of splits: as few classes as a check has
    are read as a long row then. Tile 1: as short rows, two to a program."""
    row_kernels = launch.config, launch.n_splits
    tiled_kernels = tiled.launch_of, tiled.n_splits, tiled_gradients.panel_of
    if block is not None:

        def config(role: str, n_classes: int, *_: Any, **__: Any) -> launch.Config:
            if block == 1:
                return launch.Config(16, 1, rows=2)
            return launch.Config(block, 1, one_tile=role == "fused" and block >= n_classes)

        small = replace(_SMALL, part=8 if splits > 1 else 0)
        launch.config = config
        launch.n_splits = lambda n_rows, n_classes, block, processors: splits
        tiled.launch_of = lambda *_: small
        tiled.n_splits = lambda row_tiles, class_tiles, processors: min(splits, class_tiles)
        tiled_gradients.panel_of = lambda work, budget, processors: Panel(1 + splits, splits)
    try:
        yield
    finally:
        launch.config, launch.n_splits = row_kernels
        tiled.launch_of, tiled.n_splits, tiled_gradients.panel_of = tiled_kernels


@dataclass(frozen=True)
class Runner:
    """Calls a generated module the way users do."""

    module: ModuleType
    spec: LossSpec
    backend: str
    device: str = "cpu"
    calls: list[Called] = field(default_factory=list, repr=False, compare=False)  # the last one

    def call(self, function: str, *given: Any, **keywords: Any) -> Any:
        """What a function of the module returns; the call is remembered."""
        self.calls[:] = [Called(function, given, keywords)]
        return getattr(self.module, function)(*given, **keywords)

    def loss(self, logits: Tensor, target: Tensor | None, /, **options: Any) -> Tensor:
        """One call on the runner's device; the loss comes back to where the logits are.

        Class inputs are among ``options``.  Several outputs come as one tensor [N, n_out].
        """
        outputs = bool(self.spec.outputs)
        keywords = {
            k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in options.items()
        }
        if outputs and keywords.pop("reduction", "none") != "none":
            raise TypeError("outputs are not reduced")
        given = [logits.to(self.device)] + ([] if target is None else [target.to(self.device)])
        given += [keywords.pop(name) for name in streams(self.spec)]
        function = self.spec.function
        result = self.call(function, *given, backend=self.backend, **keywords)
        return (torch.stack(tuple(result), -1) if outputs else result).to(logits.device)

    def slopes(
        self,
        logits: Tensor,
        target: Tensor | None,
        options: Mapping[str, Any],
        weight: Tensor | None = None,
        wanted: Collection[str] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, gradients) of one call, per row unless told otherwise.

        Args:
            options: the call's keywords and class inputs.
            weight: what the loss is weighted by before the backward.
            wanted: the vectors that require a gradient; all that can have one if not given.
        """
        chosen = [n for n in vectors(self.spec) if wanted is None or n in wanted]
        held = {
            n: (logits if n == LOGITS else options[n]).detach().requires_grad_() for n in chosen
        }
        given = {"reduction": "none", **options, **_but_logits(held)}
        loss = self.loss(held.get(LOGITS, logits), target, **given)
        loss.backward(torch.ones_like(loss) if weight is None else weight.to(loss))
        found = {}
        for name, leaf in held.items():
            if leaf.grad is None:
                raise VerificationError(f"{name} requires a gradient, and gets none")
            found[name] = leaf.grad
        return loss.detach(), found

    def value(self, case: Case, splits: int = 1, **options: Any) -> Tensor:
        """The loss without a gradient, per row unless told otherwise."""
        logits, target = case.tensors(self.device)
        options = {"reduction": "none", **case.keywords(self.device), **options}
        with torch.no_grad(), tiles(self.tile(case), splits):
            return self.loss(logits, target, **options).cpu()

    def gradient(
        self, case: Case, weight: Tensor | None = None, splits: int = 1, **options: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, gradients), the loss weighted by ``weight`` before the backward."""
        logits, target = case.tensors(self.device)
        options = {**case.keywords(self.device), **options}
        with tiles(self.tile(case), splits):
            loss, grads = self.slopes(logits, target, options, weight)
        return loss.cpu(), {name: grad.cpu() for name, grad in grads.items()}

    def tile(self, case: Case) -> int | None:
        """The tile to launch with: the interpreter's rows are too short for the real ones."""
        return case.block if self.backend == "triton" and self.device == "cpu" else None


def _but_logits(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in held.items() if name != LOGITS}


@dataclass(frozen=True)
class Gold:
    """The literal formula: loss [N] or outputs [N, n_out], and gradients [N, V]."""

    loss: Tensor
    grads: Gradients


def gold(case: Case, dtype: torch.dtype = torch.float64, weight: Tensor | None = None) -> Gold:
    """Value and gradients of the literal formula in ``dtype``, for the case's numbers.

    Where logits and streams mask different classes a loss may be infinite: there the gradients
    are NaN, and nothing is asked of them.
    """
    loss, grads = gradients(case.spec, case.arguments(dtype), weight)
    if streams(case.spec):
        lost = ~loss.isfinite().reshape(len(loss), -1).all(1, keepdim=True)
        grads = {name: torch.where(lost, math.nan, grad) for name, grad in grads.items()}
    return Gold(loss, grads)


def shaken(case: Case, draw: int = 0) -> Arguments:
    """The case's numbers, each off by one ulp of float32, in float64.

    Logits are taken relative to the row's largest, where a shift of the row changes nothing.  They
    count as 1 at least: whatever they are, their softmax is rounded to an ulp of itself.  Equal
    numbers stay equal: which of them is the maximum is no rounding.
    """
    given = case.arguments()
    generator = torch.Generator().manual_seed(case.seed + (draw << 20))
    owned = {LOGITS: given.logits, **{n: given.inputs[n] for n in streams(case.spec)}}
    moved, loss = {}, literal(case.spec, given)
    for name, values in owned.items():
        like_logits = name == LOGITS or normal(case.spec.inputs[name])
        held, place = values.unique(return_inverse=True)
        signs = torch.randint(0, 2, held.shape, generator=generator) * 2.0 - 1.0
        steps = 2.0**-23 * signs[place]
        if like_logits:
            shifted = literal(case.spec, given.with_(**{name: values + 1.0}))
            apart = torch.allclose(loss, shifted, rtol=1e-9, atol=1e-9, equal_nan=True)
            largest = values.amax(1, keepdim=True) if apart else 0.0
            size = (values - largest).abs().clamp_(min=1.0)
            moved[name] = values + torch.where(size.isfinite(), size * steps, 0.0)
        else:
            moved[name] = values * (1.0 + steps)
    return given.with_(**moved)


def gradients(
    spec: LossSpec, given: Arguments, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The literal formula at ``given``: its value, and the gradients of its weighted sum."""
    held = {
        name: (given.logits if name == LOGITS else given.inputs[name]).clone().requires_grad_()
        for name in vectors(spec)
    }
    rows = literal(spec, given.with_(**held))
    total = (rows if weight is None else rows * weight.to(rows)).sum()
    if not total.requires_grad:
        return rows, {name: torch.zeros_like(vector) for name, vector in held.items()}
    slopes = torch.autograd.grad(total, list(held.values()), materialize_grads=True)
    return rows.detach(), dict(zip(held, slopes, strict=True))
