"""A text of a spec is text wherever it goes, and never code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import lossgen
from lossgen import losses
from lossgen.derivation import explain
from lossgen.emit.allowed import check_module
from lossgen.emit.allowed_c import check_program
from lossgen.emit.text import python_comment, python_docstring, python_string
from lossgen.errors import CompilerBug, SpecError
from lossgen.spec.load import load_text
from tests.campaign.texts import FIELDS, PLACES, check, check_place, texts

LIKELY = [t for t in texts(0, 400) if all(c.isprintable() or c == "\n" for c in t)]


def test_texts_in_every_field() -> None:
    """What is refused has a place; the rest changes no module but for its strings."""
    n = len(FIELDS)
    groups = [LIKELY[k : k + n] for k in range(0, len(LIKELY) // n * n, n)][:24]
    assert sum(map(check, groups)) > 15
    assert not any(check(("a", "\u202e", "b", "c", "d", "e", "f")) for _ in range(1))


def test_texts_where_more_than_text_is_expected() -> None:
    taken = [check_place(place, text) for text in texts(1, 120) for place in PLACES]
    assert sum(taken) < len(taken) / 20


@pytest.mark.parametrize("text", texts(2, 300))
def test_no_text_leaves_its_literal_or_comment(text: str) -> None:
    """Even one that no spec could hold."""
    assert ast.literal_eval(python_string(text)) == text
    for literal in (python_docstring(text), f"(\n    {python_docstring(text)}\n)"):
        assert isinstance(ast.parse(literal).body[0], ast.Expr)
        assert isinstance(ast.parse(literal).body[0].value, ast.Constant)
    assert ast.parse(python_comment([text, text])).body == []


@pytest.mark.parametrize(
    "character",
    ["\x00", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u2067", "\u200b", "\ud800"],
)
def test_a_character_that_shows_or_ends_a_text_otherwise_is_refused(character: str) -> None:
    """As it is, in a comment of the file, and by an escape; at its place."""
    for spec in (
        f"name: t\ntitle: aa{character}c\ntransform: -logp[y]\n",
        f"name: t\n# c:   ab{character}c\ntransform: -logp[y]\n",
        f'name: t\ntitle: "a\\U{ord(character):08x}"\ntransform: -logp[y]\n',
    ):
        with pytest.raises(SpecError) as caught:
            load_text(spec)
        assert caught.value.id in ("LG114", "LG102")
        place = caught.value.location
        assert place is not None
        assert (place.line, place.column) == (2, 10)


def test_a_title_runs_nothing(tmp_path: Path) -> None:
    """It ran at import, and its C at the first call."""
    path, pwned = tmp_path / "titled.yaml", tmp_path / "pwned"
    run = f"__import__('pathlib').Path({str(pwned)!r}).touch()"
    path.write_text(
        "name: titled\n"
        f'title: "A\\"\\"\\" + str({run}) + \\"\\"\\" */ int pwned(void) {{ return 1; }} /*"\n'
        f'reference: "\\n{run}\\n"\n'
        "transform: -logp[y]\n"
    )
    x = torch.tensor([[1.0, 2.0]])
    found = lossgen.load(path).titled_loss(x, torch.tensor([1]), backend="torch")
    torch.testing.assert_close(found, -x.log_softmax(-1)[0, 1])
    assert not pwned.exists()
    assert not any("pwned(void)" in v.c_source for v in lossgen.load(path).LOSS.variants)


@pytest.mark.parametrize(
    "line",
    [
        "f()",
        "import os",
        "from os import path",
        "x = open('f')",
        "x = [f() for f in y]",
        "class A(B):\n    x = f()",
        "class A(B, metaclass=f()):\n    pass",
        "def f(x=lambda: 0):\n    return x",
        "def f():\n    import os",
        "def f():\n    open('f')",
        "@f\ndef g():\n    return 0",
        "if True:\n    x = 1",
    ],
)
def test_a_module_of_other_kinds_of_nodes_is_refused(line: str) -> None:
    with pytest.raises(CompilerBug):
        check_module(f'"""Text."""\n{line}\n')


PROGRAM = """enum { KEPT = 1 };
#define NUMBERS_OF(EACH) EACH(parameter[0], u_asm)
#include "program.h"

/* dloss/dx = "text", asm, # and 'more' */
#define SUMS_1(EACH) EACH(MAX_OR_NAN, m0, x) \\
    EACH(SUM, a0, a0_j)
ROW_GRADIENTS
    EACH_CLASS(g, const real grad_x = f_exp(R(u_asm)) / 2;)
ROW_GRADIENTS_END
"""


@pytest.mark.parametrize(
    "line",
    [
        '#include "/etc/passwd"',
        "#define SUMS_1(EACH) system()",
        "#define real int",
        "#pragma GCC poison real",
        "  #include <stdio.h>",
        "*/ int pwned(void) { return 1; } /*",
        '/* */ char *text = "words"; /* */',
        "static __attribute__((constructor)) void f_a(void) {}",
        '__asm__("nop");',
        "asm volatile;",
        "system(x_ptr);",
        "int f(void) { return 1; }",
        "// a comment \\",
        "??/",
        "int c = 'a';",
    ],
)
def test_a_program_of_other_tokens_is_refused(line: str) -> None:
    """Python was looked through, C was not."""
    check_program(PROGRAM)
    with pytest.raises(CompilerBug, match="a rendered C program has"):
        check_program(PROGRAM.replace("/* dloss", f"{line}\n/* dloss"))
    with pytest.raises(CompilerBug, match="a rendered C program has"):
        check_module(f"_C_SOURCE = {PROGRAM.replace('/* dloss', f'{line} /* dloss')!r}")


def test_exports_are_not_found_in_a_text(tmp_path: Path) -> None:
    """A line of the reference could look like them."""
    path = tmp_path / "a.py"
    head = '"""A title.\n\n__all__ = ["os"]\n"""\nimport torch\n\n'
    path.write_text(f'{head}__all__ = [\n  "A", "b"]\nx = 1\n')
    assert losses._exports(path) == ["A", "b"]
    path.write_text(head)
    assert losses._exports(path) == []


def test_names_in_latex(tmp_path: Path) -> None:
    """They had the compiler's prefix, and an underscore that LaTeX takes for an index."""
    path = tmp_path / "named.yaml"
    domain = '{default: 1, domain: "[0, 2]"}'
    path.write_text(
        f"name: named\nparameters: {{a_1: {domain}, gamma: {domain}, q: {domain}}}\n"
        "inputs: {w_t: {kind: vocab}, r_w: {kind: row}, my_t: {kind: class}}\n"
        "transform: -a_1*gamma*q*w_t[y]*r_w*logp[y] - sum(my_t*logp)\n"
    )
    text = explain(path, latex=True, draft=True)
    assert "u_" not in text
    for word in (r"\gamma", r"\mathrm{a\_1}", r"\mathrm{r\_w}", r"{\mathrm{w\_t}}_y"):
        assert word in text
