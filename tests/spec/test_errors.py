"""Errors: rendering, ids, pickling."""

import pickle
import re

import pytest

from lossgen import errors
from lossgen.errors import BuildError, CompileError, CompilerBug, Location, LossgenError, SpecError


def _classes(base=LossgenError):
    for cls in base.__subclasses__():
        yield cls
        yield from _classes(cls)


def test_ids_are_unique_and_classes_listed():
    found = [cls for cls in _classes() if cls.__module__ == "lossgen.errors"]
    assert len({cls.id for cls in found}) == len(found) > 40
    assert {cls.__name__ for cls in found} | {"Location", "LossgenError"} == set(errors.__all__)
    for cls in found:
        assert re.fullmatch(r"LG[12349]\d\d", cls.id)
        assert issubclass(cls, SpecError) == cls.id.startswith("LG1")


def test_text_without_a_place():
    assert str(BuildError("no spec 'a'", hint="see `lossgen list`")) == (
        "error LG300: no spec 'a'\nhint: see `lossgen list`"
    )
    assert str(CompileError("x {y} %s")) == "error LG200: x {y} %s"
    assert str(CompilerBug("impossible")) == (
        "error LG900: impossible\nhint: this is a bug in lossgen: please report it, with the spec"
    )


def test_place_may_be_set_later():
    error = CompileError("needs two sweeps")
    error.location = Location("a.yaml", 3, 9, 4, "    let: x[y]")
    assert error.source_line == "    let: x[y]"
    assert str(error) == ("a.yaml:3:9: error LG200: needs two sweeps\n  let: x[y]\n      ^^^^")


@pytest.mark.parametrize(
    ("line", "column", "width", "shown"),
    [
        ("abc", 4, 1, "  abc\n     ^"),  # just behind the end
        ("\ta\x1b[31mb", 2, 1, "  a?[31mb\n  ^"),
        ("", 1, 1, ""),
        ("abc", 2, 99, "  abc\n   ^^"),
        ("a" * 200, 150, 3, f"  …{'a' * 110}\n  {' ' * 60}^^^"),
    ],
)
def test_caret(line, column, width, shown):
    assert Location("f", 1, column, width, line).caret() == shown


def test_caret_stands_under_the_word():
    line = "1 + " * 60 + "bad" + " + 1" * 60
    top, bottom = Location("f", 1, 241, 3, line).caret().splitlines()
    assert top[bottom.index("^") : bottom.rindex("^") + 1] == "bad"


def test_errors_cross_processes():
    place = Location("a.yaml", 1, 1, 1, "x")
    for error in (
        errors.UnknownName(name="q", location=place, hint="h"),
        BuildError("m"),
        CompilerBug("m"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
