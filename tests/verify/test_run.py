"""``lossgen verify`` as a whole: specs of a user, results, failures."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import lossgen
from lossgen.errors import BuildError, LossgenError, SpecError
from lossgen.spec.load import load_spec
from lossgen.verify import PropertyResult, VerificationResult, interpreter, run, verify
from lossgen.verify.mutate import load_mutant, noticed
from lossgen.verify.mutations import MUTATIONS
from lossgen.verify.properties import PROPERTIES
from lossgen.verify.reproduce import Called, python

SPECS = {
    # Row inputs, one of them optional and the normaliser; a gradient that is stopped.
    "policy": """
        transform: -keep * advantage * exp(logp[y] - stop_gradient(logp[y]))
        regularizer: [{name: entropy, weight: beta, value: "sum(p * logp)"}]
        parameters: {beta: {default: 0.01, domain: "[0, 1]", doc: entropy}}
        inputs:
          advantage: {kind: row, range: [-2, 2], doc: what it was worth}
          keep: {kind: row, off: 1, range: [0.1, 2], doc: weight of the row}
        normalizer: keep
        """,
    # No target and no softmax.
    "spread": """
        transform: norm(x - prior) / sqrt(V)
        inputs: {prior: {kind: vocab, doc: log prior}}
        """,
    # A class let, a class-valued transform of both softmaxes, V.
    "margins": """
        let: {margins: "softcap(x - x[y], cap)"}
        transform: logsumexp(margins, over=others) / V
        adversarial: sum(softmax(margins) * onehot)
        parameters: {cap: {default: .inf, domain: "(0, inf]", off: .inf, doc: bound}}
        accuracy: {ulp: 100, reason: the gradient is a difference}
        min_classes: 2
        """,
}


def write(folder: Path, name: str, text: str) -> Path:
    lines = [line[8:] for line in text.splitlines()]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join([f"name: {name}", f"title: {name}", *lines]) + "\n")
    return path


def shown(result: VerificationResult) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(result, crop=False)
    return console.export_text()


@pytest.mark.parametrize("name", SPECS)
def test_specs_of_a_user(name: str, tmp_path: Path) -> None:
    result = verify(write(tmp_path, name, SPECS[name]), examples=1)
    assert result.ok, shown(result)
    assert {r.backend for r in result.results} == {"formula", "torch", "c", "triton"}


def test_a_loss_in_float64_is_not_asked_for_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no program whose logits stay on chip, and failed for not having one."""
    entries = [entry for entry in PROPERTIES if entry.name.endswith("_are_rows")]
    monkeypatch.setattr(run, "PROPERTIES", [*entries, PROPERTIES[0]])
    path = write(tmp_path, "floor", "\n        transform: -log(p[y] + 1e-8)")
    result = verify(path, examples=1, backends=("triton",))
    assert result.ok, shown(result)
    assert [r.name for r in result.results] == ["limits", PROPERTIES[0].name]
    found = verify("mae", examples=1, backends=("triton",)).results
    assert [r.name for r in found] == ["limits", "tiles_are_rows", PROPERTIES[0].name]


def test_a_result_survives_json() -> None:
    result = verify("mae", examples=1, backends=("torch",))
    assert result.passed
    assert VerificationResult.from_json(result.to_json()) == result
    text = shown(result)
    assert "Value and gradient equal float64 autograd of the literal formula." in text
    assert "FAILS" not in text


def test_a_limit_that_does_not_hold(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "half",
        """
        transform: (1 - p[y]**q) / q
        parameters: {q: {default: 0.5, domain: "(0, 1]", doc: exponent}}
        limits: [{when: {q: 1}, equals: "1 - p[y] / 2"}]
        """,
    )
    with pytest.raises(SpecError, match="the limit does not hold: half at q = 1 is "):
        verify(path, examples=1, backends=("torch",))


def failed(name: str, folder: Path) -> PropertyResult:
    """A mutant of gce, and how it is told of."""
    from lossgen import paths

    interpreter.install()
    (mutation,) = (m for m in MUTATIONS if m.name == name)
    spec = load_spec(paths.require_spec("gce"))
    module = load_mutant(mutation, paths.generated_dir() / "gce.py", folder)
    return noticed(mutation, module, spec)


