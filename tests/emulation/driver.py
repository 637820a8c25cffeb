"""A GPU for Triton that is none: kernels are specialised and compiled for sm_80, and emulated.

    with present():
        kernel[grid](tensor, ...)  # tensors of the CPU

Triton asks its active driver for everything that it must know of a device; this one answers as
an A100 would, and hands the launch to :mod:`tests.emulation.machine`.  What Triton decides on its
own, from the arguments of the call (integer widths, multiples of 16, ones), it decides as it does
for a GPU.  The assembler is left out: what is loaded is the PTX itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.driver import driver

from tests.emulation.instructions import decoded
from tests.emulation.machine import Machine, Step
from tests.emulation.ptx import Program, parse

__all__ = ["Launch", "present"]

ARCHITECTURE = 80
SHARED = 166912  # bytes that a program may have
Loaded = tuple[Program, list[Step]]
_devices = itertools.count(1000)  # Triton keeps kernels by device: each driver compiles its own


class _Utils:
    """What Triton asks of a device, and how it loads a kernel."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": SHARED,
            "multiprocessor_count": 108,
            "max_num_regs": 65536,
            "warpSize": 32,
            "sm_clock_rate": 1,
            "mem_clock_rate": 1,
            "mem_bus_width": 1,
        }

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[Any, Loaded, int, int, int]:
        """Module, function, registers, spills, threads."""
        program = parse(self._change(binary.decode()))
        return None, (program, decoded(program)), 0, 0, 1024


@dataclass(frozen=True)
class Launch:
    """What was launched."""

    kernel: str  # forward, merge, backward or fused
    grid: tuple[int, int, int]
    warps: int
    constants: dict[str, Any]


class _Launcher:
    """Of one kernel."""

    def __init__(self, launches: list[Launch], source: Any, metadata: Any) -> None:
        self._launches = launches
        self._kinds = list(source.signature.values())
        self._shared = metadata.shared
        names = source.fn.arg_names
        self._kernel = source.fn.__name__.strip("_").partition("_kernel")[0]
        self._warps = metadata.num_warps
        self._constants = {names[at]: value for (at,), value in source.constants.items()}

    def __call__(self, x: int, y: int, z: int, stream: int, loaded: Loaded, *rest: Any) -> None:
        arguments = rest[-len(self._kinds) :]
        pairs = zip(arguments, self._kinds, strict=True)
        given = [argument for argument, kind in pairs if kind != "constexpr"]
        self._launches.append(Launch(self._kernel, (x, y, z), self._warps, self._constants))
        Machine(*loaded, (x, y, z), given, self._shared).run()


class _Driver:
    """The active driver of Triton."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self.utils = _Utils(change)
        self.launches: list[Launch] = []
        self.launcher_cls = partial(_Launcher, self.launches)
        self._device = next(_devices)

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", ARCHITECTURE, 32)

    def get_current_device(self) -> int:
        return self._device

    def set_current_device(self, device: int) -> None: ...

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _unassembled(self: CUDABackend, ptx: str, *rest: Any) -> bytes:
    return ptx.encode()


@contextmanager
def present(change: Callable[[str], str] = str) -> Iterator[list[Launch]]:
    """Launches are emulated meanwhile, and listed; ``change``: what is done to the PTX before.

    Triton's cache must be one that nobody else uses: it would hand the PTX to a GPU.
    """
    before, assembler = driver._active, CUDABackend.make_cubin
    emulated = _Driver(change)
    driver.set_active(emulated)
    CUDABackend.make_cubin = _unassembled
    try:
        yield emulated.launches
    finally:
        CUDABackend.make_cubin = assembler
        driver._active = before
