"""Modules that are also the function they are named after.

``lossgen.build(...)`` and ``lossgen.build.Report`` both work: the import system binds the
submodule ``build`` to the package, so the public function of that name has to be the module.
"""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["make_callable"]


class _Verb(ModuleType):
    def __call__(self, *args: object, **kwargs: object) -> object:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module: str) -> None:
    """Let ``module``, a full dotted name, be called as its function of the last part's name."""
    sys.modules[module].__class__ = _Verb
