"""The pages of the site: none is missing, and every link leads to one."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossgen import paths
from tools.site.build import navigation, write_pages
from tools.site.catalogue_page import COLUMNS, catalogue_data, catalogue_page
from tools.site.choices import topics
from tools.site.curves_part import ticks
from tools.site.document_pages import documents
from tools.site.facts import every_loss
from tools.site.loss_page import loss_page, usage

LOSSES = every_loss()
STAGES = dict.fromkeys(("parse", "differentiate", "stabilize", "certify", "schedule"), "rules one")
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<to>[^)\s]+)\)")
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def typeset(lines):
    return '<div class="formula"></div>'


def found(name: str) -> dict[str, object]:
    """What a derivation would give, without the time it takes."""
    curve = {"label": name, "loss": [1.0, None], "gradient": [-1.0, 0.0]}
    return {
        "summary": {"statistics": "1 in 1 sweep over the classes", "traffic": "4 bytes"},
        "stages": STAGES,
        "latex": "\\begin{aligned}\n\\ell &= 1\n\\end{aligned}",
        "families": [{"parameter": None, "at": [0.25, 0.75], "curves": [curve], "assumed": []}],
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """All pages by path, the losses' without their derivations."""
    from tools.site import build

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "derived", lambda loss, *_: found(loss.name))
        assert write_pages(LOSSES, folder, typeset) == len(LOSSES)
    root = folder / "pages"
    return {str(p.relative_to(root)): p.read_text("utf-8") for p in root.rglob("*.md")}


# ------------------------------------------------------------------------------- what is there
def test_every_loss_has_a_page_and_a_place_in_the_menu(pages):
    menu = json.dumps(navigation(LOSSES))
    for name in paths.spec_names():
        assert f"# {LOSSES[name].spec.title}" in pages[f"losses/{name}.md"].replace("\\", "")
        assert menu.count(f'"losses/{name}.md"') == 1


def test_every_document_is_a_page_of_the_menu(pages):
    menu = json.dumps(navigation(LOSSES))
    for path in pages:
        assert f'"{path}"' in menu


def test_every_loss_has_a_place_on_which_loss_for_what(pages):
    placed = [name for topic in topics() for name in topic.losses]
    assert set(placed) == set(paths.spec_names())
    for name in placed:
        assert f"(losses/{name}.md)\n" in pages["which_loss.md"]


def test_a_choice_is_one_line_each():
    for topic in topics():
        for name, choice in topic.losses.items():
            for text in (choice.why, choice.unless):
                assert 20 < len(text) < 200, (topic.name, name)
                assert "\n" not in text
                assert text.endswith("."), (topic.name, name)
            for linked in re.findall(r"`(\w+)`", f"{choice.why} {choice.unless}"):
                assert linked in LOSSES


def test_the_catalogue_holds_every_loss(pages):
    data = catalogue_data(LOSSES)
    assert [row["name"] for row in data] == list(paths.spec_names())
    for row in data:
        assert all(row[key] not in ("", []) for key in COLUMNS)
    page = catalogue_page(LOSSES)
    inside = re.search(r'id="catalogue-data">(.*?)</script>', page)
    assert json.loads(inside[1]) == data
    assert page.count("<tr data-name=") == len(data)


def test_a_loss_page_says_all_of_it():
    text = loss_page(LOSSES["gce"], found("gce"), typeset, LOSSES)
    for part in ("## Formula", "## Use", "## Parameters", "## Curves", "## Derivation"):
        assert part in text
    assert "(0, 1\\]" in text  # the domain
    assert "arXiv:1805.07836](https://arxiv.org/abs/1805.07836)" in text
    assert LOSSES["gce"].header["certificate"].partition(" ulp")[0].replace("<", "&lt;") in text
    assert "## Speed" in text  # recorded of this one
    assert "smallest eigenvalue of the Hessian" in text  # so is its sheet
    assert "equal to [mae](mae.md)" in text
    assert "[Noisy labels](../which_loss.md#noisy-labels): Between cross-entropy" in text


# ------------------------------------------------------------------------------- links
def links(text: str) -> Iterator[str]:
    yield from (match["to"] for match in LINK.finditer(FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_to_pages(pages):
    for path, text in pages.items():
        for to in links(text):
            if "://" in to:
                continue
            target, _, anchor = to.partition("#")
            there = str(Path("/", path).parent.joinpath(target).resolve())[1:] if target else path
            assert there in pages, f"{path}: {to}"
            assert not anchor or anchor in anchors(pages[there]), f"{path}: {to}"


def test_links_of_the_table_lead_to_pages(pages):
    linked = re.findall(r'href="([^":]+)\.html"', pages["losses/index.md"])
    assert [f"losses/{to}.md" for to in linked] == [f"losses/{name}.md" for name in LOSSES]
    assert all(f"losses/{to}.md" in pages for to in linked)


def test_nothing_is_fetched_from_elsewhere(pages):
    assets = Path(str(Path(loss_page.__code__.co_filename).parent / "assets"))
    texts = [*pages.values(), *(p.read_text("utf-8") for p in assets.iterdir())]
    for text in texts:
        assert not re.search(r"""(?:src=|url\(|@import )["']?(?:https?:)?//""", text)


def test_documents_keep_their_images_and_lose_their_marks():
    found = documents()
    assert all(path.is_file() for path in found.images.values())
    assert "gce.png" in found.images
    for path, text in found.pages.items():
        assert "<!-- from" not in FENCE.sub("", text), path
    assert "## Use" in found.pages["index.md"]
    assert "## Accuracy and speed" in found.pages["overview.md"]


# ------------------------------------------------------------------------------- use, curves
def signatures() -> dict[str, ast.arguments]:
    tree = ast.parse(paths.stub_file().read_text(encoding="utf-8"))
    return {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_examples_of_use_fit_the_signatures():
    known = signatures()
    for loss in LOSSES.values():
        calls = [n for n in ast.walk(ast.parse(usage(loss))) if isinstance(n, ast.Call)]
        assert [call.func.id for call in calls] == [n for n in (loss.function, loss.linear) if n]
        for call in calls:
            wanted = known[call.func.id]
            assert len(call.args) == len(wanted.args), loss.name
            given = {keyword.arg for keyword in call.keywords}
            names = [arg.arg for arg in wanted.kwonlyargs]
            pairs = zip(names, wanted.kw_defaults, strict=True)
            required = {name for name, default in pairs if default is None}
            assert required <= given <= set(names), loss.name


def test_pages_are_made_once(tmp_path):
    one = {"mae": LOSSES["mae"]}
    said: list[str] = []
    assert write_pages(one, tmp_path, typeset, said.append) == 1
    assert write_pages(one, tmp_path, typeset, said.append) == 0
    (tmp_path / "pages" / "losses" / "mae.md").unlink()
    assert write_pages(one, tmp_path, typeset, said.append) == 1
    assert said == ["deriving mae"]
    kept = json.loads((tmp_path / "derived" / "mae.json").read_text())
    (family,) = kept["families"]
    (curve,) = family["curves"]
    at = family["at"]
    assert curve["loss"] == pytest.approx([1 - p for p in at], abs=1e-4)
    assert curve["gradient"] == pytest.approx([-p * (1 - p) for p in at], abs=1e-4)


def test_ticks_are_round():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-8, 0.3) == [-8, -6, -4, -2, 0]
    assert ticks(-0.07, 0.003) == [-0.06, -0.04, -0.02, 0]
