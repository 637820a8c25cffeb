"""Calls that do not fit the signature of a loss, and what to write instead.

A generated function takes what is too much of a call, ``*more`` and ``**unknown``, to say more of
it than Python would; nothing is spent on a call that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, Signature, signature
from types import ModuleType
from typing import Any, NoReturn

from torch import Tensor

__all__ = ["LossFile", "refuse", "without_rest", "wrong"]

_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_OF_A_TARGET = ("target", "targets", "label", "labels", "y", "ignore_index")
_NO_TARGET = ": this loss has no target, leave it out"


class LossFile(ModuleType):
    """A generated module that is called like a function, or asked for a name that it lacks."""

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        raise TypeError(f"{self.__name__} is a module, not a function: it has {self._offered()}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"{self.__name__} has no {name!r}: it has {self._offered()}")

    def _offered(self) -> str:
        return ", ".join(sorted(self.__dict__.get("__all__", ()), key=str.swapcase))


def without_rest(function: Callable[..., Any]) -> Signature:
    """What a function takes, apart from what it refuses."""
    signed = signature(function)
    kept = [p for p in signed.parameters.values() if p.kind not in _REST]
    return signed.replace(parameters=kept)


def refuse(
    function: Callable[..., Any], more: Sequence[Any], unknown: Mapping[str, Any]
) -> NoReturn:
    """Raises TypeError: one argument too many, or one of a name that there is not."""
    raise wrong(function.__name__, signature(function), more, unknown)


def wrong(
    name: str, signed: Signature, more: Sequence[Any], unknown: Mapping[str, Any]
) -> TypeError:
    """The error of a call, or of making a module: ``more`` by position, or ``unknown`` names."""
    known = [p for p in signed.parameters if p != "self"]
    placed = [p for p in known if signed.parameters[p].kind is Parameter.POSITIONAL_OR_KEYWORD]
    named = [p for p in known if p not in placed]
    if unknown:
        given = next(iter(unknown))
        return TypeError(f"{name} has no argument {given!r}{_nearest(given, placed, named)}")
    takes = f"{len(placed) or 'no'} argument{'s' * (len(placed) != 1)} by position"
    takes += f" ({', '.join(placed)})" if placed else ""
    count = len(placed) + len(more)
    given = f"{count} {'was' if count == 1 else 'were'} given"
    if not all(isinstance(value, Tensor) for value in more):
        remedy = _by_name(more, named)
    elif "self" in signed.parameters:
        remedy = f": tensors go to its calls, {name}(...)(logits, ...)"
    else:
        remedy = "" if "target" in known else _NO_TARGET
    return TypeError(f"{name} takes {takes}, but {given}{remedy}")


def _nearest(given: str, placed: Sequence[str], named: Sequence[str]) -> str:
    """What is said of a name: the one that is near, then those of all options."""
    if given in _OF_A_TARGET and "target" not in placed and "ignore_index" not in named:
        return _NO_TARGET
    known = [*placed, *named]
    tail = [other for other in known if other.endswith(f"_{given}")]  # bias → linear_bias
    close = [*tail, *get_close_matches(given, known, n=1)][:1]
    others = ", ".join(other for other in named if other not in close)
    return (
        f": did you mean {close[0]!r}? It also takes {others}" if close else f": it takes {others}"
    )


def _by_name(more: Sequence[Any], named: Sequence[str]) -> str:
    """Options as they are given."""
    if not named:
        return ""
    plain = isinstance(more[0], (bool, int, float, str))
    return f": give the others by name, {named[0]}={repr(more[0]) if plain else '...'}"
