"""YAML text → nodes that know their place, and the places of a formula's characters.

Built on ruamel.yaml's event stream, so that anchors, tags and deep nesting are refused before
anything is made of them.  Scalars stay text: what a value means is the model's business.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from lossgen.errors import (
    DuplicateKey,
    Location,
    TooLarge,
    UnreadableSpec,
    UnsupportedYaml,
    YamlSyntax,
)
from lossgen.spec.expr import Span

__all__ = ["FLOW_HINT", "MAX_CHARACTERS", "Formula", "Node", "Source", "compose", "shorten"]

MAX_CHARACTERS = 250_000
MAX_DEPTH = 10
MAX_ENTRIES = 500  # of a mapping or a list
FLOW_HINT = "inside { } or [ ], a text with commas or brackets needs quotes"
_GLUED = re.compile(r"^(\w+):([^\s/]\S*)\n\w*\Z", re.MULTILINE)  # name:t above another key
_SPACE = re.compile(r"\s*")
_BLANK = re.compile(r"(?:\s|\\[ \n\t_nrtvfNLP]|\\x20|\\u0020)*")  # in a double-quoted scalar
_ESCAPE_LENGTHS = {"x": 4, "u": 6, "U": 10}


@dataclass
class Node:
    """A YAML value: ``text`` of a scalar, or ``pairs`` of a mapping, or ``items`` of a list."""

    kind: str  # "scalar", "mapping" or "list"
    start: int  # character offsets in the source
    end: int
    text: str = ""
    style: str | None = None  # None for a plain scalar, else its quote or block indicator
    pairs: list[tuple[Node, Node]] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)  # of the pairs, by key

    def get(self, key: str | int) -> Node | None:
        """The value under a key or index, if there is one."""
        if isinstance(key, int):
            return self.items[key] if 0 <= key < len(self.items) else None
        return self.pairs[self.index[key]][1] if key in self.index else None

    def key(self, key: str | int) -> Node | None:
        """The key's own node."""
        return self.pairs[self.index[key]][0] if key in self.index else None


@dataclass(frozen=True)
class Formula:
    """A formula's text on one line, and where in the source each of its characters stands."""

    text: str
    offsets: tuple[int, ...]


class Source:
    """A text and its file's name; turns offsets into locations."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self._lines = [0, *(m.end() for m in re.finditer("\n", text))]

    def location(self, start: int, end: int | None = None) -> Location:
        """The place of ``text[start:end]``; its width ends with the first line."""
        start = max(0, min(start, len(self.text)))
        row = bisect_right(self._lines, start) - 1
        first = self._lines[row]
        stop = self.text.find("\n", first)
        line = self.text[first : stop if stop >= 0 else len(self.text)]
        last = min(start + 1 if end is None else end, first + len(line))
        return Location(self.file, row + 1, start - first + 1, max(1, last - start), line)

    def of(self, node: Node) -> Location:
        """The place of a value: a scalar's text, or the first character of a collection."""
        if node.kind != "scalar":
            return self.location(node.start)
        return self.location(node.start, max(node.end, node.start + 1))

    def formula(self, node: Node) -> Formula:
        """A scalar as a formula, whichever way it is quoted or folded."""
        offsets, flat = self.offsets(node), re.sub(r"\s", " ", node.text)
        left, right = len(flat) - len(flat.lstrip()), len(flat.rstrip())
        return Formula(flat.strip(), tuple(offsets[left:right]) or (node.start,))

    def offsets(self, node: Node) -> list[int]:
        """Where each character of a scalar stands in the source."""
        raw, position, text = self.text, node.start, node.text
        if node.style in ("|", ">"):
            position = raw.find("\n", position) + 1
        elif node.style:
            position += 1
        offsets = []
        for character in text:  # blanks fold and move, so only the other characters are matched
            if not character.isspace():
                blank = _BLANK if node.style == '"' else _SPACE
                found = blank.match(raw, position, node.end)
                position = found.end() if found else position
            offsets.append(min(position, node.end))
            if not character.isspace():
                position += self.written(position, character, node.style)
        return offsets

    def written(self, position: int, character: str, style: str | None) -> int:
        """How many source characters spell one character of a scalar."""
        if style == '"' and self.text[position : position + 1] == "\\":
            return _ESCAPE_LENGTHS.get(self.text[position + 1 : position + 2], 2)
        return 2 if style == "'" and character == "'" else 1

    def at(self, formula: Formula, span: Span) -> Location:
        """The place of a part of a formula."""
        last = len(formula.offsets) - 1
        if span.start > last:  # just behind the end
            return self.location(formula.offsets[last] + 1)
        start = formula.offsets[max(0, span.start)]
        end = formula.offsets[max(0, min(span.end - 1, last))] + 1
        return self.location(start, max(end, start + 1))


