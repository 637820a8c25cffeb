"""``lossgen verify``: property-based tests of one loss."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lossgen.cli.names import complete

if TYPE_CHECKING:
    from lossgen.verify import PropertyResult

__all__ = ["verify"]


def verify(
    loss: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH", help="Catalogue name or spec.", autocompletion=complete
        ),
    ],
    examples: Annotated[
        int, typer.Option("--examples", min=1, metavar="N", help="Draws per property.")
    ] = 20,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu (interpreter) or cuda.")
    ] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable result.")] = False,
    search: Annotated[
        float | None,
        typer.Option(
            "--search",
            min=0.0,
            metavar="SECONDS",
            help="Instead, search for the least accurate rows, on the real backends.",
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            "--backends",
            metavar="LIST",
            help="Which backends. Default: torch,c,triton; of --search torch,c.",
        ),
    ] = None,
) -> None:
    """Test value, gradient and every declared property; exit 1 with the smallest counter-example.

    On the CPU: the Triton source, interpreted, the C program, and torch operations.

    Example: [bold]lossgen verify gce --examples 50[/bold]
    """
    import os

    # Chosen before Triton is imported, or never.
    os.environ.setdefault("TRITON_INTERPRET", "1" if device == "cpu" else "0")
    chosen = _chosen(backends or ("torch,c,triton" if search is None else "torch,c"))
    if search is not None:
        _search(loss, search, chosen, device)
        return
    from lossgen.verify import verify as verify_loss

    shown = _progress if sys.stdout.isatty() and not as_json else None
    result = verify_loss(loss, examples, device, chosen, on_result=shown)
    if as_json:
        typer.echo(result.to_json())
    else:
        from rich.console import Console

        Console(highlight=False).print(result, crop=False)  # a call to paste is as long as it is
    if not result.ok:
        raise typer.Exit(1)


def _progress(result: PropertyResult) -> None:
    verdict = "holds" if result.passed else "FAILS"
    typer.echo(f"{verdict}  {result.name} on {result.backend}, {result.seconds:.1f} s", err=True)


def _chosen(backends: str) -> list[str]:
    """The backends of a list."""
    from lossgen.errors import BuildError

    chosen = [name.strip() for name in backends.split(",")]
    unknown = [name for name in chosen if name not in ("torch", "c", "triton")]
    if unknown:
        raise BuildError(f"no backend {unknown[0]!r}", hint="torch, c and triton")
    return chosen


def _search(loss: str, seconds: float, chosen: list[str], device: str) -> None:
    """Print the worst rows; exit 1 where the certificate's bound is exceeded."""
    from lossgen.verify.search import search

    results = search(loss, seconds, chosen, device)
    for found in sorted(results, key=lambda r: r.ok):
        with_ = f" with {', '.join(sorted(found.uses))}" if found.uses else ""
        typer.echo(
            f"{'holds' if found.ok else 'FAILS'}  {found.which} on {found.backend}{with_}: "
            f"{found.kappa:.3g} (1 + kappa) ulp of {found.bound:g}, at {found.points} points"
        )
        if found.where:
            typer.echo(f"  worst at {found.where}")
        if found.reproducer:
            typer.echo(found.reproducer)
    if not all(found.ok for found in results):
        raise typer.Exit(1)
