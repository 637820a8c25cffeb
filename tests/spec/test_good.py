"""The good path: what a spec becomes."""

import json
import pickle
from fractions import Fraction as F

import pytest

from lossgen.errors import SpecError
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Binary, Call, Gather, Name, NameKind, Number, Rank, Span, Unary
from lossgen.spec.load import load_spec, load_text
from lossgen.spec.model import SpecFile

FULL = """\
name: full
class: FULLLoss
title: Everything
reference: nobody, never
parameters:
  q: {default: 0.7, domain: "(0, 1]", range: [0.25, 1], doc: "the power"}
  smoothing: {default: 0, domain: "[0, 1]", off: 0}
  cap: {default: .inf, domain: "(0, inf]", off: inf}
  t: {default: 2, domain: "[1, 16]", integer: true}
  penalty: {default: 1e-4, domain: "[0, inf)", off: 0}
inputs:
  weight: {kind: vocab, off: 1, domain: "[0, inf)", range: [0.5, 2], doc: class weights}
  token: {kind: row}
let:
  logits: softcap(x, cap)
  ce: logsumexp(logits) - logits[y]
transform: >-
  (1 - p[y]**q) / q
  + ce * smoothing * weight[y] * token
regularizer:
  - {name: z_loss, weight: penalty, value: logsumexp(logits)**2}
  - name: series
    value: "mercator(1 - p[y], t)"
adversarial: -0.25 * max(x, over=others)
normalizer: weight[y] * token
variants: [[smoothing], [cap, weight]]
limits:
  - {when: {q: 0}, equals: cross_entropy, with: {tau: 1.5}}
  - {equals: ce}
  - when: {q: 1}
    equals: 1 - p[y]
notes: |
  Free text.
accuracy: {ulp: 8, scale: 0.5, reason: "because"}
min_classes: 2
"""
STREAM = NameKind.STREAM
X = Name(Rank.CLASS, Span(0, 0), "x", NameKind.LOGITS)


def _tree(formula, head=""):
    return load_text(f"name: t\n{head}transform: {formula}\n").terms[0].expr


