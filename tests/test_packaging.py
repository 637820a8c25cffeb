"""Rules about the sources and the package, each a grep or a tool."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lossgen import paths
from lossgen.errors import LossgenError
from lossgen.spec.definitions import DEFINED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = paths.PACKAGE.parent
MAX_LINES = 400
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CODE = sorted(
    path
    for folder in ("lossgen", "tests", "tools", "benchmarks", "examples", "templates")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".jinja"} and "_data" not in path.parts
)
COMPILER = [path for path in CODE if path.is_relative_to(ROOT / "lossgen")]
TEMPLATES = [path for path in CODE if path.is_relative_to(ROOT / "templates")]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=short)
def test_file_is_short(path):
    text = path.read_text(encoding="utf-8")
    if ", written by `python" in text.partition("\n\n")[0]:
        pytest.skip("a program wrote it")
    lines = len(text.splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: is there a seam?"
    assert path.stem not in {"utils", "helpers", "common"}


def code_of(path: Path) -> str:
    """The text of a file without comments and documentation."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jinja":
        return re.sub(r"\{#.*?#\}|#.*", "", text, flags=re.DOTALL if "{#" in text else 0)
    documentation = docstring_lines(ast.parse(text))
    return "\n".join(
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type != tokenize.COMMENT and token.start[0] not in documentation
    )


def docstring_lines(tree: ast.AST) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", [*COMPILER, *TEMPLATES], ids=short)
def test_no_loss_name_in_the_compiler(path):
    assert paths.spec_names()
    names = re.compile(rf"\b({'|'.join(paths.spec_names())})(_loss)?\b")
    found = {match[0] for match in names.finditer(code_of(path))}
    if path.parent.name == "spec":  # what formulas copied from torch call, to say it in our words
        found -= {"cross_entropy"}
    if path.name == "definitions.py":  # words that losses are named after, as softmax might be
        found -= {*DEFINED}
    if path.parent.name == "integrations":  # a trainer wants these losses and no others
        return
    assert not found, "a special case for one loss: make it a rule for all"


def test_layers():
    ran = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout


def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def declared() -> Iterator[Requirement]:
    project = PROJECT["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    groups = [r for group in PROJECT["dependency-groups"].values() for r in group]
    found = map(Requirement, [*project["dependencies"], *extras, *groups])
    yield from (r for r in found if r.name != project["name"])  # an extra that takes in another


@pytest.mark.parametrize("requirement", [*declared()], ids=lambda r: r.name)
def test_pin_is_within_the_declared_range(requirement):
    found = pins()[canonicalize_name(requirement.name)]
    for pin in found:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert specifier.version in requirement.specifier


def test_wheel_carries_the_data_folders():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for folder in ("templates", "specs", "generated"):
        assert wheel["sources"][folder] == f"lossgen/_data/{folder}"
        assert folder in wheel["only-include"]
    assert (paths.PACKAGE / "py.typed").is_file()


def test_error_ids_are_unique():
    for module in ("build", "cli", "cli.new", "derivation", "options", "paths"):
        import_module(f"lossgen.{module}")
    kinds = [LossgenError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    own = Counter(kind.id for kind in kinds if "id" in vars(kind))  # the others refine their base
    shared = [name for name, count in own.items() if count > 1]
    assert not shared
