"""What is done to row programs of whole rows before they are printed: before → after."""

from __future__ import annotations

from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.emit.sweep_torch import TorchProgram
from lossgen.ir.program import Line, Name
from lossgen.lower.fuse import folded, masked, needed, once
from lossgen.lower.model import RowModel
from lossgen.spec.load import load_spec
from tests.programs import lines_of


def test_a_mask_of_one_class_is_a_value_put_there() -> None:
    before = lines_of(
        "valid = inside & (cols != y)",
        "l0 = select(valid, x, -inf)",
        "b0 = row_sum(select(valid & (w != 0.0), v, 0.0))",
    )
    after = lines_of(
        "valid = cols != y",
        "l0 = put(x, y, -inf)",
        "b0 = row_sum(select(w != 0.0, put(v, y, 0.0), 0.0))",
    )
    assert masked(before) == after


def test_no_class_is_left_out_without_a_pivot() -> None:
    before = lines_of("valid = inside", "l0 = select(valid, x, -inf)", "k = valid & (x < 0.0)")
    assert masked(before) == lines_of("l0 = x", "k = x < 0.0")


def test_the_largest_class_is_an_index() -> None:
    """As a number, from the state of an earlier sweep, or as one already."""
    before = lines_of(
        "valid = inside & (cols != index(pivot))",
        "a = select(valid, x, 0.0)",
        "others = inside & (cols != pivot)",
        "b = select(others, x, 0.0)",
    )
    after = lines_of("a = put(x, index(pivot), 0.0)", "b = put(x, index(pivot), 0.0)")
    assert needed(masked(before), ["a", "b"]) == after


def test_a_value_is_named_once_while_what_it_reads_is_the_same() -> None:
    before = lines_of("z = a + b", "w = z * z", "z = a + b", "a = 2.0 * a", "z = a + b")
    after = lines_of("z = a + b", "w = z * z", "a = 2.0 * a", "z = a + b")
    assert once(before, set()) == after


def test_the_exponential_of_a_sweep_is_that_of_the_gradient() -> None:
    before = lines_of("t0 = l0 - m0", "e0 = exp_below(t0)", "t0 = x - m0", "e0 = exp_below(t0)")
    assert once(before, {"t0", "e0"}) == before[:2]


def test_row_factors_meet() -> None:
    before = lines_of("r0 = e0 * rinv0", "g_x = c0 * r0", "g_x = g_x * g")
    after = [
        *lines_of("r0 = e0 * rinv0", "g_x = e0 * (c0 * rinv0)"),
        *lines_of("g_x = e0 * (c0 * rinv0 * g)"),
    ]
    assert folded(before, ["e0"]) == after
    assert needed(after, ["g_x"]) == after[2:]


def test_a_factor_that_has_changed_since_is_not_moved() -> None:
    before = lines_of("r0 = e0 * a", "a = a + 1.0", "g_x = c0 * r0")
    after = [*before[:2], Line("g_x", Name("r0") * Name("c0"))]
    assert folded(before, ["e0"]) == after


def rows_of(name: str) -> list[str]:
    model = RowModel(compile_loss(load_spec(paths.require_spec(name))).variants[0], "")
    return TorchProgram(model).rows


def test_what_the_results_do_not_need_stands_behind_their_return() -> None:
    """A call without gradients computes nothing for them."""
    lines = rows_of("gce")
    end = lines.index("if g is None:")
    found = [line.partition(" = ")[0] for line in lines]
    assert {"c0", "rinv0", "grad_x"}.isdisjoint(found[:end])
    assert {"c0", "rinv0", "grad_x"} <= {*found[end:]}


def test_a_call_without_gradients_overwrites_what_they_would_read() -> None:
    """It took a tenth longer where it kept them."""
    assert "w0 = logp0.sub_(logp1) if g is None else logp0 - logp1" in rows_of("jsd_beta")