def test_full_spec(tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    spec = load_spec(path)
    assert (spec.name, spec.class_name, spec.title) == ("full", "FULLLoss", "Everything")
    assert (spec.path, spec.source, spec.min_classes) == (path, FULL, 2)
    assert spec.notes == "Free text.\n"
    assert (spec.accuracy.ulp, spec.accuracy.scale, spec.accuracy.reason) == (8.0, 0.5, "because")
    q, cap, t = (spec.parameters[n] for n in ("q", "cap", "t"))
    assert (q.default, q.off, q.doc, str(q.domain)) == (0.7, None, "the power", "(0, 1]")
    assert (cap.default, cap.off, str(cap.domain)) == (float("inf"), float("inf"), "(0, inf]")
    assert (t.default, t.integer, type(t.default)) == (2, True, int)
    assert spec.parameters["penalty"].default == 1e-4
    assert (q.range, str(q.tested), t.range, t.tested) == ((0.25, 1.0), "[0.25, 1]", None, t.domain)
    weight, token = spec.inputs["weight"], spec.inputs["token"]
    assert (weight.kind, weight.off, weight.range) == ("vocab", 1.0, (0.5, 2.0))
    assert (token.kind, token.off, token.range, token.domain) == ("row", None, None, None)
    assert list(spec.let) == ["logits", "ce"]
    assert [e.rank for e in spec.let.values()] == [Rank.CLASS, Rank.ROW]
    assert spec.let_sources["logits"] == "softcap(x, cap)"
    assert [(t.role, t.name, t.weight) for t in spec.terms] == [
        ("transform", None, None),
        ("regularizer", "z_loss", "penalty"),
        ("regularizer", "series", None),
        ("adversarial", None, None),
    ]
    assert spec.terms[0].source == "(1 - p[y]**q) / q + ce * smoothing * weight[y] * token"
    assert spec.normalizer_source == "weight[y] * token"
    assert spec.has_target
    assert [(li.when, li.equals, li.with_) for li in spec.limits[:1]] == [
        ({"q": 0.0}, "cross_entropy", {"tau": 1.5})
    ]
    assert spec.limits[1].equals == Name(Rank.ROW, Span(0, 2), "ce", NameKind.LET)
    assert spec.limits[2].source == "1 - p[y]"


STREAMS = """\
name: streams
parameters:
  tau: {default: 2, domain: "(0, inf)"}
inputs:
  teacher: {kind: class, doc: logits of another model}
  view: {kind: class, differentiable: true, domain: "[0, inf)", range: [0, 2], doc: weights}
  w: {kind: vocab, off: 1}
let: {t: softmax(teacher / tau)}
transform: sum(t * (log(t) - logp)) + w[y]
adversarial: sum(view, over=others) * (index[y] - argmax(x)) - view[y]
"""
OUTPUTS = """\
name: token_stats
inputs: {teacher: {kind: class}, w: {kind: row}}
let: {h: -sum(p * logp)}
outputs:
  logp: log(p[y])
  entropy: h * w
  max: >-
    max(x)
  hit: where(argmax(x) == index[y], 1, 0)
  theirs: sum(teacher)
"""


def test_streams():
    spec = load_text(STREAMS)
    teacher, view, w = spec.inputs.values()
    assert (teacher.kind, teacher.differentiable, teacher.off) == ("class", False, None)
    assert (teacher.domain, teacher.range) == (None, None)
    assert (view.kind, view.differentiable, view.off) == ("class", True, None)
    assert (str(view.domain), view.range) == ("[0, inf)", (0.0, 2.0))
    assert (w.kind, w.differentiable) == ("vocab", False)
    assert spec.variants == (frozenset(), frozenset({"w"}))
    assert spec.outputs == ()
    last = spec.terms[1].expr.right
    assert last == Gather(Rank.ROW, Span(0, 0), Name(Rank.CLASS, Span(0, 0), "view", STREAM))


def test_outputs():
    spec = load_text(OUTPUTS, "token_stats.yaml")
    assert [o.name for o in spec.outputs] == ["logp", "entropy", "max", "hit", "theirs"]
    assert spec.outputs[2].source == "max(x)"
    assert (spec.terms, spec.limits, spec.normalizer) == ((), (), None)
    assert (spec.class_name, spec.has_target) == ("TokenStats", True)
    assert spec.outputs[0].expr == _tree("log(p[y])")
    place = spec.location_of("max", Span(0, 3))
    assert (place.line, place.column, place.width) == (8, 5, 3)
    assert load_text(OUTPUTS.replace("name:", "class: Stats\nname:")).class_name == "Stats"
    assert not load_text("name: t\noutputs: {lse: logsumexp(x)}\n").has_target


def test_a_gradient_for_a_stream_is_enough():
    head = "inputs: {teacher: {kind: class, differentiable: true}}\n"
    assert _tree("second_max(teacher)", head).func == "second_max"


def test_variants_have_the_ends_and_an_order():
    spec = load_text(FULL, "full.yaml")
    every = frozenset({"smoothing", "cap", "penalty", "weight"})
    assert spec.variants == (
        frozenset(),
        frozenset({"smoothing"}),
        frozenset({"cap", "weight"}),
        every,
    )
    plain = load_text("name: t\ntransform: -logp[y]\n")
    assert plain.variants == (frozenset(),)


def test_defaults():
    spec = load_text("name: cross_entropy\ntransform: -logp[y]\n")
    assert (spec.class_name, spec.title) == ("CrossEntropyLoss", "Cross entropy")
    assert (spec.reference, spec.notes, spec.normalizer, spec.accuracy) == ("", "", None, None)
    assert (spec.min_classes, spec.path, spec.limits) == (1, None, ())


def test_models_are_frozen_and_pickle():
    spec = load_text(FULL)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "b"
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_location_of():
    spec = load_text(FULL, "full.yaml")
    lines = FULL.splitlines()
    for name, text in [
        ("transform", "smoothing"),
        ("z_loss", "logsumexp"),
        ("series", "mercator"),
        ("logits", "softcap"),
        ("normalizer", "token"),
        ("adversarial", "others"),
    ]:
        formula = spec.formulas[name].text
        start = formula.index(text)
        place = spec.location_of(name, Span(start, start + len(text)))
        assert lines[place.line - 1][place.column - 1 :].startswith(text)
        assert (place.file, place.width, place.text) == (
            "full.yaml",
            len(text),
            lines[place.line - 1],
        )
    with pytest.raises(KeyError):
        spec.location_of("nothing", Span(0, 1))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.7", F(7, 10)),
        ("1e-4", F(1, 10000)),
        ("2", F(2)),
        (".5", F(1, 2)),
        ("1.", F(1)),
        ("1.5E+2", F(150)),
        ("0", F(0)),
        ("3.14159265358979323846", F("3.14159265358979323846")),
    ],
)
def test_numbers_are_exact(text, value):
    assert _tree(f"x[y] + {text}").right == Number(Rank.PARAMETER, Span(0, 0), value)


