"""Which loss for what: a section for each purpose, two lines for each loss."""

from __future__ import annotations

from collections.abc import Collection

from tools.site.choices import Topic, linked, topics
from tools.site.markup import with_indices

__all__ = ["choices_page"]

_INTRODUCTION = """\
---
hide:
  - navigation
search:
  boost: 3
---
# Which loss for what

Two lines for each loss: why, and why not. They say what the specs, their references and the
[property sheets](sheets.md) say; all of it stands on the page of the loss, with its formula and its
curves. The [catalogue](losses/index.md) has all of them as one table.
"""


def choices_page(known: Collection[str]) -> str:
    """The page, as Markdown; ``known`` are the losses that have one."""
    jump = " · ".join(f"[{topic.name}](#{topic.anchor})" for topic in topics())
    parts = [_INTRODUCTION, f'<p class="jump" markdown>{jump}</p>\n']
    parts += (_section(topic, known) for topic in topics())
    return "\n".join(parts)


def _section(topic: Topic, known: Collection[str]) -> str:
    lines = [f"## {topic.name}\n", f"{topic.about}\n", '<div class="choices" markdown>\n']
    for name, choice in topic.losses.items():
        texts = (with_indices(text) for text in (choice.why, choice.unless))
        why, unless = (linked(text, known, "losses/") for text in texts)
        lines.append(f"[`{name}`](losses/{name}.md)\n:   {why}\n\n    *Why not:* {unless}\n")
    return "\n".join([*lines, "</div>\n"])
