"""Properties of a loss as a torch function: rows, reductions, ignored rows, storage, autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement, product
from typing import Any

import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.spec.declarations import FINITE
from lossgen.spec.expr import Binary, Expr, Number, Rank, Span
from lossgen.spec.model import LossSpec, Term
from lossgen.verify.cases import Case
from lossgen.verify.judge import check_literal, close, close_gradients, fail, naming
from lossgen.verify.reference import literal
from lossgen.verify.runner import Runner, gold
from lossgen.verify.streams import LOGITS, normal, streams, vectors
from lossgen.verify.tolerances import slack

__all__ = [
    "backward_twice",
    "degenerate_shapes",
    "grad_output",
    "ignored_rows",
    "inputs_unchanged",
    "no_grad_value",
    "options_compose",
    "parameters_matter",
    "reductions",
    "rows_independent",
]


def _alone(spec: LossSpec, formula: Expr) -> LossSpec:
    """``spec`` with one formula in place of its own."""
    term = Term(role="transform", name=None, weight=None, expr=formula, source="")
    return spec.model_copy(update={"terms": (term,)})


def _rows(spec: LossSpec, keys: dict[str, Any], at: slice) -> dict[str, Any]:
    """The keywords of a call of some of the rows."""
    return {
        k: v[at] if isinstance(v, Tensor) and spec.inputs[k].kind != "vocab" else v
        for k, v in keys.items()
    }


def options_compose(case: Case, run: Runner) -> None:
    """Any two options together, the others off, give the formula: masked classes too."""
    spec = case.spec
    optional = sorted(frozenset().union(*spec.variants))
    pairs = [frozenset(pair) for pair in combinations_with_replacement(optional, 2)]
    if run.backend == "triton":  # a few: the interpreter is slow
        pairs = [pairs[(case.seed + k) % len(pairs)] for k in range(3)]
    for pair in pairs:
        both = case.with_(chosen=pair)
        try:
            check_literal(both, *run.gradient(both))
        except VerificationError as error:
            fail(f"{error} with {' and '.join(sorted(pair))}")


def rows_independent(case: Case, run: Runner) -> None:
    """A row's result does not depend on the other rows."""
    logits, target = case.tensors()
    keys = case.keywords()
    loss = run.loss(logits, target, reduction="none", **keys)
    for i in range(case.rows):
        at = slice(i, i + 1)
        own = _rows(case.spec, keys, at)
        part = None if target is None else target[at]
        alone = run.loss(logits[at], part, reduction="none", **own)
        close(f"row {i} alone and among others", alone, loss[at], 16.0)


def grad_output(case: Case, run: Runner) -> None:
    """Every row's gradient is scaled by its own grad_output, zeros and stride 0 included."""
    shape = (case.rows, *([len(case.spec.outputs)] if case.spec.outputs else []))
    weight = torch.linspace(-1.5, 2.0, math.prod(shape)).reshape(shape)
    weight[0] = 0.0
    _, grads = run.gradient(case, weight)
    exact = gold(case).grads  # a loss of streams may be infinite: nothing is asked of 0·∞
    for name, grad in grads.items():
        if bool(((grad[0] != 0) & exact[name][0].isfinite()).any()):
            fail(f"grad_output 0 leaves {naming(name)}")
    check_literal(case, None, grads, weight.double())
    same = torch.full((1,), 0.5).expand(shape)
    _, grads = run.gradient(case, same)
    check_literal(case, None, grads, same.double())
    for k in range(len(case.spec.outputs)):  # one output alone
        alone = torch.zeros(shape)
        alone[:, k] = weight[:, k]
        _, grads = run.gradient(case, alone)
        check_literal(case, None, grads, alone.double())


