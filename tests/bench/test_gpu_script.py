"""benchmarks/gpu.py, in small on the CPU: it runs, finds what is wrong, writes and resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lossgen.bench.device import CHECKS, Shape, Subject, excess, run_check
from lossgen.runtime import tuned
from lossgen.runtime.tile_shapes import Launch, launch_of
from lossgen.verify import interpreter

from .conftest import ROOT, import_file


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return import_file(ROOT / "benchmarks" / "gpu.py")


def module(name):
    return ROOT / "generated" / f"{name}.py"


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


def test_the_quick_run_ends_with_one_table(script, monkeypatch, tmp_path, capsys):
    """Properties in a process for each loss, rows, and linear layers; nothing after the table."""
    assert run(script, monkeypatch, tmp_path, "--quick") == 0
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "dry-run.json").read_text(encoding="utf-8"))
    assert {c["check"] for c in results["checks"]} == {*CHECKS} - {"compiled"}
    assert f"properties: {len(results['checks'])} of {len(results['checks'])} run, 0 failed" in said
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        *("gce", "three products", "cross_entropy, chunked", "gce, chunked", "four products"),
        *("reverse_kl, chunked", "one product", "token_stats, chunked", "token_stats, eager"),
    ]
    assert said.rstrip().endswith("|")


def test_the_quick_run_says_what_failed(script, monkeypatch, tmp_path, capsys):
    assert run(script, monkeypatch, tmp_path, "--quick", "--backend", "nothing") == 1
    said = capsys.readouterr().out
    assert "FAILED gce values: ValueError" in said
    assert "must be one of" in said.splitlines()[-1] or "| gce |" in said


def test_the_tuned_table_is_written(script, monkeypatch, tmp_path, capsys):
    """Of what was measured; an architecture that was measured before keeps its launches."""
    interpreter.install()
    before = {("forward", 32768, False, False): (2048, 4)}
    monkeypatch.setitem(tuned.ROWS, "gfx942", before)
    part = script.import_file(ROOT / "benchmarks" / "gpu_tune.py")
    monkeypatch.setattr(script, "import_file", lambda path: part)
    monkeypatch.setattr(part, "TILES", {"light": "gce"})
    monkeypatch.setattr(part, "ROWS", ("gce",))
    monkeypatch.setattr(script.Bench, "module", lambda self, name: import_file(module(name)))
    times = iter([1.0, *(0.5 for _ in range(1000))])  # every launch but the first is faster
    monkeypatch.setattr(script.Bench, "measure", lambda self, call: next(times))
    assert run(script, monkeypatch, tmp_path, "--tune") == 0
    namespace: dict[str, Any] = {}
    exec((tmp_path / "tuned.py").read_text(encoding="utf-8"), namespace)
    assert namespace["ROWS"] == {"gfx942": before}
    ((key, value),) = namespace["TILES"]["none"].items()
    assert key == ("sweep", 4, "light")
    assert Launch(*value) != launch_of("sweep", 4, 1, 1, 7, "")
    assert "('sweep', 4, 'light')" in capsys.readouterr().out


def test_a_table_that_is_read_back_is_written_the_same(script):
    part = script.import_file(ROOT / "benchmarks" / "gpu_tune.py")
    text = Path(tuned.__file__).read_text(encoding="utf-8")
    assert part.written({"ROWS": tuned.ROWS, "TILES": tuned.TILES}) == text


def test_launches_that_spill_are_not_taken(script):
    part = script.import_file(ROOT / "benchmarks" / "gpu_tune.py")
    compiled = {"old": SimpleNamespace(n_spills=3)}
    kernel = SimpleNamespace(device_caches={0: (compiled,)})
    spills = part.Spills()
    assert spills.any([kernel])
    assert not spills.any([kernel])  # it has been told
    compiled["new"] = SimpleNamespace(n_spills=0)
    assert not spills.any([kernel])
    compiled["worse"] = SimpleNamespace(n_spills=8)
    assert spills.any([kernel])


def test_it_needs_nothing_but_torch_triton_and_numpy(tmp_path):
    """A machine with a GPU has not the compiler's libraries."""
    block = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('rich', 'typer', 'jinja2', 'mpmath', 'pydantic'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import runpy\n"
        "sys.argv = ['gpu.py', '--help']\n"
        f"runpy.run_path({str(ROOT / 'benchmarks' / 'gpu.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


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
