"""Classes in shards: memory and time of each rank beside one process that has them all.

    python benchmarks/shards.py [--rows 4096] [--classes 131072] [--features 128] [--ranks 4]
                                [--out benchmarks/results]

Ranks are processes of this machine over gloo, with one thread each.  Memory is of the tensors that
a step makes beside its arguments, at its height; time is the median of three steps, of one process
with one thread too, before the ranks start.  On a CPU the ranks share the machine's cores: the
times say what the shards cost, not what several devices gain.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor

import lossgen
from lossgen import losses
from lossgen.bench.memory import Peak

_MIB = 2.0**20


def _steps(own: slice, sizes: argparse.Namespace, group: Any) -> dict[str, Callable[[], Tensor]]:
    """Of losses of this rank's classes, their leaves given: a call and its backward."""
    n, d, drawn = sizes.rows, sizes.features, torch.Generator().manual_seed(0)
    v = own.stop - own.start
    target = torch.randint(0, sizes.classes, (n,), generator=drawn)
    logits = torch.randn(n, v, generator=drawn).requires_grad_()
    teacher = torch.randn(n, v, generator=drawn)
    hidden = torch.randn(n, d, generator=drawn).requires_grad_()
    weight = (torch.randn(v, d, generator=drawn) / d**0.5).requires_grad_()
    more = {} if group is None else {"group": group}
    return {
        "cross_entropy": lambda: losses.cross_entropy_loss(logits, target, **more),
        "gce": lambda: losses.gce_loss(logits, target, **more),
        "kd_forward_kl": lambda: losses.kd_forward_kl_loss(logits, teacher, **more),
        "linear_cross_entropy": lambda: losses.linear_cross_entropy_loss(
            hidden, weight, target, **more
        ),
        "linear_gce": lambda: losses.linear_gce_loss(hidden, weight, target, **more),
    }


def _measured(steps: dict[str, Callable[[], Tensor]]) -> dict[str, list[float]]:
    """Peak in MiB, and seconds."""
    found = {}
    for name, step in steps.items():
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            step().backward()
            taken.append(time.perf_counter() - start)
        lossgen.set_cache_limit(0)  # gradients in memory that is counted
        with Peak() as peak:
            step().backward()
        lossgen.set_cache_limit(1 << 33)
        found[name] = [peak.peak / _MIB, statistics.median(taken)]
    return found


def _rank(rank: int, sizes: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", sizes.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=sizes.ranks)
    each = -(-sizes.classes // sizes.ranks)
    counts = [min(each, sizes.classes - k * each) for k in range(sizes.ranks)]
    shards = lossgen.ClassShards(dist.group.WORLD, tuple(counts))
    found = _measured(_steps(shards.own, sizes, shards))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _table(one: dict[str, list[float]], ranks: list[dict[str, list[float]]]) -> str:
    lines = [
        "| loss | one process, MiB | a rank, MiB | ratio | one process, s | a rank, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (peak, seconds) in one.items():
        most = max(found[name][0] for found in ranks)
        slowest = max(found[name][1] for found in ranks)
        lines.append(
            f"| {name} | {peak:.0f} | {most:.0f} | {most / peak:.2f} | {seconds:.2f} | "
            f"{slowest:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("rows", 4096), ("classes", 131072), ("features", 128), ("ranks", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="a folder for shards.md")
    sizes = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    one = _measured(_steps(slice(0, sizes.classes), sizes, None))
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_rank, (sizes, folder), nprocs=sizes.ranks)
        ranks = [json.loads(Path(folder, f"{k}.json").read_text()) for k in range(sizes.ranks)]
    text = (
        f"# Classes in shards\n\n{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores; N = {sizes.rows}, V = {sizes.classes}, "
        f"D = {sizes.features}, float32, {sizes.ranks} ranks with one thread each; "
        f"`python benchmarks/shards.py`\n\n{_table(one, ranks)}\n"
    )
    print(text)
    if sizes.out:
        (sizes.out / "shards.md").write_text(text)


if __name__ == "__main__":
    main()
