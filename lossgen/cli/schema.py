"""``lossgen schema``: what a spec may hold, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["schema"]


def schema(
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Where to write it. Default: print it."),
    ] = None,
) -> None:
    """Print the JSON schema of a spec, with what each key means.

    An editor's YAML server checks and completes specs by it; the first line of a spec may name it:
    [bold]# yaml-language-server: $schema=lossgen.json[/bold]

    Example: [bold]lossgen schema -o lossgen.json[/bold]
    """
    from lossgen.spec.schema import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if out is None:
        typer.echo(text)
        return
    from lossgen.build import write_atomically

    write_atomically(out, f"{text}\n")
    typer.echo(f"wrote {out}")
