"""Files that a later process runs: private, whole, and made by one process at a time.

What stands in a cache is executed, so it is read only where no other user can have written it, and
each file ends in the sha256 of what stands before: a file that was cut or edited is not there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_POSIX = os.name == "posix"
if _POSIX:
    import fcntl

__all__ = [
    "Untrusted",
    "locked",
    "make_folder",
    "read",
    "root",
    "tidy",
    "warn_once",
    "workplace",
    "write",
]

#: Seconds to wait for a process that makes the same file; then it is made twice.
WAIT_SECONDS = 300.0
#: Seconds after which a workplace is nobody's: longer than the C compiler is let run.
STALE_SECONDS = 3600.0
#: O_NONBLOCK: opening a pipe would wait for its writer.
_FLAGS = sum(getattr(os, f"O_{n}", 0) for n in ("CLOEXEC", "NOFOLLOW", "NONBLOCK", "BINARY"))
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_ROOM = 1 << 20  # bytes: a compiler that runs out of them reports an error of its own
_DIGEST = (
    b"\n# sha256 "  # then 64 digits: a comment in Python, and nothing to a loader of libraries
)
_WORK, _UNFINISHED = ".work-", ".tmp"


class Untrusted(OSError):
    """Another user may have written what would be run."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(errno.EPERM, f"refused, as {why} (chmod go-w, or remove it)", str(path))


def root() -> Path:
    """``$LOSSGEN_CACHE_DIR``, or ``lossgen`` in the user's cache folder; absolute."""
    chosen = os.environ.get("LOSSGEN_CACHE_DIR")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, says its standard
        return Path(base) / "lossgen"
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        return Path(home) / ".cache" / "lossgen"
    # Neither $HOME nor an entry in the list of users.
    return Path(tempfile.gettempdir()) / f"lossgen-{os.getuid()}"


def make_folder(path: Path) -> Path:
    """``path``, made for this user alone if it is not there.

    Raises:
        Untrusted: others can write it, or replace it.
        OSError: it cannot be made.
    """
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(0o700)
        except FileExistsError:  # another process, or not a folder
            if not folder.is_dir():
                raise
    _check_folder(path)
    return path


def _check_folder(path: Path) -> None:
    found = path.stat()
    _check(path, found)
    for above in path.resolve().parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Untrusted(above, "every user can replace what is in it")


def _check(path: Path, found: os.stat_result) -> None:
    if not _POSIX:
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise Untrusted(path, f"it belongs to user {found.st_uid}")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise Untrusted(path, "other users can write it")


def read(path: Path) -> bytes | None:
    """What ``write`` was given; None where there is no such file, or one that was damaged.

    Raises:
        Untrusted: another user can have written it.
        OSError: it cannot be read.
    """
    try:
        _check_folder(path.parent)
        handle = os.open(path, os.O_RDONLY | _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = os.fstat(handle)
        _check(path, found)
        if not stat.S_ISREG(found.st_mode):
            raise Untrusted(path, "it is not a file")
        with open(handle, "rb", closefd=False) as file:
            content = file.read()
    finally:
        os.close(handle)
    content, mark, digest = content[:-_LENGTH], content[-_LENGTH:-65], content[-65:]
    return content if mark == _DIGEST and digest == _digest(content) else None


def write(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step; readers see the old file or the new one.

    Raises:
        OSError: no room, no right; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{token_hex(4)}{_UNFINISHED}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        with open(handle, "wb") as file:
            file.write(content + _DIGEST + _digest(content))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


_LENGTH = len(_DIGEST) + 65


# ---------------------------------------------------------------------------- one at a time
_HELD: set[int] = set()  # locked files that are open


def _forget_locks() -> None:
    """A child's copies of them would keep the locks when the parent is gone."""
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


if _POSIX:
    os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """True: alone among processes and threads with what is made under the lock file ``path``.

    The lock ends with its process.  After ``WAIT_SECONDS``, or where the file system has no
    locks, it goes on without: what is made twice is written in one step.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    _HELD.add(handle)
    try:
        yield _wait_for(handle, path)
    finally:
        if handle in _HELD:  # not after a fork
            _HELD.discard(handle)
            os.close(handle)


def _wait_for(handle: int, path: Path) -> bool:
    end, pause = time.monotonic() + WAIT_SECONDS, 0.005
    while _POSIX:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                warn_once(f"{path}: another process has held it for {WAIT_SECONDS:.0f} s; going on")
                break
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            break
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return False


def tidy(path: Path, alone: bool) -> None:
    """Remove what killed processes left beside ``path``.

    ``alone``: its lock is held, so that all of its name is left over.  Of other names, what is old.

    Raises:
        OSError: no room for what is to be made, or no right.
    """
    for entry in os.scandir(path.parent):
        own = alone and entry.name.startswith(path.name)
        if (_WORK in entry.name or entry.name.endswith(_UNFINISHED)) and (own or _stale(entry)):
            _remove(entry)
    room = os.statvfs(path.parent) if _POSIX else None
    if room is not None and room.f_blocks and room.f_bavail * room.f_frsize < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))


@contextmanager
def workplace(path: Path, alone: bool) -> Iterator[Path]:
    """An empty folder beside ``path`` for making it, after ``tidy``.

    Raises:
        OSError: no room, no right.
    """
    tidy(path, alone)
    work = path.with_name(f"{path.name}{_WORK}{token_hex(4)}")
    work.mkdir(0o700)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _stale(entry: os.DirEntry[str]) -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS
    except OSError:
        return False


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(entry.path)


# ---------------------------------------------------------------------------- words
_WARNED: set[str] = set()


def warn_once(text: str) -> None:
    """A RuntimeWarning, the first time in this process."""
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn(f"lossgen: {text}", RuntimeWarning, stacklevel=2)