def test_sugar_is_expanded():
    softmax = Call(Rank.CLASS, Span(0, 0), "softmax", (X,))
    assert _tree("p[y]") == Gather(Rank.ROW, Span(0, 0), softmax)
    assert _tree("sum(logp)") == _tree("sum(log_softmax(x))")
    assert _tree("u") == _tree("sum(exp(x - x[y]), over=others)")
    assert _tree("log(u)").args[0].span == Span(4, 5)


@pytest.mark.parametrize(
    ("formula", "rank"),
    [
        ("x[y]", Rank.ROW),
        ("sum(x * onehot)", Rank.ROW),
        ("sum(x) / V", Rank.ROW),
        ("where(x[y] > 0, 1, pi) * x[y]", Rank.ROW),
        ("norm(p - onehot)", Rank.ROW),
        ("second_max(x, over=others)", Rank.ROW),
        ("sum(p * index)", Rank.ROW),
        ("where(argmax(x) == index[y], x[y], 0)", Rank.ROW),
    ],
)
def test_rank_of_a_loss(formula, rank):
    assert _tree(formula).rank == rank


@pytest.mark.parametrize(
    ("formula", "rank"),
    [
        ("exp(2) + V", Rank.PARAMETER),
        ("x * w[y]", Rank.CLASS),
        ("w + r", Rank.CLASS),
        ("r * 2", Rank.ROW),
        ("where(x > r, 1, 2)", Rank.CLASS),
        ("softmax(x, over=others)", Rank.CLASS),
        ("logsumexp(x)", Rank.ROW),
        ("minimum(r, 1)", Rank.ROW),
        ("stop_gradient(p)", Rank.CLASS),
        ("t - logp", Rank.CLASS),
        ("t[y]", Rank.ROW),
        ("softmax(t, over=others)", Rank.CLASS),
        ("abs(index - index[y])", Rank.CLASS),
        ("argmax(t)", Rank.ROW),
    ],
)
def test_rank_of_a_let(formula, rank):
    use = {Rank.CLASS: "a[y]"}.get(rank, "a")
    spec = load_text(
        "name: t\ninputs: {w: {kind: vocab}, r: {kind: row}, t: {kind: class}}\n"
        f"let:\n  a: {formula}\ntransform: {use} * w[y] * r * x[y] * t[y]\n"
    )
    assert spec.let["a"].rank == rank
    assert spec.terms[0].expr.rank == Rank.ROW


