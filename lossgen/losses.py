"""The catalogue as Python names: ``from lossgen.losses import gce_loss, GCELoss``.

The generated files are this module's submodules (``lossgen.losses.<name>`` is
``generated/<name>.py``), found by the ordinary import system through ``__path__``; the two names
of each are looked up in an index of the files' ``__all__`` and imported at first use.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from token import NAME, NEWLINE
from tokenize import generate_tokens

from lossgen import paths
from lossgen.unknown import did_you_mean, tell

__path__ = [str(paths.generated_dir())]


def __getattr__(name: str) -> object:
    if name == "__all__":
        return [*_index()]
    if name.startswith("__"):
        raise AttributeError(name)
    module = _index().get(name)
    if module is None and (paths.generated_dir() / f"{name}.py").is_file():
        return import_module(f"{__name__}.{name}")
    if module is None:
        raise AttributeError(_unknown(name))
    found = import_module(f"{__name__}.{module}")
    # All of them: where a function has the name of its module, importing hid it.
    globals().update({n: getattr(found, n) for n in found.__all__})
    return getattr(found, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_index(), *_index().values()})


def _unknown(name: str) -> str:
    """What is wrong with a name that is none of a loss."""
    known = {**_index(), **dict.fromkeys(_index().values())}
    return f"{__name__} has no {name!r}: {did_you_mean(name, known, 'see `lossgen list`', 3)}"


tell(__name__, _unknown)


@lru_cache(maxsize=1)
def _index() -> dict[str, str]:
    """Public name → module, from the ``__all__`` of each generated file, without importing it."""
    return {
        name: path.stem
        for path in sorted(paths.generated_dir().glob("*.py"))
        for name in _exports(path)
    }


def _exports(path: Path) -> list[str]:
    """``__all__`` of a file: by its tokens, as a docstring may have a line that looks like it, and
    no farther than that, as to parse all of them would take seconds."""
    held = ""
    with path.open(encoding="utf-8") as file:
        for token in generate_tokens(file.readline):
            if held or (token.type == NAME and token.start[1] == 0 and token.string == "__all__"):
                if token.type == NEWLINE:
                    return list(ast.literal_eval(held.partition("=")[2].strip()))
                held += token.string
    return []
