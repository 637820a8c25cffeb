"""Every loss over classes in shards is the loss: a slice here, all by ``make distributed``."""

from __future__ import annotations

import os

import pytest

from tests.distributed.every_loss import names
from tests.distributed.launch import on_ranks

#: One sweep, two, the largest class as pivot, several streams, several results, row numbers,
#: vectors over the classes, a parameter as a power, float64, a root.
SLICE = (
    *("gce", "logit_norm", "kd_forward_kl", "reverse_kl", "token_stats", "trades", "ldam"),
    *("cross_entropy", "emo", "topk_kl", "seesaw", "dc_pdd", "tsallis_score", "sparsemax"),
)
CHOSEN = names() if os.environ.get("LOSSGEN_EVERY_LOSS") else SLICE


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    """What is wrong with each loss, by rank."""
    function = "tests.distributed.every_loss:judged"
    return on_ranks(4, function, tmp_path_factory.mktemp("ranks"), CHOSEN, [2, 3, 4])


@pytest.mark.parametrize("name", CHOSEN)
def test_classes_in_shards(judged: list[dict[str, list[str]]], name: str) -> None:
    assert [found[name] for found in judged] == [[]] * 4


def test_the_slice_is_of_the_catalogue() -> None:
    assert set(SLICE) <= set(names())
