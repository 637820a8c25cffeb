"""Counted instructions: what is recorded, what is worse, and the gate."""

from __future__ import annotations

import copy

import pytest

from lossgen.bench import static
from lossgen.bench.static import Record, changes, file_of, measure, tables, worse
from lossgen.cli import main
from lossgen.errors import BuildError

from .conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
COMMAND = "make counts"


@pytest.fixture(scope="module")
def recorded():
    return Record.read(file_of(RESULTS, "sm_90"))


def test_no_loop_got_worse(recorded):
    """A slice of `make counts CHECK=1`: what a change costs, before anyone can time it."""
    if not recorded.comparable:
        pytest.skip(f"recorded with Triton {recorded.triton}: another compiler counts otherwise")
    losses = ["gce", "cross_entropy", "trades"]
    found = measure(losses, "sm_90", launches=[("forward", 128256), ("fused", 128256)])
    assert {kernel["loss"] for kernel in found} == set(losses)
    lines = worse(found, recorded)
    assert not lines, "\n".join(
        [
            "kernels do more per logit than benchmarks/results/counts_sm90.json says:",
            *lines,
            f"If that is meant, `{COMMAND}` records the kernels as they are now (under a minute; "
            "no GPU); commit what it writes.",
        ]
    )


def test_the_record_is_whole(recorded):
    keys = [(k["loss"], tuple(k["uses"]), k["kernel"], k["classes"]) for k in recorded.kernels]
    assert len(set(keys)) == len(keys)
    losses = {key[0] for key in keys}
    assert {key[2:] for key in keys} == set(static.LAUNCHES)
    (counted,) = [
        line.partition(":=")[2].split()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("COUNTED")
    ]
    assert losses == set(counted)
    assert any(key[1] for key in keys)  # a variant with options
    text = file_of(RESULTS, "sm_90").with_suffix(".md").read_text(encoding="utf-8")
    assert text == recorded.markdown(), f"written by hand: {COMMAND}"


def test_a_record_is_read_as_it_was_written(recorded, tmp_path):
    recorded.write(tmp_path)
    assert Record.read(file_of(tmp_path, "sm_90")) == recorded
    with pytest.raises(BuildError, match="no record"):
        Record.read(file_of(tmp_path, "sm_80"))


# ------------------------------------------------------------------------------- worse
def changed(recorded, **counts):
    """The first kernel of the record with other counts per logit."""
    kernel = copy.deepcopy(recorded.kernels[0])
    for name, factor in counts.items():
        kernel["per_logit"][name] *= factor
    return kernel


def test_up_to_three_percent_is_not_worse(recorded):
    assert list(changes(recorded.kernels, recorded)) == []
    assert worse([changed(recorded, instructions=1.029)], recorded) == []
    (line,) = worse([changed(recorded, instructions=1.04)], recorded)
    assert "instructions per logit (+4 %)" in line
    assert recorded.kernels[0]["loss"] in line


def test_better_is_said_but_not_worse(recorded):
    kernel = changed(recorded, instructions=0.5, special=0.9)
    assert worse([kernel], recorded) == []
    assert len(list(changes([kernel], recorded))) == 2


def test_special_functions_and_shuffles_count(recorded):
    (line,) = worse([changed(recorded, special=1.1)], recorded)
    assert "special per logit (+10 %)" in line
    kernel = changed(recorded)
    assert "shuffle" not in kernel["per_logit"]  # a loop without any
    kernel["per_logit"]["shuffle"] = 0.5
    (line,) = worse([kernel], recorded)
    assert "0 → 0.5 shuffle per logit" in line


def test_barriers_spills_and_narrow_loads_are_worse(recorded):
    kernel = changed(recorded)
    kernel["barriers_per_tile"] += 1
    kernel["spill_loads"] += 8
    kernel["widths"]["loads"] //= 2
    lines = worse([kernel], recorded)
    assert len(lines) == 3
    for word, line in zip(("barriers", "bits", "spilled"), lines, strict=True):
        assert word in line


def test_a_new_kernel_is_not_worse(recorded):
    assert worse([{**changed(recorded, instructions=2), "loss": "unheard"}], recorded) == []


# ------------------------------------------------------------------------------- the command
def run(monkeypatch, kernels, *arguments):
    monkeypatch.setattr(static, "measure", lambda *_, **__: kernels)
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return ended.value.code


def test_the_command_writes_checks_and_says_how_to_record(recorded, monkeypatch, tmp_path, capsys):
    kernels = list(recorded.kernels[:2])
    assert run(monkeypatch, kernels, "--static", "--out", str(tmp_path)) == 0
    assert file_of(tmp_path, "sm_90").is_file()
    assert run(monkeypatch, kernels, "--static", "--check", str(tmp_path)) == 0
    assert COMMAND not in capsys.readouterr().out

    heavier = [changed(recorded, instructions=2)]
    assert run(monkeypatch, heavier, "--static", "--check", str(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "worse: " in printed
    assert COMMAND in printed
    # Writing says so too, but is no gate: it is how a change that is meant is recorded.
    assert run(monkeypatch, heavier, "--static", "--out", str(tmp_path)) == 0
    assert "worse: " in capsys.readouterr().out
    assert run(monkeypatch, heavier, "--static", "--check", str(tmp_path)) == 0


def test_another_compiler_cannot_be_compared(recorded, monkeypatch, tmp_path, capsys):
    Record("sm_90", "0.0", recorded.kernels[:1]).write(tmp_path)
    assert run(monkeypatch, recorded.kernels[:1], "--static", "--check", str(tmp_path)) == 1
    assert "recorded with Triton 0.0" in capsys.readouterr().out


def test_only_static(monkeypatch, capsys):
    assert run(monkeypatch, []) == 2
    assert "--static" in capsys.readouterr().err


# ------------------------------------------------------------------------------- errors, tables
BROKEN = """
import os
from types import SimpleNamespace


class Dies:
    params = ()

    @property
    def arg_names(self):
        os._exit(134)


HELD = dict(uses=frozenset(), streams=(), inputs=(), indexed=False, n_saved=2, n_state=2,
            merge_kernel=None,
            tiled=None, arithmetic="float32")
DYING = SimpleNamespace(**HELD, forward_kernel=Dies())
LOSS = SimpleNamespace(inputs=(), streams=(), variants=(DYING,))
"""


def test_a_kernel_that_does_not_compile_is_an_error(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(BROKEN, encoding="utf-8")
    with pytest.raises(BuildError, match="sample forward V=128256 does not compile"):
        measure([path], "sm_90", launches=[("forward", 128256), ("fused", 1000)], jobs=1)
    with pytest.raises(BuildError, match="unknown target"):
        measure([path], "h100")


def test_edges_have_a_table_of_their_own(recorded):
    kernel = copy.deepcopy(recorded.kernels[0])
    kernel["loops"] = [loop for loop in kernel["loops"] if loop["role"] != "edge"]
    before = len([*tables([kernel])])
    kernel["loops"].append({**kernel["loops"][0], "role": "edge"})
    assert len([*tables([kernel])]) == 1 + before
    _, columns, rows = tables([kernel])[-1]
    assert len(columns) == len(rows[0])
    assert rows[0][1] == "edge"
