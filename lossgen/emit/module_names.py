"""Names of a module's own, apart from the public ones that its spec chose.

``rt``, ``LOSS``, ``tl`` … are what they are, unless a class, a function or an argument is called
so: then ours gets a ``_`` behind it, and another, until it is free.  Public names never change.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterable

__all__ = ["ModuleNames"]

#: What a module imports and defines that does not begin with ``_``, which no class or function may.
_OWN = (
    "BATCH",
    "LOSS",
    "NamedTuple",
    "NoReturn",
    "Tensor",
    "dl",
    "el",
    "rows",
    "rt",
    "tiled",
    "tl",
    "torch",
)


class ModuleNames:
    """``public``: the classes and functions of the module; ``arguments`` of its functions."""

    def __init__(self, public: Iterable[str], arguments: Iterable[str]) -> None:
        self._public, self._arguments = frozenset(public), frozenset(arguments)

    def own(self, name: str) -> str:
        """The name under which the module has something of its own."""
        return self._free(name) if name in _OWN and name in self._public else name

    def called(self, name: str) -> str:
        """The same inside functions, where arguments have names too; or that of a public one."""
        return self._free(name) if name in self._arguments else name

    def beside(self, name: str) -> str:
        """An argument of ours, whose name nothing else has."""
        return self._free(name) if name in self._public | self._arguments else name

    def _free(self, name: str) -> str:
        while name in self._public | self._arguments or name in _OWN:
            name += "_"
        return name

    def bound(self, name: str) -> str:
        """What follows ``import``."""
        return name if self.own(name) == name else f"{name} as {self.own(name)}"

    def apart(self, program: str) -> str:
        """Source of functions that mention nothing public, with the names of the module."""
        moved = {name: self.own(name) for name in _OWN if self.own(name) != name}
        if not moved:
            return program
        found, before = [], ""
        for token in tokenize.generate_tokens(io.StringIO(program).readline):
            text = token.string
            # an annotation, as in BLOCK: tl.constexpr, is a text that Triton looks for
            if token.type == tokenize.NAME and before not in (".", ":"):
                text = moved.get(text, text)
            found.append((token.type, text))
            before = token.string
        return tokenize.untokenize(found)
