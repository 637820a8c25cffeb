"""The properties with several streams and outputs: they hold for what is right, and they bite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lossgen.spec.load import load_text
from lossgen.spec.model import LossSpec
from lossgen.verify import verify
from lossgen.verify.properties import PROPERTIES
from lossgen.verify.run import check_property
from lossgen.verify.runner import Runner
from lossgen.verify.streams import LOGITS
from tests.verify.composite import composite

SPECS = {
    # A constant teacher, and parameters.
    "distillation": """
        transform: -alpha * logp[y]
        regularizer: "sum(softmax(teacher / tau) * (log_softmax(teacher / tau) - logp))"
        parameters:
          alpha: {default: 0.5, domain: "[0, 1]", doc: weight of the label}
          tau: {default: 2, domain: "[1, 8]", doc: temperature}
        inputs: {teacher: {kind: class, doc: logits of the teacher}}
        """,
    # Both sides get a gradient; a second stream does not.  No target.
    "consistency": """
        transform: sum((p - softmax(view)) ** 2) + sum(anchor * logp) * 0.1
        inputs:
          view: {kind: class, differentiable: true, doc: logits of another view}
          anchor: {kind: class, domain: "[0, 1]", doc: probabilities}
        """,
    # The class's number counts; an input of each kind.
    "ordinal": """
        let: {votes: "where(argmax(t) == index[y], 1, 2)"}
        transform: importance * votes * sum(p * abs(index - index[y]) * w)
        inputs:
          t: {kind: class, range: [-1, 1], doc: votes}
          importance: {kind: row, range: [0.5, 2], doc: weight of the row}
          w: {kind: vocab, range: [0.5, 2], doc: weight of the class}
        accuracy: {ulp: 8, reason: weighted distances of 6 classes less their mean}
        """,
    # Several results of each row.
    "report": """
        outputs:
          logp: log(p[y])
          entropy: "-sum(p * logp)"
          cross: "-sum(softmax(t) * logp) * weight"
        inputs:
          t: {kind: class, differentiable: true, doc: logits of another model}
          weight: {kind: row, range: [0.5, 2], doc: weight of the row}
        """,
}


def text_of(name: str) -> str:
    lines = [line[8:] for line in SPECS[name].splitlines()]
    return "\n".join([f"name: {name}", *lines]) + "\n"


def spec_of(name: str) -> LossSpec:
    return load_text(text_of(name), f"{name}.yaml")


def failures(spec: LossSpec, module: Any, only: str = "") -> dict[str, str]:
    run = Runner(module, spec, "torch")
    found = {}
    for entry in PROPERTIES:
        if entry.applies(spec, "torch") and only in ("", entry.name):
            result = check_property(entry, spec, run, examples=2)
            if not result.passed:
                found[result.name] = f"{result.message} ({result.counterexample})"
    return found


@pytest.mark.parametrize("name", SPECS)
def test_every_property_holds_for_the_literal_formula(name: str) -> None:
    spec = spec_of(name)
    # float64 autograd has not the digits that the first asks for; a formula has no linear layer
    but = {"accurate_when_confident", "linear_is_rows"}
    assert not failures(spec, composite(spec)).keys() - but


@pytest.mark.parametrize("name", ["distillation", "ordinal", "report"])
def test_every_property_holds_for_what_is_compiled(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(text_of(name))
    result = verify(path, examples=1)
    assert result.ok, [(f.backend, f.name, f.message, f.counterexample) for f in result.failures]
    assert {r.backend for r in result.results} == {"formula", "torch", "c", "triton"}


def test_which_properties_say_something() -> None:
    said = {
        name: {entry.name for entry in PROPERTIES if entry.applies(spec_of(name), "torch")}
        for name in SPECS
    }
    assert "wanted_gradients" not in said["distillation"]
    assert {"constant_streams", "stream_storage"} <= said["distillation"]
    assert {"wanted_gradients", "constant_streams"} <= said["consistency"]
    assert "constant_streams" not in said["report"]
    assert not {"fused_gradient", "reductions", "inplace_gradient"} & said["report"]
    assert {"grad_output", "ignored_rows", "wanted_gradients"} <= said["report"]


# ------------------------------------------------------------------ wrong ones
class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is made wrong."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return vector.view_as(vector)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


def twisted(name: str, change: Callable[[Tensor], Tensor]) -> Callable[..., dict[str, Tensor]]:
    """The gradient of one stream is not what it should be."""
    return lambda held: {**held, name: _Scaled.apply(held[name], change)}


def _first_row(held: dict[str, Tensor]) -> dict[str, Tensor]:
    name = [*held][1]
    return {**held, name: held[name][:1].expand_as(held[name])}


def _swapped(held: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**held, "view": held["anchor"], "anchor": held["view"].softmax(1)}


def _dense(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reads a stream with the strides of the logits."""
    t = held["t"]
    whole = t.untyped_storage().nbytes() // t.element_size() - t.storage_offset()
    flat = t.as_strided((whole,), (1,))
    rows, classes = t.shape
    step = held[LOGITS].stride(0)
    at = torch.arange(rows)[:, None] * step + torch.arange(classes)
    return {**held, "t": flat[at.clamp_max(whole - 1)]}


