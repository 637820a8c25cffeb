"""README.md, CONTRIBUTING.md and docs/*.md as pages: links lead to pages, copies lose their marks.

The first part of the README is the home page, the rest of it the page ``overview``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.site.facts import ROOT

__all__ = ["Documents", "documents"]

_HOME_ENDS = "## Two commands"
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^)\s]+)\)")
_CONTENTS = re.compile(r"(?:^- \[[^\]]+\]\(#[^)]*\)\n)+", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_ALONE = "---\nhide:\n  - navigation\n---\n"
_BUTTONS = """\
<p class="jump" markdown>
[Which loss for what](which_loss.md){ .md-button .md-button--primary }
[Catalogue](losses/index.md){ .md-button }
[Calling a loss](calling.md){ .md-button }
</p>
"""


@dataclass(frozen=True)
class Documents:
    """Pages by their path in the site, and the images that they show."""

    pages: dict[str, str]
    images: dict[str, Path]


def documents() -> Documents:
    """All of them, from the checkout."""
    sources = {"CONTRIBUTING.md": "contributing.md"}
    sources |= {f"docs/{p.name}": p.name for p in sorted((ROOT / "docs").glob("*.md"))}
    home, rest = _halves((ROOT / "README.md").read_text(encoding="utf-8"))
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in sources}
    images: dict[str, Path] = {}
    places = _Places(sources, _anchors(home))
    pages = {"index.md": _with_buttons(places.page(home, "README.md", images))}
    pages["overview.md"] = places.page(rest, "README.md", images)
    pages |= {sources[p]: places.page(text, p, images) for p, text in texts.items()}
    return Documents(pages, images)


def _halves(readme: str) -> tuple[str, str]:
    home, cut, rest = readme.partition(_HOME_ENDS)
    if not cut:
        raise ValueError(f"README.md has no {_HOME_ENDS!r}: where does the home page end?")
    return home, f"# Overview\n\n{cut}{rest}"


def _with_buttons(home: str) -> str:
    """The home page, with the ways on below its first paragraph."""
    first, _, body = home.partition("\n## ")
    return f"{_ALONE}{first}\n{_BUTTONS}\n## {body}"


def _anchors(text: str) -> frozenset[str]:
    return frozenset(_anchor(m[1]) for m in _HEADING.finditer(_FENCE.sub("", text)))


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@dataclass(frozen=True)
class _Places:
    """Where what the documents link to is in the site."""

    sources: Mapping[str, str]
    at_home: frozenset[str]  # anchors of the README's first part

    def page(self, text: str, source: str, images: dict[str, Path]) -> str:
        """A document with the links of a page; ``images`` is added to."""
        kept: list[str] = []

        def keep(fence: re.Match[str]) -> str:
            kept.append(fence[0])
            return f"\0{len(kept) - 1}\0"

        outside = _FENCE.sub(keep, _CONTENTS.sub("", text, count=1))
        outside = _MARK.sub("\n", outside)
        linked = _LINK.sub(lambda match: self._link(match, source, images), outside)
        return re.sub(r"\0(\d+)\0", lambda m: kept[int(m[1])], linked)

    def _link(self, match: re.Match[str], source: str, images: dict[str, Path]) -> str:
        to, image, text = match["to"], match["image"], match["text"]
        if "://" in to or to.startswith("mailto:"):
            return match[0]
        path, _, anchor = to.partition("#")
        target = (
            posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) if path else source
        )
        if image:
            images[posixpath.basename(target)] = ROOT / target
            return f"![{text}]({posixpath.basename(target)})"
        place = self._place(target, anchor)
        if place is None:
            return text if text.startswith("`") else f"{text} (`{target}`)"
        return f"[{text}]({place}{f'#{anchor}' if anchor else ''})"

    def _place(self, target: str, anchor: str) -> str | None:
        """The page of a file, if it has one."""
        if target == "README.md":
            return "index.md" if not anchor or anchor in self.at_home else "overview.md"
        path = PurePosixPath(target)
        if path.parent.name == "specs" and path.suffix == ".yaml":
            return f"losses/{path.stem}.md"
        return self.sources.get(target)
