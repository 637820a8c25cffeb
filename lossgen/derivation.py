"""The derivation as text: what ``lossgen explain`` prints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import unified_diff
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossgen import paths
from lossgen.errors import BuildError

if TYPE_CHECKING:
    from sympy import Symbol

    from lossgen.compiler import Compiled
    from lossgen.ir.plan import KernelPlan
    from lossgen.spec.model import LossSpec
from lossgen.ir.stages import StableLoss

__all__ = ["derivation", "explain"]


class UnknownOption(BuildError):
    id = "LG316"
    template = "{loss} has no option {name!r}"


class UnknownStage(BuildError):
    id = "LG310"
    template = "no stage {name!r}"


def explain(
    name_or_path: str | Path,
    stage: str | None = None,
    *,
    diff: bool = False,
    latex: bool = False,
    options: Collection[str] = (),
    draft: bool = False,
) -> str:
    """How the compiler got from the formula to the kernels.

    Args:
        name_or_path: catalogue name, or path of a spec.
        stage: this stage alone: "parse", "differentiate", "stabilize" or "schedule".
        diff: what each pass changed, as unified diffs.
        latex: loss and gradient as LaTeX.
        options: optional parameters and inputs that a call would give: the variant that it takes
            is explained. Without any, the smallest.
        draft: explain a loss whose accuracy or limits are refused.

    Raises:
        UnknownSpec, UnknownStage, UnknownOption: no such spec, stage or option.
        SpecError, CompileError: the spec is wrong.
    """
    spec, compiled = _compiled(name_or_path, options, draft)
    stages = {name: str(value) for name, value in compiled.stages.items()}
    if stage is not None:
        if stage not in stages:
            raise UnknownStage(name=stage, hint=f"stages: {', '.join(stages)}")
        return stages[stage]
    if diff:
        return "\n".join(_diffs(stages))
    if latex:
        return _latex(compiled)
    return "\n".join([*_summary(compiled, spec), *_sections(stages)])


def derivation(
    name_or_path: str | Path, *, options: Collection[str] = (), draft: bool = False
) -> dict[str, Any]:
    """The same as data: name, title, reference, a summary, and the stages as text."""
    spec, compiled = _compiled(name_or_path, options, draft)
    return {
        "name": spec.name,
        "title": spec.title,
        "reference": spec.reference,
        "options": sorted(compiled.variants[0].stable.uses),
        "summary": _facts(compiled, spec),
        "seconds": compiled.timings,
        "stages": {name: str(value) for name, value in compiled.stages.items()},
    }


def _compiled(
    name_or_path: str | Path, options: Collection[str], draft: bool
) -> tuple[LossSpec, Compiled]:
    from lossgen.compiler import compile_loss
    from lossgen.spec.load import load_spec

    spec = load_spec(paths.require_spec(name_or_path))
    chosen = spec.model_copy(update={"variants": (_variant(spec, options),)})
    return spec, compile_loss(chosen, draft)


def _variant(spec: LossSpec, options: Collection[str]) -> frozenset[str]:
    """The optional names of the variant that a call with these options takes."""
    every = spec.variants[-1]
    for name in options:
        if name not in every:
            known = ", ".join(sorted(every)) or "none"
            raise UnknownOption(loss=spec.name, name=name, hint=f"its options: {known}")
    return next(uses for uses in spec.variants if uses.issuperset(options))


def _summary(compiled: Compiled, spec: LossSpec) -> Iterator[str]:
    yield f"{spec.name}: {spec.title}"
    yield spec.reference
    yield ""
    passes = ", ".join(f"{name} {1e3 * t:.0f} ms" for name, t in compiled.timings.items())
    rows = {**_facts(compiled, spec), "passes": passes}
    yield from (f"{key:<12} {value}" for key, value in rows.items())


def _facts(compiled: Compiled, spec: LossSpec) -> dict[str, str]:
    plan = compiled.variants[0]
    return {
        **({"batch": spec.batch.source, "parts": plan.formula} if spec.batch else {}),
        **({} if spec.batch else {"formula": plan.formula}),
        "statistics": f"{plan.statistics} in {_plural(plan.sweeps, 'sweep')} over the classes",
        "saved": ", ".join(plan.saved) or "nothing",
        "traffic": _traffic(plan),
        "arithmetic": plan.stable.precision,
        "certificate": str(plan.certificate or "none"),
        "variants": _variants(spec, compiled.variants[0].stable.uses),
    }


def _traffic(plan: KernelPlan) -> str:
    forward, backward, fused = plan.bytes_per_logit(4)
    return (
        f"{forward} bytes per float32 logit forward, {backward} backward, "
        f"{fused} for both in one kernel"
    )


def _variants(spec: LossSpec, shown: frozenset[str]) -> str:
    texts = {uses: ", ".join(sorted(uses)) or "plain" for uses in spec.variants}
    several = "; ".join(texts.values())
    return several if not shown else f"{several}; shown: {texts[shown]}"


def _sections(stages: Mapping[str, str]) -> Iterator[str]:
    for name, text in stages.items():
        yield f"\n== {name}\n{text}"


def _diffs(stages: Mapping[str, str]) -> Iterator[str]:
    for number, ((before, old), (after, new)) in enumerate(pairwise(stages.items())):
        if number == 0:
            yield f"== {before}\n{old}"
        yield f"\n== {after}"
        # The headers and hunk positions say nothing here: a stage is one hunk.
        lines = old.splitlines(), new.splitlines()
        yield from list(unified_diff(*lines, n=10**6, lineterm=""))[3:] or ["(no change)"]


def _latex(compiled: Compiled) -> str:
    """Loss, gradient and the meaning of z and R, as the lines of one ``aligned``."""
    from sympy import Add, Mul, latex

    stable = compiled.variants[0].stable
    spelled = partial(latex, symbol_names=_symbol_names(stable))
    pivot, kept = ("y", r"j \ne y") if stable.pivot.value != "none" else ("", "j")
    results = stable.outputs or ((r"\ell", stable.loss),)
    lines = [("", name if name[0] == "\\" else _word(name), spelled(v)) for name, v in results]
    used: set[Symbol] = set()
    for entry in stable.gradients:
        gradient = Add(*(Mul(coefficient, basis) for coefficient, basis in entry.terms))
        used |= gradient.free_symbols
        vector, at_y = map(spelled, stable.vocabulary.streams[entry.stream])
        lines.append((kept, rf"\partial \ell / \partial {vector}", spelled(gradient)))
        if pivot:
            lines.append(("", rf"\partial \ell / \partial {at_y}", spelled(entry.at_y)))
    for form in stable.forms:
        exponent = spelled(form.ell)
        total = rf"\sum_{{{kept}}} e^{{{exponent}}}"
        if pivot:
            lines.append(("", spelled(form.z), rf"\log {total} - {spelled(form.ell_y)}"))
        if form.R in used:
            lines.append((kept, spelled(form.R), rf"e^{{{exponent}}} / {total}"))
    for item in stable.sums:
        lines.append(("", spelled(item.symbol), rf"\sum_{{{kept}}} {spelled(item.body)}"))
    rows = (
        f"{left} &= {right}" + (rf" \quad ({when})" if when else "") for when, left, right in lines
    )
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def _word(name: str) -> str:
    """A name of the spec: a letter, a Greek one, or upright; whatever is in it, it is text."""
    from sympy.core.alphabets import greeks

    if len(name) == 1 and name.isalpha():
        return name
    known = name in greeks and name not in ("lamda", "omicron")
    return rf"\{name}" if known else rf"\mathrm{{{name}}}".replace("_", r"\_")


def _symbol_names(stable: StableLoss) -> dict[Symbol, str]:
    """Class vectors get their index j or y, and words are set upright."""
    names = {stable.vocabulary.x: "x_j", stable.vocabulary.x_y: "x_y"}
    vocabulary = stable.vocabulary
    words = {k: v for k, v in vocabulary.streams.items() if k != "x"}
    for name, (vector, at_target) in (words | vocabulary.vocab).items():
        names |= {vector: f"{{{_word(name)}}}_j", at_target: f"{{{_word(name)}}}_y"}
    for name, symbol in (vocabulary.parameters | vocabulary.rows).items():
        names[symbol] = _word(name)
    for form in stable.forms:
        index = str(form.index) if len(stable.forms) > 1 else ""
        letters = {
            form.z: "z",
            form.L: "L",
            form.O: "O",
            form.P: "P",
            form.Q: "Q",
            form.s: "s",
            form.r: "r",
        }
        names |= {symbol: f"{letter}_{{{index}}}" for symbol, letter in letters.items() if index}
        names |= {symbol: letter for symbol, letter in letters.items() if not index}
        names |= {form.R: f"R_{{{index}j}}", form.logp: rf"\log p_{{{index}j}}"}
    return names


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
