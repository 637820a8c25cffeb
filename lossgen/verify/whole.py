"""A loss of the whole batch: value and gradient against the literal formula under autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossgen.passes.points import parameter_points
from lossgen.spec.expr import Call, NameKind, walk
from lossgen.spec.model import LossSpec
from lossgen.verify.cases import Case
from lossgen.verify.judge import fail
from lossgen.verify.reference import Arguments, Literal
from lossgen.verify.runner import Runner
from lossgen.verify.streams import beside, streams

__all__ = ["batch_formula", "literal_of_batch"]

_LIMIT = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float64: 1e-10}


def literal_of_batch(
    spec: LossSpec, arguments: Arguments, each: Tensor, by: Tensor | None = None
) -> Tensor:
    """The loss of rows that count for ``each`` [N], in the dtype of the logits; differentiable."""
    groups = [each > 0] if by is None else [(by == g) & (each > 0) for g in by.unique()]
    parts = [_one(spec, arguments, each, group) for group in groups if bool(group.any())]
    return torch.stack(parts).mean()


def _one(spec: LossSpec, arguments: Arguments, each: Tensor, group: Tensor) -> Tensor:
    assert spec.batch is not None
    given = {
        n: v if spec.batch.inputs[n].kind == "vocab" else v[group]
        for n, v in arguments.inputs.items()
        if n in spec.batch.inputs
    }
    target = None if arguments.target is None else arguments.target[group]
    held = Arguments(arguments.logits[group], target, arguments.parameters, given)
    count = each[group].to(held.logits)[:, None]
    rows = Literal(spec, held)
    sums = {"": count.sum()}
    for part in spec.batch.parts:
        terms = rows.tensor(walk(part.expr, rows))
        sums[part.name] = (terms * count).sum(0, keepdim=True)
    batch = _Batch(spec, held, sums)
    total = batch.tensor(walk(spec.batch.formula, batch))
    found = total.reshape(-1)[0]
    if spec.batch.rows is not None:
        (own,) = (o.expr for o in spec.outputs if o.name == spec.batch.rows)
        found = found + (rows.rows(walk(own, rows)) * count).sum() / count.sum()
    return found


class _Batch(Literal):
    """With the sums over rows by name."""

    def __init__(self, spec: LossSpec, given: Arguments, sums: Mapping[str, Tensor]) -> None:
        super().__init__(spec, given)
        self.sums = sums

    def name(self, name: str, kind: NameKind) -> Any:
        return self.sums[name] if kind is NameKind.PART else super().name(name, kind)

    def call(self, node: Call, args: tuple[Any, ...]) -> Any:
        if node.func == "log" and isinstance(args[0], Tensor):  # 0·log 0 has the derivative 0
            none = args[0] == 0
            return torch.where(none, -math.inf, torch.where(none, 1.0, args[0]).log())
        return super().call(node, args)


def batch_formula(case: Case, run: Runner) -> None:
    """The loss of the batch and its gradient are those of its formula, also of several batches."""
    spec, batch = case.spec, case.spec.batch
    assert batch is not None
    rng = np.random.default_rng(case.seed + 9)
    points = parameter_points(
        spec.model_copy(update={"parameters": batch.parameters}), batch.parameters
    )
    numbers = {n: p.default for n, p in batch.parameters.items()} | points[case.point % len(points)]
    numbers = {n: int(v) if batch.parameters[n].integer else v for n, v in numbers.items()}
    logits, target = case.tensors(run.device)
    made = case.keywords(run.device)
    inputs = {n: made[n] for n in made if n in batch.inputs}
    for name, entry in batch.inputs.items():
        if name not in inputs and entry.kind != "class":
            size = case.classes if entry.kind == "vocab" else case.rows
            drawn = beside(entry, (size,), case.classes, rng).astype(np.float32)
            inputs[name] = torch.from_numpy(drawn).to(run.device)
    weight = torch.from_numpy(rng.uniform(0.5, 2.0, case.rows).astype(np.float32))
    by = torch.from_numpy(rng.integers(0, 2, case.rows))
    for options in ({}, {"row_weight": weight}, {"by": by}, {"row_weight": weight, "by": by}):
        leaf = logits.detach().clone().requires_grad_()
        named = [inputs[n] for n in streams(spec) if n in batch.inputs]
        rest = {n: v for n, v in inputs.items() if batch.inputs[n].kind != "class"}
        given = [leaf, *([] if target is None else [target]), *named]
        moved = {n: v.to(run.device) for n, v in options.items()}
        keywords = {**numbers, **rest, **moved, "backend": run.backend}
        found = run.call(f"{spec.name}_loss", *given, **keywords)
        found.backward()
        exact = logits.detach().double().cpu().requires_grad_()
        whole = {n: v.detach().double().cpu() for n, v in inputs.items()}
        own = None if target is None else target.cpu()
        each = options.get("row_weight", torch.ones(case.rows))
        value = literal_of_batch(
            spec, Arguments(exact, own, numbers, whole), each, options.get("by")
        )
        (slope,) = torch.autograd.grad(value, exact)
        _close(case, "the loss of the batch", found.detach().cpu(), value.detach())
        assert leaf.grad is not None
        _close(case, "its gradient", leaf.grad.cpu(), slope)


def _close(case: Case, what: str, found: Tensor, exact: Tensor) -> None:
    limit = _LIMIT[case.dtype] if what == "its gradient" else _LIMIT[torch.float32]
    size = exact.abs().max().clamp_min(1e-3 if what == "its gradient" else 1.0)
    right = (found.double() - exact).abs() <= limit * size
    right |= found.isnan() & exact.isnan()
    right |= found.double() == exact
    if not bool(right.all()):
        fail(f"{what} is {found.tolist()}, where the formula gives {exact.tolist()}")
