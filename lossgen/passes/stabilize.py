"""Write a graded loss in the accurate vocabulary, after differentiation and never before it: the
derivative of a stabilised form is not stable.  The rewrites are ``passes.rules`` (row expressions)
and ``passes.mixtures`` (class expressions, and mixtures of two probabilities).
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Expr, Float, sympify

from lossgen.ir.ops import maximum
from lossgen.ir.stages import GradedLoss, Gradient, StableLoss
from lossgen.ir.statistics import Centre, Form, Max, Root, Sum
from lossgen.passes.absolute import with_absolutes
from lossgen.passes.divergences import with_divergences
from lossgen.passes.near_one import near_one
from lossgen.passes.neutral import neutral_options
from lossgen.passes.roots import real_roots
from lossgen.passes.rules import Rewriter
from lossgen.passes.zeros import LOWEST, Zeros

__all__ = ["stabilize"]

_SMALLEST = Float(1e-30)  # times LOWEST it is 0, times an empty maximum still -∞


def stabilize(graded: GradedLoss) -> StableLoss:
    """The same functions in the accurate vocabulary; records which rules fired.

    Where there is a more accurate program that costs more, it goes with it: ``certify`` decides.
    """
    cheap, exact = (with_divergences(graded, exact) for exact in (False, True))
    dearer = None if exact == cheap else _stable(exact, graded, None)
    return _stable(cheap, graded, dearer)


def _stable(graded: GradedLoss, before: GradedLoss, dearer: StableLoss | None) -> StableLoss:
    names, spec, zeros = graded.vocabulary, graded.spec, Zeros(graded)
    domains = {symbol: spec.parameters[name].domain for name, symbol in names.parameters.items()}
    given = {**names.rows, **{n: at_y for n, (_, at_y) in {**names.streams, **names.vocab}.items()}}
    declared = {n: spec.inputs[n].domain for n in given if n in spec.inputs}
    domains |= {given[name]: domain for name, domain in declared.items() if domain is not None}
    ends = {s: (_end(d.lo), _end(d.hi)) for s, d in domains.items()}
    rewriter = Rewriter(graded.forms, graded.centres, names.constants, ends)
    stable = StableLoss(
        spec=spec,
        uses=graded.uses,
        pivot=graded.pivot,
        vocabulary=names,
        forms=tuple(_stable_form(f, rewriter, zeros) for f in graded.forms),
        sums=tuple(_stable_sum(e, rewriter, zeros) for e in graded.sums),
        maxes=tuple(_stable_max(e, rewriter, zeros) for e in graded.maxes),
        twins=graded.twins,
        whole=graded.whole,
        centres=tuple(_stable_centre(c, rewriter) for c in graded.centres),
        roots=tuple(_stable_root(r, rewriter, zeros) for r in graded.roots),
        loss=zeros(rewriter(graded.loss)),
        outputs=tuple((name, zeros(rewriter(value))) for name, value in graded.outputs),
        gradients=tuple(
            Gradient(
                g.stream,
                tuple(
                    (
                        zeros.coefficient(zeros(rewriter(c)), b),
                        zeros(rewriter.class_level(b).xreplace(rewriter.final)),
                    )
                    for c, b in g.terms
                ),
                zeros(rewriter(g.at_y)),
            )
            for g in graded.gradients
        ),
        rules=tuple(
            sorted(rewriter.fired | {"divergence" for e in graded.sums if e.against is not None})
        ),
        before=before,
        dearer=dearer,
    )
    return with_absolutes(neutral_options(real_roots(near_one(stable))))


def _end(value: float) -> Expr:
    """An end of a domain; what is infinite is large."""
    return sympify(min(max(value, -1e9), 1e9))


def _stable_form(form: Form, rewriter: Rewriter, zeros: Zeros) -> Form:
    """The exponent of a later sweep mentions statistics of earlier ones."""
    if form.level == 1:
        # A margin of the target alone may be another softmax's.
        base_y, shift_y = rewriter(form.base_y), rewriter(form.shift_y)
        base, base_y = zeros.exponent(form.base), zeros.exponent(base_y)
        return replace(form, base=base, base_y=base_y, shift_y=shift_y)
    base = zeros(rewriter.class_level(form.base).xreplace(rewriter.final))
    base_y = zeros(rewriter(form.base_y))
    base, base_y, scale = zeros.exponent(base), zeros.exponent(base_y), rewriter(form.scale)
    if not form.scale.free_symbols <= rewriter.constants:  # it may vanish, as p_y does: no 0·∞
        scale = maximum(scale, _SMALLEST)
        base, base_y = maximum(base, LOWEST), maximum(base_y, LOWEST)
    shift_y = rewriter(form.shift_y)
    return replace(form, scale=scale, base=base, base_y=base_y, shift_y=shift_y)


def _stable_centre(centre: Centre, rewriter: Rewriter) -> Centre:
    """The difference of two exponents mentions what they mention."""
    if centre.level < 2:
        return centre
    pairs = tuple(
        (rewriter.class_level(c).xreplace(rewriter.final), rewriter(o)) for c, o in centre.pairs
    )
    return replace(centre, pairs=pairs, factor=rewriter(centre.factor))


def _stable_sum(entry: Sum, rewriter: Rewriter, zeros: Zeros) -> Sum:
    """What is summed in a later sweep is evaluated as it stands: rewrite it. Beside a softmax what
    weighs it is: 0·∞ is 0."""
    if entry.form is not None:
        return replace(entry, weight=zeros.of_a_sum(entry.weight))
    body = entry.body
    if entry.level > 1:
        body = rewriter.class_level(body).xreplace(rewriter.final)
    body = zeros(body)
    return replace(entry, body=body, weight=body)


def _stable_root(root: Root, rewriter: Rewriter, zeros: Zeros) -> Root:
    residual, slope, low, high = (zeros(rewriter(e)) for e in root.exprs)
    return replace(root, residual=residual, slope=slope, low=low, high=high)


def _stable_max(entry: Max, rewriter: Rewriter, zeros: Zeros) -> Max:
    """As of a sum: what a later sweep compares is evaluated as it stands."""
    if entry.level == 1:
        return replace(entry, body=zeros.exponent(entry.body))
    return replace(entry, body=zeros(rewriter.class_level(entry.body).xreplace(rewriter.final)))
