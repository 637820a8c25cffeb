"""The threads of a C program: how many take rows, and whose they are.

They are those of the OpenMP that torch itself computes with, which wait awake after an operation of
torch and begin within a microsecond or two.  A thread of our own would have to be woken, and to
take the processor from one of those.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import torch

__all__ = ["is_one_share", "shares"]

_SMALL = 1 << 16  # elements that another thread of torch's is worth
_SMALL_ALONE = 1 << 17  # that one more is worth which has to be started: it begins after 50 µs
_ROW = 256  # elements that take as long as what every row takes beside its elements
_SHARES = 4  # parts per thread: a thread that is held up leaves the rest to the others


def shares(rows: int, width: int) -> tuple[int, int, int | None]:
    """Rows of a share, threads that take shares, and the team that they are of, if any."""
    whose = team()
    small = _SMALL if whose else _SMALL_ALONE
    threads = min(torch.get_num_threads(), rows, 1 + rows * (width + _ROW) // small)
    return (-(-rows // (threads * _SHARES)) if threads > 1 else rows), threads, whose


def is_one_share(rows: int, width: int) -> bool:
    """Are there too few elements for a second thread, whoever asks?"""
    return rows * (width + _ROW) < min(_SMALL, _SMALL_ALONE)


@cache
def team() -> int | None:
    """The address of ``GOMP_parallel`` of torch's OpenMP; None where threads must be started.

    That is so in a forked process: OpenMP would wait for threads that its parent has.
    """
    if not sys.platform.startswith("linux") or _is_forked():
        return None
    try:
        torch_cpu = ctypes.CDLL("libtorch_cpu.so", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):  # torch lies elsewhere, or has threads of another kind
        return None


_FORKED = False
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC of Linux


def _is_forked() -> bool:
    """Has this process been forked, without a program of its own since?"""
    if _FORKED:
        return True
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        flags = int(fields.rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _FORKED_WITHOUT_EXEC)


def _fork() -> None:
    global _FORKED
    _FORKED = True
    team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)
