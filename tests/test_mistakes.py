"""What a user is told who makes a natural mistake: the exact words, in mistakes.txt beside this.

An entry is what they wrote, ``>>> gce_loss(x, y, 0.5)``, and the last lines of the traceback; the
names that it uses are those of ``scope``.  A message says what is wrong, where, and what to write
instead.  ``python -m tests.test_mistakes`` writes the answers anew, for a look at the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import lossgen
from lossgen import losses
from lossgen.errors import SpecError
from lossgen.spec.load import load_text

TABLE = Path(__file__).with_name("mistakes.txt")
N, V, D = 4, 5, 3


def spec(text: str) -> None:
    """A file ``mine.yaml`` of these lines."""
    load_text(f"name: mine\n{text}\n", "mine.yaml")


@cache
def scope() -> dict[str, Any]:
    """What a user has at hand: logits, classes, probabilities; hidden states and a layer."""
    draw = torch.Generator().manual_seed(0)
    x, hidden, weight = (torch.randn(*shape, generator=draw) for shape in ((N, V), (N, D), (V, D)))
    given = {"x": x, "y": torch.tensor([0, 1, 2, 3]), "soft": x.softmax(-1)}
    given |= {"hidden": hidden, "weight": weight, "torch": torch, "F": torch.nn.functional}
    named = {name: getattr(losses, name) for name in losses.__all__}
    return {**named, **given, "lossgen": lossgen, "loss": lossgen.loss, "spec": spec}


def entries() -> Iterator[tuple[str, str]]:
    for entry in TABLE.read_text("utf-8").strip().split("\n\n"):
        line, _, told = entry.partition("\n")
        yield line.removeprefix(">>> "), told


def answer(code: str) -> str:
    """The last lines of the traceback."""
    try:
        exec(code, dict(scope()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(("code", "told"), list(entries()), ids=[code for code, _ in entries()])
def test_what_a_user_is_told(code: str, told: str) -> None:
    assert answer(code) == told


def test_a_file_of_python_is_no_spec(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def loss(x, y):\n    return -x[y]\n", "utf-8")
    with pytest.raises(SpecError) as caught:
        lossgen.load(path)
    assert str(caught.value) == (
        f"{path}:1:1: error LG101: cannot read the spec: it is a file of Python\n"
        "hint: a spec is YAML: `lossgen new my_loss` writes one to start from; in Python, a "
        "formula is given to lossgen.loss('-logp[y]')"
    )


def test_there_are_enough() -> None:
    written = [code for code, _ in entries()]
    assert len(set(written)) == len(written) > 130


if __name__ == "__main__":
    texts = (f">>> {code}\n{answer(code)}" for code, _ in entries())
    TABLE.write_text("\n\n".join(texts) + "\n", "utf-8")
