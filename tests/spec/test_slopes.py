"""The formulas of derivatives, against derivatives that share nothing with them, at 50 digits."""

from __future__ import annotations

import mpmath as mp
import pytest

from lossgen import paths
from lossgen.ir.literal import formula, literal
from lossgen.ir.rows import Row
from lossgen.passes.samples import plain_rows
from lossgen.spec.derived import slope, written
from lossgen.spec.load import load_spec, load_text
from lossgen.spec.model import LossSpec
from lossgen.spec.slopes import RULES, NoSlope
from lossgen.spec.vocabulary import ARGUMENTS, CLASS_MAPS, REDUCTIONS

_DIGITS = 50


def _value(derived: LossSpec, row: Row) -> list[object]:
    """The formulas of a derived spec as they are written."""
    given = {**row.rows, **row.vocab, **row.streams, **row.parameters}
    return [formula(derived, o.expr, row.x, row.y, given)[0] for o in derived.outputs]


def _truth(spec: LossSpec, by: str, row: Row) -> list[object]:
    given = {**row.rows, **row.vocab, **row.streams, **row.parameters}
    return literal(slope(spec, by), row.x, row.y, given).results


def _agree(spec: LossSpec, by: str, rows: list[Row]) -> None:
    derived = slope(spec, by, max(spec.variants, key=len))
    tried = 0
    with mp.workdps(_DIGITS):
        for row in rows:
            for here, there in zip(_value(derived, row), _truth(spec, by, row), strict=True):
                if mp.isfinite(there):
                    assert abs(here - there) <= mp.mpf(10) ** -25 * (1 + abs(there)), row
                    tried += 1
    assert tried


def _text(func: str) -> str:
    """A formula in which a parameter moves every argument of a function, one after the other."""
    names = ARGUMENTS[func]
    if func in (*CLASS_MAPS, *REDUCTIONS):
        inner = f"{func}(sin(a*x)*a + x)"
        return f"{inner}[y]" if func in CLASS_MAPS else inner
    inside = {"acosh": "1 + a*exp(x[y])", "log": "a*exp(x[y])", "sqrt": "a*exp(x[y])"}
    first = inside.get(func, "sigmoid(a*x[y])/2")
    if func == "where":
        return "where(x[y] < a, a*x[y], a**2*x[y])"
    if func == "mercator":
        return f"mercator({first}, 3)"
    if func == "root":
        return "root(t, sum(relu(a*x - t)) - 1, max(a*x) - 1, max(a*x))"
    if func == "polygamma":
        return f"polygamma(2, {first}) + 0*x[y]"
    rest = {"clip": ["a/8", "a/5"], "softcap": ["a + exp(x[y])"]}.get(func, ["a/4"])
    return f"{func}({', '.join([first, *rest][: len(names)])}) + 0*x[y]"


@pytest.mark.parametrize("func", sorted(ARGUMENTS))
def test_the_derivative_of_every_function(func: str) -> None:
    spec = load_text(
        f'name: t\nparameters: {{a: {{default: 1.3, domain: "(0, 4)"}}}}\n'
        f'transform: "{_text(func)} + a*x[y]"\n'
    )
    if func in ("root", "second_max"):
        with pytest.raises(NoSlope, match=rf"derivative with respect to a is formed of {func}"):
            slope(spec, "a")
        return
    _agree(spec, "a", list(plain_rows((spec,))))


def test_every_function_has_a_rule_or_a_reason() -> None:
    assert ARGUMENTS.keys() - RULES.keys() == {"root", "where", "second_max"}


@pytest.mark.parametrize("others", ["", ", over=others"])
@pytest.mark.parametrize("func", [*CLASS_MAPS, *REDUCTIONS])
@pytest.mark.parametrize("moved", ["a*x", "x + a"])
def test_what_moves_all_classes_alike(func: str, others: str, moved: str) -> None:
    """x + a has the softmax of x, and a maximum that is a larger."""
    call = f"{func}({moved}{others})"
    call = f"sum({call}*x{others})" if func in CLASS_MAPS else call
    spec = load_text(
        f'name: t\nparameters: {{a: {{default: 1.3, domain: "(0, 4)"}}}}\n'
        f'transform: "{call} + a*x[y]"\n'
    )
    if func == "second_max" and moved == "a*x":
        return
    if func == "log_softmax" and others:
        return  # -∞ at y
    _agree(spec, "a", list(plain_rows((spec,))))


def _parameters() -> list[tuple[str, str]]:
    found = []
    for name in paths.spec_names():
        spec = load_spec(paths.specs_dir() / f"{name}.yaml")
        found += [(name, p) for p, entry in spec.parameters.items() if not entry.integer]
        found += [(name, n) for n, entry in spec.inputs.items() if entry.kind == "row"]
    return found


@pytest.mark.parametrize(("name", "by"), _parameters(), ids="-".join)
def test_every_parameter_and_row_input_of_the_catalogue(name: str, by: str) -> None:
    spec = load_spec(paths.specs_dir() / f"{name}.yaml")
    _agree(spec, by, list(plain_rows((spec,))))


def test_a_derivative_is_written_in_the_language() -> None:
    """What the header of a module shows can be read, and parsed again."""
    spec = load_spec(paths.specs_dir() / "gce.yaml")
    [output] = slope(spec, "q").outputs
    text = "-(p[y]**q*log(p[y]))/q - (1 - p[y]**q)/q**2"
    again = load_text(
        f'name: t\nparameters: {{q: {{default: 1, domain: "(0, 1]"}}}}\noutputs: {{d: "{text}"}}\n'
    )
    assert output.source == written(again.outputs[0].expr)
    assert output.source == (
        "-(softmax(x)[y]**q*log(softmax(x)[y]))/q - (1 - softmax(x)[y]**q)/q**2"
    )
