"""The readable dump of a stage: ``str(stage)`` is the IR."""

from __future__ import annotations

from collections.abc import Iterator

from sympy import Add, Symbol

from lossgen.ir.plan import SWEEPS, KernelPlan
from lossgen.ir.stages import GradedLoss, Pivot, StableLoss, SymbolicLoss
from lossgen.ir.statistics import Root, Sum, underlying

__all__ = ["differences", "show"]

_PIVOT = {
    Pivot.TARGET: "y is the target",
    Pivot.ARGMAX: "y is the class with the largest exponent (no target)",
    Pivot.NONE: "no distinguished class",
}


def show(stage: SymbolicLoss | KernelPlan) -> str:
    """One fact per line; the same facts in the same order at every stage, so that diffs read."""
    return "\n".join(_plan(stage) if isinstance(stage, KernelPlan) else _loss(stage))


def _loss(stage: SymbolicLoss) -> Iterator[str]:
    over = "j" if stage.pivot is Pivot.NONE else "j != y"
    first = stage.pivot is Pivot.TARGET and not stage.spec.has_target
    yield f"pivot        {'y is class 0 (no target)' if first else _PIVOT[stage.pivot]}"
    for f in stage.forms:
        i = f.index
        yield f"softmax {i}    l{i}_j = {f.ell}"
        if f.ell_y != f.ell.xreplace(stage.vocabulary.at_y):
            yield f"             l{i}_y = {f.ell_y}"
        yield f"             z{i} = log sum_({over}) exp(l{i}_j) - l{i}_y"
        yield f"             p_y = P{i} = sigmoid(-z{i}), Q{i} = 1 - P{i}"
        yield f"             s{i} = softplus(z{i}) = -log P{i}, r{i} = softplus(-z{i}) = -log Q{i}"
        yield f"             L{i} = logsumexp l{i}, logp{i} = l{i} - L{i}, R{i} = p_j / Q{i}"
    for name, value in differences(stage):
        yield f"difference   {name} = {value}"
    for s in _needed(stage):
        sweep = f"   (sweep {s.level})" if s.level > 1 else ""
        yield f"sum          {s.symbol} = sum_({over}) {s.body}{sweep}"
    for m in stage.maxes:
        left = "" if m.below is None else f" without the class of {stage.maxes[m.below].symbol}"
        yield f"max          {m.symbol} = max_({over}) {m.body}{left}"
    for r in _roots(stage):
        yield f"root         {r.symbol} in [{r.low}, {r.high}]: {r.residual} = 0 at {r.trial}"
        yield f"             slope {r.slope}   (sweep {r.level}, repeated)"
    for name, value in stage.outputs or (("loss", stage.loss),):
        yield f"{name:<12} {value}"
    if isinstance(stage, GradedLoss):
        for gradient in stage.gradients:
            head = "gradient" if len(stage.gradients) == 1 else f"d/d {gradient.stream}"
            for k, (coefficient, basis) in enumerate(gradient.terms):
                yield f"{head if k == 0 else '       +':<12} ({coefficient}) * ({basis})"
            if stage.pivot is not Pivot.NONE:
                yield f"at y         {gradient.at_y}"
    if isinstance(stage, StableLoss):
        yield f"rules        {', '.join(stage.rules) or 'none'}"
        if stage.certificate is not None:
            yield f"certificate  {stage.certificate}"


def differences(stage: SymbolicLoss) -> Iterator[tuple[str, str]]:
    """Name and value of the centred differences, and of what belongs to them, where mentioned."""
    used = {s for _, value in stage.outputs for s in value.free_symbols} | stage.loss.free_symbols
    if isinstance(stage, GradedLoss):
        used = used.union(*(e.free_symbols for e in stage.coefficients))
    for centre in stage.centres:
        if not centre.softmaxes:
            yield f"{centre.symbol}_j", str(centre.factor * (centre.expr - centre.origin))
            continue
        apart, whole = centre.factor * centre.expr, f"of the largest l{centre.weight}"
        yield f"{centre.symbol}_j", f"({apart}) - that {whole}"
        if centre.lse in used:
            sums = Add(*(sign * stage.forms[k].L for k, sign in centre.softmaxes))
            yield str(centre.lse), f"({sums}) - ({apart}) {whole}"
        if centre.bernoulli in used:
            i, k = (k for k, _ in centre.softmaxes)
            halves = " + ".join(f"{p}{i}*log({p}{i}/{p}{k})" for p in "PQ")
            yield str(centre.bernoulli), f"{halves}, P = sigmoid(-z), Q = sigmoid(z)"


def _needed(stage: SymbolicLoss) -> Iterator[Sum]:
    """The sums that the stage still mentions."""
    used = _mentioned(stage)
    yield from (s for s in stage.sums if s.symbol in used)


def _roots(stage: SymbolicLoss) -> Iterator[Root]:
    used = _mentioned(stage)
    yield from (r for r in stage.roots if r.symbol in used)


def _mentioned(stage: SymbolicLoss) -> set[Symbol]:
    used = stage.loss.free_symbols.union(*(e.free_symbols for _, e in stage.outputs))
    if isinstance(stage, GradedLoss):
        used = used.union(*(c.free_symbols for c in (*stage.coefficients, *stage.bases)))
    return underlying(used, stage.sums, stage.roots)


def _plan(plan: KernelPlan) -> Iterator[str]:
    yield f"sweeps       {plan.sweeps}"
    yield f"statistics   {plan.statistics}"
    for form in plan.stable.forms:
        yield f"maximum      m{form.index} = max of {form.base}; t = {form.scale} * (. - m)"
    for m in plan.moments:
        exponent = f"exp({m.kappa} * t)" if m.kappa != 1 else "exp(t)"
        parts = [exponent] if m.form is not None and m.kappa != 0 else []
        parts += [f"t**{m.power}"] if m.power else []
        parts += [f"({m.weight})"] if m.weight != 1 else []
        parts += [str(m.centre)] if m.centre is not None else []
        sweep = f"   (sweep {m.level})" if m.level > 1 else ""
        yield f"accumulate   {m.name} = sum {' * '.join(parts) or '1'}{sweep}"
    for r in plan.roots:
        yield f"root         {r.symbol} in [{r.low}, {r.high}]"
        yield f"             {r.trial} -> {r.trial} - ({r.residual})/({r.slope})"
        yield f"             (sweep {r.level}, at most {SWEEPS} times)"
    for k in range(len(plan.stable.maxes)):
        yield f"accumulate   max{k} and its first index"
    yield f"save         {', '.join(plan.saved) or 'nothing'}"
    for name, value in plan.stable.outputs or (("loss", plan.stable.loss),):
        yield f"{name:<12} {value}"
    for scalar in plan.coefficients:
        yield f"per row      {scalar.symbol} = {scalar.expr}"
    for gradient in plan.gradients:
        head = "per logit" if len(plan.gradients) == 1 else f"d/d {gradient.stream}"
        yield f"{head:<12} {gradient.expr}"
        if plan.stable.pivot is not Pivot.NONE:
            yield f"at y         {gradient.at_y}"
