"""``lossgen.compare``: the numbers are the losses' own; every loss of the catalogue has them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn import functional

import lossgen
from lossgen import paths
from lossgen.errors import LossgenError
from lossgen.losses import gce_loss, kd_forward_kl_loss
from lossgen.spec.load import load_spec

OF_BATCHES = [n for n in paths.spec_names() if load_spec(paths.require_spec(n)).batch]


@pytest.mark.parametrize("name", sorted({*paths.spec_names()} - {*OF_BATCHES}))
def test_every_loss_has_curves(name):
    found = lossgen.compare(name, at=[0.01, 0.5, 0.99], classes=4)
    assert found.curves
    for curve in found.curves:
        assert len(curve.loss) == len(curve.gradient) == 3
        if name != "topk_kl":  # its list holds all classes here, and rest is what none of them has
            assert all(map(math.isfinite, (*curve.loss, *curve.gradient)))


@pytest.mark.parametrize("classes", [2, 10])
def test_numbers_are_those_of_the_formula(classes):
    at = [0.001, 0.3, 0.999]
    found = lossgen.compare(("gce", {"q": 0.5}), "focal", at=at, classes=classes)
    gce, focal = found.curves
    assert (gce.label, focal.label) == ("gce q=0.5", "focal")
    for k, p in enumerate(at):
        slope = p * (1 - p)  # of p_y by x_y
        assert gce.loss[k] == pytest.approx((1 - p**0.5) / 0.5, rel=1e-12)
        assert gce.gradient[k] == pytest.approx(-(p**-0.5) * slope, rel=1e-12)
        assert focal.loss[k] == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-12)
        there = 2 * (1 - p) * math.log(p) - (1 - p) ** 2 / p
        assert focal.gradient[k] == pytest.approx(there * slope, rel=1e-12)


def test_over_z():
    (curve,) = lossgen.compare("cross_entropy", over="z", at=[-30, 0, 30]).curves
    assert curve.loss == pytest.approx([math.log1p(math.exp(z)) for z in (-30, 0, 30)], rel=1e-12)
    assert curve.gradient == pytest.approx([-1 / (1 + math.exp(-z)) for z in (-30, 0, 30)])


def test_what_may_be_compared():
    """Names, formulas, generated functions, functions of one's own, with options or without."""
    own = partial(functional.cross_entropy, label_smoothing=0.1)
    entries = ("cross_entropy", "-logp[y]", gce_loss, partial(gce_loss, q=0.3), own)
    found = lossgen.compare(*entries, at=[0.2])
    named, written, plain, partly, torchs = found.curves
    assert named.loss == written.loss == pytest.approx([-math.log(0.2)])
    assert (plain.label, partly.label) == ("gce_loss", "gce_loss q=0.3")
    assert partly.loss == pytest.approx([(1 - 0.2**0.3) / 0.3])
    assert torchs.loss[0] > named.loss[0]


def test_a_number_stands_for_a_tensor():
    options = {"advantage": -2.0, "old_logp": math.log(0.5)}
    found = lossgen.compare(("ppo_clip", options), at=[0.5])
    assert not found.assumed
    assert found.curves[0].loss == pytest.approx([2.0])


def test_what_is_filled_in_is_said():
    found = lossgen.compare("kd_forward_kl", at=[0.9])
    assert found.assumed == ("kd_forward_kl: teacher is a row with p_y = 0.9",)
    assert found.curves[0].loss == pytest.approx([0.0], abs=1e-12)
    teacher = torch.zeros(10, dtype=torch.float64)
    given = lossgen.compare(partial(kd_forward_kl_loss, teacher=teacher), at=[0.1])
    assert not given.assumed
    assert given.curves[0].loss == pytest.approx([0.0], abs=1e-12)


def test_as_text():
    text = str(lossgen.compare("mae", at=[0.25, 0.5], classes=3))
    assert text == repr(lossgen.compare("mae", at=[0.25, 0.5], classes=3))
    assert [line.split() for line in text.splitlines()] == [
        ["mae"],
        ["p_y", "loss", "d/dx_y"],
        ["0.25", "0.75", "-0.1875"],
        ["0.5", "0.5", "-0.25"],
        ["rows", "of", "3", "classes,", "all", "but", "the", "target", "alike"],
    ]


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((), {}, "cannot compare nothing: name a loss"),
        (("gec",), {}, "did you mean 'gce'"),
        (("nothing.yaml",), {}, "neither a file nor a name"),
        (("-lgop[y]",), {}, "unknown name 'lgop'"),
        (("gce",), {"over": "q"}, "over is 'p' or 'z', not 'q'"),
        (("gce",), {"at": [0.0]}, "probabilities lie between 0 and 1"),
        (("gce",), {"classes": 1}, "a row has at least two classes"),
    ],
)
def test_mistakes(arguments, options, text):
    with pytest.raises((LossgenError, ValueError)) as error:
        lossgen.compare(*arguments, **options)
    assert text in str(error.value)


def test_a_point_alone():
    assert lossgen.compare("gce", at=0.5).at == (0.5,)
