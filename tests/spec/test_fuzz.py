"""Whatever the text, loading ends, and raises nothing but LossgenError."""

import warnings

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossgen.errors import LossgenError
from lossgen.spec.load import load_text
from lossgen.spec.vocabulary import FUNCTIONS, SUGAR

FUZZ = settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
WORDS = [
    *sorted(FUNCTIONS),
    *SUGAR,
    "x",
    "y",
    "V",
    "pi",
    "onehot",
    "index",
    "q",
    "t",
    "over=others",
    "1",
    "0.5",
    "0",
    "1e99",
    "64",
    "10",
    "(",
    ")",
    "[y]",
    "[",
    "]",
    ",",
    "+",
    "-",
    "*",
    "/",
    "**",
    "<",
    "==",
    " ",
    "lambda",
    "if",
    ".",
    "'",
    "=",
    "é",
    "\\",
    "_",
    "e5",
    "torch.",
    "F.",
    ".sum(",
    ".std()",
    "dim=-1",
    "None",
    " and ",
    " else ",
    ":",
    "@",
    "|",
    "^",
    "True",
]
LINES = [
    "name: t",
    "name: u",
    "class: T",
    "parameters:",
    '  q: {default: 1, domain: "[0, 2]"}',
    "let:",
    "  a: p*logp",
    "transform: -logp[y]",
    "transform: >",
    "  sum(a)",
    "  - a",
    "inputs:",
    "  w:",
    "    kind: row",
    "    kind: vocab",
    "    kind: class",
    "    differentiable: true",
    "    off: 1",
    "outputs:",
    "  lse: logsumexp(x)",
    "  logp: sum(w)",
    "normalizer: w",
    "limits: [{when: {q: 0}, equals: mae}]",
    "variants: [[q]]",
    "regularizer:",
    "- {name: b, value: q, weight: q}",
    "? a",
    "&a",
    "*a",
    "---",
    "...",
    "%TAG",
    "!!int 3",
    "'",
    '"',
    "{",
    "}",
    "# note",
    "\t",
    "notes: |",
    "accuracy: 3",
    "min_classes: .inf",
]

HEAD = """\
name: t
parameters:
  q: {default: 1, domain: '[0, 2]'}
inputs:
  t: {kind: class, differentiable: true}
"""


def _loads(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            spec = load_text(text)
        except LossgenError as error:
            return str(error), error.location.line
    return spec.terms or spec.outputs


@FUZZ
@given(st.text(max_size=200))
def test_any_text(text):
    _loads(text)


@FUZZ
@given(st.text(st.characters(max_codepoint=127), max_size=200))
def test_any_formula(text):
    for quoted in (text, "'" + text.replace("'", "''") + "'"):
        _loads(f"name: t\ntransform: {quoted}\n")


@FUZZ
@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_words_in_any_order(words):
    formula = "".join(words).replace("'", "''")
    for key in ("transform: ", "outputs:\n  lse: "):
        _loads(f"{HEAD}{key}'{formula}'\n")


@FUZZ
@given(st.lists(st.sampled_from(LINES), max_size=15))
def test_lines_in_any_order(lines):
    _loads("\n".join(lines))


_LEAVES = st.sampled_from(
    ["x", "p", "logp", "t", "index", "onehot", "x[y]", "u", "q", "2", "0.5", "V", "1e9"]
)


def _grow(inner):
    pair = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "**"]), inner)
    call = st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner)
    return st.one_of(
        pair.map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        call.map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner).map(lambda t: f"where({t[0]} < {t[1]}, {t[0]}, 1)"),
        inner.map(lambda e: f"-{e}"),
        inner.map(lambda e: f"{e}[y]"),
    )


@FUZZ
@given(st.recursive(_LEAVES, _grow, max_leaves=12))
def test_formulas_of_the_grammar(formula):
    _loads(f"{HEAD}transform: {formula} * q * sum(t * p)\n")
