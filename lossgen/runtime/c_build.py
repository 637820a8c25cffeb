"""C source → a loaded shared library: compiled once per machine, kept in the user's cache.

A library is named by the sha256 of everything that decides its code: the source, the headers, the
flags, the compiler's version and the processor.  ``store`` keeps it private and whole, and lets one
process compile what others then load.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import selectors
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

from lossgen.runtime import store

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
_LIBRARIES = ("-lm", "-lpthread")
#: Seconds that a compiler is waited for: for its version, and for a program (a second or two).
ANSWER_SECONDS = 20.0
COMPILE_SECONDS = 180.0
_KEPT = 4000  # bytes of what a compiler prints: the last ones
_LOCK = threading.Lock()
_LOADED: dict[tuple[str, bool], ctypes.CDLL | None] = {}


def _new_lock() -> None:
    """A child has no thread that would open a lock which another held at the fork."""
    global _LOCK
    _LOCK = threading.Lock()


#: Held while a process is started: a child that is forked meanwhile would keep open the pipe by
#: which the starting thread learns that it was, and let it wait for the child's own end.
_STARTING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_STARTING.acquire,
        after_in_parent=_STARTING.release,
        after_in_child=_STARTING.release,
    )
    os.register_at_fork(after_in_child=_new_lock)


class CCompiler:
    """The system's C compiler."""

    def __init__(self, command: list[str], version: str) -> None:
        self.command, self.version = command, version

    def __str__(self) -> str:
        return f"{shlex.join(self.command)} ({self.version})"


class CompilerError(Exception):
    """The C compiler made no library: says why."""


class _NotLoaded(CompilerError):
    """It made one that cannot be loaded from where it stands."""


def find_compiler() -> CCompiler | None:
    """``$CC``, cc, gcc or clang, the first that answers; None where none does."""
    found = search()
    return None if isinstance(found, str) else found


@cache
def search() -> CCompiler | str:
    """As ``find_compiler``, or why there is none."""
    chosen, why = os.environ.get("CC", ""), ""
    try:
        words = shlex.split(chosen)
    except ValueError as error:
        return f"CC={chosen!r} is not a command: {error}"
    for command in [words] if words else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]) is None:
            continue
        try:
            status, said = _run([*command, "--version"], ANSWER_SECONDS)
        except (CompilerError, OSError) as error:
            why = why or f": {error}"
            continue
        if status == 0:
            return CCompiler(command, said.partition("\n")[0])
        why = why or f": {command[0]} --version failed"
    return f"no C compiler was found (tried $CC, cc, gcc and clang){why}"


