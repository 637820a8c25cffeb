"""What the kernels of a generated module are written in, until one of them is launched.

Importing Triton takes longer than all else that a loss imports, and a loss on a CPU needs none of
it.  A generated module imports its names from here: ``tl`` stands for ``triton.language`` and the
others for modules of the runtime, and what ``jit`` or ``kernel`` decorates is a :class:`Kernel`.
The first launch puts Triton's functions, and the modules, in the place of all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from types import FunctionType
from typing import Any

__all__ = ["Kernel", "device", "device64", "made", "rows", "tiled", "tl"]

_RUNTIME = __name__.rpartition(".")[0]  # a vendored runtime has another name
_LOCK = threading.RLock()


class Kernel:
    """A function that Triton shall compile."""

    def __init__(self, function: FunctionType, kind: str) -> None:
        self.function, self.kind = function, kind

    @property
    def made(self) -> Any:
        """Triton's."""
        names = self.function.__globals__
        with _LOCK:
            if names[self.function.__name__] is self:
                _make(names)
        return names[self.function.__name__]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        launched: Callable[..., Any] = self.made[grid]
        return launched

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.made, name)


class _Module:
    """Stands for a module of the runtime."""

    def __init__(self, name: str) -> None:
        self.name = name

    def jit(self, function: FunctionType) -> Kernel:
        """A function that kernels call."""
        return Kernel(function, "jit")

    def kernel(self, function: FunctionType) -> Kernel:
        """A function that is launched."""
        return Kernel(function, "kernel")

    def found(self) -> Any:
        """The module itself."""
        return import_module(f"{_RUNTIME}.{self.name}")


class _Language(_Module):
    def found(self) -> Any:
        return import_module(f"{_RUNTIME}.primitives").tl


def _make(names: dict[str, Any]) -> None:
    """Put everything in its place, in the globals of a module."""
    primitives = import_module(f"{_RUNTIME}.primitives")
    modules = {n: v.found() for n, v in names.items() if isinstance(v, _Module)}
    kernels = {n: v for n, v in names.items() if isinstance(v, Kernel)}
    names.update(modules)
    loss = names["__name__"].rpartition(".")[2]
    for name, kernel in kernels.items():
        own = (loss,) if kernel.kind == "kernel" else ()
        names[name] = getattr(primitives, kernel.kind)(kernel.function, *own)


def made(kernel: Any) -> Any:
    """Triton's function of a kernel, which may be one already."""
    return kernel.made if isinstance(kernel, Kernel) else kernel


device, device64 = _Module("device"), _Module("device64")
rows, tiled = _Module("kernels.rows"), _Module("kernels.tiled")
tl = _Language("")
