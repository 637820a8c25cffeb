"""Formulas as a researcher writes them, and the rung that each is compiled on.

``formulas.txt`` has a formula a line; ``python -m tests.ordinary`` (``make ordinary``) builds all,
none with an ``accuracy:`` line, and says which were refused or take a dearer program than the table
has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time

__all__ = ["RUNGS", "Formula", "build", "formulas", "timed", "warm"]

#: From cheap to dear: float32; a more accurate program in float32; float64; float64 with sums as
#: they are written; refused.
RUNGS = ("32", "32+", "64", "64w", "no")

_PARAMETERS = {
    "q": ("0.7", "(0, 1]"),
    "a": ("0.5", "(0, 1]"),
    "b": ("0.1", "(0, 10]"),
    "c": ("2", "(1, inf)"),
    "e": ("0.1", "(0, 0.9)"),
    "g": ("2", "[0, 5]"),
    "k": ("2", "(1, 4]"),
    "h": ("1", "[0, 10]"),
    "m": ("0.3", "(0, 2]"),
    "s": ("16", "(0, 64]"),
    "tau": ("2", "(0, 10]"),
    "eps": ("0.2", "(0, 1)"),
    "bias": ("-10", "(-inf, inf)"),
}
_INPUTS = {
    "w": '{kind: vocab, domain: "(0, inf)"}',
    "prior": '{kind: vocab, domain: "(0, 1]"}',
    "mask": "{kind: class, values: [0, 1]}",
    "t": "{kind: class}",
    "value": "{kind: class}",
    "adv": "{kind: row}",
    "ref": '{kind: row, domain: "(-inf, 0]"}',
    "old": '{kind: row, domain: "(-inf, 0]"}',
}


@dataclass(frozen=True)
class Formula:
    """A line of the table."""

    name: str
    rung: str
    declared: tuple[str, ...]
    text: str

    @property
    def spec(self) -> str:
        """As YAML."""
        parameters = [n for n in self.declared if n in _PARAMETERS]
        inputs = [n for n in self.declared if n in _INPUTS]
        lines = [f"name: {self.name}"]
        lines += ["parameters:"] if parameters else []
        for name in parameters:
            default, domain = _PARAMETERS[name]
            lines.append(f'  {name}: {{default: {default}, domain: "{domain}"}}')
        lines += ["inputs:"] if inputs else []
        lines += [f"  {name}: {_INPUTS[name]}" for name in inputs]
        return "\n".join([*lines, f'transform: "{self.text}"', ""])


def formulas() -> list[Formula]:
    """The table."""
    found = []
    for line in (Path(__file__).parent / "formulas.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, rung, declared, text = (part.strip() for part in line.split("|", 3))
            found.append(Formula(name, rung, tuple(declared.split()), text))
    return found


def build(formula: Formula) -> tuple[str, str]:
    """The rung, and the arithmetic or the refusal in words."""
    from lossgen.compiler import compile_loss
    from lossgen.emit.render import render_module
    from lossgen.errors import LossgenError
    from lossgen.spec.load import load_text

    try:
        compiled = compile_loss(load_text(formula.spec))
        text = render_module(compiled)
    except LossgenError as error:
        return "no", str(error)
    stable = compiled.variants[0].stable
    head = "\n# arithmetic: "  # the torch program may have asked for more than the certificate
    words = text.partition(head)[2].partition("\n")[0] if head in text else stable.arithmetic
    if words.startswith("float64"):
        return "64w" if stable.whole else "64", words
    return "32+" if stable.refused else "32", words


def timed(formula: Formula) -> tuple[Formula, str, str, float]:
    """The same, and the seconds of processor time."""
    began = process_time()
    rung, words = build(formula)
    return formula, rung, words, process_time() - began


def warm() -> None:
    """Import what a build imports, before the first is timed."""
    build(formulas()[0])
