"""Every statement of a sheet has a proof or a witness, and the witness is one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lossgen import paths
from lossgen.properties import sheet
from lossgen.properties.convexity import convexity
from lossgen.properties.ends import ends
from lossgen.properties.lipschitz import lipschitz
from lossgen.properties.model import NOT_FOUND
from lossgen.properties.properness import properness
from lossgen.properties.range import value_range
from lossgen.properties.setting import setting
from lossgen.properties.shift import shift
from lossgen.properties.symmetry import symmetry
from lossgen.spec.load import load_spec, load_text
from tests import sheets


def at(name, classes=3, neutral=True, **parameters):
    return setting(load_spec(paths.require_spec(name)), parameters, classes, neutral)


def formula(text):
    return setting(load_text(f"name: one\ntransform: {text}\n"), {}, 3, neutral=True)


# ------------------------------------------------------------------------------- bounded
def test_bounded_by_a_proof():
    for name, top in (("mae", 1.0), ("gce", 1 / 0.7)):
        found = value_range(at(name))
        assert (found.verdict, found.basis) == ("yes", "proof")
        assert found.data["supremum"] == pytest.approx(top, abs=1e-6)
        assert found.data["enclosure"] == pytest.approx([0, top])


def test_unbounded_by_a_ray():
    found = value_range(at("cross_entropy"))
    assert (found.verdict, found.data["supremum"]) == ("no", math.inf)
    assert "t·" in found.witness[1]


def test_a_supremum_is_no_more_than_it_is():
    """Brier's interval is [0, 3], and its values reach 2."""
    found = value_range(at("brier"))
    assert found.data["supremum"] == pytest.approx(2, abs=1e-6)
    assert found.data["enclosure"] == [0, 3]


def test_the_least_of_lgamma_is_between_its_zeros():
    found = value_range(formula("lgamma(1 + 2*p[y])"))
    assert found.data["enclosure"] == pytest.approx([-0.1214862905, math.lgamma(3)])
    found = value_range(formula("lgamma(2 + p[y])"))
    assert found.data["enclosure"] == pytest.approx([0, math.lgamma(3)])


# ------------------------------------------------------------------------------- convex
def test_convex_by_a_proof():
    assert convexity(at("cross_entropy")).basis == "proof"
    assert convexity(at("comp_sum", tau=0.0)).basis == "proof"
    assert convexity(formula("relu(1 + max(x, over=others) - x[y])")).basis == "proof"


def test_not_convex_by_a_point_and_a_direction():
    found = convexity(at("mae"))
    assert found.data["eigenvalue"] == pytest.approx(-1 / (3 * math.sqrt(3)), abs=1e-3)
    x = torch.tensor(found.data["point"], dtype=torch.float64)
    d = torch.tensor(found.data["direction"], dtype=torch.float64)

    def loss(x):
        return 1 - x.softmax(0)[found.data["label"]]

    assert d @ torch.autograd.functional.hessian(loss, x) @ d < -0.1


def test_a_corner_is_seen_by_a_chord():
    """Of the minimum of two affine functions the Hessian is 0 wherever it is."""
    found = convexity(formula("minimum(x[y], 0)"))
    assert (found.verdict, found.basis) == ("no", "witness")
    assert "chord" in found.because


# ------------------------------------------------------------------------------- slopes, shifts
def test_lipschitz():
    assert lipschitz(at("cross_entropy")).data["lipschitz"] == pytest.approx(math.sqrt(2), abs=1e-4)
    assert lipschitz(at("mae")).data["lipschitz"] == pytest.approx(math.sqrt(2) / 4, abs=1e-4)
    assert lipschitz(at("comp_sum", tau=0.0)).data["lipschitz"] == math.inf


def test_shift():
    assert shift(at("cross_entropy")).basis == "proof"
    assert shift(at("cross_entropy", z_loss=0.1)).verdict == "no"
    assert shift(formula("logsumexp(x)")).because.startswith("loss(x + c) = loss(x) + 1·c")