@cache
def _processor() -> str:
    """What -march=native may depend on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    return "\n".join({line.partition(":")[0].strip(): line for line in lines}.values())


def cache_folder() -> Path:
    """``c`` in ``$LOSSGEN_CACHE_DIR``, or in lossgen's part of the user's cache folder."""
    return store.root() / "c"


def library(source: str, double: bool) -> ctypes.CDLL | None:
    """The loaded program, compiled if need be; None where that fails, after one warning."""
    key = (source, double)
    try:
        return _LOADED[key]
    except KeyError:
        pass
    with _LOCK:
        if key not in _LOADED:
            _LOADED[key] = _load(source, double)
        return _LOADED[key]


def _load(source: str, double: bool) -> ctypes.CDLL | None:
    try:
        return _found_or_made(source, double)
    except (OSError, CompilerError) as error:
        store.warn_once(f"{error}; losses on the CPU run in torch operations")
        return None


def _found_or_made(source: str, double: bool) -> ctypes.CDLL:
    compiler = search()
    if isinstance(compiler, str):
        raise CompilerError(compiler)
    command = [*compiler.command, *FLAGS, *(["-DLOSSGEN_DOUBLE"] if double else [])]
    headers = [p.read_text(encoding="utf-8") for p in sorted(HEADERS.glob("*.h"))]
    facts = [source, *headers, *command, *_LIBRARIES, compiler.version, _processor()]
    text = "\0".join([*facts, platform.machine()])
    name = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
    # What something else made (CC=true, a wrapper that went wrong) does not have it.
    program = f'{source}\nconst char lossgen_program[] = "{name}";\n'
    folder = cache_folder()
    try:
        return _cached(folder, name, program, command)
    except (OSError, _NotLoaded) as error:  # no room, no right, no execution there
        where = error.filename if isinstance(error, store.Untrusted) else folder
        reason = f"{where}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    with tempfile.TemporaryDirectory(prefix="lossgen-", ignore_cleanup_errors=True) as private:
        work = store.make_folder(Path(private))
        found = _opened(_compile(work, program, command), name)
    # Named by the folder, not by the file: one warning for all losses.
    store.warn_once(f"{reason}; C code is compiled again in each process")
    return found


def _cached(folder: Path, name: str, program: str, command: list[str]) -> ctypes.CDLL:
    path = folder / f"{name}.so"
    found = _kept(path, name)
    if found is not None:
        return found
    store.make_folder(folder)
    with store.locked(folder / f"{name}.lock") as alone:
        found = _kept(path, name)
        if found is not None:
            return found
        with store.workplace(path, alone) as work:
            store.write(path, _compile(work, program, command).read_bytes())
    return _opened(path, name)


def _kept(path: Path, name: str) -> ctypes.CDLL | None:
    """None where there is no library, or a damaged one, which is never opened."""
    if store.read(path) is None:
        return None
    try:
        return _opened(path, name)
    except CompilerError:  # whole, and yet not to be loaded
        return None


def _opened(path: Path, name: str) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
    except (OSError, UnicodeDecodeError) as error:  # the loader quotes the path, whatever it is
        raise _NotLoaded(f"the C compiler's library cannot be loaded: {error}") from error
    try:
        made = (ctypes.c_char * (len(name) + 1)).in_dll(found, "lossgen_program")
    except ValueError as error:
        raise CompilerError("the C compiler made a library of another program") from error
    if made.value != name.encode():
        raise CompilerError("the C compiler made a library of another program")
    return found


def _compile(work: Path, program: str, command: list[str]) -> Path:
    code, out = work / "row.c", work / "row.so"
    code.write_text(program, encoding="utf-8")
    parts = [*command, f"-I{HEADERS}", str(code), "-o", str(out), *_LIBRARIES]
    status, said = _run(parts, COMPILE_SECONDS)
    if status:
        raise CompilerError(f"the C compiler failed:\n{said[-2000:]}")
    if not out.is_file():
        raise CompilerError(f"the C compiler ({shlex.join(command[:1])}) made no library")
    if _is_cut(out.read_bytes()):  # opening it would end the process
        raise CompilerError(f"the C compiler ({shlex.join(command[:1])}) made half a library")
    return out


def _is_cut(content: bytes) -> bool:
    """An ELF file that ends before its table of sections, the last thing that is written?"""
    if content[:5] != b"\x7fELF\x02" or len(content) < 64:
        return content[:4] == b"\x7fELF" and len(content) < 52
    order = "<" if content[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", content, 0x28)
    size, count = struct.unpack_from(f"{order}HH", content, 0x3A)
    return bool(len(content) < table + size * count)


def _run(command: list[str], seconds: float) -> tuple[int, str]:
    """The exit status of a command and the end of what it printed.

    In another thread: Ctrl-C raises in the main one, between any two steps, where a process that
    already runs would be lost.

    Raises:
        CompilerError: it has not ended in time; it is killed, with what it started.
        OSError: it cannot be run.
    """
    found: list[tuple[int, str] | Exception] = []
    stop, done = threading.Event(), threading.Event()

    def work() -> None:
        try:
            found.append(_waited_for(command, seconds, stop))
        except Exception as error:
            found.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=work, name="lossgen").start()
        # Not join: an interrupted one takes the thread for ended.  In steps: a signal that comes
        # just before the wait would be looked at only after it.
        while not done.wait(0.1):
            pass
    except BaseException:
        stop.set()
        done.wait(1.0)  # it may not have begun
        raise
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _waited_for(command: list[str], seconds: float, stop: threading.Event) -> tuple[int, str]:
    end, said = time.monotonic() + seconds, b""
    with _STARTING:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it ends with all that it started
        )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0 and not stop.is_set():
                ended = process.poll() is not None  # what it left running may hold the pipe
                if ready.select(0.0 if ended else min(left, 0.1)):
                    part = os.read(process.stdout.fileno(), 1 << 16)
                    said = (said + part)[-_KEPT:]
                    if part:
                        continue
                    process.wait(max(0.0, end - time.monotonic()))
                    ended = True
                if ended:
                    return process.returncode, said.decode(errors="replace")
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.stdout.close()
        _kill(process)
    raise CompilerError(f"{shlex.join(command[:1])} did not end within {seconds:.0f} s")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:  # not yet in its session
            process.kill()
        process.wait()
