"""Every deliberately wrong kernel is caught: the properties bite."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossgen import paths
from lossgen.errors import VerificationError
from lossgen.spec.load import load_spec
from lossgen.verify import interpreter
from lossgen.verify.mutate import load_mutant, noticed
from lossgen.verify.mutations import MUTATIONS, Mutation

# A loss whose kernels contain the text that is made wrong; the first where none is named.
LOSSES = {
    "mask_before_transform": "cross_entropy",
    "forgotten_weight": "cross_entropy",
    "naive_log1p": "cross_entropy",
    "dropped_moment_shift": "confidence_penalty",
    "unguarded_moment": "confidence_penalty",
    "wrong_rescale_power": "brier",
    "no_tie_rule": "crammer_singer",
    "later_tile_wins_ties": "crammer_singer",
    "maximum_drops_nan": "crammer_singer",
    "merge_drops_nan": "crammer_singer",
    "gradient_drops_nan": "reverse_kl",
    "p_minus_one": "cross_entropy",
    "low_precision_p_minus_one": "cross_entropy",
}


@pytest.fixture(autouse=True, scope="module")
def _interpreter() -> None:
    interpreter.install()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_wrong_kernels_are_caught(mutation: Mutation, tmp_path: Path) -> None:
    name = LOSSES.get(mutation.name, "gce")
    module = load_mutant(mutation, paths.generated_dir() / f"{name}.py", tmp_path)
    spec = load_spec(paths.require_spec(name))
    result = noticed(mutation, module, spec)
    assert not result.passed, f"survived: {mutation.doc}"
    assert result.message
    assert result.counterexample


def test_there_are_enough() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS) >= 12
    assert set(LOSSES) <= {m.name for m in MUTATIONS}


def test_a_mutation_must_apply() -> None:
    with pytest.raises(VerificationError, match="does not apply"):
        MUTATIONS[0].apply("nothing of the kind")
