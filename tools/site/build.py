"""All pages, and the generator that makes HTML of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tools.site.catalogue_page import catalogue_page
from tools.site.choices import topics
from tools.site.choices_page import choices_page
from tools.site.derive import derived, key_of
from tools.site.document_pages import documents
from tools.site.facts import ROOT, Facts, every_loss
from tools.site.loss_page import Typeset, loss_page

__all__ = ["HERE", "build", "navigation", "write_pages"]

HERE = Path(__file__).parent
_ASSETS = HERE / "assets"
_GUIDE = (
    *("overview", "calling", "parallel", "integrations", "first_loss", "language"),
    *("properties", "sheets"),
)
_FIGURES = ("benchmarks", "catalogue")
_INSIDE = ("numerics", "rewrites", "verification", "ir", "templates", "operations", "contributing")


def build(out: Path, said: Callable[[str], None] = print) -> Path:
    """The site under ``out``/html.

    Args:
        out: a folder that is kept between runs: what has not changed is not made again.

    Returns:
        Its home page.
    """
    from mkdocs.commands.build import build as generate
    from mkdocs.config import load_config

    from tools.site.mathml import display, write_font

    losses = every_loss()
    pages = out / "pages"
    made = write_pages(losses, out, display, said)
    font = pages / "assets" / "math.woff"
    if made or not font.is_file():
        write_font([p.read_text(encoding="utf-8") for p in (pages / "losses").glob("*.md")], font)
    said(f"{made} of {len(losses)} pages of losses made")
    config = load_config(
        str(HERE / "mkdocs.yml"),
        docs_dir=str(pages.resolve()),
        site_dir=str((out / "html").resolve()),
        nav=navigation(losses),
        strict=True,
    )
    generate(config)
    html = out / "html"
    index = (html / "search" / "search_index.json").read_text(encoding="utf-8")
    # For a page that is opened as a file, which may fetch nothing.
    (html / "search" / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")
    return html / "index.html"


def write_pages(
    losses: dict[str, Facts], out: Path, typeset: Typeset, said: Callable[[str], None] = print
) -> int:
    """The pages as Markdown under ``out``/pages.

    Returns:
        How many pages of losses were made: those whose spec, compiler or generator changed.
    """
    pages = out / "pages"
    (pages / "losses").mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.json"
    keys: dict[str, str] = json.loads(manifest.read_text()) if manifest.is_file() else {}
    made = 0
    for name, loss in losses.items():
        file, key = pages / "losses" / f"{name}.md", _key(loss)
        if keys.get(name) == key and file.is_file():
            continue
        found = derived(loss, out / "derived", said)
        file.write_text(loss_page(loss, found, typeset, losses), encoding="utf-8")
        keys[name] = key
        made += 1
        manifest.write_text(json.dumps(keys, indent=1))
    for gone in {p.stem for p in (pages / "losses").glob("*.md")} - {*losses, "index"}:
        (pages / "losses" / f"{gone}.md").unlink()
    for path, text in _other_pages(losses).items():
        (pages / path).write_text(text, encoding="utf-8")
    for name, image in documents().images.items():
        shutil.copyfile(image, pages / name)
    shutil.copytree(_ASSETS, pages / "assets", dirs_exist_ok=True)
    return made


def _other_pages(losses: dict[str, Facts]) -> dict[str, str]:
    return {
        **documents().pages,
        "which_loss.md": choices_page(losses),
        "losses/index.md": catalogue_page(losses),
    }


def _key(loss: Facts) -> str:
    """A digest of all that the page is made of."""
    digest = sha256(key_of(loss).encode())
    for source in (*sorted(HERE.glob("*.py")), HERE / "choices.yaml"):
        digest.update(source.read_bytes())
    for result in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        digest.update(result.read_bytes())
    digest.update((loss.sheet or "").encode())
    return digest.hexdigest()


def navigation(losses: dict[str, Facts]) -> list[dict[str, Any]]:
    """The menu: a loss stands under the first topic that has it."""
    left = dict.fromkeys(losses)
    by_topic = []
    for topic in topics():
        names = [name for name in topic.losses if name in left]
        for name in names:
            del left[name]
        if names:
            by_topic.append({topic.name: [{name: f"losses/{name}.md"} for name in names]})
    return [
        {"Home": "index.md"},
        {"Which loss": "which_loss.md"},
        {"Losses": [{"Catalogue": "losses/index.md"}, *by_topic]},
        {"Guide": [f"{name}.md" for name in _GUIDE]},
        {"Measured": [f"{name}.md" for name in _FIGURES]},
        {"Inside": [f"{name}.md" for name in _INSIDE]},
    ]