def test_the_smallest_counterexample_is_kept(tmp_path: Path) -> None:
    result = failed("torch_wrong_sign", tmp_path)
    assert result.examples == 1  # a fixed case already shows it
    expected = "1 x 2 plain float32 logits, contiguous, tile 16, seed 11, q=0.7"
    assert result.counterexample == expected


def test_failures_come_first_with_a_call_to_paste(tmp_path: Path) -> None:
    """A table of what holds came first, and the case had no numbers."""
    result = failed("torch_wrong_sign", tmp_path)
    held = PropertyResult("limits", "They hold.", "formula", True, 1, 0.1)
    lines = shown(VerificationResult("gce", (held, result))).splitlines()
    assert lines[0].startswith(f"FAILS  {result.name} on torch: ")
    assert lines[-2:] == ["gce: 1 of 2 checks fail", "the others hold: limits"]
    _, *made = result.call.splitlines()
    assert made[0].startswith("x = torch.tensor([[")
    assert made[0].endswith("]], requires_grad=True)")
    assert made[1].startswith('loss = lossgen.load("gce").gce_loss(x, torch.tensor([')
    ran = {"torch": torch, "lossgen": lossgen}
    exec("\n".join(line.strip() for line in lines if "torch.tensor([" in line), ran)
    assert ran["loss"].shape == (1,)
    assert ran["x"].shape == (1, 2)


def test_a_failure_of_one_class_says_so(tmp_path: Path) -> None:
    """It was told as "3 x 17", the case beside which one class was tried."""
    path = write(
        tmp_path,
        "others",
        """
        transform: x[y] - max(x, over=others)
        """,
    )
    result = verify(path, examples=1, backends=("torch",))
    for failure in result.failures:
        assert failure.name == "degenerate_shapes"
        assert " x 1 logits, tried beside " in failure.counterexample
        assert "`min_classes: 2`" in failure.message


CALLS = [
    (torch.tensor([[0.1, -math.inf], [math.nan, 3.0]]), "float"),
    (torch.tensor([[0.1, 2.5]], dtype=torch.bfloat16, requires_grad=True), "bfloat16"),
    (torch.tensor([[0.1, 1e-300]], dtype=torch.float64), "float64"),
    (torch.empty(0, 5), "empty"),
    (torch.tensor([True, False]), "bool"),
    (torch.tensor(1.5), "scalar"),
]


@pytest.mark.parametrize(("value", "_"), CALLS)
def test_a_tensor_is_written_as_it_is(value: torch.Tensor, _: str) -> None:
    lines = python('a "b".yaml', Called("f", (value,), {"k": 2, "s": "a'b", "v": (0.5, value)}))
    got = {}
    loaded = SimpleNamespace(f=lambda *given, **keys: got.update(given=given, keys=keys))
    library = SimpleNamespace(load=lambda name: got.update(name=name) or loaded)
    exec(lines.partition("\n")[2], {"torch": torch, "lossgen": library})
    assert got["name"] == 'a "b".yaml'
    assert (got["keys"]["k"], got["keys"]["s"]) == (2, "a'b")
    for found in (got["given"][0], got["keys"]["v"][1]):
        assert found.dtype == value.dtype
        assert found.requires_grad == value.requires_grad
        torch.testing.assert_close(found, value, rtol=0, atol=0, equal_nan=True)


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes went by in silence."""
    told: list[str] = []
    result = verify("mae", examples=1, backends=("torch",), on_result=lambda r: told.append(r.name))
    assert told == [r.name for r in result.results]


def test_without_the_interpreter_another_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "active", lambda: False)
    result = run.verify("mae", examples=1, backends=("triton",))
    assert result.ok
    assert {r.backend for r in result.results} == {"formula", "triton"}


def test_unknown_losses_and_devices() -> None:
    with pytest.raises(LossgenError):
        verify("no_such_loss")
    with pytest.raises(BuildError, match="no device 'tpu'"):
        verify("mae", device="tpu")


def test_a_loss_that_is_invariant_up_to_a_norm(tmp_path: Path) -> None:
    """Rows below the bound did not change by a shift of 1, and were expected not to by 1024."""
    path = write(
        tmp_path,
        "clipped_norm",
        """
        transform: -log_softmax(where(norm(x) > 64, 64 * x / norm(x), x))[y]
        """,
    )
    result = verify(path, examples=4, backends=("torch",))
    assert result.ok, shown(result)
