"""Write benchmarks/composites.py, the catalogue as plain PyTorch, from specs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lossgen import paths
from lossgen.bench.peers import composites_module
from lossgen.spec.load import load_spec

PATH = Path(__file__).with_name("composites.py")


def text() -> str:
    """The file as it should be, formatted."""
    specs = [load_spec(path) for path in sorted(paths.specs_dir().glob("*.yaml"))]
    source = composites_module(specs)
    for command in ("check --fix --select UP034", "format --line-length 100"):
        program = [sys.executable, "-m", "ruff", *command.split(), "--isolated", "-"]
        done = subprocess.run(program, input=source, capture_output=True, text=True, check=True)
        source = done.stdout
    return source


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