def _overwritten(held: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        fresh = held["teacher"].clone()
        held["teacher"].mul_(2.0)
    return {**held, "teacher": fresh}


def _needs_logits(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """No gradient of the stream unless the logits want one too."""
    if held[LOGITS].requires_grad:
        return held
    return twisted("t", torch.zeros_like)(held)


def _leaks(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """An ignored row's gradient is what was in memory."""
    return twisted("t", lambda grad: torch.where(grad == 0, 1e-3, grad))(held)


WRONG: dict[str, tuple[str, Callable[..., Any], str, str]] = {
    "sign": ("consistency", twisted("view", torch.neg), "value_and_gradient", "gradient of view"),
    "swapped": ("consistency", _swapped, "value_and_gradient", "the loss"),
    "forgotten_grad_output": (
        "report",
        twisted("t", lambda grad: grad.sign()),
        "grad_output",
        "grad",
    ),
    "transposed_rows": ("report", _first_row, "value_and_gradient", "the output cross"),
    "rows": ("distillation", _first_row, "rows_independent", "alone and among others"),
    "strides": ("ordinal", _dense, "stream_storage", "beside"),
    "overwritten": ("distillation", _overwritten, "inputs_unchanged", "teacher was written to"),
    "needs_logits": ("report", _needs_logits, "wanted_gradients", "computed for t only"),
    "ignored": ("report", _leaks, "ignored_rows", "an ignored row has the gradient of t"),
    "double": (
        "report",
        twisted("t", lambda grad: grad.float().to(grad.dtype) * (1 + 2.0**-12)),
        "double_precision",
        "the gradient of t off",
    ),
    "confident": (
        "report",
        twisted("t", lambda grad: grad + 1e-6 * (grad != 0)),
        "accurate_when_confident",
        "the gradient of t",
    ),
    "nan": (
        "report",
        twisted("t", lambda grad: torch.where(grad.abs() < 1e-30, torch.nan, grad)),
        "never_nan",
        "the gradient of t is NaN",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_noticed(mistake: str) -> None:
    name, twist, by, message = WRONG[mistake]
    spec = spec_of(name)
    found = failures(spec, composite(spec, vectors_as=twist), only=by)
    assert message in found[by]


def _mixed_columns(rows: Tensor) -> Tensor:
    """Every output has the first one's grad_output."""
    mean = rows.mean(1, keepdim=True)
    return rows.detach() + (mean - mean.detach())


def test_outputs_share_no_grad_output() -> None:
    spec = spec_of("report")
    found = failures(spec, composite(spec, result_as=_mixed_columns), only="grad_output")
    assert "the gradient" in found["grad_output"]


def test_an_output_in_the_wrong_place() -> None:
    spec = spec_of("report")
    module = composite(spec, result_as=lambda rows: rows.flip(1))
    assert (
        "the output logp" in failures(spec, module, only="value_and_gradient")["value_and_gradient"]
    )


def test_a_constant_stream_that_takes_a_gradient() -> None:
    spec = spec_of("distillation")
    module = composite(spec, vectors_as=lambda held: held)
    function = module.distillation_loss

    def eager(logits: Tensor, target: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        loss = function(logits, target, teacher, **options)
        return loss + (teacher - teacher.detach()).sum(-1)

    module.distillation_loss = eager
    found = failures(spec, module, only="constant_streams")
    assert "teacher gets a gradient" in found["constant_streams"]


def test_an_unused_stream() -> None:
    spec = spec_of("ordinal")

    def blind(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**held, "t": torch.zeros_like(held["t"])}

    found = failures(spec, composite(spec, vectors_as=blind), only="parameters_matter")
    assert "t changes nothing" in found["parameters_matter"]
