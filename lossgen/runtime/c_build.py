"""C source → a loaded shared library: compiled once per machine, kept in the user's cache.

A library is named by the sha256 of everything that decides its code: the source, the headers, the
flags, the compiler's version and the processor.  It is written under another name and renamed, and
a lock lets one process compile what others then load.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["FLAGS", "CCompiler", "cache_folder", "find_compiler", "library"]

HEADERS = Path(__file__).parent / "c"
#: No -ffast-math: infinities and NaN are exact, and sums keep the order of the source (lanes).
#: Products and sums are fused only where the vocabulary says fma: p - q of equal products is 0.
#: -fno-trapping-math and -fno-math-errno give up floating-point exception flags and errno alone.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
)
_LOCK = threading.Lock()
_LOADED: dict[tuple[str, bool], ctypes.CDLL | None] = {}


class CCompiler:
    """The system's C compiler."""

    def __init__(self, command: list[str], version: str) -> None:
        self.command, self.version = command, version

    def __str__(self) -> str:
        return f"{shlex.join(self.command)} ({self.version})"


@cache
def find_compiler() -> CCompiler | None:
    """``$CC``, cc, gcc or clang, the first that answers; None where none does."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]) is None:
            continue
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return CCompiler(command, asked.stdout.partition("\n")[0])
    return None


@cache
def _processor() -> str:
    """What -march=native may depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    found = {line.partition(":")[0].strip(): line for line in lines if line.startswith(wanted)}
    return "\n".join(found.values())


def cache_folder() -> Path:
    """``$LOSSGEN_CACHE_DIR``, or the user's cache folder."""
    chosen = os.environ.get("LOSSGEN_CACHE_DIR")
    if chosen:
        return Path(chosen) / "c"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lossgen" / "c"


def library(source: str, double: bool) -> ctypes.CDLL | None:
    """The loaded program, compiled if need be; None where that fails, after one warning."""
    key = (source, double)
    with _LOCK:
        if key not in _LOADED:
            _LOADED[key] = _load(source, double)
        return _LOADED[key]


def _load(source: str, double: bool) -> ctypes.CDLL | None:
    compiler = find_compiler()
    if compiler is None:
        _warn("no C compiler was found (tried $CC, cc, gcc and clang)")
        return None
    flags = [*FLAGS, *(["-DLOSSGEN_DOUBLE"] if double else [])]
    headers = [p.read_text(encoding="utf-8") for p in sorted(HEADERS.glob("*.h"))]
    facts = [source, *headers, *flags, *compiler.command, compiler.version, _processor()]
    name = hashlib.sha256("\0".join([*facts, platform.machine()]).encode()).hexdigest()[:32]
    command = [*compiler.command, *flags]
    try:
        try:
            return _cached(cache_folder(), name, source, command)
        except OSError as error:  # a library of this process alone
            # Named by the folder, not by the file: one warning for all losses.
            reason = f"{cache_folder()}: {error.strerror or error}"
            _warn(f"{reason}; C code is compiled again in each process", fallback="")
            with tempfile.TemporaryDirectory(prefix="lossgen-") as folder:
                return _cached(Path(folder), name, source, command)
    except (OSError, _CompileError) as error:
        _warn(str(error))
        return None


class _CompileError(Exception):
    """The compiler refused."""


def _cached(folder: Path, name: str, source: str, command: list[str]) -> ctypes.CDLL:
    path = folder / f"{name}.so"
    found = _loaded(path)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{name}.lock"):
            found = _loaded(path)
            if found is None:
                _compile(path, source, command)
    return found or ctypes.CDLL(str(path))


def _loaded(path: Path) -> ctypes.CDLL | None:
    """None where there is no library, or a damaged one: a crash of the system may leave one."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _compile(path: Path, source: str, command: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        code, out = Path(work, "row.c"), Path(work, "row.so")
        code.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [*command, f"-I{HEADERS}", str(code), "-o", str(out), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise _CompileError(f"the C compiler failed:\n{done.stderr[-2000:]}")
        os.replace(out, path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # POSIX, as the flags are

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


_WARNED: set[str] = set()


def _warn(reason: str, fallback: str = "; losses on the CPU run in torch operations") -> None:
    if reason not in _WARNED:
        _WARNED.add(reason)
        warnings.warn(f"lossgen: {reason}{fallback}", RuntimeWarning, stacklevel=2)
