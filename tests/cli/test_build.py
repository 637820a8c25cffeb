"""``lossgen build``: what is written, when, and what a failure leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from lossgen import paths
from lossgen.build import build

FORMULA = "-(1 - p[y])**strength * logp[y]"
OTHER = "-(1 - p[y])**(2*strength) * logp[y]"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_build_writes_then_leaves_alone(lossgen, catalogue):
    ran = lossgen("build", "specs/first.yaml")
    assert ran.code == 0, ran.err
    target = catalogue / "generated" / "first.py"
    assert f"wrote {target}" in ran.out
    assert "differentiate" in ran.out  # time per pass
    before = target.stat().st_mtime_ns
    ran = lossgen("build", "first")
    assert "0 written, 0 removed, 2 unchanged" in ran.out
    assert target.stat().st_mtime_ns == before


def test_spec_outside_the_catalogue_is_built_here(lossgen, catalogue, tmp_path, monkeypatch):
    (catalogue / "specs" / "first.yaml").rename(tmp_path / "first.yaml")
    monkeypatch.chdir(tmp_path)
    assert lossgen("build", "first.yaml").code == 0
    assert (tmp_path / "first.py").is_file()
    assert contents(catalogue / "generated") == {}


def test_all_builds_and_removes_orphans(lossgen, catalogue):
    generated = catalogue / "generated"
    assert lossgen("build", "--all").code == 0
    assert list(contents(generated)) == ["first.py", "second.py"]
    (generated / "mine.py").write_text("# written by hand\n")
    (catalogue / "specs" / "second.yaml").unlink()
    ran = lossgen("build", "--all")
    assert f"removed {generated / 'second.py'}" in ran.out
    assert list(contents(generated)) == ["first.py", "mine.py"]


def test_two_processes_write_the_same(catalogue):
    one = build(all_specs=True, out_dir="one", jobs=1)
    two = build(all_specs=True, out_dir="two", jobs=2)
    assert [r.text for r in one.rendered] == [r.text for r in two.rendered]


def test_a_header_names_its_spec_alone(lossgen, catalogue):
    """A digest of the compiler made every module differ whenever a template did: two changes of
    templates never merged.  What another compiler wrote is found by building it again."""
    lossgen("build", "--all")
    module = catalogue / "generated" / "first.py"
    text = module.read_text(encoding="utf-8")
    header = text[: text.index('"""')]
    assert re.findall(r"sha256 [0-9a-f]{64}", header) == [
        f"sha256 {sha256((catalogue / 'specs' / 'first.yaml').read_bytes()).hexdigest()}"
    ]
    module.write_text(text.replace("def _lift(", "def _raised(", 1), encoding="utf-8")
    ran = lossgen("build", "--all", "--check")
    assert ran.code == 1
    assert f"{module}: out of date" in ran.err


def test_check_finds_missing_stale_and_orphan(lossgen, catalogue, edit):
    generated = catalogue / "generated"
    lossgen("build", "--all")
    assert lossgen("build", "--all", "--check").code == 0
    edit("first", FORMULA, OTHER)
    (catalogue / "specs" / "second.yaml").rename(catalogue / "specs" / "third.yaml")
    edit("third")
    before = contents(generated)
    ran = lossgen("build", "--all", "--check")
    assert ran.code == 1
    assert contents(generated) == before
    assert f"{generated / 'first.py'}: out of date" in ran.err
    assert "--- first.py\n+++ first.py (rebuilt)\n" in ran.err
    assert f"{generated / 'third.py'}: missing" in ran.err
    assert f"{generated / 'second.py'}: orphan" in ran.err
    assert ran.err.endswith(
        "\nfiles that differ from their specs: 4; to repair: lossgen build --all\n"
    )


def test_check_cuts_a_long_diff(lossgen, catalogue):
    lossgen("build", "--all")
    target = catalogue / "generated" / "first.py"
    target.write_text("".join(f"# line {n}\n" for n in range(500)))
    report = build(all_specs=True, check=True)
    lines = report.diff(limit=100).splitlines()
    assert len(lines) == 102  # the file, 100 lines of diff, how many more
    assert lines[-1].startswith("... ")
    assert lines[-1].endswith(" more lines")


def test_failing_build_changes_nothing(lossgen, catalogue, edit):
    lossgen("build", "--all")
    before = contents(catalogue / "generated")
    edit("first", FORMULA, OTHER)  # would be rewritten
    edit("second", FORMULA, "p[y] +")  # does not parse
    ran = lossgen("build", "--all")
    assert ran.code == 2
    assert "1 of 2 specs do not compile; nothing was written" in ran.err
    assert "second.yaml:" in ran.err
    assert "Traceback" not in ran.err
    assert contents(catalogue / "generated") == before


