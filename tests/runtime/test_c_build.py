"""Compilers that fail, hang or lie, and caches that were damaged or that others can write.

Whatever happens, losses on the CPU give what torch gives, with one warning at most, and nothing
that is broken is executed: a library cut to 4096 bytes ended the process with SIGBUS.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import stat
import threading
import warnings
from pathlib import Path

import pytest
import torch

from lossgen.losses import gce_loss
from lossgen.runtime import c_build, store
from tests.runtime.faults import COMMANDS, COMPILERS, DAMAGES, REFUSED, Compiler

pytestmark = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
TARGET = torch.tensor([0, 1])
TINY = '#include "row.h"\nint answer(void) { return 42; }\n'


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, in a process that has compiled and said nothing."""
    folder = tmp_path / "a cache"
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(store, "_WARNED", set())
    monkeypatch.setattr(c_build, "FLAGS", ["-O0" if f == "-O3" else f for f in c_build.FLAGS])
    forget(monkeypatch)
    yield folder / "c"
    c_build.search.cache_clear()


def forget(monkeypatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(c_build, "_LOADED", {})
    c_build.search.cache_clear()


def loss() -> None:
    """A loss gives what torch gives, compiled or not."""
    gold = gce_loss(LOGITS, TARGET, backend="torch")
    torch.testing.assert_close(gce_loss(LOGITS, TARGET), gold)


def program() -> None:
    """A program is compiled, or found, and runs."""
    assert c_build.library(TINY, False).answer() == 42


def check(run, said: str | None) -> None:
    """It works, twice, with one warning at most."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
        run()
    found = [str(warning.message) for warning in caught]
    assert len(found) == (said is not None), found
    assert said is None or said in found[0]


def use(monkeypatch, compiler: Compiler, folder: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    c_build.search.cache_clear()
    cc = c_build.find_compiler().command[0]
    monkeypatch.setenv("CC", shlex.quote(str(compiler.write(folder, cc))))
    c_build.search.cache_clear()


@pytest.mark.parametrize("name", COMPILERS)
def test_compilers(cache, monkeypatch, tmp_path, name):
    compiler = COMPILERS[name]
    for limit in ("ANSWER_SECONDS", "COMPILE_SECONDS"):
        if compiler.said == "did not end within":
            monkeypatch.setattr(c_build, limit, 0.2)
    use(monkeypatch, compiler, tmp_path)
    check(loss, compiler.said)
    left = {path.suffix for path in cache.iterdir()} if cache.exists() else set()
    assert left <= {".lock", ".so"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("lossgen-")]


def test_the_loaders_message_need_not_be_text(monkeypatch, tmp_path):
    """It quotes the path of what does not load: UnicodeDecodeError, and no loss."""
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path / "\udcff"))
    use(monkeypatch, COMPILERS["makes an empty file"], tmp_path)
    check(loss, "cannot be loaded")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(monkeypatch, command):
    monkeypatch.setenv("CC", command)
    c_build.search.cache_clear()
    check(loss, COMMANDS[command])


def test_an_interrupted_compiler_is_killed_and_leaves_nothing(cache, monkeypatch, tmp_path):
    """The signal that Ctrl-C sends comes while the compiler runs; twice, as Python drops one that
    meets the end of an object."""
    script = f"echo $$ > '{tmp_path}/pid'; for i in 1 2; do kill -INT $PPID; sleep 20; done"
    use(monkeypatch, Compiler(script, None), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        gce_loss(LOGITS, TARGET)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert {path.suffix for path in cache.iterdir()} == {".lock"}
    use(monkeypatch, COMPILERS["good"], tmp_path)
    check(loss, None)


# ---------------------------------------------------------------------------- the cache
def the_library(folder: Path) -> Path:
    (path,) = folder.glob("*.so")
    return path


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_library_is_made_again(cache, monkeypatch, name):
    check(program, None)
    path = the_library(cache)
    whole = path.read_bytes()
    # A copy: what this process has mapped is not to be cut.
    path.unlink()
    path.write_bytes(whole)
    DAMAGES[name](path)
    forget(monkeypatch)
    check(program, None)
    assert store.read(path) is not None
    assert path.stat().st_size == len(whole)


@pytest.mark.parametrize("name", REFUSED)
def test_what_others_can_write_is_refused(cache, monkeypatch, name):
    change, said = REFUSED[name]
    check(program, None)
    path = the_library(cache)
    change(path)
    forget(monkeypatch)
    opened = []
    real = c_build._opened
    monkeypatch.setattr(
        c_build, "_opened", lambda path, name: opened.append(path) or real(path, name)
    )
    check(program, said)
    assert opened
    assert path not in opened


def test_files_are_private_whatever_the_umask(cache):
    before = os.umask(0)
    try:
        check(program, None)
    finally:
        os.umask(before)
    for path in [cache.parent, cache, *cache.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_what_killed_processes_left_is_removed(cache):
    check(program, None)
    path = the_library(cache)
    now = path.stat().st_mtime
    names = [f"{path.name}.work-1", "other.so.work-2", "other.so.work-3", "other.so.1.tmp"]
    for name, age in zip(names, (0, 0, 2, 2), strict=True):
        folder = cache / name
        folder.mkdir()
        (folder / "row.c").write_text("")
        os.utime(folder, (now - age * store.STALE_SECONDS,) * 2)
    with store.workplace(path, alone=True):
        pass
    assert sorted(p.name for p in cache.iterdir() if p.is_dir()) == ["other.so.work-2"]


def test_a_full_disk_is_worked_around(cache, monkeypatch):
    monkeypatch.setattr(store, "_ROOM", 1 << 80)
    check(
        program, f"{cache}: {os.strerror(errno.ENOSPC)}; C code is compiled again in each process"
    )


def test_a_lock_that_is_never_opened_is_not_waited_for_ever(cache, monkeypatch):
    import fcntl

    check(program, None)
    the_library(cache).unlink()
    (lock,) = cache.glob("*.lock")
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.05)
    forget(monkeypatch)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check(program, "another process has held it for")


@pytest.mark.parametrize(
    "value",
    ["relative", "with space/'quote", "-Wall", "~", "~no.such.user/x", "\udcff\udcfe", "ü,%s"],
)
def test_odd_names_of_the_cache(monkeypatch, tmp_path, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", value)
    check(program, None)
    assert store.root().is_absolute()
    assert the_library(c_build.cache_folder())


@pytest.mark.parametrize("home", [None, "", "/dev/null", "relative"])
def test_without_a_home(monkeypatch, tmp_path, home):
    """Neither $HOME nor, in many containers, an entry in the list of users."""
    for name in ("LOSSGEN_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", home or "~"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check(program, "/dev/null/.cache/lossgen/c: Not a directory" if home == "/dev/null" else None)


# ---------------------------------------------------------------------------- forks
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_compiles(cache, monkeypatch, tmp_path):
    """The child inherits locks that nobody opens; it waited for ever."""
    began, go = tmp_path / "began", tmp_path / "go"
    os.mkfifo(began)
    os.mkfifo(go)
    script = f"echo > '{began}'; read line < '{go}'; exec $cc \"$@\""
    use(monkeypatch, Compiler(script, None), tmp_path)
    c_build.search()
    gold = gce_loss(LOGITS, TARGET, backend="torch")
    found = []
    thread = threading.Thread(target=lambda: found.append(gce_loss(LOGITS, TARGET)))
    thread.start()
    began.read_text()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if torch.allclose(gce_loss(LOGITS, TARGET), gold) else 1)
    go.write_text("\n")
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    torch.testing.assert_close(found[0], gold)
    assert len(list(cache.glob("*.so"))) == 1
