"""Options that are off are not there, beside any other that is on: masked classes show it."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch

from lossgen.losses import cross_entropy as module
from lossgen.paths import require_spec
from lossgen.spec.load import load_spec
from lossgen.verify.reference import Arguments
from lossgen.verify.runner import Runner, gradients

SPEC = load_spec(require_spec("cross_entropy"))
ROWS = torch.tensor(
    [
        [1.0, -math.inf, 2.0, 0.5],
        [30.0, -math.inf, 2.0, 0.5],  # confident
        [1e4 + 1, -math.inf, 1e4, -math.inf],  # offset
        [1.0, 2.0, 3.0, 40.0],
    ]
)
TARGET = torch.tensor([2, 0, 0, 1])
INSIDE: dict[str, Any] = {
    "label_smoothing": 0.1,
    "z_loss": 0.01,
    "softcap": 5.0,
    "temperature": 0.7,
    "weight": torch.tensor([0.5, 1.2, 0.3, 0.8]),
}


@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
def test_pairs_of_options_on_masked_rows(backend: str) -> None:
    off = {name: float(p.off or 0.0) for name, p in SPEC.parameters.items()}
    chosen = [dict(pair) for n in (0, 1, 2) for pair in combinations(INSIDE.items(), n)]
    masked = {"weight": torch.tensor([0.5, 0.0, 0.3, 0.8])}  # weight 0 at the masked class
    chosen += [{**on, **masked} for on in chosen if "weight" in on]
    for on in chosen:
        given = {**off, **on}
        loss, grads = Runner(module, SPEC, backend).slopes(ROWS, TARGET, given)
        weight = given.pop("weight", torch.ones(4)).double()
        exact, slopes = gradients(SPEC, Arguments(ROWS.double(), TARGET, given, {"weight": weight}))
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(loss.double(), exact, **close)
        torch.testing.assert_close(grads["logits"].double(), slopes["logits"], **close)
