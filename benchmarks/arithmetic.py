"""What float64 costs a loss: the Hellinger distance of two softmaxes, in float64 as the certificate
wants it, against the same spec with an ``accuracy:`` that keeps float32.

    OMP_NUM_THREADS=1 python benchmarks/arithmetic.py

Forward and backward, both in one process and in turns; medians, and their ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

import lossgen

SPEC = """name: {name}
inputs:
  t: {{kind: class}}
{accuracy}transform: "1 - sum(sqrt(softmax(x)*softmax(t)))"
"""
FLOAT32 = 'accuracy: {ulp: 1e7, scale: 1, reason: "to measure float32"}\n'
SIZES = ((128, 1000), (512, 32768))
TURNS = 7


def main() -> None:
    """Print the table."""
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, accuracy in (("float64", ""), ("float32", FLOAT32)):
            path = Path(folder) / f"in_{name}.yaml"
            path.write_text(SPEC.format(name=f"in_{name}", accuracy=accuracy), encoding="utf-8")
            module = lossgen.load(path)
            assert module.LOSS.variants[0].arithmetic == name
            losses[name] = getattr(module, f"in_{name}_loss")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ms")
    for rows, classes in SIZES:
        x, t = torch.randn(rows, classes, requires_grad=True), torch.randn(rows, classes)
        for backend in ("c", "torch"):
            seconds: dict[str, list[float]] = {name: [] for name in losses}
            for _ in range(TURNS):
                for name, loss in losses.items():
                    began = time.perf_counter()
                    loss(x, t, backend=backend).backward()
                    seconds[name].append(time.perf_counter() - began)
                    x.grad = None
            wide, narrow = (1e3 * statistics.median(seconds[n]) for n in ("float64", "float32"))
            print(
                f"{rows} x {classes} {backend:6} float64 {wide:8.2f} float32 {narrow:8.2f} "
                f"ratio {wide / narrow:.2f}"
            )


if __name__ == "__main__":
    main()
