"""Formulas that ended in "bug in lossgen", in an exception, or in the death of the process: each
builds now, or is refused with its place."""

import mpmath as mp
import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.emit.render import render_module
from lossgen.errors import CompileError
from lossgen.ir.rows import Row, rows_mpmath
from lossgen.passes.differentiate import differentiate
from lossgen.passes.inaccurate import Inaccurate
from lossgen.passes.parse import parse
from lossgen.passes.stabilize import stabilize
from lossgen.spec.load import load_spec, load_text
from lossgen.verify.reference import Arguments, literal, literal_mpmath

DECLARED = {
    "q": ("parameters", '{default: 0.75, domain: "[0, 2]"}'),
    "k": ("parameters", '{default: 1, off: 0, domain: "[0, 4]"}'),
    "a": ("inputs", '{kind: vocab, domain: "(0, inf)", range: [0.5, 2]}'),
    "t": ("inputs", "{kind: class}"),
}


def _text(formula, *declared, more=""):
    sections = {"parameters": [], "inputs": []}
    for name in declared:
        section, entry = DECLARED[name]
        sections[section].append(f"  {name}: {entry}\n")
    lines = "".join(f"{s}:\n{''.join(held)}" for s, held in sections.items() if held)
    return f'name: t\n{lines}{more}transform: "{formula}"\n'


# formula, what it declares: the differentiated and the stabilised program are the literal formula
FROZEN = [
    ("-log_softmax(x*stop_gradient(p[y]))[y]", ""),
    ("-log_softmax(stop_gradient(x)*2)[y]*logp[y]", ""),
    ("logsumexp(x*stop_gradient(sum(p**2))) - x[y]*stop_gradient(sum(p**2))", ""),
    ("-log_softmax(relu(1 + stop_gradient(x))*(x - 0.25))[y]", ""),  # Circle
    # Seesaw
    ("-log_softmax(x + 2*(1 - onehot)*log(maximum(1, stop_gradient(p/p[y]))))[y]", ""),
    ("sum(softmax((1 - q)*stop_gradient(x) + q*t)*(log_softmax(t) - logp))", "qt"),  # TAID
    ("-log(sum(a*exp(x - max(x)))/sum(exp(x - max(x))))", "a"),
    ("max(stop_gradient(p)*x, over=others) - x[y]", ""),
]


@pytest.mark.parametrize(("formula", "declared"), FROZEN)
def test_constants_inside_exponents(formula, declared):
    spec = load_text(_text(formula, *declared))
    graded = differentiate(parse(spec, frozenset()))
    x, y = (0.75, -1.5, 2.25, 0.125), 1
    given = {"a": (0.5, 1.25, 0.75, 1.5), "t": (0.25, 1.5, -0.5, 1.0)}
    values = {n: given[n] for n in declared if n in given}
    parameters = {"q": 0.75} if "q" in declared else {}
    with mp.workdps(60):
        loss, slopes = literal_mpmath(spec, x, y, parameters, values)
        vocab, streams = ({n: v for n, v in values.items() if n == k} for k in "at")
        for stage in (graded, stabilize(graded)):
            (value,), (gradient,) = rows_mpmath(stage, Row(x, y, vocab, {}, parameters, streams))
            assert abs(value - loss) < 1e-40
            for ours, exact in zip(gradient, slopes, strict=True):
                assert abs(ours - exact) < 1e-15


BUILT = [
    "tanh(x[y])",  # nothing is reduced over the classes
    "logp[y] + 0.1*norm(p**3)",  # a sixth power
    "max(sqrt(softmax(softmax(t)))) - logp[y]",  # a softmax of a softmax in a third sweep
    "-log_softmax(x*stop_gradient(1 + p[y]))[y]",
    "sum(softmax(x/norm(x))*p) - logp[y]",  # KeyError: no sweep has both exponents
]


@pytest.mark.parametrize("formula", BUILT)
def test_on_every_backend(formula, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(_text(formula, *("t" if "(t)" in formula else "")))
    module, spec = lossgen.load(str(path)), load_spec(path)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)) * 2
    t, y = x.flip(1) * 0.5, torch.tensor([0, 2, 5, 3])
    own = x.double().requires_grad_()
    inputs = {"t": t.double()} if spec.inputs else {}
    exact = literal(spec, Arguments(own, y, {}, inputs))
    (slope,) = torch.autograd.grad(exact.sum(), own)
    for backend in ("c", "torch"):
        logits = x.clone().requires_grad_()
        loss = module.t_loss(logits, y, *([t] if inputs else []), reduction="none", backend=backend)
        loss.sum().backward()
        torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits.grad.double(), slope, rtol=1e-5, atol=1e-6)