def test_the_gradient_at_the_ends():
    found = ends(at("focal", gamma=2.0)).data
    assert found["p_y → 0"]["limit"] == pytest.approx(-1)
    assert found["p_y → 1"] == {"limit": 0.0, "power": 3.0}
    assert ends(at("gce")).data["p_y → 0"]["power"] == pytest.approx(0.7)


# ------------------------------------------------------------------------------- labels
@pytest.mark.parametrize(("name", "total"), [("mae", 2), ("nce", 1), ("ngce", 1)])
def test_symmetric_by_algebra(name, total):
    found = symmetry(at(name))
    assert (found.basis, found.data["sum"]) == ("proof", total)


def test_not_symmetric_by_two_rows():
    assert symmetry(at("gce")).verdict == "no"


def test_proper_by_the_theorem():
    for given in (at("cross_entropy"), at("brier"), at("tsallis_score"), at("focal", gamma=0.0)):
        assert properness(given).basis == "proof"
    assert properness(formula("p[y]")).verdict == "no"  # p·g' is not constant
    assert properness(formula("logp[y]")).verdict == "no"  # g' > 0
    assert properness(at("spherical")).verdict == NOT_FOUND


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_not_proper(gamma):
    found = properness(at("focal", gamma=gamma))
    assert (found.verdict, found.basis) == ("no", "witness")
    q, p = np.array(found.data["q"]), np.array(found.data["p"])

    def risk(p):
        return -(q * (1 - p) ** gamma * np.log(p)).sum()

    assert risk(p) < risk(q) - 1e-4


# ------------------------------------------------------------------------------- the sheet
@pytest.fixture(scope="module")
def mae():
    return sheet("mae")


def test_a_sheet(mae):
    found = mae
    verdicts = {s.name: (s.verdict, s.basis) for s in found.statements}
    assert verdicts["bounded"] == verdicts["symmetric"] == ("yes", "proof")
    assert verdicts["convex"] == verdicts["proper"] == ("no", "witness")
    assert verdicts["calibrated"] == (NOT_FOUND, "search")
    assert json.dumps(found.as_dict())
    assert all(len(line) <= 110 for line in str(found).splitlines())


def test_what_does_not_apply():
    several = sheet("token_stats")
    assert {s.verdict for s in several.statements} == {"does not apply: several outputs, no loss"}
    from lossgen.properties.table import without_label

    words = {n: without_label(load_spec(paths.require_spec(n))) for n in ("kd_forward_kl", "dkd")}
    assert words == {
        "kd_forward_kl": "does not apply: needs a single label",
        "dkd": "does not apply: teacher goes with the label",
    }


def test_a_removable_singularity_is_its_limit():
    """At τ = 1 the formula is 0/0, and the loss is cross-entropy."""
    one, ce = at("comp_sum", tau=1.0), at("cross_entropy")
    assert one.singular == ("tau",)
    x, y, draw = np.array([[1.0, -2.0, 0.5]]), np.array([1]), np.array([0])
    for a, b in zip(one.evaluated(x, y, draw, 2), ce.evaluated(x, y, draw, 2), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert float(one.precise(x[0], 1)[0]) == pytest.approx(ce.evaluated(x, y, draw)[0][0])


# ------------------------------------------------------------------------------- the page
def test_the_page_is_current():
    found = sheets.sections()
    stale = [n for n, (key, _) in found.items() if key != sheets.key(n)]
    assert not stale, "run: python -m tests.sheets --update"
    assert sheets.written(found) == sheets.PAGE.read_text(encoding="utf-8")


def test_the_page_says_what_is_found(mae):
    """Of one loss; `python -m tests.sheets --update NAME` does any other."""
    assert sheets.verdicts(str(mae)) == sheets.verdicts(sheets.sections()["mae"][1])
