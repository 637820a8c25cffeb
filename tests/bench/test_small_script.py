"""benchmarks/small.py in small: candidates agree, and the tables have what was measured."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from .conftest import ROOT, import_file


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    yield import_file(ROOT / "benchmarks" / "small.py")
    torch.set_num_threads(threads)


def test_it_measures_and_writes(script, monkeypatch, tmp_path, capsys):
    options = ["--rounds", "1", "--most", "1000", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["small.py", *options])
    monkeypatch.setattr(script, "SAMPLE", 0.0)
    script.main()
    results = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
    assert len(results["calls"]) == len(script.CALLS) * len(script.OURS)
    assert {"none", "class weights", "in place"} <= {row["what"] for row in results["ways"]}
    assert {p["rows"] * p["classes"] <= 1000 for p in results["sizes"]} == {True}
    assert all(p["faster"] > 0 for part in ("calls", "ways", "sizes") for p in results[part])
    assert "cross_entropy, 32 x 10" in (tmp_path / "small.md").read_text(encoding="utf-8")
    assert "Times faster than eager" in capsys.readouterr().out
