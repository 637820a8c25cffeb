"""A slice of the campaign for every run of the suite; ``make campaign`` runs all of it."""

from __future__ import annotations

import json
import subprocess
import sys

import mpmath as mp
import pytest

from lossgen.spec.vocabulary import BATCH_WORDS
from lossgen.spec.vocabulary import FUNCTIONS as WORDS
from tests.campaign import calls, faults, specs, texts
from tests.campaign.duals import FUNCTIONS
from tests.campaign.oracle import Dual, NotReal, evaluate
from tests.campaign.trees import Call, Gather, Leaf, Number, Operation, text
from tests.campaign.words import OVER_CLASSES, PAIRS, SINGLE, WITH_NUMBERS

P_Y = Gather(Leaf("p"))


@pytest.mark.parametrize("index", range(8))
def test_random_specs(index: int) -> None:
    outcome = specs.case(1, index, backends=("torch",))
    assert not outcome.bad, outcome.detail


@pytest.mark.parametrize("index", range(40))
def test_random_calls(index: int) -> None:
    outcome = calls.case(1, index)
    assert not outcome.bad, outcome.detail


@pytest.mark.parametrize("index", [3, 9, 61, 200])
def test_hostile_texts(index: int) -> None:
    outcome = texts.case(1, index)
    assert not outcome.bad, outcome.detail


@pytest.mark.parametrize("index", range(8))
def test_random_faults(index: int) -> None:
    outcome = faults.case(1, index)
    assert not outcome.bad, outcome.detail


def test_the_oracle_knows_cross_entropy() -> None:
    """The judge, judged: a value and a gradient known in closed form."""
    formula = Operation("*", Number("-1"), Call("log", (P_Y,)))
    with mp.workdps(30):
        found = evaluate(formula, 1, [0, mp.log(3)], {}, {})
        assert isinstance(found, Dual)
        assert mp.almosteq(found.value, mp.log(mp.mpf(4) / 3))
        assert mp.almosteq(found.slopes[0], mp.mpf(1) / 4)
        assert mp.almosteq(found.slopes[1], -mp.mpf(1) / 4)


@pytest.mark.parametrize("name", sorted({word for words in SINGLE.values() for word in words}))
def test_the_oracle_knows_derivatives(name: str) -> None:
    """Each word against a difference quotient, where it is real and smooth."""
    tried = 0
    with mp.workdps(40):
        for at in map(mp.mpf, ("-7.3", "-0.41", "0.37", "5.3", "21.7")):
            try:
                found = FUNCTIONS[name](Dual(at, (mp.mpf(1),)))
            except NotReal:
                continue
            tried += 1
            slope = mp.diff(lambda v: FUNCTIONS[name](Dual(v, ())).value, at)
            assert abs(found.slopes[0] - slope) < mp.mpf(10) ** -15 * (1 + abs(slope))
    assert tried


def test_no_word_is_forgotten() -> None:
    """The campaign draws every word of the language: a new one is added to its words."""
    drawn = {word for words in SINGLE.values() for word in words} | set(PAIRS) | set(OVER_CLASSES)
    drawn |= {name for name, _, _ in WITH_NUMBERS}
    drawn |= {"sum", "softmax", "log_softmax", "logsumexp", "where", "stop_gradient"}
    drawn |= {"lse", "logsoftmax"}
    drawn |= {"root", "sparsemax", "entmax15"}  # the judge solves no equations
    assert not WORDS - drawn - {*BATCH_WORDS}  # which no formula of a row has


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is not blind: a slope that is off by 1e-4 of itself is told."""
    row = specs.Row("plain", (0.5, -1.0, 2.0), 0, {}, {})
    spec = specs.Spec(Operation("-", Number("1"), P_Y), {}, {}, {})
    truth = specs.truth(spec, row)
    assert truth is not None
    right = [float(s) for s in truth.slopes]
    assert specs.differs(truth, float(truth.value), right) is None
    assert specs.differs(truth, float(truth.value), [right[0] * 1.0001, *right[1:]])
    assert specs.differs(truth, float(truth.value) * 1.0001, right)


def test_formulas_are_written_as_they_are_meant() -> None:
    minus = Operation("-", Number("1"), Operation("-", P_Y, Number("2")))
    assert text(minus) == "1 - (p[y] - 2)"
    assert text(Operation("**", minus, Number("2"))) == "(1 - (p[y] - 2))**2"
    assert text(Operation("*", Number("-1"), P_Y)) == "(-1) * p[y]"


def test_a_run_resumes(tmp_path) -> None:
    """Two runs of one case each are the first two cases; the report says what became of them."""
    state = tmp_path / "state.json"
    for cases in (1, 2):
        command = [sys.executable, "-m", "tests.campaign", "calls", "--cases", str(cases)]
        done = subprocess.run(
            [*command, "--seed", "1", "--state", str(state)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"calls-1: {cases} cases" in done.stdout
    entry = json.loads(state.read_text())["calls-1"]
    assert entry["next"] == 2
    assert sum(entry["verdicts"].values()) == 2
