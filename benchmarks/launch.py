"""What a launch of the Triton kernels costs before the GPU sees it, without a GPU.

    python benchmarks/launch.py [--classes 32768] [--calls 2000]

A driver that compiles for sm_90 and launches nothing stands in for CUDA's.  Measured are
microseconds of a call of ``lossgen.runtime.launch``, and what of it Triton takes: binding and
specialising the arguments, the key of the cache, and the check of globals.  The launch itself, in
C, is left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from lossgen.losses import cross_entropy_loss, focal_loss, gce_loss, kd_forward_kl_loss
from lossgen.runtime import launch
from lossgen.runtime.deferred import made

LOSSES = {
    "gce": gce_loss,
    "focal": focal_loss,
    "cross_entropy": cross_entropy_loss,
    "kd_forward_kl": kd_forward_kl_loss,
}
ROUNDS = 20


class Utils:
    @staticmethod
    def get_device_properties(_: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "max_num_regs": 65536}

    @staticmethod
    def load_binary(*_: Any) -> tuple[int, int, int, int, int]:
        return 1, 1, 32, 0, 1024


class Launcher:
    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, *_: Any) -> None:
        pass


class Driver:
    """As much of one as Triton asks for."""

    utils, launcher_cls = Utils, Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def each(run: Callable[[], object], calls: int) -> float:
    """Microseconds of CPU time of one call: the least of the rounds, as others may run too."""
    run()
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(calls // ROUNDS):
            run()
        found.append((time.thread_time() - began) / (calls // ROUNDS))
    return 1e6 * min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    driver.set_active(Driver())
    print(f"triton {triton.__version__}, torch {torch.__version__}")
    print(f"microseconds of CPU a call, best of {ROUNDS}")
    print(f"{'loss':15}{'function':>10}{'all':>8}{'triton':>8}{'ours':>8}{'arguments':>11}")
    for name, function in LOSSES.items():
        loss = function.__globals__["LOSS"]
        # No memory: a launch reads addresses alone.
        logits = torch.empty(options.rows, options.classes)
        streams = tuple(torch.empty_like(logits) for _ in loss.streams)
        target = torch.zeros(options.rows, dtype=torch.long) if loss.has_target else None
        numbers = [p.default for p in loss.parameters]
        given = [None] * len(loss.others)
        index, batch = loss.bind(logits, target, streams, numbers, given, -100)
        variant = loss.variants[index]
        slopes = torch.ones(1, 1).expand(1, options.rows)
        outs = [torch.empty_like(logits), *(None for _ in range(batch.n_gradients - 1))]
        runs = {
            "fused": lambda v=variant, b=batch, g=slopes, o=outs: launch.fused(v, b, g, o),
            "forward": lambda v=variant, b=batch: launch.forward(v, b),
        }
        for key, run in runs.items():
            kernel = made(getattr(variant, f"{key}_kernel"))
            seen: list[tuple[Any, Any]] = []
            stock = type(kernel).run

            def note(
                self: Any, *args: Any, _seen: Any = seen, _stock: Any = stock, **more: Any
            ) -> Any:
                _seen.append((args, more))
                return _stock(self, *args, **more)

            type(kernel).run = note
            run()
            type(kernel).run = stock
            args, more = seen[0]
            taken = each(run, options.calls)
            triton_alone = each(lambda k=kernel, a=args, m=more: k.run(*a, **m), options.calls)
            ours = taken - triton_alone
            print(f"{name:15}{key:>10}{taken:8.1f}{triton_alone:8.1f}{ours:8.1f}{len(args):11}")


if __name__ == "__main__":
    main()
