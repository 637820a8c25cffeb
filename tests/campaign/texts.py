"""Hostile texts in every field of a spec: refused with a place, or nothing but text.

``case`` is one text in every field.  ``check(texts)`` loads a spec with several and raises unless
the module that is rendered is, apart from its strings and comments, the module of the same spec
with plain texts.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from lossgen.compiler import Compiled
from lossgen.emit.render import rendered
from lossgen.errors import SpecError
from lossgen.spec.load import load_text
from tests.campaign.names import uncertified
from tests.campaign.outcome import Outcome

__all__ = ["FIELDS", "PLACES", "case", "check", "check_place", "quoted", "texts"]

FIELDS = ("title", "reference", "notes", "q_doc", "w_doc", "t_doc", "reason")
_SPEC = """
name: texts
title: {title}
reference: {reference}
parameters: {{q: {{default: 1, domain: "[0, 2]", doc: {q_doc}}}}}
inputs:
  w: {{kind: vocab, doc: {w_doc}}}
  t: {{kind: class, doc: {t_doc}}}
transform: -q*w[y]*logp[y] - sum(t*logp)
normalizer: w[y]
accuracy: {{ulp: 4, reason: {reason}}}
notes: {notes}
"""
#: Fields that are more than text: almost every text is refused there.
PLACES = (
    "name: {text}\ntransform: -logp[y]\n",
    "name: t\nclass: {text}\ntransform: -logp[y]\n",
    "name: t\ntransform: {text}\n",
    "name: t\ntransform: -logp[y]\nnormalizer: {text}\n",
    "name: t\ninputs: {{w: {{kind: {text}}}}}\ntransform: -w*logp[y]\n",
    "name: t\ninputs: {{{text}: {{kind: row}}}}\ntransform: -logp[y]\n",
    'name: t\nparameters: {{{text}: {{default: 1, domain: "[0, 2]"}}}}\ntransform: -logp[y]\n',
    "name: t\nparameters: {{q: {{default: 1, domain: {text}}}}}\ntransform: -q*logp[y]\n",
    'name: t\nparameters: {{q: {{default: {text}, domain: "[0, 2]"}}}}\ntransform: -q*logp[y]\n',
    "name: t\nlet: {{{text}: logp}}\ntransform: -logp[y]\n",
    "name: t\nlet: {{a: {text}}}\ntransform: -logp[y]\n",
    "name: t\noutputs: {{{text}: logp[y]}}\n",
    "name: t\nregularizer: [{{name: {text}, value: -logp[y]}}]\n",
    "name: t\nregularizer: [{{name: r, weight: {text}, value: -logp[y]}}]\n",
    "name: t\ntransform: -logp[y]\nvariants: [[{text}]]\n",
    "name: t\ntransform: -logp[y]\nlimits: [{{equals: {text}}}]\n",
    "name: t\ntransform: -logp[y]\n{text}: 1\n",
)
_PARTS = [
    *('"""', "'''", '"', "'", "\\", "\\\\", "\\N{BULLET}", "\\x22", '""" + f() + """'),
    *("*/", "/*", "//", "*\\", "??/", "??/\n", '*/ #include "/etc/passwd" /*', "#", "#!", "%"),
    *("\n", "\n\n", "\r", "\r\n", "\x00", "\x0b", "\x0c", "\x1b[31m", "\x85", "\t", "\x7f"),
    *("\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\xad", "\U000e0041"),
    *("{{ 7 * 7 }}", "{% raw %}", "{# #}", "{% include 'row.py.jinja' %}", "}}", "{0}", "%s"),
    *("[red]", "[/]", "[link=x]", "$(id)", "`id`", "\nimport os\n", "\n    return 0\n", "; f()"),
    *('__import__("os").system("touch pwned")', "\n__all__ = ['x']\n", "\n# @generated", ":", "- "),
    *("__attribute__((constructor)) static void f(void) {}", "\n#define real int\n", "pass"),
    *("é", "∑", "\U0001f600", "\u0301", "\ud800", "\udfff", " ", "a", "word", "0", "-1", "=", "."),
]


def texts(seed: int, count: int) -> list[str]:
    """Hostile texts, the parts alone first."""
    draw = random.Random(seed)
    longer = ("".join(draw.choices(_PARTS, k=draw.randint(2, 6))) for _ in range(count))
    return [*_PARTS, *longer][:count]


def quoted(text: str) -> str:
    """A text as a double-quoted scalar of YAML, all that is not plain by its escape."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\' or not 32 <= code < 127:
        return f"\\x{code:02x}" if code < 256 else f"\\U{code:08x}"
    return character


def case(seed: int, index: int) -> Outcome:
    """One text alone in each field, then in all that take it at once, then in every place."""
    text = _PARTS[index] if index < len(_PARTS) else texts(1_000_003 * seed + index, 1000)[-1]
    try:
        taken = [
            _taken([text if k == n else "a text" for k in range(len(FIELDS))])
            for n in range(len(FIELDS))
        ]
        if any(taken):
            assert check([text if t else "a text" for t in taken])
        places = sum(check_place(place, text) for place in PLACES)
    except Exception as error:
        return Outcome("wrong", type(error).__name__, f"{text!r}: {error}")
    kind = f"taken by {sum(taken)} fields and {places} places"
    return Outcome("right" if any(taken) else "refused", kind, repr(text))


def _taken(hostile: Sequence[str]) -> bool:
    try:
        load_text(_SPEC.format(**dict(zip(FIELDS, map(quoted, hostile), strict=True))))
    except SpecError as error:
        _located(error)
        return False
    return True


def check(hostile: Sequence[str]) -> bool:
    """One text for each of ``FIELDS``. Returns whether they were taken; raises where they were
    more than text, or refused without a place."""
    written = dict(zip(FIELDS, map(quoted, hostile), strict=True))
    try:
        spec = load_text(_SPEC.format(**written))
    except SpecError as error:
        _located(error)
        return False
    plain, modules = _plain()
    plans = (replace(p, stable=replace(p.stable, spec=spec)) for p in plain.variants)
    found = _without_texts(rendered(Compiled(spec, tuple(plans), {}, {})))
    assert found == modules, f"more than text: {hostile!r}"
    return True


def check_place(place: str, text: str) -> bool:
    """A text where more than text is expected. Returns whether it was taken."""
    try:
        load_text(place.format(text=quoted(text)))
    except SpecError as error:
        _located(error)
        return False
    return True


def _located(error: SpecError) -> None:
    assert error.location is not None, error
    assert "^" in str(error) or "is missing" in str(error) or not error.location.text.strip(), error


@cache
def _plain() -> tuple[Compiled, tuple[str, list[str]]]:
    compiled = uncertified(_SPEC.format(**dict.fromkeys(FIELDS, "a text")))
    return compiled, _without_texts(rendered(compiled))


def _without_texts(source: str) -> tuple[str, list[str]]:
    """The tree of a module with its strings taken out, and its C programs."""
    tree, programs = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            programs += [node.value] if node.value.startswith("#include") else []
            node.value = ""
    return ast.dump(tree), programs
