"""``lossgen.load``: a loss as a module, from the catalogue or from a spec anywhere.

A spec outside the catalogue is compiled once and kept in the user's cache, under a name that tells
its bytes and the compiler: a warm load reads two files and imports no compiler.  The modules are
``lossgen.cache.<loss>_<digest>``, so that another process can unpickle what is in them.
"""

from __future__ import annotations

import linecache
import marshal
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from lossgen import paths
from lossgen.errors import BuildError
from lossgen.options import options
from lossgen.runtime import store

__all__ = ["cache_dir", "load", "load_derived", "load_text"]


class Outdated(BuildError):
    id = "LG324"
    template = "the module of {name} was compiled from another spec than the catalogue has now"
    advice = "build it again: lossgen build"


__path__: list[str] = []  # its submodules are found by _Cached
#: What a spec is compiled with, beside ``lossgen`` itself.
_LIBRARIES = ("gmpy2", "jinja2", "mpmath", "numpy", "pydantic", "ruamel", "ruff", "sympy")
_NOT_THE_COMPILER = ("_data", "aot", "bench", "cli", "verify")
_TEXTS: dict[str, str] = {}  # of modules that are about to be imported


def load(name_or_path: str | Path, *, draft: bool = False) -> ModuleType:
    """The generated module of a loss.

    Args:
        name_or_path: a name of the catalogue, whose checked-in module is imported as it is, or
            the path of a spec, which is compiled (about a second) and cached.
        draft: compile a spec without checking its accuracy and its limits, for a quick look at
            one that is refused; its module warns when it is imported.

    Returns:
        A module with the functions ``<name>_loss`` and ``linear_<name>_loss`` and their
        ``nn.Module`` classes. Loading the same spec twice gives the same module.

    Raises:
        BuildError: no such spec.
        SpecError, CompileError: the spec is wrong.

    Warns:
        RuntimeWarning: the cache cannot be used (no room, no right, or others can write it); the
            spec is compiled in each process.
    """
    path = paths.require_spec(name_or_path)
    by_name = str(name_or_path) == path.stem
    if by_name and (paths.generated_dir() / f"{path.stem}.py").is_file():
        return _import(f"lossgen.losses.{path.stem}")
    return _loaded(partial(name_of, path, draft), partial(_compiled, path, draft))


def load_text(stem: str, text: str, file: str, draft: bool = False) -> ModuleType:
    """As ``load``, of the text of a spec; ``file`` is what error messages call it."""
    source = text.encode(errors="surrogatepass")
    facts = (_compiler(paths.data_root()), "text", draft, source, _compared_with(source))
    name = _digested(stem, facts)
    return _loaded(lambda: name, partial(_compiled_text, text, file, draft))


def load_derived(
    loss: str,
    key: str,
    text: str,
    draft: bool,
    kind: str,
    by: str,
    uses: frozenset[str],
) -> ModuleType:
    """The derivative of a loss that the runtime asks for; see ``lossgen.spec.derived``.

    Args:
        key: holds a digest of the spec.
        text: the spec; empty: that of the catalogue.
        uses: the optional parameters and inputs of the calls that ask.

    Raises:
        BuildError: the catalogue has another spec by now.
        SpecError, CompileError: the derivative cannot be formed, or not accurately.
    """
    file = f"{loss}.yaml"
    if not text:
        path = paths.require_spec(loss)
        text, file = path.read_text(encoding="utf-8"), str(path)
        if sha256(text.encode()).hexdigest()[:8] not in key:
            raise Outdated(name=loss)
    facts = (_compiler(paths.data_root()), kind, draft, text.encode(), by, sorted(uses))
    name = _digested(f"{loss}_{kind}", facts)
    made = partial(_compiled_derived, text, file, draft, kind, by, uses)
    return _loaded(lambda: name, made)


def _loaded(name_now: Callable[[], str], compiled: Callable[[], str]) -> ModuleType:
    """The module of the name that a spec has now, which is compiled if need be."""
    name = name_now()
    while f"{__name__}.{name}" not in sys.modules and name not in _TEXTS:
        text = _found_or_made(name, name_now, compiled)
        if name_now() == name:  # else it was edited meanwhile
            _TEXTS.setdefault(name, text)
        name = name_now()
    return _import(f"{__name__}.{name}")


def cache_dir() -> Path:
    """Where compiled specs are kept: ``LOSSGEN_CACHE_DIR``, or the user's cache."""
    options()  # says what is wrong with a variable
    return store.root()


# ---------------------------------------------------------------------------- names
def name_of(path: Path, draft: bool = False) -> str:
    """<loss>_<digest> of the compiler and of what it reads of a spec."""
    try:
        source = path.read_bytes()
    except OSError:
        source = b""  # the compiler says why
    specs = path.parent.name == "specs"
    facts = (_compiler(paths.data_root()), path.name, specs, draft, source, _compared_with(source))
    return _digested(path.stem, facts)


def _digested(stem: str, facts: tuple[object, ...]) -> str:
    stem = stem if stem.isidentifier() else "loss"
    return f"{stem}_{sha256(repr(facts).encode(errors='surrogateescape')).hexdigest()[:32]}"


def _compared_with(source: bytes) -> list[tuple[str, bytes]]:
    """The losses of the catalogue that a spec may name as its limits, with their bytes: a spec is
    refused where a limit does not hold.  Every word is looked up, as finding those under `equals`
    takes the compiler."""
    folder = paths.specs_dir()
    if b"equals" not in source and b"\\" not in source:
        return []
    known = {name.removesuffix(".yaml") for name in os.listdir(folder) if name.endswith(".yaml")}
    if b"\\" not in source:  # else a name may be spelled by escapes
        known &= set(re.findall(r"[a-z][a-z0-9_]*", source.decode("ascii", "replace")))
    return [(name, (folder / f"{name}.yaml").read_bytes()) for name in sorted(known)]


