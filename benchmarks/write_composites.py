"""Write benchmarks/composites.py, the catalogue as plain PyTorch, from specs/."""

from __future__ import annotations

from pathlib import Path

from lossgen import paths
from lossgen.bench.peers import composites_module
from lossgen.spec.load import load_spec

PATH = Path(__file__).with_name("composites.py")


def text() -> str:
    return composites_module(load_spec(path) for path in sorted(paths.specs_dir().glob("*.yaml")))


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
