"""``lossgen plot``: the picture has every curve, and the values of a family lie in the domain."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from lossgen import paths
from lossgen.cache import load
from lossgen.curves import declared, function_of
from lossgen.draw import family, plot
from lossgen.errors import LossgenError
from lossgen.spec.load import load_spec


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture(lossgen, tmp_path, suffix, head):
    file = tmp_path / f"losses{suffix}"
    given = ("plot", "gce", "focal", "-o", file, "--", "-logp[y]")
    ran = lossgen(*given)
    assert (ran.code, ran.out) == (0, f"wrote {file}\n"), ran.err
    assert file.read_bytes().startswith(head)
    if suffix == ".svg":
        ElementTree.parse(file)
    else:
        before = file.read_bytes()
        lossgen(*given)
        assert file.read_bytes() == before


def test_the_curves_are_compared_ones():
    figure = plot(("gce", {"q": 0.5}), "brier", "kd_forward_kl")
    axes = figure.axes
    assert [len(a.lines) for a in axes] == [4] * 4  # three curves, and the line at 0
    line = axes[0].lines[0]
    assert line.get_label() == "gce q=0.5"
    for p, loss in zip(*line.get_data(), strict=True):
        assert loss == pytest.approx((1 - p**0.5) / 0.5)
    assert "teacher is a row with p_y = 0.9" in figure.get_supxlabel()


OF_ROWS = [n for n in paths.spec_names() if not load_spec(paths.require_spec(n)).batch]


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_family_is_in_the_domain(name):
    """Each value is checked as a call checks it: by calling."""
    entries = family(name)
    loss = declared(function_of(name))
    assert (len(entries) > 1) == bool(loss.parameters)
    for entry in entries:
        if loss.parameters:
            _, options = entry
            (first,) = options
            assert first == loss.parameters[0].name
            assert loss.parameters[0].domain.contains(options[first])


def test_the_family_of_a_parameter():
    assert family("sce", "beta", [1, 2]) == [("sce", {"beta": 1}), ("sce", {"beta": 2})]
    assert family("gce", alone=False) == ["gce"]
    assert family(("gce", {"q": 0.5})) == [("gce", {"q": 0.5})]
    assert load("gce").gce_loss is function_of("gce")


def test_a_table_instead(lossgen):
    ran = lossgen("plot", "gce", "--vary", "q=0.5,1", "--text")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["gce", "q=0.5", "gce", "q=1"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("gce", "-o", "gce.bmp"), "cannot draw gce.bmp\nhint: the name ends in .png, .svg, .pdf"),
        (("gce", "--vary", "gamma"), "gce has no parameter 'gamma'\nhint: its parameters: q"),
        (("gce", "--vary", "q=a"), "the values are numbers"),
        (("gce", "--vary", "q=2", "-o", "x.png"), "q = 2 is outside its domain (0, 1]"),
        (("gec",), "no spec 'gec'"),
    ],
)
def test_mistakes(lossgen, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    ran = lossgen("plot", *arguments)
    assert ran.code == 2
    assert text in ran.err
    assert not list(tmp_path.iterdir())


def test_drawing_needs_its_extra(monkeypatch):
    from lossgen import extras

    extras.require.cache_clear()
    monkeypatch.setitem(extras.EXTRAS, "plot", ("no_such_package",))
    try:
        with pytest.raises(LossgenError) as error:
            plot("gce")
    finally:
        extras.require.cache_clear()
    assert str(error.value) == (
        "error LG317: drawing needs what is not installed: no_such_package\n"
        'hint: pip install "lossgen[plot]"'
    )
