"""``lossgen bench``: what the kernels cost, without running them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bench"]


def bench(
    losses: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|PATH...", help="Losses, or generated modules. Default: all."),
    ] = None,
    static: Annotated[
        bool,
        typer.Option("--static", help="Count instructions in the machine code. Needs no GPU."),
    ] = False,
    target: Annotated[
        str, typer.Option(metavar="TARGETS", help="GPUs to compile for, e.g. sm_90,gfx942.")
    ] = "sm_90",
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Compare with the record in DIR, by default of its losses; exit 1 if a loop got "
            "worse by more than 3 %.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write counts_TARGET.json and .md there; say what changed."
        ),
    ] = None,
) -> None:
    """Count what the row kernels of losses do per logit.

    Example: [bold]lossgen bench --static gce[/bold]
    """
    if not static:
        raise typer.BadParameter("give --static; `make bench` and benchmarks/gpu.py take times")
    found_worse = [_one(losses or None, name, check, out) for name in target.split(",")]
    if any(found_worse):
        raise typer.Exit(1)


def _one(names: Sequence[str] | None, target: str, check: Path | None, out: Path | None) -> bool:
    """Count for one target; is it worse than what it is to be checked against?"""
    from lossgen.bench.static import Record, changes, file_of, measure
    from lossgen.options import options

    folder = check or out
    recorded = None
    if folder is not None and (check is not None or file_of(folder, target).is_file()):
        recorded = Record.read(file_of(folder, target))
        if check is not None:
            names = names or sorted({kernel["loss"] for kernel in recorded.kernels})
    found = measure(names, target, jobs=options().jobs)
    _print_tables(found, target)
    worse = False
    if recorded is not None:
        worse = check is not None and not _comparable(recorded)
        for line, by in changes(found, recorded):
            typer.echo(f"{'worse' if by > 0 else 'better'}: {line}")
            worse |= by > 0
    if out is not None:
        Record.of(found, target).write(out)
        typer.echo(f"wrote {file_of(out, target)} and .md")
    elif worse:
        typer.echo("to record these counts, if they are meant: make counts")
    return worse and check is not None


def _comparable(recorded: Any) -> bool:
    if not recorded.comparable:
        typer.echo(
            f"recorded with Triton {recorded.triton}, which is not the one installed: "
            "record anew with make counts"
        )
    return bool(recorded.comparable)


def _print_tables(found: Sequence[dict[str, Any]], target: str) -> None:
    from rich.console import Console

    from lossgen.bench.report import rich_table
    from lossgen.bench.static import tables

    console = Console()
    if not console.is_terminal:  # a pipe has no width; a table that is cut says nothing
        console = Console(width=240)
    for title, columns, rows in tables(found):
        console.print(rich_table(f"{target}: {title}", columns, rows))
