"""The catalogue: a table that can be filtered and sorted, and read without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from tools.site.choices import topics, topics_of
from tools.site.facts import Facts
from tools.site.markup import ARXIV

__all__ = ["catalogue_data", "catalogue_page"]

#: key of the data, title, and whether it is sorted as a number
COLUMNS: dict[str, tuple[str, bool]] = {
    "name": ("loss", False),
    "purpose": ("what for", False),
    "kind": ("judged by", False),
    "arithmetic": ("arithmetic", False),
    "sweeps": ("sweeps", True),
    "certificate": ("ulp: loss, gradient", True),
    "linear": ("linear twin", False),
    "reference": ("reference", False),
}
_INTRODUCTION = """\
# Catalogue

{count} losses. *Sweeps*: how often the forward pass reads the logits. *ulp*: the largest error of
loss and of gradient that a search against mpmath found, in (1 + κ) ulp of float32
([the certificate](../rewrites.md#the-certificate)). *Linear twin*: the same loss of hidden states
and a weight, without the logits. For a choice by purpose see
[which loss for what](../which_loss.md).
"""


def catalogue_data(losses: dict[str, Facts]) -> list[dict[str, Any]]:
    """A row of the table for each loss: what ``COLUMNS`` names, and its title."""
    return [
        {
            "name": loss.name,
            "title": loss.spec.title,
            "purpose": [topic.short for topic in topics_of(loss.name)],
            "kind": loss.kind,
            "arithmetic": loss.arithmetic,
            "sweeps": int(loss.header["sweeps"]),
            "certificate": loss.bounds,
            "linear": "yes" if loss.linear else "no",
            "reference": loss.spec.reference,
        }
        for loss in losses.values()
    ]


def catalogue_page(losses: dict[str, Facts]) -> str:
    data = catalogue_data(losses)
    head = "".join(
        f'<th scope="col" data-key="{key}"{" data-number" if number else ""}>'
        f'<button type="button">{title}</button></th>'
        for key, (title, number) in COLUMNS.items()
    )
    body = "".join(_row(row) for row in data)
    return "\n".join(
        [
            "---\nhide:\n  - toc\n---",
            _INTRODUCTION.format(count=len(data)),
            f'<div class="filters" hidden>{"".join(_filters(data))}'
            '<output aria-live="polite"></output></div>\n',
            '<div class="catalogue"><table class="losses" data-catalogue>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n",
            f'<script type="application/json" id="catalogue-data">{_json(data)}</script>\n',
        ]
    )


def _json(data: list[dict[str, Any]]) -> str:
    return json.dumps(data, ensure_ascii=False).replace("</", "<\\/")


def _row(row: dict[str, Any]) -> str:
    cells = []
    for key, (title, _) in COLUMNS.items():
        value = row[key]
        text = escape(", ".join(value) if isinstance(value, list) else str(value))
        if key == "name":
            title_of = escape(row["title"])
            text = f'<a href="{value}.html">{value}</a><small>{title_of}</small>'
        if key == "reference":
            text = ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text)
        cells.append(f'<td data-label="{title}">{text}</td>')
    return f'<tr data-name="{row["name"]}">{"".join(cells)}</tr>'


def _filters(data: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        '<label>Search <input type="search" name="words" '
        'placeholder="name, title, reference …" autocomplete="off"></label>'
    )
    yield _select("purpose", "What for", [topic.short for topic in topics()])
    for key, title in (("kind", "Judged by"), ("arithmetic", "Arithmetic"), ("sweeps", "Sweeps")):
        yield _select(key, title, sorted({str(row[key]) for row in data}))


def _select(key: str, title: str, values: list[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    every = '<option value="">all</option>'
    return f'<label>{title} <select name="{key}">{every}{options}</select></label>'
