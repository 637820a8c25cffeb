"""``lossgen doctor``: what this machine has, and which backends that makes usable."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show the backends that run here, the compiler, the caches and the versions.

    Exit 1 if losses on the CPU would not run as a compiled C program.

    Example: [bold]lossgen doctor[/bold]
    """
    compiled, reason = _c()
    found = {
        "C backend (CPU tensors)": reason,
        "Triton backend (CUDA tensors)": _triton(),
        "torch backend (any device)": "ok",
        "caches": _caches(),
        "versions": _versions(),
    }
    if as_json:
        typer.echo(json.dumps({"ok": compiled, "found": found}, indent=2, ensure_ascii=False))
    else:
        _print(found)
    if not compiled:
        raise typer.Exit(1)


def _print(found: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "found", title="lossgen on this machine", title_justify="left")
    for what, text in found.items():
        table.add_row(what, text)
    Console(highlight=False).print(table)


def _c() -> tuple[bool, str]:
    """By compiling and loading an empty program."""
    import warnings

    from lossgen.runtime import c_build

    compiler = c_build.search()
    if isinstance(compiler, str):
        return False, f"{compiler}: losses run in torch operations"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = c_build.library('#include "row.h"\nint answer(void) { return 42; }\n', False)
    said = "".join(f"\n{warning.message}" for warning in caught)
    if loaded is None or loaded.answer() != 42:
        return False, f"{compiler} cannot build a library: losses run in torch operations{said}"
    return True, f"ok: {compiler.version}{said}"


def _triton() -> str:
    import torch

    from lossgen.runtime.choice import has_triton, interpreting

    if not has_triton():
        return "the package triton is not installed"
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}
        return f"ok: {', '.join(sorted(names))}"
    if interpreting():
        return "no GPU; kernels run in the interpreter (TRITON_INTERPRET=1)"
    return "no GPU; TRITON_INTERPRET=1 runs the kernels in the interpreter"


def _caches() -> str:
    from lossgen.cache import cache_dir
    from lossgen.runtime.c_build import cache_folder

    specs, programs = cache_dir(), cache_folder()
    folders = [specs] if specs in programs.parents else [specs, programs]
    return "\n".join(f"{path}: {_size(path)}" for path in folders)


def _size(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file()]
    return f"{len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB"


def _versions() -> str:
    packages = ("lossgen", "torch", "triton", "sympy", "jinja2")
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} is not installed")
    return ", ".join(found)
