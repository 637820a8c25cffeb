"""``lossgen.timm``: a loss by name, with timm's words for its arguments."""

from __future__ import annotations

import sys
from importlib.metadata import files
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

import lossgen
from lossgen.integrations.errors import UnfitLoss
from lossgen.losses import GCELoss

create = lossgen.timm.create_classification_loss


def test_by_name():
    assert repr(create("gce", q=0.4)) == repr(GCELoss(q=0.4))


def test_the_words_of_timm():
    torch.manual_seed(0)
    logits, target, weight = torch.randn(5, 7), torch.randint(0, 7, (5,)), torch.rand(7)
    found = create("cross_entropy", smoothing=0.1, class_weight=weight)(logits, target)
    expected = F.cross_entropy(logits, target, weight, label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_dense_targets_after_mixup():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 7), torch.rand(5, 7).softmax(-1)
    found = create("soft_target_ce")(logits, target)
    torch.testing.assert_close(found, F.cross_entropy(logits, target))


def test_refused_by_name():
    with pytest.raises(UnfitLoss) as raised:
        create("gce", smoothing=0.1)
    assert raised.value.message == "gce_loss takes no 'smoothing'"
    with pytest.raises(UnfitLoss, match="token_stats has several results, not a loss"):
        create("token_stats")


def test_a_name_of_timms_own_is_passed_on(monkeypatch):
    """timm itself does not import without torchvision, which the tests do without."""
    package, loss = ModuleType("timm"), ModuleType("timm.loss")
    loss.LOSS_TYPES = ("ce", "bce")
    loss.create_classification_loss = lambda name, **given: (name, given)
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.loss", loss)
    assert create("bce", bce_sum=True) == ("bce", {"bce_sum": True})


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_the_function_that_it_stands_for_is_still_there():
    (factory,) = [f for f in files("timm") or () if f.name == "_loss_factory.py"]
    assert "def create_classification_loss(" in factory.read_text()
    assert "LOSS_TYPES = (" in factory.read_text()
