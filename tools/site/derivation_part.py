"""How a loss was derived: what ``lossgen explain`` says, typeset where it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tools.site.facts import Facts
from tools.site.markup import folded, prose, text_block
from tools.site.mathml import aligned_lines
from tools.site.tex_layout import Line

__all__ = ["derivation_part"]

_STAGES = {
    "parse": "Parse: the formula in the numbers of a row",
    "differentiate": "Differentiate",
    "stabilize": "Stabilize: rewritten so that float32 keeps its digits",
    "schedule": "Schedule: what a sweep adds up, saves and computes",
}
_LONGEST = 6000  # characters of LaTeX: beyond, the text is easier to read


def derivation_part(
    loss: Facts, found: dict[str, Any], typeset: Callable[[list[Line]], str]
) -> Iterator[str]:
    """The section: the stable form, then every stage as text."""
    summary, stages = found["summary"], found["stages"]
    yield "## Derivation\n"
    count = loss.header["statistics"]
    yield (
        f"{count} statistic{'s' if count != '1' else ''} in "
        f"{summary['statistics'].partition(' in ')[2]}, {summary['traffic']}. "
        f"Saved for the backward pass: {prose(loss.header['saved'])}.\n"
    )
    options = loss.header.get("of the call without")
    call = f" in a call without {prose(options)}" if options else ""
    yield f"Loss and gradient as they are computed{call}:\n"
    if len(found["latex"]) <= _LONGEST:
        yield typeset(aligned_lines(found["latex"])) + "\n"
    else:
        yield text_block(stages["stabilize"])
    if rules := _rules(stages["stabilize"]):
        names = ", ".join(f"`{rule}`" for rule in rules)
        yield f"Rewritten by {names}: [rules with proofs](../rewrites.md#the-rule-table).\n"
    yield f"Certificate: {prose(loss.header['certificate'])}.\n"
    if accuracy := loss.spec.accuracy:
        scale = f", errors relative to {accuracy.scale:g} below that" if accuracy.scale else ""
        yield f"Its bound is {accuracy.ulp:g} (1 + kappa) ulp{scale}: {prose(accuracy.reason)}.\n"
    for stage, title in _STAGES.items():
        yield folded(title, text_block(stages[stage]))


def _rules(stage: str) -> list[str]:
    """The names on the line ``rules`` of a stage."""
    line = next((x for x in stage.splitlines() if x.startswith("rules ")), "")
    return [rule.strip() for rule in line.removeprefix("rules ").split(",") if rule.strip()]