def shorten(text: str, limit: int = 50) -> str:
    """``text`` cut to ``limit`` characters, for messages."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def compose(source: Source) -> Node:
    """The YAML tree of a text.

    Raises:
        SpecError: not YAML, empty, too large, duplicate keys, or features specs do without.
    """
    if len(source.text) > MAX_CHARACTERS:
        raise TooLarge(
            what=f"{len(source.text)} characters, at most {MAX_CHARACTERS}",
            location=source.location(0),
        )
    stack: list[tuple[Node, list[Node]]] = []  # open collections, and their children so far
    root: Node | None = None
    for event in _events(source):
        kind = type(event).__name__
        start, end = event.start_mark.index, event.end_mark.index
        node: Node | None = None
        if kind == "DocumentStartEvent" and root is not None:
            raise _unsupported(source, "several YAML documents", start)
        if kind == "DocumentStartEvent" and (event.version or event.tags):
            raise _unsupported(source, "YAML directives", source.text.find("%"))
        if kind == "AliasEvent" or getattr(event, "anchor", None):
            raise _unsupported(source, "YAML anchors and aliases", start)
        if getattr(event, "tag", None) not in (None, "!"):
            raise _unsupported(source, "YAML tags", start)
        if kind == "ScalarEvent":
            node = Node("scalar", start, end, event.value, event.style)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            if len(stack) == MAX_DEPTH:
                raise TooLarge(
                    what=f"nested more than {MAX_DEPTH} deep", location=source.location(start)
                )
            stack.append((Node("mapping" if kind[0] == "M" else "list", start, end), []))
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            node, children = stack.pop()
            node.end = end
            _close(source, node, children)
        if node is None:
            continue
        if stack:
            parent, children = stack[-1]
            children.append(node)
            if len(children) > MAX_ENTRIES * (2 if parent.kind == "mapping" else 1):
                raise TooLarge(
                    what=f"a {parent.kind} of more than {MAX_ENTRIES} entries",
                    location=source.location(start),
                )
        else:
            root = node
    if root is None or (root.kind == "scalar" and not root.text):
        raise UnreadableSpec(reason="it is empty", location=source.location(0))
    if root.kind != "mapping":
        raise UnreadableSpec(
            reason="it is not a mapping of keys",
            location=source.of(root),
            hint="a spec has lines such as name: my_loss and transform: -logp[y]",
        )
    return root


def _close(source: Source, node: Node, children: list[Node]) -> None:
    if node.kind == "list":
        node.items = children
        return
    for key, value in zip(children[::2], children[1::2], strict=True):
        if key.kind != "scalar":
            raise _unsupported(source, "YAML keys that are not plain text", key.start)
        if key.text in node.index:
            line = source.of(node.pairs[node.index[key.text]][0]).line
            raise DuplicateKey(key=shorten(key.text), line=line, location=source.of(key))
        node.index[key.text] = len(node.pairs)
        node.pairs.append((key, value))


def _unsupported(source: Source, what: str, start: int) -> UnsupportedYaml:
    return UnsupportedYaml(what=what, location=source.location(start))


def _events(source: Source) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(source.text)
    except MarkedYAMLError as error:
        mark, problem = error.problem_mark, str(error.problem or error.context or "unreadable")
        if not mark or re.search("<stream end>|end of stream", problem):
            mark, problem = error.context_mark or mark, "this is never closed"
        place = source.location(mark.index if mark else 0)
        hint = _hint(problem, source.text[: mark.index] if mark else "")
        raise YamlSyntax(problem=problem, location=place, hint=hint) from None
    except ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        problem = f"character U+{code:04X} is not allowed"
        place = source.location(int(error.position))
        raise YamlSyntax(problem=problem, location=place) from None
    except (
        YAMLError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        OverflowError,
        RecursionError,
    ) as error:  # ruamel's own slips on odd input
        problem = f"{type(error).__name__} in the YAML reader"
        raise YamlSyntax(problem=problem, location=source.location(0)) from error


def _hint(problem: str, before: str) -> str | None:
    """What to write, by the parser's words and the text before the place."""
    if "'\\t'" in problem:
        return "indent with spaces"
    if problem.startswith("expected chomping"):
        return "| begins a text of several lines: an absolute value is abs(e)"
    if problem.startswith("expected ',' or"):
        return FLOW_HINT
    if problem.startswith("sequence entries are not allowed"):
        return "'- ' begins an entry of a list: write -x without the blank, or put quotes around it"
    if glued := _GLUED.search(before):
        return f"a blank stands behind the ':' of a key: write {glued[1]}: {glued[2]}"
    if "cannot start any token" in problem or "mapping values are not allowed" in problem:
        return "put quotes around a value that holds ': ' or starts with a special character"
    return None
