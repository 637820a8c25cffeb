"""The symbols that a spec declares, as a kind of their own."""

from __future__ import annotations

from typing import Any

from sympy import Symbol
from sympy.core.basic import ordering_of_classes

from lossgen.spec.spelling import said, spelled

__all__ = ["Given"]


class Given(Symbol):
    """A declared name, or the value at y of a declared vector.

    It never equals a symbol of the compiler, whatever its name is: another class, and another
    spelling, so that texts that are sorted or looked up by name cannot meet either.
    """

    __slots__ = ()

    @classmethod
    def of(cls, name: str, added: str = "", **assumptions: Any) -> Given:
        """The symbol of ``name``, as the spec says it; ``added``: what is ours, as in ``_y``."""
        return cls(spelled(name) + added, **assumptions)

    @property
    def said(self) -> str:
        """The name as the spec says it."""
        return said(self.name)


# SymPy sorts factors by the names of their classes, and those it does not know come last.  As a
# symbol it stands before functions: 0·softplus(1e38)·2 is 0, where 2·softplus(1e38)·0 is not.
ordering_of_classes.insert(ordering_of_classes.index("Symbol") + 1, Given.__name__)
