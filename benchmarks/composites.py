"""The catalogue as plain PyTorch: one function per loss, written from specs/ on import.

Each takes logits [N, V] (already in the dtype to compute in), target [N], then the inputs (class
[N, V], vocab [V], row [N]) and parameters of its base variant, and returns the loss per row [N],
or its outputs stacked [N, outputs].

    python benchmarks/composites.py        # keeps the text in build/, and prints where

is for a machine with a GPU but without the packages that read specs: there the kept text is used.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "composites.txt"


def text() -> str:
    """The functions' source; the kept one where specs cannot be read."""
    try:
        from lossgen.bench.peers import composites_module
        from lossgen.spec.load import load_spec
    except ImportError:
        return KEPT.read_text(encoding="utf-8")
    return composites_module(load_spec(path) for path in sorted((ROOT / "specs").glob("*.yaml")))


SOURCE = text()
exec(compile(SOURCE, str(KEPT), "exec"))

if __name__ == "__main__":
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(SOURCE, encoding="utf-8")
    print(KEPT)
