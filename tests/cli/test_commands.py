"""Every command: help, output and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import lossgen as package
from lossgen import paths
from lossgen.runtime import c_build

COMMANDS = ("build", "list", "explain", "plot", "verify", "new", "schema", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(lossgen, command):
    ran = lossgen(command, "--help")
    assert ran.code == 0
    assert f"Example: lossgen {command}" in ran.out


def test_help_names_every_command(lossgen):
    ran = lossgen("--help")
    assert ran.code == 0
    for command in COMMANDS:
        assert f" {command} " in ran.out


def test_version(lossgen):
    assert lossgen("--version").out == f"lossgen {package.__version__}\n"


def test_doctor_says_what_runs_here(lossgen, monkeypatch):
    ran = lossgen("doctor")
    assert ran.code == 0
    assert "ok: " in ran.out
    assert "torch 2." in ran.out.replace("\n", " ")
    monkeypatch.setenv("CC", "/no/such/compiler")
    c_build.search.cache_clear()
    try:
        ran = lossgen("doctor")
    finally:
        c_build.search.cache_clear()
    assert ran.code == 1
    assert "no C compiler" in ran.out


def test_unknown_command(lossgen):
    ran = lossgen("biuld")
    assert ran.code == 2
    assert "biuld" in ran.err


def test_list_shows_every_loss(lossgen):
    ran = lossgen("list")
    assert ran.code == 0
    for name in paths.spec_names():
        assert name in ran.out
    assert "(not built)" not in ran.out
    assert "ulp" in ran.out
    assert lossgen("list", "--names").out.split() == list(paths.spec_names())


def test_list_says_what_is_not_built(lossgen, catalogue):
    assert "(not built)" in lossgen("list").out


def test_spec_error_has_place_and_caret(lossgen, edit):
    path = edit("first", "logp[y]", "lgop[y]")
    ran = lossgen("explain", path)
    assert ran.code == 2
    assert f"{path}:" in ran.err
    assert "^" in ran.err
    assert "Traceback" not in ran.err


def test_compiler_bug_asks_for_a_report(lossgen, catalogue, monkeypatch):
    monkeypatch.setattr("lossgen.emit.render.render_module", lambda *_, **__: {}["no such key"])
    ran = lossgen("build", "first")
    assert ran.code == 2
    assert "KeyError: 'no such key'" in ran.err
    assert "report" in ran.err
    assert "Traceback" not in ran.err
    monkeypatch.setenv("LOSSGEN_TRACEBACK", "1")
    with pytest.raises(Exception, match="no such key"):
        lossgen("build", "first")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LOSSGEN_JOBS", "many", "LOSSGEN_JOBS='many' is not accepted"),
        ("LOSSGEN_JOBS", "0", "accepted: a positive integer"),
        ("LOSSGEN_TRACEBACK", "yes", "accepted: 0 or 1"),
        ("LOSSGEN_JOB", "2", "unknown environment variable LOSSGEN_JOB"),
    ],
)
def test_wrong_setting(lossgen, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    ran = lossgen("list") if variable != "LOSSGEN_JOBS" else _with_jobs(lossgen, value)
    assert ran.code == 2
    assert message in ran.err


def _with_jobs(lossgen, value):
    os.environ["LOSSGEN_JOBS"] = value  # the fixture set another; monkeypatch restores both
    return lossgen("list")


def test_explain(lossgen, catalogue):
    ran = lossgen("explain", "first")
    assert ran.code == 0, ran.err
    for word in ("formula", "statistics", "1 in 1 sweep", "saved", "traffic", "certificate"):
        assert word in ran.out
    for stage in ("parse", "differentiate", "stabilize", "schedule"):
        assert f"== {stage}" in ran.out
        alone = lossgen("explain", "first", "--stage", stage)
        assert alone.out.strip()
        assert alone.out.strip() in ran.out


def test_explain_diff_and_latex(lossgen, catalogue):
    ran = lossgen("explain", "first", "--diff")
    assert ran.code == 0, ran.err
    assert any(line.startswith("+") for line in ran.out.splitlines())
    ran = lossgen("explain", "first", "--latex")
    assert r"\partial \ell / \partial x_j" in ran.out


def test_explain_unknown_stage(lossgen, catalogue):
    ran = lossgen("explain", "first", "--stage", "fuse")
    assert ran.code == 2
    assert "no stage 'fuse'" in ran.err
    assert "stages: parse, differentiate, stabilize" in ran.err
    assert lossgen("explain", "first", "--diff", "--latex").code == 2


def test_new_spec_builds_and_verifies(lossgen, catalogue):
    assert lossgen("new", "mine").code == 0
    assert lossgen("build", "mine.yaml").code == 0
    # in a process of its own, as users do: this one has been through a thousand other tests
    command = [sys.executable, "-m", "lossgen", "verify", "mine.yaml", "--examples", "3", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(ran.stdout)["results"] if ran.stdout else []
    failed = [result for result in found if not result["passed"]]
    assert (ran.returncode, failed) == (0, []), ran.stderr
    assert found


@pytest.mark.parametrize("name", ["Mine", "my-loss", "../mine", "1st", ""])
def test_new_refuses_a_bad_name(lossgen, catalogue, name):
    ran = lossgen("new", name)
    assert ran.code == 2
    assert f"{name!r} cannot name a loss" in ran.err


def test_new_never_overwrites(lossgen, catalogue):
    lossgen("new", "mine")
    ran = lossgen("new", "mine")
    assert ran.code == 2
    assert "mine.yaml exists" in ran.err


@pytest.mark.parametrize("code", ["import lossgen", "from lossgen.cli import main; main(['list'])"])
def test_import_is_light(code):
    """Neither the package nor ``lossgen list`` pays for torch or SymPy."""
    probe = (
        "import atexit, sys\n"
        "heavy = {'torch', 'sympy', 'triton', 'numpy', 'hypothesis'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", probe + code],
        cwd=paths.PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.strip() == "[]"


def test_verify_prints_a_call_that_can_be_pasted(lossgen, monkeypatch):
    """It was cut at the width of the terminal, and indented; two calls stood on one line."""
    import lossgen.verify as verifying

    values = ", ".join(f"{k}.25" for k in range(80))
    call = f"import lossgen, torch\nx = torch.tensor([[{values}]])\nloss = f(x)"
    failed = verifying.PropertyResult("p", "P.", "c", False, 1, 0.1, "m", "3 x 80", call)
    result = verifying.VerificationResult("gce", (failed,))
    monkeypatch.setattr(verifying, "verify", lambda *given, **options: result)
    monkeypatch.setenv("COLUMNS", "50")
    ran = lossgen("verify", "gce")
    assert ran.code == 1
    assert call in ran.out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("build", "gce", "--tiled"), "--tiled says what --aot compiles"),
        (("new", "class"), "'class' cannot name a loss"),  # it was written, and did not build
        (("verify", "gce", "--backends", "cuda"), "no backend 'cuda'"),  # it was ignored
    ],
)
def test_what_has_no_effect_is_refused(lossgen, given, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = lossgen(*given)
    assert ran.code == 2
    assert says in ran.err
    assert not list(tmp_path.iterdir())


def test_verify_takes_the_backends_that_are_named(lossgen):
    ran = lossgen("verify", "mae", "--examples", "1", "--backends", "torch", "--json")
    assert {r["backend"] for r in json.loads(ran.out)["results"]} == {"formula", "torch"}
