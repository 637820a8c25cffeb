"""``lossgen verify``: property-based tests of one loss."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["verify"]


def verify(
    loss: Annotated[str, typer.Argument(metavar="NAME|PATH", help="Catalogue name or spec.")],
    examples: Annotated[
        int, typer.Option("--examples", min=1, metavar="N", help="Draws per property.")
    ] = 20,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu (interpreter) or cuda.")
    ] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable result.")] = False,
) -> None:
    """Test value, gradient and every declared property; exit 1 with the smallest counter-example.

    On the CPU: the Triton source in Triton's interpreter, the C program, and torch operations.

    Example: [bold]lossgen verify gce --examples 50[/bold]
    """
    import os

    # Chosen before Triton is imported, or never.
    os.environ.setdefault("TRITON_INTERPRET", "1" if device == "cpu" else "0")
    from lossgen.verify import verify as verify_loss

    result = verify_loss(loss, examples=examples, device=device)
    if as_json:
        typer.echo(result.to_json())
    else:
        from rich.console import Console

        Console(highlight=False).print(result)
    if not result.ok:
        raise typer.Exit(1)
