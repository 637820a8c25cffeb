"""Pieces of Markdown that several pages have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from textwrap import indent

__all__ = ["ARXIV", "folded", "linked_reference", "prose", "table", "text_block", "with_indices"]

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table, whose last ``numbers`` columns are set to the right."""
    sides = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = [head, sides, *([cell.replace("|", "&#124;") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def text_block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def folded(title: str, content: str) -> str:
    """What is shown when its title is clicked."""
    return f'??? note "{title}"\n\n{indent(content, "    ")}\n'


def prose(text: str) -> str:
    """A text of a spec, in which nothing is markup."""
    return re.sub(r"([*_\[\]`\\])", r"\\\1", escape(text, quote=False))


def with_indices(text: str) -> str:
    """p_y and p_y^q with their indices where they belong; of other markup untouched."""
    below = re.sub(r"\b([px])_y\b", r"\1<sub>y</sub>", text)
    return re.sub(r"\^(\w|\([^()]*\))", r"<sup>\1</sup>", below)


def linked_reference(text: str) -> str:
    """A reference, its arXiv numbers as links."""
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", prose(text))
