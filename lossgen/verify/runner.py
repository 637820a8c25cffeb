"""One loss on one backend: how the properties call it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import launch
from lossgen.spec.model import LossSpec
from lossgen.verify.cases import Case
from lossgen.verify.reference import Arguments, literal

__all__ = ["Gold", "Runner", "gold", "tiles"]


@contextmanager
def tiles(block: int | None, splits: int = 1) -> Iterator[None]:
    """Launch the Triton kernels with this tile and number of splits."""
    stock = launch.config, launch.n_splits
    if block is not None:

        def config(role: str, n_classes: int, hip: bool = False) -> launch.Config:
            return launch.Config(block, 1, role == "fused" and block >= n_classes)

        launch.config = config
        launch.n_splits = lambda n_rows, n_classes, block, processors: splits
    try:
        yield
    finally:
        launch.config, launch.n_splits = stock


@dataclass(frozen=True)
class Runner:
    """Calls a generated module the way users do."""

    module: ModuleType
    spec: LossSpec
    backend: str
    device: str = "cpu"

    def loss(self, logits: Tensor, target: Tensor | None, **options: Any) -> Tensor:
        """One call on the runner's device; the loss comes back to where the logits are."""
        function = getattr(self.module, f"{self.spec.name}_loss")
        given = (logits,) if target is None else (logits, target)
        keywords = {
            k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in options.items()
        }
        loss = function(*(t.to(self.device) for t in given), backend=self.backend, **keywords)
        return loss.to(logits.device)

    def value(self, case: Case, splits: int = 1, **options: Any) -> Tensor:
        """The loss without a gradient, per row unless told otherwise."""
        logits, target = case.tensors(self.device)
        options = {"reduction": "none", **case.keywords(self.device), **options}
        with torch.no_grad(), tiles(self.tile(case), splits):
            return self.loss(logits, target, **options).cpu()

    def gradient(
        self, case: Case, weight: Tensor | None = None, splits: int = 1, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """(loss, gradient), the loss weighted by ``weight`` before the backward."""
        logits, target = case.tensors(self.device)
        logits = logits.detach().requires_grad_()
        options = {"reduction": "none", **case.keywords(self.device), **options}
        with tiles(self.tile(case), splits):
            loss = self.loss(logits, target, **options)
            loss.backward(torch.ones_like(loss) if weight is None else weight.to(loss))
        assert logits.grad is not None
        return loss.detach().cpu(), logits.grad.cpu()

    def tile(self, case: Case) -> int | None:
        """The tile to launch with: the interpreter's rows are too short for the real ones."""
        return case.block if self.backend == "triton" and self.device == "cpu" else None


@dataclass(frozen=True)
class Gold:
    """The literal formula: loss [N], gradient [N, V]."""

    loss: Tensor
    grad: Tensor


def gold(case: Case, dtype: torch.dtype = torch.float64, weight: Tensor | None = None) -> Gold:
    """Value and gradient of the literal formula in ``dtype``, for the case's numbers."""
    given = case.arguments(dtype)
    if case.layout == "expanded":
        given = Arguments(
            given.logits[:1].expand_as(given.logits), given.target, given.parameters, given.inputs
        )
    logits = given.logits.clone().requires_grad_()
    rows = literal(case.spec, Arguments(logits, given.target, given.parameters, given.inputs))
    total = rows if weight is None else rows * weight.to(rows)
    (grad,) = torch.autograd.grad(total.sum(), logits)
    return Gold(rows.detach(), grad)
