"""The losses of the catalogue run where torch alone is installed.

They did before the dependencies were split, but ``pip install lossgen`` brought ten packages that
no loss imports, and what needs them ended in a bare ModuleNotFoundError.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lossgen import extras, paths
from tests.test_packaging import COMPILER, PROJECT, short

#: Prepended to a program: none of these can be imported, as if they were not installed.
BLOCKED = """
import sys

BLOCKED = {blocked!r}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
"""
LIGHT = """
import json
import sys
import torch

torch.randn(2).tolist()
before = {name.partition(".")[0] for name in sys.modules}

from lossgen.losses import GCELoss, gce_loss

logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 0.0]], requires_grad=True)
target = torch.tensor([0, 2])
loss = gce_loss(logits, target, q=0.7, backend="torch")
loss.backward()
probability = logits.detach().softmax(-1)[torch.arange(2), target]
assert torch.allclose(loss, ((1 - probability**0.7) / 0.7).mean())  # torch.testing takes SymPy
assert logits.grad.isfinite().all()
assert GCELoss(q=0.7, backend="torch")(logits, target) == loss

import lossgen

assert lossgen.load("gce").gce_loss is gce_loss
added = {name.partition(".")[0] for name in sys.modules} - before
ours = sorted(name for name in sys.modules if name.startswith("lossgen."))
said = {}
for name, call in {
    "load": lambda: lossgen.load(sys.argv[1]),
    "explain": lambda: lossgen.explain("gce"),
    "build": lambda: lossgen.build("gce", check=True),
    "compile_loss": lambda: lossgen.compile_loss,
    "verify": lambda: lossgen.verify("gce"),
    "aot": lambda: __import__("lossgen.aot"),
}.items():
    try:
        call()
    except ImportError as error:
        assert isinstance(error, lossgen.LossgenError), error
        said[name] = str(error)
print(json.dumps({"added": sorted(added), "ours": ours, "said": said}))
"""
OF_EXTRAS = {name.partition(".")[0] for names in extras.EXTRAS.values() for name in names}


def blocked(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program where no package of an extra is installed. numpy is torch's business too: it
    imports it where it is."""
    text = BLOCKED.format(blocked=sorted(OF_EXTRAS - {"numpy"})) + program
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    spec = tmp_path_factory.mktemp("light") / "mine.yaml"
    spec.write_text("name: mine\ntransform: -logp[y]\n")
    ran = blocked(LIGHT, spec)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_a_loss_imports_nothing_but_torch_and_triton(light):
    standard = sys.stdlib_module_names
    others = {"lossgen", "triton", "torch", "numpy"}  # triton imports the last two on its own
    foreign = {n for n in light["added"] if n not in standard and n not in others}
    assert {n for n in foreign if not n.startswith("_")} == set()


def test_a_call_on_a_cpu_imports_no_triton(light):
    """It is half of the time of an import, and 168 of 358 ms were its alone."""
    assert "triton" not in light["added"]


def test_a_loss_imports_no_module_of_the_compiler(light):
    allowed = ("lossgen.runtime", "lossgen.losses", "lossgen.cache")
    leaves = {f"lossgen.{name}" for name in ("errors", "extras", "options", "paths", "unknown")}
    assert [n for n in light["ours"] if not n.startswith(allowed) and n not in leaves] == []


def test_what_needs_the_compiler_names_the_extra(light):
    packages = ", ".join(n for n in extras.EXTRAS["compiler"] if n != "numpy")
    text = (
        "error LG317: compiling a spec and the command line need what is not installed: "
        f'{packages}\nhint: pip install "lossgen[compiler]"'
    )
    verify = (
        "error LG317: verifying a loss needs what is not installed: hypothesis\n"
        'hint: pip install "lossgen[verify]"'
    )
    assert light["said"] == {
        **dict.fromkeys(("explain", "build", "compile_loss", "aot"), text),
        "load": text,
        "verify": verify,
    }


def test_the_command_line_names_the_extra():
    program = (
        "import runpy; sys.argv = ['lossgen', 'list']; runpy.run_module('lossgen', {}, '__main__')"
    )
    ran = blocked(program)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1] == 'hint: pip install "lossgen[compiler]"'
    assert "Traceback" not in ran.stderr


def third_party(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("path", [p for p in COMPILER if p.suffix == ".py"], ids=short)
def test_every_import_is_declared(path):
    known = {*sys.stdlib_module_names, *OF_EXTRAS, "lossgen", "torch", "triton"}
    known |= {"pydantic_core"}  # pydantic's own
    assert set(third_party(path)) <= known


def test_the_runtime_needs_torch_and_triton():
    found = {name for path in paths.runtime_dir().rglob("*.py") for name in third_party(path)}
    assert found - sys.stdlib_module_names == {"lossgen", "torch", "triton"}


def test_extras_are_what_the_package_declares():
    optional = PROJECT["project"]["optional-dependencies"]
    assert {Requirement(r).name for r in PROJECT["project"]["dependencies"]} == {"torch", "triton"}
    for extra, packages in extras.EXTRAS.items():
        declared = {Requirement(r).name for r in optional[extra]} - {"lossgen"}
        assert declared == set(packages), extra
    assert "lossgen[compiler]" in optional["verify"]
