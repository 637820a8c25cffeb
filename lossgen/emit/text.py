"""Text of a spec in generated sources: one function per language, the only ways in.

Whatever the text is, a string or a comment begins and ends where the function says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["python_comment", "python_docstring", "python_string"]

_LINE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]|[\u2028\u2029\ud800-\udfff]")
_QUOTES = re.compile(r'"{3,}|"+\Z')


def _line(text: str) -> str:
    """Without anything that could end a line, in any language."""
    return _LINE.sub(" ", text)


def python_string(text: str) -> str:
    """A string literal."""
    return ascii(str(text))


def python_docstring(text: str) -> str:
    """A literal of several lines: what stands between three quotes cannot be three quotes."""
    lines = [_line(line) for line in text.split("\n")]
    inner = "\n".join(lines).replace("\\", "\\\\")
    inner = _QUOTES.sub(lambda found: '\\"' * len(found[0]), inner)
    return f'"""{inner}"""'


def python_comment(lines: Iterable[str], indent: str = "") -> str:
    """Lines of a comment."""
    return "\n".join(f"# {indent}{_line(line)}".rstrip() for line in lines)
