"""``lossgen build``: specs → modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lossgen.cli.names import complete

if TYPE_CHECKING:
    from lossgen.build import Rendered, Report

__all__ = ["build"]


def build(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...", help="Specs, or catalogue names.", autocompletion=complete
        ),
    ] = None,
    all_specs: Annotated[
        bool,
        typer.Option("--all", help="The whole catalogue; removes modules whose spec is gone."),
    ] = False,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out-dir",
            metavar="DIR",
            help="Where to write. Default: generated/ for specs of the catalogue, "
            "the current directory for others.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file would change.")
    ] = False,
    standalone: Annotated[
        bool,
        typer.Option(
            "--standalone", help="Put the runtime beside the modules: they need only torch, triton."
        ),
    ] = False,
    draft: Annotated[
        bool,
        typer.Option(
            "--draft",
            help="Check neither accuracy nor limits, for a quick look: the module says so in its "
            "header, and warns at import.",
        ),
    ] = False,
    aot: Annotated[
        str | None,
        typer.Option(
            "--aot",
            metavar="TARGETS",
            help="Also compile every kernel for these GPUs (none is needed), "
            "e.g. sm_90,gfx942; exit 1 on a register spill.",
        ),
    ] = None,
    tiled: Annotated[
        bool,
        typer.Option(
            "--tiled", help="With --aot: the kernels of linear layers whose logits stay on chip."
        ),
    ] = False,
) -> None:
    """Compile specs into Python modules with fused Triton kernels.

    Example: [bold]lossgen build specs/gce.yaml[/bold]
    """
    from lossgen import cache
    from lossgen.build import build as build_specs
    from lossgen.options import options

    if tiled and aot is None:
        raise typer.BadParameter("--tiled says what --aot compiles: give both")
    loaded = () if all_specs or standalone or draft else _loaded_by_path(specs or ())
    report = build_specs(
        *(specs or ()),
        out_dir=out_dir,
        all_specs=all_specs,
        check=check,
        standalone=standalone,
        jobs=options().jobs,
        draft=draft,
        on_rendered=_print_timings,
    )
    for (path, name), rendered in zip(loaded, report.rendered, strict=False):
        cache.keep(path, rendered.text, name)
    _print_report(report, check)
    if check and report.changes:
        raise typer.Exit(1)
    if aot is not None:
        _compile_ahead(report, aot, tiled)


def _loaded_by_path(specs: Sequence[str]) -> list[tuple[Path, str]]:
    """The specs with their names in the cache of ``lossgen.load``."""
    from lossgen import cache, paths

    found = [paths.require_spec(spec) for spec in specs]
    return [(path, cache.name_of(path)) for path in found]


def _print_timings(rendered: Rendered) -> None:
    passes = "  ".join(f"{name} {1e3 * t:.0f}" for name, t in rendered.timings.items())
    total = 1e3 * sum(rendered.timings.values())
    typer.echo(f"{rendered.name:<20} {total:6.0f} ms   {passes}")


def _print_report(report: Report, check: bool) -> None:
    if len(report.rendered) > 1:
        _print_sums(report)
    if check and report.changes:
        typer.echo(report.diff(), err=True)
        typer.echo(
            f"\nfiles that differ from their specs: {len(report.changes)}; "
            f"to repair: {report.command}",
            err=True,
        )
        return
    for change in report.changes:
        typer.echo(f"{'removed' if change.new is None else 'wrote'} {change.path}")
    removed = sum(change.new is None for change in report.changes)
    written = len(report.changes) - removed
    typer.echo(
        f"{written} written, {removed} removed, {len(report.files) - written} unchanged, "
        f"{report.seconds:.1f} s"
    )


def _print_sums(report: Report) -> None:
    sums: dict[str, float] = defaultdict(float)
    for rendered in report.rendered:
        for name, seconds in rendered.timings.items():
            sums[name] += seconds
    passes = "  ".join(f"{name} {t:.1f}" for name, t in sums.items())
    typer.echo(f"{len(report.rendered)} specs, seconds per pass: {passes}")


def _compile_ahead(report: Report, targets: str, tiled: bool) -> None:
    from lossgen.aot import compile_all

    result = compile_all(report.modules, tuple(targets.split(",")), tiled=tiled)
    typer.echo(str(result))
    if not result.ok:
        raise typer.Exit(1)
