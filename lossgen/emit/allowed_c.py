"""What a rendered C program may consist of: the second lock behind ``emit.text``, as
``emit.allowed`` is for Python.

Comments are taken out as a compiler takes them out; what is left may hold no string but the name of
our header, no line for the preprocessor but ours, no attribute, and call no function but those of
the vocabulary, of the header and of the program itself.
"""

from __future__ import annotations

import re

from lossgen.errors import CompilerBug

__all__ = ["check_program"]

_ENTRY = r"( EACH\(((\w+|parameter\[\d+\]), )*\w+\))*"
_LINE = re.compile(rf'#include "program\.h"|#define ([A-Z]+_OF|SUMS_\d+)\(EACH\){_ENTRY}')
_CHARACTERS = re.compile(r"[A-Za-z0-9_ \n!&()*+,\-./:;<=>?\[\]{}|]*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
_CALLED = re.compile(
    r"if|R|int|f_[a-z0-9_]+|REDUCE|REPEATED|EACH_CLASS|AT_CLASS|row_(input|entry)|class_entry"
)


def check_program(text: str) -> None:
    """Raises CompilerBug unless ``text`` has the kinds of tokens that the template writes."""
    lines = []
    joined = _without_comments(text).replace(" \\\n   ", "")  # lines that were too long
    for line in joined.splitlines():
        if "#" in line and not _LINE.fullmatch(line):
            _refuse(f"the line {line.strip()[:40]!r}")
        lines += [line] if "#" not in line else []
    code = "\n".join(lines)
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
