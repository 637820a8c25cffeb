"""Losses as a package for Hugging Face's ``kernels``: what its builder takes, and what it makes.

    python -m lossgen.integrations.hub FOLDER [LOSS…]

A kernel of theirs is imported from wherever it lies, under a name of the loader's, beside other
versions of itself: the generated modules and the runtime are copied with relative imports, and
their operators get a name space that no other content has.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path, PurePosixPath

from lossgen import paths

__all__ = ["LOSSES", "package", "write"]

#: Heads, and the divergences of a teacher: what no kernel on the hub has.
LOSSES = (
    "token_stats",
    "token_head",
    "kd_forward_kl",
    "reverse_kl",
    "jsd_beta",
    "skew_kl",
    "skew_reverse_kl",
    "tvd",
)
_NAME, _VERSION, _LICENSE = "lossgen-heads", 1, "BSD-3-Clause"
#: Python sources for all; Triton compiles where it runs, and the C compiler of the machine.
_BACKENDS = ("cpu", "cuda", "rocm")
_BUILD = """[general]
name = "{name}"
version = {version}
edition = 5
license = "{license}"
backends = [{backends}]

[torch-noarch]
pyext = ["h", "py"]
"""
_IMPORT = re.compile(r"^(\s*)from lossgen\.runtime(\.[\w.]+)? import", re.MULTILINE)
_WHOLE = re.compile(r"^import lossgen\.runtime as (\w+)$", re.MULTILINE)
_OPERATORS = '"lossgen::'


def package(names: Iterable[str] = LOSSES) -> dict[PurePosixPath, str]:
    """The files of the Python package by their paths in it.

    Raises:
        BuildError: no such loss.
    """
    found: dict[PurePosixPath, str] = {}
    exported = []
    for name in names:
        path = paths.require_spec(name)
        text = (paths.generated_dir() / f"{path.stem}.py").read_text(encoding="utf-8")
        found[PurePosixPath(f"{path.stem}.py")] = _relative(text, 0)
        exported.append(f"from .{path.stem} import *  # noqa: F403")
    runtime = paths.runtime_dir()
    for path in sorted([*runtime.rglob("*.py"), *runtime.glob("c/*.h")]):
        inside = path.relative_to(runtime)
        text = path.read_text(encoding="utf-8")
        found[PurePosixPath("runtime", inside.as_posix())] = _relative(text, len(inside.parts))
    head = '"""Losses and heads by lossgen; each function says what it takes."""\n\n'
    found[PurePosixPath("__init__.py")] = head + "\n".join(exported) + "\n"
    own = _python_name() + "_" + _digest(found)
    return {path: text.replace(_OPERATORS, f'"{own}::') for path, text in sorted(found.items())}


def _relative(text: str, depth: int) -> str:
    """Imports of the runtime from a file that stands ``depth`` folders inside it, 0: beside it."""
    up = "." * max(1, depth)
    inside = "" if depth else "runtime"

    def replaced(match: re.Match[str]) -> str:
        module = (inside + (match[2] or "")).lstrip(".")
        return f"{match[1]}from {up}{module} import"

    return _WHOLE.sub(rf"from {up} import runtime as \1", _IMPORT.sub(replaced, text))


def write(folder: str | Path, names: Iterable[str] = LOSSES) -> Path:
    """Write the sources (``build.toml``, ``torch-ext``) and what their builder makes of them
    (``build``), of which there is nothing to compile.

    Returns:
        The folder, for ``kernels.get_local_kernel(folder)``.
    """
    root, files = Path(folder), package(names)
    backends = ", ".join(f'"{b}"' for b in _BACKENDS)
    settings = {"name": _NAME, "version": _VERSION, "license": _LICENSE, "backends": backends}
    written = {Path("build.toml"): _BUILD.format(**settings)}
    written |= {Path("torch-ext", _python_name(), path): text for path, text in files.items()}
    for backend in _BACKENDS:
        variant = Path("build", f"torch-{backend}")
        written |= {variant / path: text for path, text in files.items()}
        written[variant / "metadata.json"] = json.dumps(_metadata(backend, files), indent=2) + "\n"
    for path, text in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def _metadata(backend: str, files: dict[PurePosixPath, str]) -> dict[str, object]:
    return {
        "name": _NAME,
        "id": f"_{_python_name()}_{backend}_{_digest(files)}",
        "version": _VERSION,
        "license": _LICENSE,
        "python-depends": [],
        "backend": {"type": backend},
    }


def _python_name() -> str:
    return _NAME.replace("-", "_")


def _digest(files: dict[PurePosixPath, str]) -> str:
    content = sha256()
    for path, text in sorted(files.items()):
        content.update(f"{path}\0{text}\0".encode())
    return content.hexdigest()[:7]


def main() -> None:
    """Write a package into a folder."""
    parser = argparse.ArgumentParser(description="Write losses as a package for `kernels`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("losses", nargs="*", default=LOSSES)
    given = parser.parse_args()
    print(write(given.folder, given.losses))


if __name__ == "__main__":
    main()
