"""Bad specs and the exact text of their errors: the tables are bad_*.txt beside this file.

An entry is ``=== name``, the spec, ``--- error``, the whole error text, and a blank line.
"""

import time
from pathlib import Path

import pytest

from lossgen.errors import SpecError
from lossgen.spec.load import load_spec, load_text

HEAD = "name: t\n"


def _entries():
    for table in sorted(Path(__file__).parent.glob("bad_*.txt")):
        for entry in table.read_text("utf-8").split("=== ")[1:]:
            name, rest = entry.split("\n", 1)
            spec, error = rest.split("--- error\n")
            yield pytest.param(spec, error.removesuffix("\n\n"), id=name)


@pytest.mark.parametrize(("spec", "text"), list(_entries()))
def test_exact_text(spec, text):
    with pytest.raises(SpecError) as caught:
        load_text(spec)
    assert str(caught.value) == text


def test_names_of_entries_are_unique():
    names = [entry.id for entry in _entries()]
    assert len(names) == len(set(names)) > 130


def _formula(text):
    return f"{HEAD}transform: {text}\n"


HOSTILE = {
    "100 kB of nested parentheses": (
        _formula("(" * 50_000 + "x" + ")" * 50_000),
        "2:12: error LG142: the formula is too large: 100001 characters, at most 4000",
    ),
    "nested parentheses": (
        _formula("(" * 60 + "x" + ")" * 60),
        "2:52: error LG142: the formula is too large: brackets nest more than 40 deep",
    ),
    "many words": (
        _formula("x[y]" + "+x" * 1000),
        "2:1012: error LG142: the formula is too large: more than 1000 words",
    ),
    "many signs": (
        _formula("-" * 990 + "x"),
        "2:113: error LG142: the formula is too large: operations nest more than 100 deep",
    ),
    "many terms": (
        _formula("x[y]" + "+x[y]" * 150),
        "2:12: error LG142: the formula is too large: operations nest more than 100 deep",
    ),
    "many powers": (
        _formula("x[y]" + "**x[y]" * 150),
        "2:606: error LG142: the formula is too large: operations nest more than 100 deep",
    ),
    "nested lists": (
        f"{HEAD}notes: {'[' * 100_000}\n",
        "2:17: error LG113: the spec is too large: nested more than 10 deep",
    ),
    "long text": (
        f"{HEAD}notes: {'a' * 300_000}\n",
        "1:1: error LG113: the spec is too large: 300016 characters, at most 250000",
    ),
    "long name": (
        _formula("x[y] + " + "a" * 3000),
        f"2:19: error LG144: unknown name '{'a' * 49}…'",
    ),
    "aliases of aliases": (
        f"{HEAD}notes: [&a [x], *a, *a]\n",
        "2:9: error LG112: YAML anchors and aliases have no place in a spec",
    ),
    "control character": (
        f"{HEAD}title: a\x07b\n",
        "2:9: error LG114: U+0007 is a control character, which has no place in a spec",
    ),
    "empty": ("", "1:1: error LG101: cannot read the spec: it is empty"),
    "many digits": (
        f'{HEAD}parameters: {{q: {{default: {"9" * 5000}, domain: "[0, 1]"}}}}\n',
        "2:27: error LG106: 'parameters.q.default' must be a number",
    ),
    "product of powers": (
        _formula("x[y] + " + "*".join(["9**300"] * 8)),
        "2:19: error LG143: '9**300*9**300' is too large a number",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_quickly(name):
    spec, first_line = HOSTILE[name]
    start = time.perf_counter()
    with pytest.raises(SpecError) as caught:
        load_text(spec)
    assert str(caught.value).splitlines()[0] == f"<string>:{first_line}"
    assert time.perf_counter() - start < 5


def test_no_file(tmp_path):
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "none.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/none.yaml:1:1: error LG101: cannot read the spec: No such file or directory"
    )


def test_not_text(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_bytes(b"name: t\ntitle: \xff\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value) == (
        f"{path}:2:8: error LG101: cannot read the spec: it is not UTF-8 text"
    )


def test_file_name(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("name: mine\ntransform: -logp[y]\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value) == (
        f"{path}:1:7: error LG111: the name 'mine' is not the file's name\n"
        "  name: mine\n"
        "        ^^^^\n"
        "hint: name and file name must agree: the generated module is named after them"
    )
