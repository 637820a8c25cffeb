"""``lossgen.load``: a loss as a module, from the catalogue or from a spec anywhere.

A spec outside the catalogue is compiled and kept in the user's cache under the sha256 of the
generated text, so that a changed spec or compiler is another file and no entry is ever edited.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from lossgen import paths
from lossgen.build import render, write_atomically
from lossgen.errors import BuildError
from lossgen.options import options

__all__ = ["cache_dir", "load"]


def load(name_or_path: str | Path) -> ModuleType:
    """The generated module of a loss.

    Args:
        name_or_path: a name of the catalogue, whose checked-in module is imported as it is, or
            the path of a spec, which is compiled (about a second) and cached.

    Returns:
        A module with the functions ``<name>_loss`` and ``linear_<name>_loss`` and their
        ``nn.Module`` classes. Loading the same spec twice gives the same module.

    Raises:
        BuildError: no such spec.
        SpecError, CompileError: the spec is wrong.
    """
    path = paths.require_spec(name_or_path)
    by_name = str(name_or_path) == path.stem
    if by_name and (paths.generated_dir() / f"{path.stem}.py").is_file():
        return import_module(f"lossgen.losses.{path.stem}")
    rendered = render(path)
    digest = sha256(rendered.text.encode()).hexdigest()
    target = cache_dir() / digest / f"{rendered.name}.py"
    if not target.is_file():
        write_atomically(target, rendered.text)
    return _import_file(f"lossgen_{rendered.name}_{digest[:16]}", target)


def cache_dir() -> Path:
    """Where compiled specs are kept: ``LOSSGEN_CACHE_DIR``, or the platform's user cache."""
    chosen = options().cache_dir
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path

    return user_cache_path("lossgen", appauthor=False)


def _import_file(name: str, path: Path) -> ModuleType:
    """Import ``path`` once under ``name``; a module that fails to import is not kept."""
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BuildError(f"cannot import {path}")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
