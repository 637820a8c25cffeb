"""The command line run in this process, and a small catalogue that tests may change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lossgen import paths
from lossgen.cli import main
from lossgen.cli.new import STARTER

NAMES = ("first", "second")


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Lossgen = Callable[..., Ran]


@pytest.fixture
def lossgen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lossgen:
    """``lossgen("build", "--all")`` runs the command; one process, wide lines, no colour."""
    monkeypatch.setenv("LOSSGEN_JOBS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two specs, not built yet; the current directory."""
    root = tmp_path / "checkout"
    (root / "specs").mkdir(parents=True)
    (root / "generated").mkdir()
    shutil.copytree(paths.templates_dir(), root / "templates")
    for name in NAMES:
        write_spec(root, name)
    monkeypatch.setattr(paths, "data_root", lambda: root)
    monkeypatch.setattr(paths, "installed", lambda: False)
    monkeypatch.chdir(root)
    return root


def write_spec(root: Path, name: str, old: str = "", new: str = "") -> Path:
    """The starter spec under ``name``, with ``old`` replaced by ``new``."""
    path = root / "specs" / f"{name}.yaml"
    path.write_text(STARTER.format(name=name, title=name.capitalize()).replace(old, new or old))
    return path


@pytest.fixture
def edit(catalogue: Path) -> Callable[..., Path]:
    """``edit("first", "logp[y]", "nonsense")`` rewrites a spec of the catalogue."""
    return lambda name, old="", new="": write_spec(catalogue, name, old, new)
