"""Where ``templates/``, ``specs/`` and ``generated/`` are.

In a checkout they stand beside the package; the wheel carries them in ``lossgen/_data/``.
An editable install is a checkout.  Nothing here depends on the current directory.
"""

from __future__ import annotations

from pathlib import Path

from lossgen.errors import BuildError
from lossgen.unknown import did_you_mean

__all__ = [
    "FORMULA",
    "PACKAGE",
    "UnknownSpec",
    "data_root",
    "find_spec",
    "generated_dir",
    "installed",
    "require_spec",
    "runtime_dir",
    "spec_names",
    "specs_dir",
    "stub_file",
    "templates_dir",
]


class UnknownSpec(BuildError):
    id = "LG301"
    template = "no spec {name!r}: neither a file nor a name of the catalogue"


#: The file, in messages, of a formula that stands in none: ``lossgen.loss``.
FORMULA = "<formula>"
PACKAGE = Path(__file__).resolve().parent


def installed() -> bool:
    """True where the package runs from a wheel, so that its catalogue is not for editing."""
    return (PACKAGE / "_data").is_dir()


_root: Path | None = None  # that of the parent, in a worker


def data_root() -> Path:
    """The folder that holds ``templates/``, ``specs/`` and ``generated/``."""
    if _root is not None:
        return _root
    return PACKAGE / "_data" if installed() else PACKAGE.parent


def templates_dir() -> Path:
    """The Jinja templates, one per schedule."""
    return data_root() / "templates"


def use_root(root: Path) -> None:
    """Make ``root`` the data root of this process: a worker's is that of its parent."""
    global _root
    _root = root


def specs_dir() -> Path:
    """The catalogue: one YAML file per loss."""
    return data_root() / "specs"


def generated_dir() -> Path:
    """The checked-in output of ``lossgen build --all``."""
    return data_root() / "generated"


def stub_file() -> Path:
    """The signatures of the catalogue, for type checkers: beside the module ``lossgen.losses``."""
    return (PACKAGE if installed() else data_root() / PACKAGE.name) / "losses.pyi"


def runtime_dir() -> Path:
    """What generated code imports; ``--standalone`` copies it beside the module."""
    return PACKAGE / "runtime"


def spec_names() -> tuple[str, ...]:
    """The catalogue's names, sorted."""
    return tuple(sorted(path.stem for path in specs_dir().glob("*.yaml")))


def find_spec(name_or_path: str | Path) -> Path | None:
    """The file that ``name_or_path`` means, or None.

    A string without a separator and without a suffix is looked up in the catalogue first and
    then as a path; everything else is a path.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text.isidentifier():
        entry = specs_dir() / f"{text}.yaml"
        if entry.is_file():
            return entry
    path = Path(name_or_path)
    return path if path.is_file() else None


def require_spec(name_or_path: str | Path) -> Path:
    """As ``find_spec``, but a spec that is not there is an error.

    Raises:
        UnknownSpec: neither a file nor a name of the catalogue; names close ones.
    """
    path = find_spec(name_or_path)
    if path is not None:
        return path
    name = str(name_or_path)
    raise UnknownSpec(name=name, hint=_meant(name))


def _meant(name: str) -> str:
    """What to give in place of a name that is no spec."""
    if Path(name).is_dir():
        return "it is a folder: give the file"
    if set("([*") & set(name):
        return "a formula is compiled by lossgen.loss(...)"
    if set("./\\") & set(name):
        return f"there is no {Path(name).absolute()}"
    stem = name.removesuffix("_loss")
    return did_you_mean(stem, spec_names(), "see `lossgen list`", 3)
