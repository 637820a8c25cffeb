"""``lossgen properties`` and ``lossgen plot --regret``."""

from __future__ import annotations

import json


def test_json_and_other_values(lossgen):
    ran = lossgen("properties", "comp_sum", "--set", "tau=2", "--classes", "2", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["parameters"] == {"tau": 2.0}
    by_name = {s["property"]: s for s in found["properties"]}
    assert by_name["symmetric"]["basis"] == "proof"
    table = {row["beta"]: row["regret"] for row in by_name["transform"]["table"]}
    assert abs(table[0.5] - 0.25) < 1e-4


def test_a_value_that_is_none(lossgen):
    ran = lossgen("properties", "gce", "--set", "q=2")
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error LG322: gce cannot have q = 2")
    assert lossgen("properties", "gce", "--set", "q").code == 2
    assert "its parameters: q" in lossgen("properties", "gce", "--set", "r=1").err


def test_the_transform_drawn(lossgen, tmp_path, monkeypatch):
    file = tmp_path / "t.svg"
    monkeypatch.setattr("lossgen.properties.draw.BETAS", (0.25, 0.5))
    given = ("plot", "comp_sum", "--regret", "--vary", "tau=1,2", "--classes", "2")
    ran = lossgen(*given, "-o", file)
    assert (ran.code, ran.out) == (0, f"wrote {file}\n"), ran.err
    assert b"<svg" in file.read_bytes()
    table = lossgen(*given, "--text").out.splitlines()
    assert table[0].split() == ["β", "comp_sum", "tau=1", "comp_sum", "tau=2"]
    assert "0.25" in next(line for line in table if line.split()[0] == "0.5")
    assert "needs a single label" in lossgen("plot", "kd_forward_kl", "--regret").err