def ignored_rows(case: Case, run: Runner) -> None:
    """Ignored rows have loss 0 and gradient exactly 0, and the mean leaves them out."""
    logits, target = case.tensors()
    assert target is not None
    at = torch.arange(case.rows)
    between, all_ignored = at % 2 == 0, at < 0  # rows that count, ignored ones between them
    for kept, ignore in ((between, -100), (~between, 0), (all_ignored, -1)):
        labels = torch.where(kept, target, ignore)
        if ignore == 0:  # a class that is ignored
            labels = torch.where(kept, target.clamp_min(min(1, case.classes - 1)), ignore)
            kept = labels != ignore
        keys = case.keywords()
        spoilt = [n for n in streams(case.spec) if normal(case.spec.inputs[n])]
        keys |= {name: _spoil(keys[name], kept) for name in spoilt}
        spoiled = _spoil(logits, kept)
        for reduction in ("none",) if case.spec.outputs else ("none", "sum", "mean"):
            with _poisoned():
                options = {**keys, "ignore_index": ignore, "reduction": reduction}
                loss, grads = run.slopes(spoiled, labels, options)
            for name, grad in grads.items():
                if bool((grad[~kept] != 0).any()):
                    what = "a gradient" if name == LOGITS else naming(name)
                    fail(f"an ignored row has {what} (reduction {reduction})")
            if reduction == "none" and bool((loss[~kept] != 0).any()):
                fail("an ignored row has a loss")
            if reduction == "sum" and bool(loss.isnan()):
                fail("the sum takes in an ignored row")
            if reduction == "mean" and bool(loss.isnan()) != (not bool(kept.any())):
                fail("the mean over the rows that count is NaN, or should be")


def _spoil(values: Tensor, kept: Tensor) -> Tensor:
    """NaN in the rows that do not count."""
    spoiled = values.clone()
    spoiled[~kept] = math.nan
    return spoiled


@contextmanager
def _poisoned() -> Iterator[None]:
    """Fresh memory holds NaN: what a kernel does not write, shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def reductions(case: Case, run: Runner) -> None:
    """mean is the sum of rows over Σ normalizer (counted terms: over rows); sum is the sum."""
    rows = run.value(case).double()
    given = case.arguments()
    count = torch.ones(case.rows, dtype=torch.float64)
    if case.spec.normalizer is not None:
        count = literal(_alone(case.spec, case.spec.normalizer), given)
    even, weighed = case, rows
    if any(term.counted for term in case.spec.terms):
        even = replace(case, spec=_evened(case.spec, float(count.mean())))
        weighed = literal(even.spec, given).detach()
    for reduction, expected in (("sum", rows.sum()), ("mean", weighed.sum() / count.sum())):
        value = run.value(case, reduction=reduction).double()
        close(f"the {reduction}", value[None], expected[None], 64.0)
        loss, grads = run.gradient(case, reduction=reduction)
        close(f"the {reduction} with a gradient", loss[None].double(), value[None], 64.0)
        weight = (
            torch.ones(case.rows) if reduction == "sum" else (1.0 / count.sum()).expand(case.rows)
        )
        check_literal(case if reduction == "sum" else even, None, grads, weight.double())


def _evened(spec: LossSpec, mean: float) -> LossSpec:
    """Counted terms times the mean of the normalizer, so that its sum serves for them too."""
    span = Span(0, 0)
    factor = Number(Rank.PARAMETER, span, Fraction(mean))
    terms = (
        term.model_copy(update={"expr": Binary(term.expr.rank, span, "*", factor, term.expr)})
        if term.counted
        else term
        for term in spec.terms
    )
    return spec.model_copy(update={"terms": tuple(terms)})


def degenerate_shapes(case: Case, run: Runner) -> None:
    """N = 0 and V = 1 have defined results."""
    empty = torch.empty(0, 5)
    labels = torch.empty(0, dtype=torch.int64) if case.spec.has_target else None
    keys = _rows(case.spec, case.with_(classes=5, rows=1).keywords(), slice(0, 0))
    reduction = "none" if case.spec.outputs else "sum"
    loss, grads = run.slopes(empty, labels, {**keys, "reduction": reduction})
    if float(loss.sum()) != 0.0 or loss.numel() != (reduction == "sum"):
        fail(f"N = 0 gives {loss.tolist()}")
    for name, grad in grads.items():
        if grad.shape != (0, 5):
            fail(f"{naming(name)} has shape {tuple(grad.shape)} where N = 0")
    if not case.spec.outputs and not bool(run.loss(empty, labels, **keys).isnan()):
        fail("the mean over no rows is not NaN")
    if case.spec.min_classes == 1:
        for kind in ("plain", "offset"):
            one = case.with_(classes=1, kind=kind, rows=3)
            value, grads = run.gradient(one)
            check_literal(one, value, grads)


def no_grad_value(case: Case, run: Runner) -> None:
    """The value without a gradient is the value with one; calls repeat bit for bit."""
    loss, grads = run.gradient(case)
    value = run.value(case)
    if not _same(loss, value):
        fail(f"with gradient {loss.tolist()}, without {value.tolist()}")
    again, slopes = run.gradient(case)
    if not (_same(again, loss) and all(_same(slopes[n], grad) for n, grad in grads.items())):
        fail("two calls differ")


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def inputs_unchanged(case: Case, run: Runner) -> None:
    """Nothing that the caller owns is written to."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    owned = {LOGITS: logits, "target": target, **keys}
    tensors = {name: value for name, value in owned.items() if isinstance(value, Tensor)}
    before = {name: value.clone() for name, value in tensors.items()}
    for reduction in ("none",) if case.spec.outputs else ("mean", "none"):
        run.slopes(logits, target, {**keys, "reduction": reduction})
        for name, value in tensors.items():
            if not _same(value, before[name]):
                fail(f"{name} was written to")


