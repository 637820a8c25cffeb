"""The page of one loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from lossgen.spec.model import Limit, LossSpec
from tools.site.choices import linked, topics_of
from tools.site.curves_part import curves_part
from tools.site.derivation_part import derivation_part
from tools.site.facts import Facts
from tools.site.markup import (
    folded,
    linked_reference,
    prose,
    table,
    text_block,
    with_indices,
)
from tools.site.speed_part import speed_part
from tools.site.tex_layout import Line, loss_in_tex

__all__ = ["Typeset", "loss_page", "usage"]

Typeset = Callable[[list[Line]], str]
_FIRST_IN_SEARCHES = "---\nsearch:\n  boost: 2\n---\n"
_NOTATION = (
    "x are the logits of a row, y its target, j and k classes, V their number; p = softmax(x), "
    "σ the logistic function, sg( ) holds its argument constant, [j = y] is 1 at the target and 0 "
    "elsewhere; i are the rows of a batch, n their number. [The language](../language.md) has the "
    "rest."
)


def loss_page(
    loss: Facts, found: dict[str, Any], typeset: Typeset, catalogue: Collection[str]
) -> str:
    """All that is known of a loss, as Markdown.

    Args:
        found: what :func:`tools.site.derive.derived` gave.
        typeset: lines of LaTeX as HTML.
        catalogue: names that have a page.
    """
    parts = [
        _FIRST_IN_SEARCHES,
        f"# {prose(loss.spec.title)} <small>{loss.name}</small>\n",
        f"{linked_reference(loss.spec.reference)}\n",
        _at_a_glance(loss),
        *_choices(loss.name, catalogue),
        "## Formula\n",
        typeset(loss_in_tex(loss.spec)) + "\n",
        f'<p class="notation" markdown>{_NOTATION}</p>\n',
        folded("As the spec has it", text_block(loss.spec.source, "yaml")),
        *([f"{prose(loss.spec.notes)}\n"] if loss.spec.notes else []),
        *_limits(loss, catalogue),
        "## Use\n",
        text_block(usage(loss), "python"),
        _imports(loss),
        *_arguments(loss.spec),
        *(["## Curves\n", curves_part(loss, found["families"])] if found["families"] else []),
        *derivation_part(loss, found, typeset),
        *speed_part(loss.name),
        *_properties(loss),
    ]
    return "\n".join(parts)


def _at_a_glance(loss: Facts) -> str:
    fewest = loss.spec.min_classes
    rows = [
        ("a row is judged by", loss.kind) if not loss.spec.batch else ("it judges", loss.kind),
        ("arithmetic", loss.header.get("arithmetic", "float32")),
        ("reads the classes", _times(int(loss.header["sweeps"]))),
        ("[certificate](../rewrites.md#the-certificate)", prose(loss.header["certificate"])),
        *([("classes", f"at least {fewest}")] if fewest > 1 else []),
    ]
    return table(["", ""], [(f"**{key}**", value) for key, value in rows])


def _choices(name: str, catalogue: Collection[str]) -> Iterator[str]:
    """Its lines of the page which loss for what."""
    for topic in topics_of(name):
        choice = topic.losses[name]
        why, unless = (with_indices(text) for text in (choice.why, choice.unless))
        text = linked(f"{why} *Why not:* {unless}", catalogue, "")
        yield f"- [{topic.name}](../which_loss.md#{topic.anchor}): {text}"
    yield ""


def _times(sweeps: int) -> str:
    return {1: "once", 2: "twice"}.get(sweeps, f"{sweeps} times")


# ------------------------------------------------------------------------- relations
def _limits(loss: Facts, catalogue: Collection[str]) -> Iterator[str]:
    if not loss.spec.limits:
        return
    yield "Checked in every build:\n"
    yield from (f"- {_limit(limit, catalogue)}" for limit in loss.spec.limits)
    yield ""


def _limit(limit: Limit, catalogue: Collection[str]) -> str:
    when = ", ".join(f"{name} = {_shown(value)}" for name, value in limit.when.items())
    known = isinstance(limit.equals, str) and limit.equals in catalogue
    equals = f"[{limit.equals}]({limit.equals}.md)" if known else f"`{limit.source}`"
    options = ", ".join(f"{k} = {_shown(v)}" for k, v in limit.with_.items())
    given = f" with {options}" if options else ""
    return f"{f'at {when} ' if when else ''}equal to {equals}{given}"


def _shown(value: float) -> str:
    return {math.inf: "∞", -math.inf: "−∞"}.get(value, f"{value:g}")


# ------------------------------------------------------------------------- use
def usage(loss: Facts) -> str:
    """Three lines of Python: the import, the function, its linear twin."""
    spec, declared = loss.spec, loss.spec.batch or loss.spec
    inputs = declared.inputs.items()
    streams = [name for name, i in inputs if i.kind == "class"]
    given = [f"{n}={n}" for n, i in inputs if i.kind != "class" and i.off is None]
    first = next(((n, p) for n, p in declared.parameters.items() if p.off is None), None)
    options = [f"{first[0]}={first[1].default:g}"] if first else []
    after = [*(["target"] if spec.has_target else []), *streams, *options, *given]
    names = [loss.function, *([loss.linear] if loss.linear else [])]
    left = "loss" if spec.batch else ", ".join(o.name for o in spec.outputs) or "loss"
    lines = [
        f"from lossgen.losses import {', '.join(names)}",
        "",
        f"{left} = {loss.function}({', '.join(['logits', *after])})",
    ]
    if loss.linear:
        lines.append(f"{left} = {loss.linear}({', '.join(['hidden', 'head.weight', *after])})")
    return "\n".join(lines)


def _imports(loss: Facts) -> str:
    modules = [n for n in loss.modules if not n.startswith("Linear")]
    rows = [
        ("function of logits", f"`lossgen.losses.{loss.function}`"),
        *([("without the logits", f"`lossgen.losses.{loss.linear}`")] if loss.linear else []),
        *((("as a module", f"`lossgen.losses.{n}`")) for n in modules),
        *(
            ("module without the logits", f"`lossgen.losses.{n}`")
            for n in loss.modules
            if n.startswith("Linear")
        ),
        ("generated module", f"`lossgen.losses.{loss.name}`, in `generated/{loss.name}.py`"),
    ]
    more = (
        "Arguments that every loss has (`reduction`, `ignore_index`, `row_weight`, …) are in "
        "[Calling a loss](../calling.md).\n"
    )
    return table(["import", ""], rows) + "\n" + more


def _arguments(spec: LossSpec) -> Iterator[str]:
    declared = spec.batch or spec
    if declared.parameters:
        yield "## Parameters\n"
        rows = [
            (
                f"`{name}`",
                _shown(p.default),
                prose(str(p.domain)) + (", whole" if p.integer else ""),
                prose(p.doc) + (f" (off at {_shown(p.off)})" if p.off is not None else ""),
            )
            for name, p in declared.parameters.items()
        ]
        yield table(["parameter", "default", "domain", "what it is"], rows)
    if declared.inputs:
        yield "## Inputs\n"
        shapes = {"class": "[N, V]", "vocab": "[V]", "row": "[N]"}
        rows = [
            (
                f"`{name}`",
                prose(shapes[i.kind]),
                prose(str(i.domain)) if i.domain else "any",
                prose(i.doc)
                + (", gets a gradient" if i.differentiable else "")
                + (f" (optional, {_shown(i.off)} without it)" if i.off is not None else ""),
            )
            for name, i in declared.inputs.items()
        ]
        yield table(["input", "shape", "domain", "what it is"], rows)


def _properties(loss: Facts) -> Iterator[str]:
    yield "## Properties\n"
    if loss.sheet is None:
        yield f"`lossgen properties {loss.name}` prints the sheet of this loss: bounded, convex, "
        yield "Lipschitz, symmetric, proper, calibrated, each with a proof or a witness.\n"
        return
    yield "[What the words mean](../properties.md#what-the-words-mean).\n"
    yield text_block(loss.sheet)
