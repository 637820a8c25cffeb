"""What an author meant who writes a formula as torch, numpy or Python have it.

    -torch.log(F.softmax(x, dim=-1))[:, y]   →   -log(softmax(x))[y]
    x[y] if 0 < p[y] < 1 else 0              →   where(0 < p[y], where(p[y] < 1, x[y], 0), 0)

Only text is made here, for a hint: the rewritten formula is parsed like any other before it is
shown, and nothing of it is ever compiled.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Sequence

from lossgen.spec.meant import Meant, Unclear
from lossgen.spec.vocabulary import FUNCTIONS, TYPOGRAPHY

__all__ = ["rewritten"]

_LONGEST = 400  # characters: longer text is not worth a look, and may be hostile
_SHOWN = 90  # of a hint
_KEPT = re.compile(r"""[A-Za-z_0-9. ()\[\],+*/<>=!:@&|~'"-]*""", re.ASCII)
_BARE = re.compile(rf"\b({'|'.join(sorted(FUNCTIONS))})\s+([A-Za-z_]\w*(?:\[\w+\])?)", re.ASCII)
_BARS, _DOUBLE_BARS = re.compile(r"\|([^|]+)\|"), re.compile(r"\|\|([^|]+)\|\|")


def rewritten(
    text: str, at: int, declared: Sequence[str], accepts: Callable[[str, list[str]], bool]
) -> str | None:
    """The formula in the language's own words, or the part of it that is wrong where the whole is
    long; None where nothing, or nothing that parses, comes of it.

    Args:
        text: a formula that was refused, and where: the position ``at``.
        declared: the names that the spec declares.
        accepts: does a formula parse, with more names of class rank?
    """
    trees = ((plain, _parsed(plain)) for plain in _plain(text))
    plain, tree = next((pair for pair in trees if pair[1] is not None), ("", None))
    if tree is None:
        return None
    meant = Meant(plain, declared)
    try:
        found = meant.visit(tree)
        whole = ast.unparse(found)
    except (RecursionError, Unclear):
        return None
    unknown = {n.id for n in ast.walk(found) if isinstance(n, ast.Name)} - FUNCTIONS
    same = _words(whole) == _words(text)
    if same or not accepts(whole, sorted(n for n in unknown if n.isidentifier())):
        return None
    if len(whole) <= _SHOWN:
        return whole
    parts = [(end - start, new) for start, end, new in meant.changed if start <= at < end]
    part = ast.unparse(min(parts, key=lambda p: p[0])[1]) if parts else ""
    return part if 0 < len(part) <= _SHOWN else None


def _words(text: str) -> str:
    return text.replace(" ", "")


def _plain(text: str) -> list[str]:
    """With ASCII operators, and as calls what stands in bars or behind a function's name; ``^``
    binds in Python as no power does."""
    for sign, word in {**TYPOGRAPHY, "^": "**"}.items():
        text = text.replace(sign, word)
    bare = _BARE.sub(r"\1(\2)", text)
    bars = _BARS.sub(r"abs(\1)", _DOUBLE_BARS.sub(r"norm(\1)", text))
    return list(dict.fromkeys((text, bare, bars)))


def _parsed(text: str) -> ast.expr | None:
    if len(text) > _LONGEST or not _KEPT.fullmatch(text):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text, mode="eval").body
        except (SyntaxError, RecursionError, MemoryError, ValueError):
            return None