def backward_twice(case: Case, run: Runner) -> None:
    """A second backward through the same graph gives the same gradient."""
    logits, target = case.tensors()
    keys = case.keywords()
    owned = {LOGITS: logits, **keys}
    for reduction in ("none",) if case.spec.outputs else ("mean", "none"):
        held = {n: owned[n].detach().clone().requires_grad_() for n in vectors(case.spec)}
        options = {**keys, **held}
        total = run.loss(options.pop(LOGITS), target, reduction=reduction, **options).sum()
        leaves = list(held.values())
        first = torch.autograd.grad(total, leaves, retain_graph=True)
        once = {n: grad.clone() for n, grad in zip(held, first, strict=True)}
        twice = dict(zip(held, torch.autograd.grad(total, leaves), strict=True))
        limit = 16.0 * slack(case.spec)
        close_gradients(case, f"the second time and the first ({reduction})", twice, once, limit)


def parameters_matter(case: Case, run: Runner) -> None:
    """Every parameter and input changes the result for some logits."""
    classes = max(5, case.spec.min_classes)  # few classes, many rows: a rare event happens
    base = case.with_(variant=-1, kind="plain", rows=32, classes=classes, dtype=torch.float64)
    idle = set(base.keywords())
    for logits, target, given in _settings(base):
        idle = _idle(Runner(run.module, run.spec, "torch"), logits, target, given, idle)
        if not idle:
            return
    fail(f"{min(idle)} changes nothing")


def _settings(base: Case) -> Iterator[tuple[Tensor, Tensor | None, dict[str, Any]]]:
    """Calls in one of which everything counts: masks are not always empty, a parameter not always
    multiplied by another that is 0, and a margin of 10 tells of logits that lie that far apart."""
    for k, wide in product(range(4), (1.0, 8.0)):
        own = base if k == 0 else base.with_(seed=base.seed + k, point=0)
        logits, target = own.tensors()
        keys = own.keywords()
        for given in (keys, _sparse(own.spec, keys)):
            yield logits * wide, target, given


def _idle(
    run: Runner, logits: Tensor, target: Tensor | None, given: dict[str, Any], names: set[str]
) -> set[str]:
    """Which of the names change neither the loss nor a gradient."""
    loss, grads = run.slopes(logits, target, given)

    def same(name: str, other: Any) -> bool:
        value, slopes = run.slopes(logits, target, {**given, name: other})
        return torch.equal(value, loss) and all(torch.equal(slopes[n], g) for n, g in grads.items())

    return {n for n in names if all(same(n, v) for v in _others(run.spec, n, given[n]))}


def _sparse(spec: LossSpec, keys: dict[str, Any]) -> dict[str, Any]:
    """With every other class of class inputs 0, where that is in their domain: a list of a few."""
    found = dict(keys)
    for name in streams(spec):
        domain = spec.inputs[name].domain
        if domain is not None and domain.contains(0.0):
            found[name] = keys[name].clone()
            found[name][..., ::2] = 0.0
    return found


def _others(spec: LossSpec, name: str, value: Any) -> Iterator[Any]:
    """Other values of a parameter or an input, in its domain."""
    if isinstance(value, Tensor):
        declared, half = spec.inputs[name], value * 0.5
        domain = declared.domain or FINITE
        if declared.values:  # the next of those that it may hold
            held = torch.tensor(declared.values, dtype=value.dtype)
            at = (value[..., None] - held.to(value.device)).abs().argmin(-1)
            yield held.roll(-1).to(value.device)[at]
        elif declared.integer or not all(map(domain.contains, half.flatten().tolist())):
            yield value.flip(-1)
        else:
            yield half if declared.kind == "row" else half.flip(-1)  # flipped: another argmax
        return
    entry = spec.parameters[name]
    for candidate in (value * 0.5, value * 2.0, value + 0.25, value - 0.25, value + 1, value - 1):
        usable = entry.tested.contains(candidate) and math.isfinite(candidate)
        if usable and candidate != value and (not entry.integer or candidate == int(candidate)):
            yield candidate
