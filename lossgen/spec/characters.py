"""Characters that have no place in a spec, as they are or by an escape of YAML.

Control characters end lines, move the cursor or end a string; bidirectional and other format
characters show a text as another one than is read; lone surrogates are no text.  Blanks are left:
the space, the tab and the line break.
"""

from __future__ import annotations

import unicodedata

from lossgen.errors import SpecError
from lossgen.spec.source import Node, Source

__all__ = ["check_characters", "check_text", "forbidden"]

_CATEGORIES = {
    "Cc": "a control character",
    "Cf": "an invisible format character",
    "Cs": "half of a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
_ALLOWED = "\t\n\u200c\u200d"  # joiners are letters' business in several scripts


class ForbiddenCharacter(SpecError):
    id = "LG114"
    template = "U+{code:04X} is {what}, which has no place in a spec"
    advice = "remove it"


def forbidden(character: str) -> str | None:
    """What is wrong with a character, if anything is."""
    if character in _ALLOWED or character.isprintable():
        return None
    return _CATEGORIES.get(unicodedata.category(character))


def check_text(source: Source) -> None:
    """Refuse what stands in the file itself, in its comments too."""
    if source.text.isascii() and source.text.replace("\n", "").isprintable():
        return
    for position, character in enumerate(source.text):
        if problem := forbidden(character):
            place = source.location(position)
            raise ForbiddenCharacter(code=ord(character), what=problem, location=place)


def check_characters(node: Node, source: Source) -> None:
    """Refuse what escapes put into a key or a value."""
    if node.kind == "scalar" and node.style == '"':
        places = source.offsets(node)
        for position, character in zip(places, node.text, strict=True):
            if problem := forbidden(character):
                end = position + source.written(position, character, node.style)
                place = source.location(position, end)
                raise ForbiddenCharacter(code=ord(character), what=problem, location=place)
    for pair in node.pairs:
        for part in pair:
            check_characters(part, source)
    for item in node.items:
        check_characters(item, source)
