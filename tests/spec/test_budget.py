"""What reading and compiling a spec may cost: small texts that are large inside, and the watch."""

import subprocess
import sys
import threading

import pytest

from lossgen import paths
from lossgen.budget import OverBudget, spending
from lossgen.compiler import compile_loss
from lossgen.errors import Location, LossgenError
from lossgen.options import options
from lossgen.spec.load import load_spec, load_text
from lossgen.spec.size import Sizes


def _nested(step, inner, count):
    for _ in range(count):
        inner = step.replace("@", inner)
    return inner


def _spec(formula, more=""):
    return f"name: t\ntransform: '{formula}'\n{more}"


def _lets(first, step, count):
    lines = [f"  a0: '{first}'"]
    lines += [f"  a{i}: '{step.replace('@', f'a{i - 1}')}'" for i in range(1, count + 1)]
    return "let:\n" + "\n".join(lines) + "\n"


# each of them took minutes, or gigabytes
LARGE_INSIDE = {
    "powers of powers": (_spec(_nested("(@)**64", "p[y]", 5)), "2:13: error LG142"),
    "a power of a power": (_spec("sum((p**64)**64)"), "2:13: error LG142"),
    "a power of a sum": (_spec("(1+p[y]+x[y])**64"), "2:13: error LG142"),
    "a product of sums": (_spec("*".join(["(1+p[y]+x[y])"] * 64)), "2:13: error LG142"),
    "a let that is squared": (_spec("a60", _lets("p[y]+x[y]", "@*@", 60)), "error LG142"),
    "a let that is doubled": (_spec("a60", _lets("p[y]", "@+@", 60)), "error LG142"),
    "a let used twice": (_spec("a30", _lets("p[y]", "tanh(@*exp(@))", 30)), "error LG142"),
    "a let in a sum": (_spec("sum(a60)", _lets("p+x", "@*@", 60)), "error LG142"),
    "a tower of lets": (_spec("a300", _lets("p[y]", "tanh(@)", 300)), "error LG142"),
    "unknown keys": (_spec("x[y]", "".join(f"k{i}: 1\n" for i in range(20_000))), "error LG113"),
    "parameters": (
        _spec("x[y]", "parameters:\n" + "".join(f"  k{i}: 1\n" for i in range(20_000))),
        "504:3: error LG113: the spec is too large: a mapping of more than 500 entries",
    ),
    "variants": (_spec("x[y]", f"variants: [{'[], ' * 40_000}]\n"), "error LG113"),
    "nested keys": (_spec("x[y]", f"notes: {'{a: ' * 60_000}\n"), "error LG113"),
    "blocks": ("- " * 100_000, "error LG113"),
    "aliases": (_spec("x[y]", "notes: [&a [x, x], &b [*a, *a], *b, *b]\n"), "error LG112"),
}


@pytest.mark.parametrize(("spec", "text"), list(LARGE_INSIDE.values()), ids=LARGE_INSIDE)
def test_what_is_large_inside_is_refused_before_it_is_formed(spec, text):
    with pytest.raises(LossgenError) as caught:
        load_text(spec)
    assert text in str(caught.value)


def test_the_size_is_told_and_can_be_raised(monkeypatch):
    spec = _spec("(1 + p[y] + x[y])**32")
    with pytest.raises(LossgenError) as caught:
        load_text(spec)
    assert str(caught.value) == (
        "<string>:2:13: error LG142: the formula is too large: multiplied out, it and "
        "its derivative have 107716 nodes, at most 10000\n"
        "  transform: '(1 + p[y] + x[y])**32'\n"
        "              ^^^^^^^^^^^^^^^^^^^^^\n"
        "hint: lets are opened, powers and products of sums multiplied out: lower powers and less "
        "nesting cost less; LOSSGEN_MAX_NODES raises the limit"
    )
    monkeypatch.setenv("LOSSGEN_MAX_NODES", "200000")
    load_text(spec)


def test_a_file_that_never_ends_is_refused(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_bytes(b"#" * 10_000_000)
    with pytest.raises(LossgenError, match="LG113: the spec is too large: more than 1000000 bytes"):
        load_spec(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(LossgenError, match="LG113"):
        load_spec(path)


def test_the_catalogue_is_small():
    for path in sorted(paths.specs_dir().glob("*.yaml")):
        spec = load_spec(path)
        sizes = Sizes(spec.let)
        formulas = [*(t.expr for t in spec.terms), *(o.expr for o in spec.outputs)]
        assert max(sizes.of(f).nodes for f in formulas) < options().max_nodes / 4, path.name


def _work():
    while True:
        sum(range(1000))


def _place():
    return Location("t.yaml", 2, 12, 4, "transform: x[y]")


def test_the_watch_stops_what_takes_too_long(monkeypatch):
    monkeypatch.setenv("LOSSGEN_MAX_SECONDS", "1")
    with pytest.raises(OverBudget) as caught, spending("t", _place):
        _work()
    assert str(caught.value) == (
        "t.yaml:2:12: error LG201: 't' is too dear to compile: 1 seconds of processor time, of 1 "
        "allowed\n"
        "  transform: x[y]\n"
        "             ^^^^\n"
        "hint: fewer different softmaxes, lower powers and less nesting cost less; "
        "LOSSGEN_MAX_SECONDS raises the limit"
    )
    assert not [t for t in threading.enumerate() if t.name == "lossgen-budget"]


def test_the_watch_works_in_any_thread_and_in_that_one_alone(monkeypatch):
    monkeypatch.setenv("LOSSGEN_MAX_SECONDS", "1")
    caught = []

    def work():
        try:
            with spending("t", _place):
                _work()
        except OverBudget as error:
            caught.append(error.id)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == ["LG201"]


def _fill(held):
    while len(held) < 10_000_000:
        held.append([len(held)])


def test_memory_counts_where_python_objects_hold_it(monkeypatch):
    monkeypatch.setenv("LOSSGEN_MAX_MIB", "100")
    held = []
    with pytest.raises(OverBudget, match="MiB, of 100 allowed"), spending("t", _place):
        _fill(held)
    held.clear()


def test_a_budget_within_a_budget_is_part_of_it():
    with spending("outer", _place), spending("inner", _place):
        assert len([t for t in threading.enumerate() if t.name == "lossgen-budget"]) == 1


@pytest.mark.parametrize(("error", "text"), [(RecursionError, "nest"), (MemoryError, "memory")])
def test_what_python_cannot_hold_is_over_budget_too(error, text):
    with pytest.raises(OverBudget, match=text), spending("t", _place):
        raise error


def test_a_compilation_that_takes_too_long_names_its_formula(monkeypatch):
    monkeypatch.setenv("LOSSGEN_MAX_SECONDS", "1")
    spec = load_text(_spec("sum((softmax(2*x) + softmax(3*x) + softmax(4*x) + softmax(x))**2)"))
    with pytest.raises(OverBudget, match="<string>:2:13: error LG201: 't' is too dear"):
        compile_loss(spec)


def test_a_compile_leaves_nothing_that_waits() -> None:
    """Taking back an exception that nothing had raised kept the interpreter looking for it: calls
    under a profiler never came back."""
    program = (
        "import cProfile, lossgen\n"
        "from lossgen.spec.load import load_text\n"
        "lossgen.compile_loss(load_text('name: t\\ntransform: -logp[y]\\n'), draft=True)\n"
        "cProfile.runctx('sorted([2, 1])', {}, {})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=200, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
