"""What is known of each loss without computing anything: its spec, the header of its module, its
property sheet, and the speed that benchmarks/results/ has."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lossgen import paths
from lossgen.cli.listing import read_header
from lossgen.spec.load import load_spec
from lossgen.spec.model import LossSpec

__all__ = ["ROOT", "Facts", "every_loss", "results"]

ROOT = paths.PACKAGE.parent
_SHEET = re.compile(
    r"^## (\w+)\n\n<!-- key: \w+ -->\n```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Facts:
    """One loss of the catalogue."""

    spec: LossSpec
    header: dict[str, str]  # of its module: formula, statistics, sweeps, saved, certificate
    exports: tuple[str, ...]  # of its module: functions and nn.Module classes
    sheet: str | None  # of docs/sheets.md

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def function(self) -> str:
        """Of logits: ``gce_loss``, or ``token_stats`` of several results."""
        plain = (n for n in self.exports if n in (f"{self.name}_loss", self.name))
        return next(plain)

    @property
    def linear(self) -> str | None:
        """Of hidden states and a weight, if there is one."""
        twin = f"linear_{self.function}"
        return twin if twin in self.exports else None

    @property
    def modules(self) -> tuple[str, ...]:
        """The ``nn.Module`` classes."""
        batch = self.spec.batch
        if self.spec.outputs and not batch:
            return ()
        name = batch.class_name if batch else self.spec.class_name
        return tuple(n for n in self.exports if n.endswith(name))

    @property
    def arithmetic(self) -> str:
        """float32 or float64, of the operations."""
        return self.header.get("arithmetic", "float32").partition(",")[0]

    @property
    def bounds(self) -> str:
        """The certificate's bounds of loss and gradient, in (1 + kappa) ulp."""
        return ", ".join(re.findall(r"<= ([\w.+-]+)", self.header["certificate"]))

    @property
    def kind(self) -> str:
        """What a row is judged by, read from the inputs that the spec declares."""
        of_kind = {i.kind for i in self.spec.inputs.values() if i.off is None}
        streams = [i for i in self.spec.inputs.values() if i.kind == "class"]
        if self.spec.batch:
            return "all rows together"
        if self.spec.outputs:
            return "several results per row"
        if any(i.differentiable for i in streams):
            return "clean and perturbed logits"
        if self.spec.has_target and "row" in of_kind:
            return "label and numbers per row"
        if self.spec.has_target and streams:
            return "label and a second row"
        if streams:
            soft = all(i.domain is not None for i in streams)  # and no logits
            return "soft or several labels" if soft else "a teacher's logits"
        if self.spec.has_target:
            return "label and numbers per class" if "vocab" in of_kind else "label"
        return "a number per row" if "row" in of_kind else "logits alone"


def every_loss() -> dict[str, Facts]:
    """The catalogue by name, in order."""
    return {name: _facts(name) for name in paths.spec_names()}


def _facts(name: str) -> Facts:
    spec = load_spec(paths.require_spec(name))
    return Facts(spec, read_header(name), _exports(name), _sheets().get(name))


def _exports(name: str) -> tuple[str, ...]:
    """``__all__`` of the module, which is not imported."""
    text = (paths.generated_dir() / f"{name}.py").read_text(encoding="utf-8")
    found = re.search(r"^__all__ = (\[.*?\])", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return tuple(ast.literal_eval(found[1]))


@cache
def _sheets() -> dict[str, str]:
    text = (ROOT / "docs" / "sheets.md").read_text(encoding="utf-8")
    return dict(_SHEET.findall(text))


@cache
def results(file: str) -> dict[str, Any]:
    """A file of benchmarks/results/; empty where it has not been recorded."""
    path: Path = ROOT / "benchmarks" / "results" / file
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
