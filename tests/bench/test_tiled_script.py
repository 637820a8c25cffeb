"""What the tiled kernels are compiled to: the tiles of the tensor cores that they were cut for."""

from __future__ import annotations

import json
import sys

import pytest

from lossgen.aot import compile_jobs, list_jobs

from .conftest import ROOT, import_file


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return import_file(ROOT / "benchmarks" / "tiled.py")


@pytest.mark.parametrize(
    ("role", "shape"),
    [("sweep1", "64x256x16"), ("gradient1", "64x128x16"), ("to_hidden", "64x256x16")],
)
def test_hopper_multiplies_by_large_tiles(script, role: str, shape: str) -> None:
    """Of a light loss in bfloat16; without a spill, as every kernel."""
    jobs = [j for j in list_jobs(["gce"], ["sm_90"], full=False, tiled=True) if j["role"] == role]
    (answer,) = compile_jobs([jobs[0] | {"assembly": True}], 1)
    entry = script._entry(jobs[0], answer)
    assert "error" not in entry, entry
    assert entry["instruction"] == f"HGMMA {shape}"
    assert entry["spill_stores"] == entry["spill_loads"] == 0
    assert entry["shared"] <= entry["limit"]


def test_tables_are_written(script, monkeypatch, tmp_path, capsys) -> None:
    """Without a compiler; a kernel that spills fails the script."""
    spills = {"registers": 255, "spill_stores": 8, "spill_loads": 8, "shared": 1024, "limit": 2048}
    asked: list[dict[str, object]] = []

    def compiled(jobs, _):
        asked.extend(jobs)
        return [dict(spills, assembly="HGMMA.64x256x16.F32.BF16 R24") for _ in jobs]

    monkeypatch.setattr(script, "compile_jobs", compiled)
    monkeypatch.setattr(sys, "argv", ["tiled.py", "gce", "--out", str(tmp_path)])
    assert script.main() == 1
    assert {job["role"] for job in asked} >= {"sweep1", "merge1", "gradient1", "to_weight"}
    found = json.loads((tmp_path / "tiled_sm_90.json").read_text(encoding="utf-8"))
    assert found["kernels"][0]["instruction"] == "HGMMA 64x256x16"
    assert min(entry["sweep"] for entry in found["waves"]) >= 0.93
    assert "| gce | sweep1 | bf16 | 1 | 128×256×64 | 8 |" in capsys.readouterr().out
