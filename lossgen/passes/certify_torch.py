"""The rendered torch program, measured like the kernels' arithmetic: the certificate covers both.

The program runs as it is printed, on the rows that ``passes.certify`` tried, and on what is worse
for it.  Each operation is done in float64 and, where float32 is the arithmetic, rounded to that, so
that the figure is the same on every machine and with every version of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossgen.errors import CompilerBug
from lossgen.ir.plan import KernelPlan
from lossgen.ir.rows import COTANGENTS, Row
from lossgen.passes.certify import Trial
from lossgen.spec.spelling import said

__all__ = ["load_torch", "measured"]

_HEAD = """\
import torch
from lossgen.runtime import elementwise as el


"""
_NAME = "_lossgen_torch_program"
Array = NDArray[np.float32]


def load_torch(source: str) -> dict[str, Callable[..., Any]]:
    """The functions of rendered torch programs, by name."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{_NAME}.py"
        path.write_text(_HEAD + source, encoding="utf-8")
        spec = spec_from_file_location(_NAME, path)
        if spec is None or spec.loader is None:
            raise CompilerBug(f"cannot import {path}")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if callable(value)}


def measured(plan: KernelPlan, fused: Callable[..., Any], arguments: Sequence[str]) -> KernelPlan:
    """The plan with a certificate that covers its torch program too.

    Args:
        fused: the function that computes results and gradients of a chunk of rows.
        arguments: its parameters' names, but for the weight of the rows.

    Raises:
        CompileError: the program is not accurate in this arithmetic.
    """
    trial = plan.stable.trial
    if trial is None:
        return plan

    def evaluate(rows: Sequence[Row]) -> tuple[Array, list[Array]]:
        return _evaluated(plan, fused, arguments, rows)

    other: Trial = trial.on(evaluate, "in the torch program")
    other.worst.check()
    return replace(plan, stable=replace(plan.stable, certificate=other.worst.certificate()))


def _evaluated(
    plan: KernelPlan, fused: Callable[..., Any], arguments: Sequence[str], rows: Sequence[Row]
) -> tuple[Array, list[Array]]:
    """Results [N, n] and gradients [N, V] of rows of one number of classes."""
    stable = plan.stable
    size, classes = len(rows), len(rows[0].x)
    values = np.zeros((size, len(stable.results)), np.float32)
    slopes = [np.zeros((size, classes), np.float32) for _ in plan.gradients]
    groups: dict[Any, list[int]] = {}
    for k, row in enumerate(rows):
        key = (tuple(row.parameters.items()), tuple(row.vocab.items()))
        groups.setdefault(key, []).append(k)
    for group in groups.values():
        loss, gradients = _called(plan, fused, arguments, [rows[k] for k in group])
        values[group] = loss
        for slope, gradient in zip(slopes, gradients, strict=True):
            slope[group] = gradient
    return values, slopes


def _called(
    plan: KernelPlan, fused: Callable[..., Any], arguments: Sequence[str], rows: Sequence[Row]
) -> tuple[Array, list[Array]]:
    """One call: the rows have the same parameters and vocab inputs."""
    import torch

    from lossgen.passes.rounded import EveryOperation

    spec, first = plan.stable.spec, rows[0]
    wide = plan.stable.arithmetic == "float64"
    real = torch.float64 if wide else torch.float32
    along = [row.along() for row in rows]
    given: list[Any] = []
    for name in (v if v in ("x", "y") else said(v) for v in arguments):
        if name == "y":
            given.append(torch.tensor([[row.y] for row in rows]))
        elif name in spec.parameters:
            entry = spec.parameters[name]
            given.append(float(first.parameters.get(name, entry.default)))
        elif name == "x" or spec.inputs[name].kind == "class":
            given.append(torch.tensor([a[name] for a in along], dtype=real))
        elif spec.inputs[name].kind == "vocab":
            given.append(torch.tensor(first.vocab[name], dtype=real))
        else:
            given.append(torch.tensor([[row.rows[name]] for row in rows], dtype=real))
    count = len(plan.stable.results)
    weight = [COTANGENTS[k % len(COTANGENTS)] if plan.stable.outputs else 1.0 for k in range(count)]
    with torch.no_grad(), nullcontext() if wide else EveryOperation():
        loss, gradients = fused(*given, torch.tensor([weight] * len(rows), dtype=real))
    return loss.float().numpy(), [g.float().numpy() for g in gradients]
