"""``lossgen verify`` as a whole: specs of a user, results, failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from lossgen.errors import BuildError, LossgenError
from lossgen.spec.load import load_spec
from lossgen.verify import VerificationResult, interpreter, run, verify
from lossgen.verify.mutate import MUTATIONS, load_mutant, noticed

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
    console.print(result)
    return console.export_text()


@pytest.mark.parametrize("name", SPECS)
def test_specs_of_a_user(name: str, tmp_path: Path) -> None:
    result = verify(write(tmp_path, name, SPECS[name]), examples=1)
    assert result.ok, shown(result)
    assert {r.backend for r in result.results} == {"formula", "torch", "c", "triton"}


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
    result = verify(path, examples=1, backends=("torch",))
    assert [f.name for f in result.failures] == ["limits"]
    assert result.failures[0].message.startswith("half at q = 1 is ")
    assert "FAILS" in shown(result)


def test_the_smallest_counterexample_is_kept(tmp_path: Path) -> None:
    from lossgen import paths

    interpreter.install()
    (mutation,) = (m for m in MUTATIONS if m.name == "torch_wrong_sign")
    spec = load_spec(paths.require_spec("gce"))
    module = load_mutant(mutation, paths.generated_dir() / "gce.py", tmp_path)
    result = noticed(mutation, module, spec)
    assert result.examples == 1  # a fixed case already shows it
    assert (
        result.counterexample == "3 x 17 plain float32 logits, contiguous, tile 16, seed 11, q=0.7"
    )


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
