"""LaTeX as MathML, which browsers draw themselves, and the font that they draw it with.

The converter knows no ``aligned``: lines become the rows of a table here.  The font, STIX Two Math,
is that of the package ``ziamath``, cut down to the characters that formulas have.
"""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path

from tools.site.tex_layout import Line

__all__ = ["aligned_lines", "display", "inline", "write_font"]

_OPERATOR = re.compile(r"\\operatorname\{([^{}]*)\}(?:_\{1\}(?=\{))?")
_BODY = re.compile(r"<math[^>]*>(.*)</math>", re.DOTALL)
_ROW = re.compile(r"(?P<left>.*?) &= (?P<right>.*?)(?: \\\\)?$")


def display(lines: list[Line]) -> str:
    """Lines of a left and a right side as one block of HTML, with its LaTeX as the label."""
    rows = "".join(
        f"<mtr><mtd>{_converted(left)}</mtd><mtd>{_converted(right)}</mtd></mtr>"
        for left, right in lines
    )
    said = escape("; ".join(f"{left} {right}".strip() for left, right in lines))
    table = f'<mtable class="lines">{rows}</mtable>'
    return (
        f'<div class="formula" tabindex="0"><math display="block" alttext="{said}">'
        f"{table}</math></div>"
    )


def inline(tex: str) -> str:
    return f"<math>{_converted(tex)}</math>"


def aligned_lines(tex: str) -> list[Line]:
    """The rows of an ``aligned`` of ``lossgen explain --latex``."""
    found = (_ROW.fullmatch(line) for line in tex.splitlines()[1:-1])
    return [(row["left"], f"= {row['right']}") for row in found if row]


def _converted(tex: str) -> str:
    from latex2mathml.converter import convert

    if not tex:
        return ""
    spelled = _OPERATOR.sub(_word, tex)
    body = _BODY.fullmatch(convert(spelled))
    assert body, tex
    return body[1]


def _word(match: re.Match[str]) -> str:
    """An upright word; SymPy takes the 1 of ``expm1`` for an index."""
    digit = "1" if match[0].endswith("_{1}") else ""
    return rf"\,\mathrm{{{match[1]}{digit}}}"


def write_font(html: list[str], file: Path) -> None:
    """The font, with the characters of the formulas in ``html``, as WOFF."""
    import ziamath
    from fontTools import subset

    source = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    text = {c for page in html for m in re.findall(r"<math.*?</math>", page) for c in unescape(m)}
    italic = {chr(c) for c in range(0x1D434, 0x1D7CC)} | {"\u210e"}  # what single letters become
    chosen = subset.Options(flavor="woff", layout_features=["*"], notdef_outline=True)
    font = subset.load_font(str(source), chosen)
    worker = subset.Subsetter(chosen)
    worker.populate(text="".join(sorted(text | italic | set("()[]{}|‖∑√∂−±·…"))))
    worker.subset(font)
    file.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(file), chosen)
