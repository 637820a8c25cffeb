"""Several short items of a call, a signature or a table on one line, where the formatter has one.

The formatter breaks what does not fit on one line at every comma.  Between brackets a line break
means nothing, so items that stand alone on neighbouring lines are put side by side as far as the
line goes: a signature takes two lines where it took eleven.  An item that calls a function of a
module keeps its line, as that is mathematics; one that makes a record does not.
"""

from __future__ import annotations

import io
import re
from tokenize import COMMENT, NL, OP, generate_tokens

__all__ = ["filled"]

_CALL = re.compile(r"\.[a-z_]\w*\(")  # not of a class


def filled(source: str, width: int = 100) -> str:
    """``source``, formatted Python, with neighbouring items of a bracket on lines of ``width``."""
    lines = source.splitlines()
    depths, whole = _depths(source, len(lines))
    out: list[str] = []
    run: tuple[int, int] | None = None  # depth and indent of the items of the last line
    for line, depth, ended, plain in zip(lines, depths[:-1], depths[1:], whole, strict=True):
        indent = len(line) - len(line.lstrip())
        item = plain and depth > 0 and ended == depth and line.endswith(",")
        item = item and not _CALL.search(line)
        if item and run == (depth, indent) and len(out[-1]) + 1 + len(line) - indent <= width:
            out[-1] += f" {line.lstrip()}"
        else:
            out.append(line)
        run = (depth, indent) if item else None
    return "\n".join(out) + "\n"


def _depths(source: str, n_lines: int) -> tuple[list[int], list[bool]]:
    """Open brackets before each line, and after the last; and which lines are whole: brackets that
    close on it open on it, and neither a comment nor a text of several lines is there."""
    depths, whole = [0] * (n_lines + 1), [True] * n_lines
    depth, row = 0, 1
    lowest = dict[int, int]()
    for token in generate_tokens(io.StringIO(source).readline):
        first, last = token.start[0], token.end[0]
        for at in range(row, min(first, n_lines + 1)):
            depths[at] = depth
        row = max(row, first)
        if token.type == OP and token.string in "([{":
            depth += 1
        elif token.type == OP and token.string in ")]}":
            depth -= 1
            lowest[first] = min(lowest.get(first, depth), depth)
        elif token.type == COMMENT and first <= n_lines:
            whole[first - 1] = False
        elif first != last and token.type != NL:
            whole[first - 1 : last] = [False] * (min(last, n_lines) - first + 1)
    for at in range(row, n_lines + 1):
        depths[at] = depth
    for line, least in lowest.items():
        whole[line - 1] &= least >= depths[line - 1]
    return depths, whole
