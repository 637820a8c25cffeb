"""What a rendered C program may consist of: the second lock behind ``emit.text``, as
``emit.allowed`` is for Python.

Comments are taken out as a compiler takes them out; what is left may hold no string but the name of
our header, no line for the preprocessor but ours, no attribute but ours, and call no function but
those of the vocabulary and of the program itself.
"""

from __future__ import annotations

import re

from lossgen.errors import CompilerBug

__all__ = ["check_program"]

_LINES = {'#include "row.h"', "#pragma GCC ivdep"}
_ATTRIBUTE = "__attribute__((always_inline))"
_CHARACTERS = re.compile(r"[A-Za-z0-9_ \n!&()*+,\-./:;<=>?\[\]{}|]*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
_CALLED = re.compile(
    r"if|for|sizeof|R|f_[a-z0-9_]+|(lift|gradient)\w*|program|forward|backward|fused"
    r"|aligned_alloc|free|memset|padded_row|read_row|write_row|grad_row"
)


def check_program(text: str) -> None:
    """Raises CompilerBug unless ``text`` has the kinds of tokens that the template writes."""
    lines = []
    for line in _without_comments(text).splitlines():
        if "#" in line and line not in _LINES:
            _refuse(f"the line {line.strip()[:40]!r}")
        lines += [line] if "#" not in line else []
    code = "\n".join(lines).replace(_ATTRIBUTE, "")
    if not _CHARACTERS.fullmatch(code) or "//" in code or "??" in code:
        _refuse("a character that no program has")
    for word in _WORD.findall(code):
        if word.startswith("_") or word == "asm":
            _refuse(f"the word {word!r}")
    for name in _CALL.findall(code):
        if not _CALLED.fullmatch(name):
            _refuse(f"a call of {name!r}")


def _without_comments(text: str) -> str:
    """With a blank for each comment, which ends at the first ``*/``."""
    kept, at = [], 0
    while (start := text.find("/*", at)) >= 0:
        end = text.find("*/", start + 2)
        if end < 0:
            _refuse("a comment without an end")
        kept.append(text[at:start])
        at = end + 2
    return " ".join([*kept, text[at:]])


def _refuse(what: str) -> None:
    raise CompilerBug(f"a rendered C program has {what}")
