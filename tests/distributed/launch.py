"""Processes of one group on this machine, over gloo; each runs this module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
GONE = "gone"  # what a function returns whose rank is to die
_SECONDS = 300  # that a rank waits for the others


def on_ranks(
    world: int, function: str, folder: Path, *arguments: Any, seconds: float = 900
) -> list[Any]:
    """What ``module:function`` returns on each of ``world`` ranks, as JSON allows; it is called
    with ``arguments`` once the group stands.

    Raises:
        AssertionError: a rank ended with an error, whose end it shows.
    """
    environment = os.environ | {
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"},
        **{"GLOO_SOCKET_IFNAME": "lo"},
    }
    command = [sys.executable, "-m", "tests.distributed.launch", function, str(world)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder), json.dumps(arguments)],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [
        (k, e) for k, (p, e) in enumerate(zip(processes, errors, strict=True)) if p.returncode
    ]
    assert not failed, "\n".join(f"rank {k}:\n{error[-1500:]}" for k, error in failed)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]


def main(function: str, world: str, rank: str, folder: str, arguments: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(Path(folder) / "store"), int(world)),
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=_SECONDS),
    )
    module, name = function.split(":")
    found = getattr(import_module(module), name)(*json.loads(arguments))
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    if found == GONE:
        os._exit(0)
    with suppress(RuntimeError):  # where a rank is gone
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
