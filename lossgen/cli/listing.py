"""``lossgen list``: the catalogue, read from the headers of the generated files."""

from __future__ import annotations

from typing import Annotated

import typer

from lossgen import paths

__all__ = ["list_losses", "read_header"]

_COLUMNS = ("formula", "statistics", "sweeps", "certificate")
_HEADER_LINES = 60


def list_losses(
    names_only: Annotated[
        bool, typer.Option("--names", help="Only the names, a line each.")
    ] = False,
) -> None:
    """Show the catalogue: formula, what is reduced over the classes, and measured accuracy.

    Example: [bold]lossgen list[/bold]
    """
    names = paths.spec_names()
    if names_only:
        typer.echo("\n".join(names))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", *_COLUMNS, header_style="bold", box=None, pad_edge=False)
    for name in names:
        header = read_header(name)
        certified = header.get("certificate", "").partition(" at ")[0]
        wide = header.get("arithmetic", "").partition(";")[0]
        header["certificate"] = certified + (f", in {wide}" if wide else "")
        table.add_row(Text(name, style="cyan"), *(Text(header.get(key, "")) for key in _COLUMNS))
    Console().print(table)


def read_header(name: str) -> dict[str, str]:
    """The ``# key: value`` lines on top of ``generated/<name>.py``; "not built" where it is not."""
    path = paths.generated_dir() / f"{name}.py"
    if not path.is_file():
        return {"formula": "(not built)"}
    header: dict[str, str] = {}
    with path.open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(_HEADER_LINES), strict=False):
            key, colon, value = line.removeprefix("#").strip().partition(": ")
            if line.startswith("#") and colon:
                header.setdefault(key, value)
    return header
