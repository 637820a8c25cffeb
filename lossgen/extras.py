"""What is installed beside torch: each extra, its packages, and the error where they are missing.

The losses of the catalogue need torch, and Triton where there is one.  Every package of modules
that needs more says so in its first line: ``require("compiler")``.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from lossgen.errors import BuildError

__all__ = ["EXTRAS", "MissingExtra", "require"]

#: The packages that an extra brings, as they are imported.
EXTRAS: dict[str, tuple[str, ...]] = {
    "compiler": (
        "gmpy2",
        "jinja2",
        "mpmath",
        "numpy",
        "pydantic",
        "rich",
        "ruamel.yaml",
        "ruff",
        "sympy",
        "typer",
    ),
    "verify": ("hypothesis",),
    "plot": ("matplotlib",),
    "integrations": ("transformers", "trl"),
}
_PURPOSE = {
    "compiler": "compiling a spec and the command line need",
    "verify": "verifying a loss needs",
    "plot": "drawing needs",
    "integrations": "TRL's trainers need",
}


class MissingExtra(BuildError, ImportError):
    id = "LG317"
    template = "{purpose} what is not installed: {packages}"


@cache
def require(extra: str) -> None:
    """Do nothing where the packages of an extra are installed; they are not imported.

    Raises:
        MissingExtra: they are not; an ImportError too.
    """
    missing = [package for package in EXTRAS[extra] if not _found(package)]
    if missing:
        raise MissingExtra(
            purpose=_PURPOSE[extra],
            packages=", ".join(missing),
            hint=f'pip install "lossgen[{extra}]"',
        )


def _found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a parent is missing, or the name is blocked
        return False