@lru_cache
def _compiler(data: Path) -> str:
    """A digest of all that decides what a spec becomes."""
    digest = sha256(sys.version.encode())
    sources = []
    for folder, inner, names in os.walk(paths.PACKAGE):
        if Path(folder) == paths.PACKAGE:
            inner[:] = [name for name in inner if name not in _NOT_THE_COMPILER]
        sources += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    for path in sorted([*sources, *map(str, (data / "templates").glob("*.jinja"))]):
        with open(path, "rb") as file:
            content = file.read()
        digest.update(f"{os.path.basename(path)} {len(content)} ".encode())
        digest.update(content)
    digest.update(repr(_versions()).encode())
    return digest.hexdigest()


def _versions() -> list[str]:
    """Folders such as ``sympy-1.14.0.dist-info`` beside the libraries: importing
    ``importlib.metadata`` takes longer than all else."""
    found = (PathFinder.find_spec(name) for name in _LIBRARIES)
    places = {Path(next(iter(s.submodule_search_locations or [""]))).parent for s in found if s}
    names = (name for place in places for name in os.listdir(place))
    return sorted(n for n in names if n.endswith("-info") and n.lower().startswith(_LIBRARIES))


# ---------------------------------------------------------------------------- the cache
def _file(name: str) -> Path:
    return cache_dir() / "specs" / f"{name}.py"


def _found_or_made(name: str, name_now: Callable[[], str], compiled: Callable[[], str]) -> str:
    """The source of the module; one process compiles it."""
    file, text = _file(name), None
    try:
        kept = store.read(file)
        if kept is not None:
            return kept.decode()
        store.make_folder(file.parent)
        with store.locked(file.with_suffix(".lock")) as alone:
            kept = store.read(file)
            if kept is not None:
                return kept.decode()
            store.tidy(file, alone)
            text = compiled()
            if name_now() == name:
                store.write(file, text.encode())
    except OSError as error:
        where = error.filename if isinstance(error, store.Untrusted) else file.parent
        reason = f"{where}: {error.strerror or error}"
        store.warn_once(f"{reason}; specs are compiled again in each process")
    return compiled() if text is None else text


def keep(path: Path, text: str, name: str) -> None:
    """Keep what a build compiled of a spec, for a later load; ``name`` is what it was called before
    that, and no longer is if it was edited meanwhile. Without a cache nothing is kept."""
    file = _file(name)
    with suppress(OSError):
        store.make_folder(file.parent)
        with store.locked(file.with_suffix(".lock")) as alone:
            if store.read(file) is None and name_of(path) == name:
                store.tidy(file, alone)
                store.write(file, text.encode())


def _compiled(path: Path, draft: bool) -> str:
    with _IMPORTING:
        from lossgen.build import render
    return render(path, draft=draft).text


def _compiled_text(text: str, file: str, draft: bool) -> str:
    with _IMPORTING:
        from lossgen.build import render_text
    return render_text(text, file, draft)


def _compiled_derived(
    text: str, file: str, draft: bool, kind: str, by: str, uses: frozenset[str]
) -> str:
    with _IMPORTING:
        from lossgen.build import render_derived
    return render_derived(text, file, draft, kind, by, uses)


# ---------------------------------------------------------------------------- modules
#: Held while modules are imported: a child that is forked meanwhile would wait for ever for the
#: locks of modules whose importing thread it does not have.
_IMPORTING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_IMPORTING.acquire,
        after_in_parent=_IMPORTING.release,
        after_in_child=_IMPORTING.release,
    )


def _import(name: str) -> ModuleType:
    if name in sys.modules:
        return import_module(name)  # waits for a thread that imports it
    with _IMPORTING:
        return import_module(name)


class _Cached(MetaPathFinder):
    """Finds ``lossgen.cache.<loss>_<digest>``: the text of a load, or a checked file."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != __name__:
            return None
        text = _TEXTS.pop(name, None)
        if text is None:  # pickled by another process
            try:
                kept = store.read(_file(name))
            except OSError as error:
                raise ImportError(f"{error.filename}: {error.strerror}", name=fullname) from error
            if kept is None:
                raise ModuleNotFoundError(
                    f"{fullname} is not in the cache: call lossgen.load on its spec first",
                    name=fullname,
                )
            text = kept.decode()
        return spec_from_file_location(fullname, _file(name), loader=_Loader(text, _file(name)))


class _Loader(InspectLoader):
    """Runs a text that was read once: no file is read again, and no bytecode beside it."""

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path

    def get_source(self, fullname: str) -> str:
        return self.text

    def is_package(self, fullname: str) -> bool:
        return False

    def get_code(self, fullname: str) -> CodeType:
        # Triton reads the source of its kernels this way; without a time it is never read anew.
        lines = self.text.splitlines(keepends=True)
        linecache.cache[str(self.path)] = (len(self.text), None, lines, str(self.path))
        facts = sha256(self.text.encode()).digest(), str(self.path)
        file = self.path.with_suffix(".code")  # guarded as the text is; made by this Python
        with suppress(OSError):
            kept = store.read(file)
            if kept is not None:
                *known, code = marshal.loads(kept)
                if tuple(known) == facts:
                    return code
        code = compile(self.text, str(self.path), "exec", dont_inherit=True)
        with suppress(OSError):
            if self.path.exists():  # what could not be kept was told of
                store.write(file, marshal.dumps((*facts, code)))
        return code


sys.meta_path.append(_Cached())
