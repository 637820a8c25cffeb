"""benchmarks/gpu.py, in small on the CPU: it runs, finds what is wrong, writes and resumes."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from lossgen.bench.device import CHECKS, Shape, Subject, excess, run_check

from .conftest import ROOT, import_file


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return import_file(ROOT / "benchmarks" / "gpu.py")


def run(script, monkeypatch, tmp_path, *options):
    arguments = ["gpu.py", "--dry-run", "--losses", "gce", "--no-compile", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, *options])
    return script.main()


def test_the_dry_run_checks_times_and_writes(script, monkeypatch, tmp_path, capsys):
    assert run(script, monkeypatch, tmp_path, "--rounds", "1") == 0
    results = json.loads((tmp_path / "dry-run.json").read_text(encoding="utf-8"))
    assert {c["check"] for c in results["checks"]} >= {*CHECKS, "check_huge"} - {"compiled"}
    (timing,) = results["timings"]
    assert timing["lossgen"]["ms"] > 0
    assert timing["eager"]["times"] > 0
    table = (tmp_path / "dry-run.md").read_text(encoding="utf-8")
    assert "| gce |" in table
    assert table in capsys.readouterr().out

    count = len(results["checks"])
    assert run(script, monkeypatch, tmp_path, "--resume", "--minutes", "0") == 0
    again = json.loads((tmp_path / "dry-run.json").read_text(encoding="utf-8"))
    assert len(again["checks"]) == count
    assert again["timings"] == results["timings"]


def test_without_a_gpu_it_says_so(script, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert script.main() == 2
    assert "--dry-run" in capsys.readouterr().err


def test_the_budget():
    gold = torch.tensor([[1.0, 2.0], [0.0, torch.inf]], dtype=torch.float64)
    eager = gold + 1e-6
    assert excess((gold + 3.9e-6).float(), gold, [eager], torch.float32) < 1.3
    assert excess((gold + 9e-6).float(), gold, [eager], torch.float32) > 1
    assert excess(gold * torch.nan, gold, [eager], torch.float32) == float("inf")
    assert excess(gold[:0], gold[:0], [eager[:0]], torch.float32) == 0


def test_a_wrong_loss_fails_its_checks(load):
    module = load(ROOT / "generated" / "gce.py")
    composites = import_file(ROOT / "benchmarks" / "composites.py")

    def wrong(*arguments):
        return 1.001 * composites.gce(*arguments)

    subject = Subject("gce", module, wrong, torch.device("cpu"), "torch")
    outcome = run_check(subject, CHECKS["values"], Shape(4, 33, torch.float32))
    assert "loss" in outcome.detail
    assert "gradient" in outcome.detail
    broken = Subject("gce", module, composites.gce, torch.device("cpu"), "nothing")
    assert "ValueError" in run_check(broken, CHECKS["fused"], Shape(4, 33, torch.float32)).detail
