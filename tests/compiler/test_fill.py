"""Items side by side: what the formatter breaks at every comma took a third of a module's lines."""

from __future__ import annotations

import ast

import pytest

from lossgen.emit.fill import filled

BROKEN = '''\
def f(
    a: int,
    b: str = "x, y",
    *,
    c: float = 1.0,
) -> None:
    """A text,
    of two lines,
    that stays.
    """
    g(
        a,
        h(
            b,
            c,
        ),
        a,
        # a comment stays where it is,
        b,
        m.f(a),
        m.f(b),
        m.F(a),
        m.F(b),
    )
'''
FILLED = '''\
def f(
    a: int, b: str = "x, y", *, c: float = 1.0,
) -> None:
    """A text,
    of two lines,
    that stays.
    """
    g(
        a,
        h(
            b, c,
        ),
        a,
        # a comment stays where it is,
        b,
        m.f(a),
        m.f(b),
        m.F(a), m.F(b),
    )
'''


def test_items_stand_side_by_side() -> None:
    assert filled(BROKEN) == FILLED


@pytest.mark.parametrize("width", [20, 40, 100])
def test_lines_keep_to_the_width_and_say_the_same(width: int) -> None:
    source = f"x = f(\n{''.join(f'    item_{k},{chr(10)}' for k in range(30))})\n"
    text = filled(source, width)
    assert max(map(len, text.splitlines())) <= width
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(source))
