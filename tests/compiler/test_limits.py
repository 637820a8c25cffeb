"""A declared identity that does not hold fails the build; an identity of a loss depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossgen import cache, paths
from lossgen.compiler import compile_loss
from lossgen.errors import SpecError
from lossgen.passes.limits import check_limits
from lossgen.spec.load import load_text

GCE = """\
name: mine
parameters: {q: {default: 0.7, domain: "(0, 1]"}}
transform: (1 - p[y]**q) / q
limits:
  - LIMIT
"""

# the limit; the error's id; its line and the text at its place; what it says
WRONG = [
    (
        '{when: {q: 1}, equals: "1 - p[y] / 2"}',
        "LG132",
        '"1 - p[y] / 2"',
        "mine at q = 1 is 0.4140536, but 1 - p[y] / 2 is 0.7070268, at a row with logits [",
    ),
    ("{when: {q: 1}, equals: cross_entropy}", "LG132", "cross_entropy", "but cross_entropy is "),
    (
        "{when: {q: 0.5}, equals: gce, with: {q: 0.25}}",
        "LG132",
        "gce",
        "mine at q = 0.5 is 0.4690573, but gce at q = 0.25 is ",
    ),
    ('{when: {q: 0}, equals: "logp[y]"}', "LG132", '"logp[y]"', "mine at q = 0 is "),
    ('{when: {q: 0}, equals: "-log(p[y] - p[y])"}', "LG132", '"-log', "is not finite, at a row"),
    (
        "{when: {q: 1}, equals: crossentropy}",
        "LG125",
        "crossentropy",
        "no loss of the catalogue is called 'crossentropy'",
    ),
    (
        "{when: {q: 1}, equals: hinge_squared}",
        "LG125",
        "hinge",
        "see `lossgen list`, or write a formula",
    ),
    ("{when: {q: 1}, equals: gce, with: {k: 1}}", "LG123", "1}}", "'gce' names 'k'"),
    ("{when: {q: 1}, equals: gce, with: {q: 7}}", "LG121", "7}}", "outside its domain"),
    ("{when: {q: 1}, equals: token_stats}", "LG125", "token_stats", "has several outputs"),
    ("{when: {q: 1}, equals: reverse_kl}", "LG125", "reverse_kl", "this loss has no input"),
]


@pytest.mark.parametrize(("limit", "id_", "at", "said"), WRONG)
def test_a_wrong_limit_fails_the_build(limit: str, id_: str, at: str, said: str) -> None:
    """It built, and `lossgen verify` was the first to say so; a misspelt loss nobody told of."""
    spec = load_text(GCE.replace("LIMIT", limit))
    with pytest.raises(SpecError) as caught:
        compile_loss(spec)
    error = caught.value
    assert error.id == id_
    assert error.location is not None
    assert error.location.line == 5
    assert error.location.text[error.location.column - 1 :].startswith(at)
    assert said in str(error)


@pytest.mark.parametrize(
    "limit",
    [
        '{when: {q: 1}, equals: "1 - p[y]"}',
        "{when: {q: 1}, equals: mae}",
        "{when: {q: 0}, equals: cross_entropy}",
        "{when: {}, equals: gce, with: {q: 0.7}}",
        "{when: {q: 0.25}, equals: gce, with: {q: 0.25}}",
    ],
)
def test_a_right_one_holds(limit: str) -> None:
    assert check_limits(load_text(GCE.replace("LIMIT", limit))) == 1


def test_without_a_target_and_at_infinity() -> None:
    spec = load_text(
        'name: mine\nparameters: {a: {default: 1, domain: "[0, inf)"}}\n'
        'transform: "-sum(p*logp)/(1 + 1/a)"\n'
        "limits: [{when: {a: .inf}, equals: '-sum(p*logp)'}, {when: {a: 0}, equals: '0*sum(p)'}]\n"
    )
    assert check_limits(spec) == 2
    text = "name: mine\ntransform: '-sum(p*logp)'\nlimits: [{when: {}, equals: cross_entropy}]\n"
    with pytest.raises(SpecError, match="'cross_entropy' has a target, and this loss has none"):
        check_limits(load_text(text))


def test_the_cache_knows_what_a_limit_is_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited loss of the catalogue was not seen: the spec stayed good, or bad."""
    specs, mine = tmp_path / "specs", tmp_path / "mine.yaml"
    specs.mkdir()
    for name in ("mae", "gce"):
        (specs / f"{name}.yaml").write_text("name: first\n")
    monkeypatch.setattr(paths, "specs_dir", lambda: specs)

    def changed(limit: str, name: str) -> bool:
        mine.write_text(GCE.replace("LIMIT", limit))
        before = cache.name_of(mine)
        (specs / f"{name}.yaml").write_text((specs / f"{name}.yaml").read_text() + "# edited\n")
        return cache.name_of(mine) != before

    assert changed("{when: {q: 1}, equals: mae}", "mae")
    assert changed("{when: {q: 1}, \"equals\":\n     'mae'}", "mae")
    assert changed('{when: {q: 1}, "\\x65quals": "ma\\u0065"}', "mae")
    assert not changed("{when: {q: 1}, equals: mae}", "gce")
    assert not changed('{when: {q: 1}, equals: "1 - p[y]"}', "mae")
