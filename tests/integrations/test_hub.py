"""The package for Hugging Face's ``kernels``: its layout, and loaded by it from a folder."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from lossgen.integrations import hub

#: What a user runs, where lossgen cannot be imported.
PROGRAM = """
import sys
from pathlib import Path

sys.modules["lossgen"] = None
import torch
from kernels import get_local_kernel

heads = get_local_kernel(Path(sys.argv[1]), backend="cpu")
torch.manual_seed(0)
hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(11, 4)
target = torch.randint(0, 11, (5,))
logp = torch.log_softmax(hidden @ weight.T, -1)
expected = logp.gather(-1, target[:, None]).squeeze(-1)
found = heads.linear_token_stats(hidden, weight, target)
torch.testing.assert_close(found.logp, expected)
torch.testing.assert_close(found.entropy, -(logp.exp() * logp).sum(-1))
torch.testing.assert_close(
    torch.autograd.grad(found.logp.sum(), hidden), torch.autograd.grad(expected.sum(), hidden)
)
taught = torch.log_softmax(torch.randn(5, 11), -1)
divergence = (taught.exp() * (taught - logp.detach())).sum(-1).mean()
loss = heads.kd_forward_kl_loss(logp.detach(), taught, T=1.0)
torch.testing.assert_close(loss, divergence)
compiled = torch.compile(heads.token_stats, backend="aot_eager")(logp.detach(), target)
torch.testing.assert_close(compiled.logp, expected.detach())
print(heads.__name__)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hub.write(tmp_path_factory.mktemp("hub"), ["token_stats", "kd_forward_kl"])


def test_what_its_builder_expects(folder):
    assert {p.name for p in folder.iterdir()} == {"build.toml", "torch-ext", "build"}
    source = folder / "torch-ext" / "lossgen_heads"
    names = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    assert {"__init__.py", "token_stats.py", "runtime/c/row.h"} <= names
    for backend in ("cpu", "cuda", "rocm"):
        variant = folder / "build" / f"torch-{backend}"
        built = {str(p.relative_to(variant)) for p in variant.rglob("*") if p.is_file()}
        assert built == names | {"metadata.json"}
        metadata = json.loads((variant / "metadata.json").read_text())
        assert metadata["id"].startswith(f"_lossgen_heads_{backend}_")


def test_it_imports_itself_by_relative_names_alone(folder):
    for path in (folder / "torch-ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert not [n for n in names if n.partition(".")[0] == "lossgen"], path


def test_other_content_has_other_operators():
    first, second = (hub.package([name]) for name in ("token_stats", "kd_forward_kl"))
    operators = {next(t for p, t in f.items() if p.name == "operators.py") for f in (first, second)}
    assert len(operators) == 2
    assert not any('"lossgen::' in text for text in operators)


@pytest.mark.skipif(importlib.util.find_spec("kernels") is None, reason="needs kernels")
def test_loaded_by_kernels(folder, tmp_path):
    from kernels._rust import Build

    Build.open(folder)  # raises where build.toml is not what the builder takes
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    settings.pop("PYTHONPATH", None)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        env=settings,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("_lossgen_heads_cpu_")
