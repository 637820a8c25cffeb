"""Which loss for what: ``choices.yaml``, read and checked."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

__all__ = ["Choice", "Topic", "linked", "topics", "topics_of"]

_FILE = Path(__file__).with_name("choices.yaml")


@dataclass(frozen=True)
class Choice:
    """Why a loss is chosen for a topic, and when it is not: one line each."""

    why: str
    unless: str


@dataclass(frozen=True)
class Topic:
    name: str
    short: str
    about: str
    losses: dict[str, Choice]

    @property
    def anchor(self) -> str:
        """Of its heading, as the table of contents spells it."""
        return re.sub(r"[^\w\- ]", "", self.name.lower()).replace(" ", "-")


@cache
def topics() -> tuple[Topic, ...]:
    """The file's topics, in order.

    Raises:
        KeyError: an entry lacks a line.
    """
    found = YAML(typ="safe").load(_FILE.read_text(encoding="utf-8"))
    return tuple(
        Topic(
            name=entry["topic"],
            short=entry["short"],
            about=entry["about"],
            losses={n: Choice(line["why"], line["not"]) for n, line in entry["losses"].items()},
        )
        for entry in found
    )


def topics_of(name: str) -> list[Topic]:
    """Those that have a loss, those first that have it early."""
    found = [topic for topic in topics() if name in topic.losses]
    return sorted(found, key=lambda topic: [*topic.losses].index(name))


def linked(text: str, known: Collection[str], folder: str) -> str:
    """Names in backticks as links to the pages of the losses, which lie in ``folder``."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`]({folder}{name}.md)" if name in known else match[0]

    return re.sub(r"`(\w+)`", link, text)