def test_structure_keeps_the_authors_operations():
    tree = _tree("-x[y]**2 + +x[y]")
    assert isinstance(tree, Binary)
    assert isinstance(tree.left, Unary)
    assert tree.left.operand.op == "**"
    assert tree.right == Gather(Rank.ROW, Span(0, 0), X)


@pytest.mark.parametrize(
    ("formula", "has_target"),
    [
        ("-sum(p * logp)", False),
        ("logsumexp(x)", False),
        ("x[y]", True),
        ("log(u)", True),
        ("sum(x * onehot)", True),
        ("sum(x * index)", False),
        ("argmax(x) * max(x)", False),
        ("index[y] * max(x)", True),
        ("second_max(x, over=others)", True),
        ("max(x, over=others)", True),
        ("sum(a)", False),
        ("sum(b)", True),
    ],
)
def test_has_target(formula, has_target):
    let = {"sum(a)": "let: {a: x**2}\n", "sum(b)": "let: {b: x * onehot}\n"}.get(formula, "")
    assert load_text(f"name: t\n{let}transform: {formula}\n").has_target is has_target


@pytest.mark.parametrize("text", ["(0, 1]", "[0, inf)", "(-inf, inf)", "[1, 16]", "[-0.1, 1e-20]"])
def test_domain_text_is_canonical(text):
    assert str(Interval.parse(text)) == text
    assert Interval.parse(f" {text.replace(', ', ',')} ") == Interval.parse(text)


def test_domain_membership():
    half = Interval.parse("(0, 1]")
    assert [half.contains(v) for v in (0, 1e-9, 1, 1.1, float("nan"))] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert Interval.parse("(0, .inf]").contains(float("inf"))
    assert not Interval.parse("(0, inf)").contains(float("inf"))


@pytest.mark.parametrize(
    "written",
    [
        "'1 - q9[y]'",
        '"1 - q9[y]"',
        ">-\n  1 -\n  q9[y]",
        "|\n  1 - q9[y]",
        "1 -\n  q9[y]",
        '"1\\t- \\x20 q9[y]"',
        ">2-\n    1 - q9[y]",
        '"1 \\\n   -\n  \n   q9[y]"',
    ],
)
def test_places_in_every_kind_of_scalar(written):
    text = f"name: t\ntransform: {written}\n"
    with pytest.raises(SpecError) as caught:
        load_text(text)
    place = caught.value.location
    assert place.text[place.column - 1 :].startswith("q9[y]")
    assert place.width == 2


def test_line_ends_do_not_matter():
    windows = load_text(FULL.replace("\n", "\r\n"))
    assert windows == load_text(FULL)
    assert load_text("\ufeff" + FULL) == load_text(FULL)


def test_schema_for_editors():
    schema = SpecFile.model_json_schema(by_alias=True)
    assert json.loads(json.dumps(schema)) == schema
    assert {"name", "class", "transform", "outputs", "limits"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_a_parameter_may_be_called_softcap():
    head = 'parameters: {softcap: {default: inf, domain: "(0, inf]", off: inf}}\n'
    tree = _tree("softcap(x, softcap)[y]", head).vector
    assert tree.func == "softcap"
    assert tree.args[1] == Name(Rank.PARAMETER, Span(0, 0), "softcap", NameKind.PARAMETER)


def test_inputs_of_few_values_and_whole_ones():
    spec = load_text(
        "name: t\ninputs:\n  mask: {kind: class, values: [1, 0]}\n"
        "  kept: {kind: row, values: [0, 1], off: 1}\n  group: {kind: vocab, integer: true}\n"
        "transform: kept*sum(mask*where(group == group[y], logp, 0))\n"
    )
    mask, kept, group = spec.inputs.values()
    assert (mask.values, str(mask.domain), mask.integer) == ((0.0, 1.0), "[0, 1]", False)
    assert (kept.values, kept.off) == ((0.0, 1.0), 1.0)
    assert (group.integer, group.values, group.domain) == (True, (), None)