_STANDARD = "(x - mean(x))/(std(x) + 1e-7)"
_STANDARD_T = _STANDARD.replace("x", "t")
NUMBER = "never a number: it divides by 0"
# formula, what it declares, part of the refusal; None: it builds
_ALONG, _APART = "t/norm(x) - x*sum(x*t)/norm(x)**3", "((x - x[y]) - (t - t[y]))"
_SMALLER = "max(where(x < x[y], x, -1e9), over=others)"
SENTINEL = f"relu(where({_SMALLER} > -1e8, {_SMALLER}, max(x, over=others)) - x[y] + 0.2)"
REFUSED = [
    ("1/(sum(p) - 1)", "", NUMBER),
    ("-log_softmax(softcap(x, 0))[y]", "", NUMBER),
    ("sum(onehot**-1*x, over=others)", "", NUMBER),
    ("x[y]/k", "k", NUMBER),  # without k
    ("sum(sqrt(relu(index)*log_softmax(log_softmax(t), over=others))) - logp[y]", "t", "LG202"),
    ("exp(exp(exp(exp(exp(exp(x[y]))))))", "", "LG200"),  # aborted the process
    ("p[y]**exp(exp(exp(exp(x[y]))))", "", None),  # NaN where the target was masked
    ("-log_softmax(x*stop_gradient(exp(x[y])))[y]", "", "LG200"),  # a scale that overflows
    # KeyErrors: the units of what two softmaxes are apart are found by earlier sweeps
    (f"-sum(softmax({_STANDARD_T})*log_softmax({_STANDARD}))", "t", None),
    (f"sum(softmax({_STANDARD})**2*log_softmax({_STANDARD_T}))", "t", None),
    ("second_max(sqrt(t)) - logp[y]", "t", None),  # the root of a negative number has no order
    # KeyError: a log-sum-exp in what classes are multiplied by in the gradient
    ("mean(xlog1py((x - t)**2, exp(x - x[y]))) - logp[y]", "t", "LG200"),
    (SENTINEL, "", None),  # a masked class stood for -1e6, above the formula's own -1e9
    ("argmax(logp**q, over=others) + p[y]", "q", None),  # a parameter in a maximum alone
    # KeyError: the second sweep's differences are made of a sum of the first
    (f"sum(softmax(x/norm(x))*({_ALONG} - ({_ALONG})[y]))", "t", None),
    # IndexError: differences of rows, and no softmax
    (f"q*sum({_APART}*(t - t[y]))/norm({_APART})", "tq", None),
]


@pytest.mark.parametrize(("formula", "declared", "text"), REFUSED)
def test_refused_with_a_place(formula, declared, text):
    spec = load_text(_text(formula, *declared))
    if text is None:
        render_module(compile_loss(spec))
        return
    with pytest.raises(CompileError, match=text) as caught:
        compile_loss(spec)
    assert "^" in str(caught.value)
    assert caught.value.id != "LG900"


def test_the_term_that_is_to_blame_is_named():
    more = 'regularizer:\n  - {name: spread, value: "exp(exp(x[y])) - exp(exp(x[y]) - 1)"}\n'
    with pytest.raises(CompileError) as caught:
        compile_loss(load_text(_text("-logp[y]", more=more)))
    text = str(caught.value)
    assert text.startswith("<string>:3:28: error LG200: of 'spread', the ")
    assert "exp(exp(x[y])) - exp(exp(x[y]) - 1)" in text
    assert "no bound accepts this" in text


def test_the_bound_that_is_suggested_accepts():
    more = "accuracy: {ulp: 0.01, reason: less than a rounding}\n"
    with pytest.raises(CompileError) as caught:
        compile_loss(load_text(_text("-logp[y]", more=more)))
    text = str(caught.value)
    assert "state that it is enough: `accuracy: {ulp: " in text
    line = text.partition("`")[2].rstrip("`").replace('"..."', "few digits are enough")
    compile_loss(load_text(_text("-logp[y]", more=f"{line}\n")))


def test_an_input_of_a_term_that_is_off():
    """LG900: the truth of the variant without the term asked for the input all the same."""
    text = """name: t
parameters: {k: {default: 1, off: 0, domain: "[0, 2]"}}
inputs: {t: {kind: class}, a: {kind: vocab}, w: {kind: row}}
transform: -logp[y]
regularizer: [{name: kd, weight: k, value: "sum(a*(x - t)**2)*w"}]
"""
    compiled = compile_loss(load_text(text))
    assert [variant.stable.uses for variant in compiled.variants] == [frozenset(), {"k"}]


@pytest.mark.parametrize(("row", "told"), [("[-0.8143]", True), ("[-0.8143, 0.5]", False)])
def test_a_row_of_one_class_may_make_no_sense(row, told):
    """The least number of classes is a key of the spec that an author may not know."""
    where = f"a row with logits {row}, target 0, t = [6.266]"
    error = Inaccurate(
        which="loss", ulp=9.0, scaled=9.0, where=where, bound=4.0, arithmetic="float64"
    )
    assert ("`min_classes: 2`" in error.hint) == told