@pytest.mark.parametrize("stage", ["compile", "first write", "second write"])
def test_interrupted_build_leaves_whole_files(catalogue, edit, monkeypatch, stage):
    build(all_specs=True)
    old = contents(catalogue / "generated")
    edit("first", FORMULA, OTHER)
    edit("second", FORMULA, OTHER)
    new = {f"{r.name}.py": r.text.encode() for r in build(all_specs=True, out_dir="new").rendered}
    replace, writes = os.replace, []

    def interrupted(source, target):
        writes.append(target)
        if stage == "first write" or len(writes) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(all_specs=True, on_rendered=stop if stage == "compile" else None)
    left = contents(catalogue / "generated")
    done = {"first.py": new["first.py"]} if stage == "second write" else {}
    assert left == old | done


def test_output_does_not_depend_on_the_hash_seed(tmp_path):
    names = paths.spec_names()[:: max(1, len(paths.spec_names()) // 4)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "lossgen", "build", *names, "-o", str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed, "LOSSGEN_JOBS": "1"},
            cwd=paths.PACKAGE.parent,
            stdout=subprocess.DEVNULL,
        )
        for seed in ("1", "2")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert len(one) == len(names)
    assert one == two


STANDALONE = """
import sys
from hashlib import sha256
sys.modules["lossgen"] = None  # `import lossgen` raises from here on
import torch, first
logits = torch.randn(4, 9, requires_grad=True)
target = torch.tensor([0, 3, -100, 8])
p = logits.softmax(-1)[[0, 1, 3], target[[0, 1, 3]]]
for backend in ("torch", "triton"):
    loss = first.first_loss(logits, target, strength=2.0, backend=backend)
    torch.testing.assert_close(loss, (-(1 - p) ** 2 * p.log()).mean())
    (grad,) = torch.autograd.grad(loss, logits)
    assert (grad[2] == 0).all() and grad.isfinite().all()
"""


def test_standalone_module_runs_without_lossgen(lossgen, catalogue, tmp_path):
    out = tmp_path / "alone"
    ran = lossgen("build", "first", "--standalone", "-o", out)
    assert ran.code == 0, ran.err
    assert (out / "lossgen_runtime" / "__init__.py").is_file()
    for path in out.rglob("*.py"):
        assert "import lossgen." not in path.read_text()
        assert "from lossgen." not in path.read_text()
    subprocess.run(
        [sys.executable, "-c", STANDALONE], cwd=out, check=True, env=os.environ | {"PYTHONPATH": ""}
    )
    check = lossgen("build", "first", "--standalone", "-o", out, "--check")
    assert check.code == 0, check.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to build"),
        (["--all", "first"], "--all builds the whole catalogue: name no specs beside it"),
        (["frist"], "no spec 'frist': neither a file nor a name of the catalogue"),
        (["frist"], "did you mean 'first'?"),
        (["first", "specs/first.yaml"], "2 of these specs would be written to first.py"),
    ],
)
def test_wrong_usage(lossgen, catalogue, arguments, message):
    ran = lossgen("build", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_installed_catalogue_is_not_rebuilt_in_place(lossgen, catalogue, monkeypatch):
    monkeypatch.setattr(paths, "installed", lambda: True)
    ran = lossgen("build", "--all")
    assert ran.code == 2
    assert "the installed catalogue is not for rebuilding" in ran.err
    assert lossgen("build", "--all", "-o", "out").code == 0


def test_signatures_are_built_and_checked(lossgen, catalogue, edit):
    stub = catalogue / "lossgen" / "losses.pyi"
    assert lossgen("build", "--all").code == 0
    first = "def first_loss(logits: Tensor, target: Tensor, *, strength: float | Tensor = 1"
    assert first in stub.read_text()
    assert "class LinearSecondLoss(Module):" in stub.read_text()
    edit("second", "strength", "power")
    ran = lossgen("build", "--all", "--check")
    assert ran.code == 1
    assert f"{stub}: out of date" in ran.err
    assert lossgen("build", "second").code == 0  # one section in place of its like
    assert "power: float | Tensor = 1" in stub.read_text()
    assert lossgen("build", "--all", "--check").code == 0
    (catalogue / "specs" / "second.yaml").unlink()
    assert lossgen("build", "--all").code == 0
    assert "second" not in stub.read_text()
