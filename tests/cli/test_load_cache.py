"""The cache of ``lossgen.load``: made once, checked before it is run, done without if broken."""

from __future__ import annotations

import errno
import inspect
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lossgen
from lossgen import cache
from lossgen.cli.app import app
from lossgen.cli.new import STARTER
from lossgen.runtime import store
from tests.runtime.faults import DAMAGES, REFUSED

TEXT = "def value():\n    return 42\n" + "# a long module\n" * 400


@pytest.fixture
def spec(tmp_path, monkeypatch) -> Path:
    """A spec whose compilation, if nothing replaces it, is logged and takes no time."""
    path = tmp_path / "mine.yaml"
    path.write_text(STARTER.format(name="mine", title="Déjà vu: λ ≤ 1"), encoding="utf-8")
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "_WARNED", set())
    monkeypatch.setattr(cache, "_compiled", lambda *_: log(tmp_path) or TEXT)
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if name.startswith("lossgen.cache."):
            del sys.modules[name]


def log(folder: Path) -> None:
    with (folder / "log").open("a") as file:
        file.write("x")


def compiled(spec: Path) -> int:
    return spec.with_name("log").stat().st_size


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("lossgen.cache.")]:
        del sys.modules[name]


def check(spec: Path, said: str | None = None) -> None:
    """It works, in two processes, with one warning at most."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert lossgen.load(spec).value() == 42
        forget()
        assert lossgen.load(spec).value() == 42
        assert lossgen.load(spec) is lossgen.load(spec)
    found = [str(warning.message) for warning in caught]
    assert len(found) == (said is not None), found
    assert said is None or said in found[0]


def the_file(spec: Path) -> Path:
    (path,) = cache.cache_dir().rglob("*.py")
    return path


def test_a_spec_is_compiled_once(spec):
    check(spec)
    assert compiled(spec) == 1
    forget()
    spec.write_bytes(spec.read_bytes() + b"\n")
    check(spec)
    assert compiled(spec) == 2


def test_another_compiler_is_another_entry(spec, monkeypatch):
    check(spec)
    monkeypatch.setattr(cache, "_compiler", lambda _: "another")
    check(spec)
    assert compiled(spec) == 2


def test_a_spec_that_is_edited_while_it_is_compiled(spec, monkeypatch):
    texts = ["def value():\n    return 1\n", TEXT]

    def edited(*_):
        if len(texts) == 2:
            spec.write_bytes(spec.read_bytes() + b"\n")
        return texts.pop(0)

    monkeypatch.setattr(cache, "_compiled", edited)
    check(spec)
    assert not texts


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_module_is_made_again(spec, name):
    """An edited one was run."""
    check(spec)
    whole = the_file(spec).read_bytes()
    DAMAGES[name](the_file(spec))
    forget()
    check(spec)
    assert the_file(spec).read_bytes() == whole
    assert compiled(spec) == 2


@pytest.mark.parametrize("name", REFUSED)
def test_what_others_can_write_is_refused(spec, name):
    change, said = REFUSED[name]
    check(spec)
    path = the_file(spec)
    change(path)
    forget()
    check(spec, said)
    assert compiled(spec) == 3


def test_damaged_bytecode_is_not_run(spec):
    check(spec)
    path = the_file(spec).with_suffix(".code")
    for name in ("emptied", "its first byte", "another file", "longer"):
        DAMAGES[name](path)
        forget()
        check(spec)
    assert compiled(spec) == 1


def test_files_are_private_and_have_no_bytecode(spec):
    before = os.umask(0)
    try:
        check(spec)
    finally:
        os.umask(before)
    for path in [cache.cache_dir(), *cache.cache_dir().rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert path.suffix != ".pyc"


@pytest.mark.parametrize("step", ["room", "replace", "open"])
def test_a_full_disk_is_worked_around(spec, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "it")

    if step == "room":
        monkeypatch.setattr(store, "_ROOM", 1 << 80)
    else:
        real = getattr(os, step)
        making = {"replace": lambda *_: True, "open": lambda _, flags, *__: flags & os.O_CREAT}
        monkeypatch.setattr(os, step, lambda *a, **k: full() if making[step](*a) else real(*a, **k))
    check(spec, f"{cache.cache_dir() / 'specs'}: {os.strerror(errno.ENOSPC)}; specs are compiled")
    assert not list(cache.cache_dir().rglob("*.tmp"))


def test_what_is_shown_as_source_is_what_runs(spec):
    """Triton reads the source of a kernel anew; the file may be another by then."""
    module = lossgen.load(spec)
    the_file(spec).write_text("def value():\n    return 43\n")
    assert inspect.getsource(module.value) == "def value():\n    return 42\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_compile_once(spec):
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if lossgen.load(spec).value() == 42 else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert compiled(spec) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_for_a_thread_that_imports(spec, monkeypatch, tmp_path):
    """The child would wait for ever for the lock of the module."""
    began, go = tmp_path / "began", tmp_path / "go"
    os.mkfifo(began)
    os.mkfifo(go)
    slow = f"open({str(began)!r}, 'w').close(); open({str(go)!r}).close()\n{TEXT}"
    monkeypatch.setattr(cache, "_compiled", lambda *_: slow)
    first = threading.Thread(target=lossgen.load, args=(spec,))
    first.start()
    began.read_text()
    second = threading.Thread(target=go.write_text, args=("",))
    second.start()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if lossgen.load(spec).value() == 42 else 1)
    first.join()
    second.join()
    assert os.waitpid(child, 0)[1] == 0


#: No locale, the strictest streams: everything that is written or read says how it is encoded.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_a_real_one_in_an_ascii_locale_and_pickled_into_another_process(tmp_path):
    """And the second process, which finds it in the cache, imports no compiler."""
    spec = tmp_path / "mine.yaml"
    spec.write_text(STARTER.format(name="mine", title="λ ≤ 1"), encoding="utf-8")
    pickled = tmp_path / "pickled"
    make = (
        "import pickle, sys, lossgen\n"
        "found = lossgen.load(sys.argv[1])\n"
        "(name,) = [n for n in found.__all__ if not n.endswith('_loss') and 'Linear' not in n]\n"
        "with open(sys.argv[2], 'wb') as file: pickle.dump(getattr(found, name)(), file)\n"
    )
    read = (
        "import pickle, sys\n"
        "with open(sys.argv[2], 'rb') as file: loss = pickle.load(file)\n"
        "import lossgen\n"
        "module = lossgen.load(sys.argv[1])\n"
        "assert type(loss).__module__ == module.__name__\n"
        "assert not {'sympy', 'jinja2', 'pydantic', 'lossgen.compiler'} & set(sys.modules)\n"
        "print(module.__doc__)\n"
    )
    environment = {**os.environ, **ASCII, "LOSSGEN_CACHE_DIR": str(tmp_path / "cache")}
    for script, said in ((make, b""), (read, None)):
        ran = subprocess.run(
            [sys.executable, "-c", script, spec, pickled], env=environment, capture_output=True
        )
        if said is not None:
            assert ran.returncode == 0, ran.stderr.decode()
    # print is strict there, and the module's title was read whole
    assert b"'ascii' codec can't encode character '\\u03bb'" in ran.stderr


def test_a_pickle_of_what_is_not_in_the_cache_says_what_to_do(spec):
    module = lossgen.load(spec)
    text = pickle.dumps(module.value)
    forget()
    the_file(spec).unlink()
    with pytest.raises(ModuleNotFoundError, match=r"call lossgen\.load on its spec first"):
        pickle.loads(text)


def test_commands_in_an_ascii_locale(tmp_path):
    spec = tmp_path / "mine.yaml"
    spec.write_text(STARTER.format(name="mine", title="λ ≤ 1").replace("logp[y]", "λ"), "utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "lossgen", "build", spec, "-o", tmp_path],
        env={**os.environ, **ASCII},
        capture_output=True,
    )
    assert ran.returncode == 2
    assert b"\\u03bb" in ran.stderr
    assert b"Traceback" not in ran.stderr
    assert b"LG900" not in ran.stderr


def test_a_full_disk_is_not_a_bug_of_ours(lossgen, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "it")

    monkeypatch.setattr(os, "replace", full)
    ran = lossgen("new", "mine", "-o", tmp_path)
    assert ran.code == 2
    assert ran.err == f"error LG313: it: {os.strerror(errno.ENOSPC)}\n"


def test_what_was_built_is_loaded(spec, monkeypatch, capsys) -> None:
    """A build kept nothing, and a load after it compiled the same spec again."""
    monkeypatch.chdir(spec.parent)
    name = cache.name_of(spec)
    cache.keep(spec, TEXT, name)
    assert lossgen.load(spec).value() == 42
    assert not spec.with_name("log").exists()
    spec.write_text(spec.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    forget()
    cache.keep(spec, "raise AssertionError\n", name)  # made of what is there no more
    assert lossgen.load(spec).value() == 42
    assert compiled(spec) == 1


def test_the_command_keeps_what_it_builds(spec, monkeypatch) -> None:
    monkeypatch.chdir(spec.parent)
    spec.write_text(STARTER.format(name="mine", title="Mine"), encoding="utf-8")
    asked = []
    monkeypatch.setattr(cache, "keep", lambda *given: asked.append(given))
    result = CliRunner().invoke(app, ["build", str(spec)])
    assert result.exit_code == 0, result.output
    ((path, text, name),) = asked
    assert (path, name) == (spec, cache.name_of(spec))
    assert text == (spec.parent / "mine.py").read_text(encoding="utf-8")
