"""docs/sheets.md: the property sheets of losses of the catalogue, and a table of the verdicts.

    python -m tests.sheets --update              those of the page that are stale
    python -m tests.sheets --update gce focal    these, stale or not
    python -m tests.sheets --update --all        every loss that is stale or not there

A sheet is stale where its key, of the spec and of ``lossgen.properties.sheet.VERSION``, is another.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from lossgen import paths
from lossgen.properties.sheet import VERSION, sheet

PAGE = paths.PACKAGE.parent / "docs" / "sheets.md"
SECTION = re.compile(
    r"^## (?P<name>\w+)\n\n<!-- key: (?P<key>\w+) -->\n```text\n(?P<text>.*?)```\n",
    re.DOTALL | re.MULTILINE,
)
COLUMNS = ("bounded", "convex", "Lipschitz", "shift invariant", "symmetric", "proper", "calibrated")
_HEAD = """\
# Property sheets

What `lossgen properties NAME` prints, for losses of the [catalogue](catalogue.md) at their default
parameters and rows of three classes. [docs/properties.md](properties.md) says how each statement is
found and what it means. Made by `python -m tests.sheets --update NAME...`; a loss that is not here
has its sheet from the command.

"""


def key(name: str) -> str:
    text = paths.require_spec(name).read_text(encoding="utf-8")
    return hashlib.sha256(f"{VERSION}\n{text}".encode()).hexdigest()[:12]


def sections(page: Path = PAGE) -> dict[str, tuple[str, str]]:
    """By loss: key and text."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return {m["name"]: (m["key"], m["text"]) for m in SECTION.finditer(text)}


def computed(name: str) -> str:
    return f"{sheet(name)}\n"


def verdicts(text: str) -> list[str]:
    """The verdict of each column; a dash where the property does not apply."""
    found = []
    for column in COLUMNS:
        line = next(row for row in text.splitlines() if row.startswith(f"{column} "))
        rest = line[len(column) :].strip()
        verdict = re.split(r" {2,}| proof:| largest| the gradient", rest)[0]
        found.append("–" if rest.startswith("does not apply") else verdict)
    return found


def table(found: dict[str, tuple[str, str]]) -> str:
    lines = [f"| loss | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for name, (_, text) in found.items():
        lines.append(f"| [{name}](#{name}) | {' | '.join(verdicts(text))} |")
    return "\n".join(lines) + "\n"


def written(found: dict[str, tuple[str, str]]) -> str:
    found = {name: found[name] for name in sorted(found)}
    parts = [f"\n## {n}\n\n<!-- key: {k} -->\n```text\n{t}```\n" for n, (k, t) in found.items()]
    return _HEAD + table(found) + "".join(parts)


def update(names: Collection[str] = (), every: bool = False) -> None:
    """Compute what is stale, or these; drop what is no longer in the catalogue."""
    known = paths.spec_names()
    found = {n: entry for n, entry in sections().items() if n in known}
    stale = [n for n in (known if every else found) if found.get(n, ("",))[0] != key(n)]
    for name in names or stale:
        found[name] = (key(name), computed(name))
        PAGE.write_text(written(found), encoding="utf-8")
    PAGE.write_text(written(found), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", required=True, help="write docs/sheets.md")
    parser.add_argument("--all", action="store_true", help="also the losses that are not there")
    parser.add_argument("names", nargs="*", help="these losses, stale or not")
    given = parser.parse_args()
    update(given.names, given.all)
