"""What is meant by a name that is not there: the one place that guesses.

``from lossgen.losses import gcee_loss`` would be told by Python that it cannot import the name, and
nothing else: a module that knows better says so by ``tell``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["did_you_mean", "nearest", "tell"]

_LONGEST = 60  # characters of a name that are compared


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Those of ``known`` that ``name`` may be meant for, nearest first; case and ``_`` count for
    nothing."""
    from difflib import get_close_matches  # which takes longer to import than all of lossgen

    names = [*known]
    alike = [other for other in names if _folded(other) == _folded(name)]
    close = get_close_matches(name[:_LONGEST], names, n=most + len(alike))
    return list(dict.fromkeys([*alike, *close]))[:most]


def did_you_mean(name: str, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """``did you mean 'gce_loss'?``, or what to say where nothing is near."""
    close = nearest(name, known, most)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else otherwise


def _folded(name: str) -> str:
    return name.replace("_", "").casefold()


class _Finder:
    """The last of ``sys.meta_path``: asked for what nobody has found."""

    def __init__(self, package: str, said: Callable[[str], str]) -> None:
        self.package, self.said = package, said

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != self.package or name.startswith("_"):
            return None
        # Without the module's name in it: Python leaves out errors that have it, and says its own.
        raise ModuleNotFoundError(self.said(name))


def tell(package: str, said: Callable[[str], str]) -> None:
    """Let ``from package import name`` fail with what ``said`` says of the name."""
    sys.meta_path.append(_Finder(package, said))
