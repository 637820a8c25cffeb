"""Docstrings and modules of generated functions, which the runtime completes."""

from __future__ import annotations

import inspect
import re

import pytest

from lossgen import losses
from lossgen.runtime.documentation import documented
from lossgen.runtime.module import LossModule

FUNCTIONS = ["gce_loss", "linear_gce_loss", "linear_cross_entropy_loss", "linear_trades_loss"]


@pytest.mark.parametrize("name", [*FUNCTIONS, "token_stats", "linear_token_stats"])
def test_every_argument_is_documented_once(name):
    function = getattr(losses, name)
    arguments = re.findall(r"^    (\w+): .", inspect.cleandoc(function.__doc__), re.MULTILINE)
    expected = [*inspect.signature(function).parameters]
    assert [n for n in arguments if not n.endswith("Error")] == expected
    assert "Source: " in function.__doc__
    assert "Returns:" in function.__doc__


def test_a_linear_function_has_the_formula_of_its_loss():
    assert "(1 - p[y]**q) / q" in losses.linear_gce_loss.__doc__
    assert "or a tuple (hidden, weight[, bias])" in losses.linear_trades_loss.__doc__
    assert "or a tuple" not in losses.trades_loss.__doc__


def test_a_loss_without_a_source():
    """The text of a spec may be empty, whatever it says elsewhere."""

    def bare(logits):
        """Args:

        Source:
        """
        return logits

    assert "logits: [*, V]" in documented(bare).__doc__


def test_without_docstrings_nothing_is_added():
    """python -OO leaves them out."""

    def bare(logits):
        return logits

    assert documented(bare).__doc__ is None


def test_a_module_is_made_with_what_its_calls_do_not_take():
    made = inspect.signature(losses.CrossEntropyLoss)
    assert next(iter(made.parameters)) == "weight"  # as in torch
    called = inspect.signature(losses.LinearCrossEntropyLoss.forward)
    by_name = ["row_weight", "normalizer", "linear_bias"]
    assert [*called.parameters] == ["self", "hidden", "linear_weight", "target", *by_name]
    together = [*made.parameters, *inspect.signature(losses.CrossEntropyLoss.forward).parameters]
    assert {*together} - {"self"} == {*inspect.signature(losses.cross_entropy_loss).parameters}


def test_a_module_refuses_what_it_does_not_know_by_its_name():
    with pytest.raises(TypeError, match=r"GCELoss.*'p'"):
        losses.GCELoss(p=1.0)
    with pytest.raises(TypeError, match="GCELoss"):
        losses.GCELoss(0.5)


def test_a_subclass_keeps_the_options():
    class Half(losses.GCELoss):
        def __init__(self) -> None:
            super().__init__(q=0.5)

    assert repr(Half()).startswith("Half(q=0.5, ")
    assert isinstance(Half(), LossModule)
