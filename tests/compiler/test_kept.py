"""Class values that loops of C hand on: which are the same, which are worth it, where they are."""

from __future__ import annotations

import pytest

from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.emit.c_text import function
from lossgen.emit.kept_c import FUSED, Keys, keep
from lossgen.emit.program_c import Program
from lossgen.emit.row_c import CRow
from lossgen.emit.sweep_c import Loop
from lossgen.ir.program import Call, Name, Node, rewritten, walk
from lossgen.lower.model import RowModel
from lossgen.spec.load import load_spec
from tests.programs import lines_of, node_of

COUNTED = {"exp", "expm1", "expm1_within", "log", "log1p"}


def row(name: str) -> CRow:
    return CRow(RowModel(compile_loss(load_spec(paths.require_spec(name))).variants[0], ""))


def loop(lines: list[str], *roots: str) -> Loop:
    return Loop(Program(lines_of(*lines), ["x", "u"]), [Name(root) for root in roots], {})


def kept(*loops: Loop, shared: frozenset[str] = frozenset({"m0"})) -> int:
    table: dict[str, str] = {}
    buffers = keep(loops, [Keys(entry.program, set(shared), table) for entry in loops])
    return len({*buffers.values()})


def following(node: Node) -> Node:
    """What the gradient computes where it follows the sweeps in one call."""

    def change(entry: Node) -> Node | None:
        match entry:
            case Call(op="select", args=[condition, held, _]) if condition == FUSED:
                return held
        return None

    return rewritten(node, change)


def nodes(entry: Loop) -> list[Node]:
    """Of all that it computes there."""
    known = {s.name: s.value for s in entry.body}
    found, seen = list[Node](), set[str]()
    todo = [*entry.roots, *(Name(name) for name in entry.stores)]
    while todo:
        for node in walk(following(todo.pop())):
            found.append(node)
            if isinstance(node, Name) and node.name in known.keys() - seen:
                seen.add(node.name)
                todo.append(known[node.name])
    return found


def functions(entry: Loop) -> list[str]:
    """The functions that a loop calls."""
    return sorted(name for n in nodes(entry) if (name := function(n)) in COUNTED)


def sums() -> Loop:
    """A sum over the classes other than y, in the words of a sweep."""
    lines = [
        "valid = inside & (cols != y)",
        "l0 = select(valid, x, -inf)",
        "m0 = row_max(l0)",
        "t0 = l0 - select(m0 == -inf, 0.0, m0)",
        "e0 = exp_below(t0)",
    ]
    return loop(lines, "e0")


# ------------------------------------------------------------------------------- what is the same
def test_a_masked_value_is_the_same_value() -> None:
    """The sweep masks the pivot and an empty maximum; the gradient does neither."""
    first, last = sums(), loop(["t0 = x - m0", "e0 = exp_below(t0)", "g = e0 * c0"], "g")
    assert kept(first, last) == 1
    assert (functions(first), functions(last)) == (["exp"], [])
    assert list(first.stores) == ["kept0"]
    assert "const real e0 = (fused ? kept0_ptr[cols] : f_exp_below(t0));" in last.lines


@pytest.mark.parametrize(
    "lines",
    [
        ["e0 = exp_below(u - m0)"],  # another stream
        ["e0 = exp_below(x - m1)"],  # another row value
        ["e0 = exp_below(m0 - x)"],
        ["e0 = exp_below(2.0 * (x - m0))"],
        ["e0 = expm1(x - m0)"],
        ["e0 = exp_below(select(cols != index0, x, -inf) - m0)"],  # another mask
        ["e0 = exp_below(select(m0 == 0.0, 0.0, x) - m0)"],
    ],
)
def test_another_value_is_not(lines: list[str]) -> None:
    first, last = sums(), loop(lines, "e0")
    assert kept(first, last) == 0
    assert (first.stores, len(functions(last))) == ({}, 1)


