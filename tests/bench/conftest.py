"""Kernels of generated modules launched directly, with chosen tiles."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lossgen.spec.spelling import spelled

ROOT = Path(__file__).resolve().parents[2]
GENERATED = sorted((ROOT / "generated").glob("[!_]*.py"))


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Problem:
    """One call of one variant: tensors by the names that the kernels' arguments have."""

    loss: Any
    variant: Any
    rows: int
    classes: int
    dtype: torch.dtype = torch.float32
    values: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.rows * self.classes)
        logits = torch.randn(self.rows, self.classes, generator=generator).to(self.dtype)
        target = torch.randint(self.classes, (self.rows,), generator=generator)
        n_saved, n_state = max(1, self.variant.n_saved), max(1, self.variant.n_state)
        self.values = {
            "logits": logits,
            "target": target,
            "ignore_index": -100,
            "stride_target": 1,
            "loss": torch.full((max(1, len(self.loss.outputs)), self.rows), torch.nan),
            "saved": torch.full((n_saved, self.rows), torch.nan),
            "state": torch.full((n_state, 8, self.rows), torch.nan),
            "grad_rows": torch.ones(max(1, len(self.loss.outputs)), self.rows),
            "stride_grad_out": self.rows,
            "WANT": -1,
            "stride_grad_rows": 1,
            "grad_logits": torch.full_like(logits, torch.nan),
            "stride_row": self.classes,
            "stride_grad": self.classes,
            "n_rows": self.rows,
            "n_classes": self.classes,
        }
        self.values |= {spelled(p.name): float(p.default) for p in self.loss.parameters}
        for entry in self.loss.inputs:
            name = spelled(entry.name)
            if entry.kind == "class":
                stream = 0.1 + 0.1 * torch.rand(self.rows, self.classes, generator=generator)
                self.values[f"{name}_ptr"] = stream.to(self.dtype)
                self.values[f"grad_{name}_ptr"] = torch.full_like(logits, torch.nan)
                self.values[f"stride_{name}"] = self.classes
                self.values[f"stride_grad_{name}"] = self.classes
                continue
            size = self.classes if entry.kind == "vocab" else self.rows
            self.values[f"{name}_ptr"] = torch.full((size,), 0.5)
            self.values[f"stride_{name}"] = 1

    @property
    def read(self) -> dict[str, torch.Tensor]:
        """What is read along the classes, by stream."""
        named = {n: self.values[f"{spelled(n)}_ptr"] for n in self.variant.streams}
        return {"logits": self.values["logits"], **named}

    @property
    def written(self) -> dict[str, torch.Tensor]:
        """The gradients, by stream."""
        named = [i.name for i in self.loss.inputs if i.differentiable]
        return {
            "grad": self.values["grad_logits"],
            **{f"grad_{n}": self.values[f"grad_{spelled(n)}_ptr"] for n in named},
        }

    def launch(self, role: str, grid: tuple[int, ...], **constants: Any) -> None:
        kernel = getattr(self.variant, f"{role}_kernel")
        shape = {"SPLITS": 1, "ROWS": 1, "LANE": 16 // self.dtype.itemsize, "ALIGNED": 1}
        known = {**self.values, **shape, **constants}
        kernel[grid](**{name: known[name] for name in kernel.arg_names})


@pytest.fixture(scope="session")
def load() -> Callable[[Path], ModuleType]:
    modules: dict[Path, ModuleType] = {}

    def cached(path: Path) -> ModuleType:
        if path not in modules:
            modules[path] = import_file(path)
        return modules[path]

    return cached
