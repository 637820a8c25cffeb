"""benchmarks/cpu.py in small: it agrees with itself, measures, and writes what it printed."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from lossgen.bench.report import Timing, paired

from .conftest import ROOT, import_file


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    yield import_file(ROOT / "benchmarks" / "cpu.py")
    torch.set_num_threads(threads)


def test_it_measures_and_writes(script, monkeypatch, tmp_path, capsys):
    sizes = ["--rows", "32", "--classes", "1024", "--rounds", "2", "--no-compile"]
    monkeypatch.setattr(sys, "argv", ["cpu.py", *sizes, "--out", str(tmp_path)])
    script.main()
    results = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert [row["loss"] for row in results["speed"]] == list(script.LOSSES)
    for row in results["speed"]:
        assert row["faster"] == row["eager"]["times_lossgen"] > 0
        assert row["floors"] > 0
        assert row["floors_of_huge_pages"] > 0
        assert ("floors_of_one" in row) == (row["loss"] in ("kd_forward_kl", "jsd_beta", "trades"))
    assert {p["classes"] for p in results["scaling"]} == {10, 100, 1000, 4096}
    assert {p["threads"] for p in results["scaling"]} == {1, 2}
    assert {"python", "torch", "lossgen", "compiler"} == set(results["versions"])
    assert {"date", "processor", "load_average", "linear"} <= set(results)
    assert {row["rounds"] for row in results["speed"] + results["scaling"]} == {2}
    tables = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in tables for name in script.LOSSES)
    printed = capsys.readouterr().out
    assert "floor" in printed
    assert "worst ÷ best" in printed
    if (tmp_path / "cpu.png").exists():  # with matplotlib
        assert (tmp_path / "cpu.png").stat().st_size > 10_000


def test_the_bars(script):
    def timings(**ms):
        return {key: Timing((value, value)) for key, value in ms.items()}

    bars = import_file(ROOT / "benchmarks" / "cpu_report.py").bars
    good = bars("gce", timings(lossgen=1.0, eager=4.0, compiled=2.0, floor=0.8))
    assert (good["faster"], good["floors"], good["met"]) == (2.0, 1.25, True)
    assert not bars("gce", timings(lossgen=1.0, eager=1.9, compiled=4.0, floor=1.0))["met"]
    assert not bars("gce", timings(lossgen=1.0, eager=4.0, compiled=2.0, floor=0.7))["met"]
    against_torch = timings(lossgen=1.0, eager=1.5, compiled=1.1, floor=1.0)
    assert bars("cross_entropy", against_torch)["met"]


def test_candidates_that_disagree_are_not_timed(script):
    x = torch.randn(4, 7)
    with pytest.raises(AssertionError, match="disagree"):
        script.agree({"a": lambda: x, "b": lambda: 1.001 * x})


def test_the_floor_writes_the_gradients_of_the_streams(script):
    x, u = 3 * torch.randn(2, 9, 40)
    one, two = script.Floor(2)([x, u], 2)
    torch.testing.assert_close(one, x.softmax(-1))
    torch.testing.assert_close(two, u.softmax(-1))
    (alone,) = script.Floor(1, script.empty_like)([x, u], 1)
    torch.testing.assert_close(alone, one)


def test_a_busy_machine_gets_fewer_rounds():
    calls = []
    timings = paired({"a": lambda: calls.append(1)}, 50, seconds=0.0)
    assert len(timings["a"].samples) == 3
    assert len(calls) == 4  # with the one that warms up
    assert len(paired({"a": lambda: None}, 5)["a"].samples) == 5