def test_a_row_value_of_one_program_alone_means_nothing_to_another() -> None:
    one = loop(["a0 = row_sum(x)", "e0 = exp_below(x - a0)"], "e0")
    other = loop(["a0 = row_sum(u)", "e0 = exp_below(x - a0)"], "e0")
    assert kept(one, other) == 0
    again = [loop(["a0 = row_sum(x)", "e0 = exp_below(x - a0)"], "e0") for _ in range(2)]
    assert kept(*again, shared=frozenset({"a0"})) == 1


# ------------------------------------------------------------------------------- what is worth it
def test_cheap_values_are_computed_again() -> None:
    lines = ["v = maximum(x - m0, -1.0e18) * select(cols < m0, x, u)"]
    assert kept(loop(lines, "v"), loop(lines, "v")) == 0


def test_the_largest_value_is_kept() -> None:
    lines = ["w = expm1(x - m0)", "v = log1p(w)"]
    first, last = loop(lines, "v"), loop([*lines, "g = v * v"], "g")
    assert kept(first, last) == 1
    assert (functions(first), functions(last)) == (["expm1", "log1p"], [])


def test_parts_and_whole_are_declared_in_order() -> None:
    whole = ["v = log1p(exp_below(x - m0))"]
    first = loop(whole, "v")
    last = loop([*whole, "w = exp_below(x - m0)", "g = v * w"], "g")
    assert kept(first, last) == 2
    assert [s.name for s in first.body] == ["kept0", "kept1", "v"]
    assert first.body[1].value == node_of("log1p(kept0)")
    assert functions(last) == []


# ------------------------------------------------------------------------------- where it is
def test_a_row_is_used_again_by_the_loop_that_reads_it_last() -> None:
    e, f = "e = exp_below(x - m0)", "f = log1p(u * m0)"
    loops = [loop([e], "e"), loop([e, f, "g = e * f"], "g"), loop([f], "f")]
    assert kept(*loops) == 1
    both = [loop([e], "e"), loop([e, f, "g = e * f"], "g"), loop([e, f, "g = e + f"], "g")]
    assert kept(*both) == 2


def test_what_only_the_gradient_reads_is_late() -> None:
    e, f = "e = exp_below(x - m0)", "f = log1p(u * m0)"
    first, middle = loop([e], "e"), loop([e, f, "g = e * f"], "g")
    kept(first, middle, loop([f], "f"))
    assert (first.late, middle.late) == (set(), set(middle.stores))


# ------------------------------------------------------------------------------- the catalogue
@pytest.mark.parametrize(
    ("name", "rows", "sweeps"),
    [
        ("gce", 1, ["exp"]),
        ("brier", 1, ["exp"]),
        ("kd_forward_kl", 2, ["exp", "exp"]),
        ("trades", 2, ["exp", "exp", "expm1"]),  # its certificate takes the second-order program
        ("jsd_beta", 2, ["exp", "exp", "expm1_within", "log1p"]),
        ("sigmoid_bce", 0, None),
    ],
)
def test_no_function_is_called_twice(name: str, rows: int, sweeps: list[str] | None) -> None:
    """The gradient calls none, as the sweeps have called them."""
    c = row(name)
    assert c.buffers == rows
    *loops, gradient = c.loops
    if sweeps is not None:
        assert sorted(f for entry in loops for f in functions(entry)) == sweeps
        assert functions(gradient) == []
    assert not gradient.loads  # the backward has no sweep before it


def test_every_loss_keeps_what_it_repeats() -> None:
    """No gradient calls a function of the sweeps' arguments again."""
    for name in ("skew_kl", "skew_reverse_kl", "reverse_kl", "sar", "tvd", "two_hot", "mart"):
        c = row(name)
        values, again = (
            {n for entry in some for n in nodes(entry) if function(n) in COUNTED}
            for some in (c.loops[:-1], c.loops[-1:])
        )
        assert not values & again, name
