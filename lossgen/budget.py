"""What reading and compiling one spec may cost: nodes, seconds of its thread, memory.

``LOSSGEN_MAX_NODES``, ``LOSSGEN_MAX_SECONDS`` and ``LOSSGEN_MAX_MIB`` raise it (``options``).
The language has limits of its own (lengths, depths, exponents), and a formula is weighed before
it is compiled; what slips through, a watch stops: a thread that looks at the clock and the memory
of the compiling thread and raises in it.  SymPy cannot be asked to stop in any other way, and a
signal would reach the main thread only and may be the caller's own.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lossgen.errors import CompileError, Location
from lossgen.options import Options, options

__all__ = ["OverBudget", "spending"]

_TICK = 0.05  # seconds between two looks
_AGAIN = 1.0  # an exception that was swallowed (a finaliser does) is raised again after so long
_SMALLER = "fewer different softmaxes, lower powers and less nesting cost less"
_BLOCKS = 10**6  # Python objects: memory of other threads' tensors is not the compiler's


class OverBudget(CompileError):
    id = "LG201"
    template = "'{what}' is too dear to compile: {problem}"


class _Spent(BaseException):
    """Raised in the thread that compiles; no ``except Exception`` on its way takes it."""


_running = threading.local()


@contextmanager
def spending(what: str, place: Callable[[], Location | None]) -> Iterator[None]:
    """Compile within the budget of this process; inside another ``spending`` part of that one.

    Args:
        what: the loss, for the message.
        place: where in the spec the error points to.

    Raises:
        OverBudget: the block used more seconds of its thread, or more memory, than it may.
    """
    if getattr(_running, "on", False):
        yield
        return
    watch = _Watch(options())
    _running.on = True
    try:
        watch.start()
        try:
            yield
        finally:
            watch.stop()
    except _Spent:
        _forget_half_done()
        raise OverBudget(
            what=what,
            problem=f"{watch.spent}, of {watch.limit}",
            location=place(),
            hint=f"{_SMALLER}; {watch.variable} raises the limit",
        ) from None
    except (RecursionError, MemoryError) as error:
        deep = isinstance(error, RecursionError)
        raise OverBudget(
            what=what,
            problem="functions nest too deeply" if deep else "more memory than there is",
            location=place(),
            hint=_SMALLER,
        ) from None
    finally:
        _running.on = False


class _Watch(threading.Thread):
    """Looks at one thread until it is done, or has spent its budget."""

    def __init__(self, allowed: Options) -> None:
        super().__init__(name="lossgen-budget", daemon=True)
        self.target = threading.get_ident()
        self.allowed = allowed
        self.began = _seconds(self.target)
        self.memory, self.blocks = _resident(), sys.getallocatedblocks()
        self.waiting = threading.Lock()  # held until the block ends
        self.waiting.acquire()
        self.spent = self.limit = self.variable = ""
        self.raised = False

    def run(self) -> None:
        pause = _TICK
        while not self.waiting.acquire(timeout=pause):
            if self._is_spent():
                self.raised = True
                _raise_in(self.target, _Spent)
                pause = _AGAIN

    def stop(self) -> None:
        """After this, nothing is raised any more."""
        late = False
        while True:
            try:
                if self.waiting.locked():
                    self.waiting.release()
                self.join()
                break
            except _Spent:
                late = True
        if self.raised:
            _settle(self.target)
        if late:
            raise _Spent

    def _is_spent(self) -> bool:
        seconds = _seconds(self.target) - self.began
        if seconds > self.allowed.max_seconds:
            self.spent = f"{seconds:.0f} seconds of processor time"
            self.limit = f"{self.allowed.max_seconds} allowed"
            self.variable = "LOSSGEN_MAX_SECONDS"
            return True
        grown = (_resident() - self.memory) / 2**20
        if grown > self.allowed.max_mib and sys.getallocatedblocks() - self.blocks > _BLOCKS:
            self.spent, self.limit = f"{grown:.0f} MiB", f"{self.allowed.max_mib} allowed"
            self.variable = "LOSSGEN_MAX_MIB"
            return True
        return False


def _seconds(thread: int) -> float:
    """The processor time of a thread; the wall clock where the system does not tell."""
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except (AttributeError, OSError):
        return time.monotonic()


def _resident() -> int:
    """The bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _raise_in(thread: int, kind: type[BaseException]) -> bool:
    """Raise ``kind`` in ``thread`` soon, in the place of what waits there. False: it cannot be."""
    python = getattr(ctypes, "pythonapi", None)  # only CPython has one
    if python is None:
        return False
    python.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))
    return True


def _settle(thread: int) -> None:
    """Let what may still wait in this ``thread`` be raised here.  Taken back, by raising NULL, it
    would be looked for at every jump, and for ever where calls are traced."""
    try:
        while _raise_in(thread, _Spent):
            pass
    except _Spent:
        pass


def _forget_half_done() -> None:
    """SymPy keeps what it knows of an expression; what it was finding out when it was stopped, it
    would take for unknown."""
    cache = sys.modules.get("sympy.core.cache")
    if cache is not None:
        cache.clear_cache()
