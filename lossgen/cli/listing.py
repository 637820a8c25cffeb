"""``lossgen list``: the catalogue, read from the headers of the generated files."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from typing import Annotated

import typer

from lossgen import paths
from lossgen.cli.names import complete

__all__ = ["list_losses", "read_header"]

_HEADER_LINES = 60
_PIPED = 250  # columns where nothing says how many there are
_SEARCHED = ("name", "title", "reference", "formula", "with")


def list_losses(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD...",
            help="Only losses that have all of these in name, title, reference or formula.",
            autocompletion=complete,
        ),
    ] = None,
    names_only: Annotated[
        bool, typer.Option("--names", help="Only the names, a line each.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="All that is known of them, machine-readable.")
    ] = False,
) -> None:
    """Show the catalogue: formula, sweeps over the classes, and measured accuracy.

    Example: [bold]lossgen list adversarial[/bold]
    """
    wanted = [word.casefold() for word in words or ()]
    found = [entry for name in paths.spec_names() if _has(entry := _entry(name), wanted)]
    if not found:
        typer.echo(f"no loss has {' and '.join(words or ())}", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif names_only:
        typer.echo("\n".join(entry["name"] for entry in found))
    else:
        _print(found)


def _entry(name: str) -> dict[str, str]:
    return {"name": name, **read_header(name)}


def _has(entry: dict[str, str], wanted: list[str]) -> bool:
    text = "\n".join(entry.get(key, "") for key in _SEARCHED).casefold()
    return all(word in text for word in wanted)


def _print(found: list[dict[str, str]]) -> None:
    """A line each, the formula cut to fit."""
    rows = [("name", "formula", "sweeps", "ulp: loss, gradient")]
    rows += [(e["name"], e.get("formula", ""), e.get("sweeps", ""), _certified(e)) for e in found]
    name, formula, sweeps, bounds = (max(map(len, column)) for column in zip(*rows, strict=True))
    columns = shutil.get_terminal_size().columns if _has_width() else _PIPED
    formula = min(formula, max(10, columns - name - sweeps - bounds - 6))
    for number, row in enumerate(rows):
        cells = (row[0].ljust(name), _cut(row[1], formula).ljust(formula), row[2].rjust(sweeps))
        head = typer.style(cells[0], bold=not number, fg=typer.colors.CYAN if number else None)
        typer.echo("  ".join([head, *cells[1:], row[3]]))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _has_width() -> bool:
    """Is there a terminal, or does the environment tell of one?"""
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def _certified(entry: dict[str, str]) -> str:
    """The certificate's two bounds, in units of (1 + kappa) ulp."""
    certificate = entry.get("certificate", "")
    bounds = re.findall(r"<= ([\w.+-]+)", certificate)
    wide = " float64" if entry.get("arithmetic", "").startswith("float64") else ""
    return ", ".join(bounds) + wide if bounds else certificate  # of a draft, that there is none


def read_header(name: str) -> dict[str, str]:
    """The ``# key: value`` lines on top of ``generated/<name>.py``, and title and reference, which
    follow them; "not built" where it is not."""
    path = paths.generated_dir() / f"{name}.py"
    if not path.is_file():
        return {"formula": "(not built)"}
    header: dict[str, str] = {}
    text: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(_HEADER_LINES), strict=False):
            if not line.startswith("#"):
                text.append(line)
            elif not text:
                key, _, value = line.removeprefix("#").strip().partition(": ")
                header |= {key: value} if value else {}
    title, _, rest = "".join(text).partition("\n")
    reference = " ".join(rest.partition('"""')[0].split())
    return {"title": title.strip('"').removesuffix("."), "reference": reference, **header}
