"""The row program's expressions: how they are printed, and what is read of them."""

from __future__ import annotations

import pytest

from lossgen.emit.c_text import CText
from lossgen.emit.printers import TORCH, TRITON
from lossgen.ir.program import Name, is_condition, renamed, total, variables
from tests.programs import node_of

TEXTS = [
    # the program, Triton, C per class, torch
    ("a - (b + c)", "a - (b + c)", "a - (b + c)", "a - (b + c)"),
    ("a * (b / c)", "a * (b / c)", "a * (b / c)", "a * (b / c)"),
    ("-(a + b) * c", "-(a + b) * c", "-(a + b) * c", "-(a + b) * c"),
    ("a - -b", "a - -b", "a - -b", "a - -b"),
    ("-2.0 * a", "-2.0 * a", "-R(2.0) * a", "-2.0 * a"),
    ("(a < b) & (c == d)", "(a < b) & (c == d)", "a < b && c == d", "(a < b) & (c == d)"),
    ("~(a < b) | k", "~(a < b) | k", "!(a < b) || k", "~(a < b) | k"),
    (
        "select(a > 0.0, exp(a), -inf)",
        'tl.where(a > 0.0, dl.exp_accurate(a), float("-inf"))',
        "(a > R(0.0) ? f_exp(a) : -INFINITY)",
        'torch.where(a > 0.0, el.exp(a), float("-inf"))',
    ),
    ("exp_below(t)", "dl.exp_tile(t)", "f_exp_below(t)", "el.exp(t)"),
    ("number(cols)", "cols.to(tl.float32)", "(real)(cols)", None),
    ("number(a + b)", "(a + b).to(tl.float32)", "(real)(a + b)", None),
    ("where(a, b, c)", "dl.where(a, b, c)", "(a ? b : c)", "el.where(a, b, c)"),
    ("lt(a, b)", "dl.lt(a, b)", "f_lt(a, b)", "el.lt(a, b)"),
]


@pytest.mark.parametrize(("text", "triton", "c", "torch"), TEXTS)
def test_every_language_keeps_the_order_of_operations(
    text: str, triton: str, c: str, torch: str | None
) -> None:
    node = node_of(text)
    assert TRITON(node) == triton
    assert CText(tile=True)(node) == c
    assert torch is None or TORCH(node) == torch


def test_python_reads_back_what_is_printed() -> None:
    for text in ("a - (b + c) * -d", "a / (b * c) / d", "(a <= b) & ~((c < d) | (e != f))"):
        assert node_of(TRITON(node_of(text))) == node_of(text)


def test_names_conditions_and_sums() -> None:
    node = node_of("select(a < b, x, a)")
    assert variables(node) == {"a", "b", "x"}
    assert renamed(node, {"a": "b", "b": "a"}) == node_of("select(b < a, x, b)")
    assert is_condition(node_of("(a < b) & k"))
    assert is_condition(node_of("k"), {"k"})
    assert not is_condition(node)
    assert total([(1, Name("a")), (-1, Name("b"))]) == node_of("a - b")
    assert total([(-1, Name("a")), (1, Name("b"))]) == node_of("-a + b")
