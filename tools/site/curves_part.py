"""Loss and gradient over p_y as inline SVG, a family for each parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from tools.site.facts import Facts

__all__ = ["curves_part", "ticks"]

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 28, 38  # margins
_MOST = 8.0  # a loss without bound is cut where the others can be seen, as lossgen.plot does
_SUB = '<tspan dy="3" font-size="75%">y</tspan>'
_P_Y = f"p{_SUB}"
_PANELS = (("loss", "loss"), ("gradient", f"∂loss / ∂x{_SUB}"))


def curves_part(loss: Facts, families: Sequence[dict[str, Any]]) -> str:
    """The first family in full, the others folded."""
    first, *others = families
    parts = [
        "Rows of ten classes, all but the target alike, over the target's probability.\n",
        _figure(loss, first),
    ]
    for one in others:
        title = f"The same for {one['parameter']}"
        parts.append(f"<details><summary>{escape(title)}</summary>{_figure(loss, one)}</details>\n")
    return "\n".join(parts)


def _figure(loss: Facts, one: dict[str, Any]) -> str:
    parameter = one["parameter"]
    default = loss.spec.parameters[parameter].default if parameter else None
    labels = [_label(loss, curve["label"], parameter) for curve in one["curves"]]
    usual = f"{default:g}" if default is not None else None
    panels = "".join(_panel(one, key, title, labels) for key, title in _PANELS)
    entries = "".join(
        f'<li><span class="stroke c{k % 6}"></span>{escape(label)}'
        f"{' (default)' if parameter and label == f'{parameter} = {usual}' else ''}</li>"
        for k, label in enumerate(labels)
    )
    assumed = f"<p>{escape('; '.join(one['assumed']))}</p>" if one["assumed"] else ""
    return (
        f'<figure class="curves"><div class="panels">{panels}</div>'
        f"<figcaption><ul>{entries}</ul>{assumed}</figcaption></figure>\n"
    )


def _label(loss: Facts, label: str, parameter: str | None) -> str:
    """``gce q=0.7`` as q = 0.7; of several results, the name of one."""
    if parameter:
        return label.removeprefix(f"{loss.name} ").replace("=", " = ")
    return label.removeprefix(f"{loss.name}.")


# ------------------------------------------------------------------------- one panel
def _panel(one: dict[str, Any], key: str, title: str, labels: Sequence[str]) -> str:
    values = [v for curve in one["curves"] for v in curve[key] if v is not None]
    low, high = _range(values)
    inner, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        return tall * (high - value) / (high - low)

    rows = ticks(low, high)
    grid = "".join(
        f'<line class="{"axis" if t == 0 else "grid"}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{_TOP + y(t):.1f}" y2="{_TOP + y(t):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + y(t) + 4:.1f}" text-anchor="end">{_number(t)}</text>'
        for t in rows
    )
    below = "".join(
        f'<text x="{_LEFT + inner * t:.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
        f'text-anchor="{"end" if t == 1 else "middle"}">{t:g}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    lines = "".join(
        f'<polyline class="c{k % 6}" points="{points}"><title>{escape(label)}</title></polyline>'
        for k, (curve, label) in enumerate(zip(one["curves"], labels, strict=True))
        for points in _pieces(one["at"], curve[key], inner, y)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{key} over p_y">'
        f'<text class="title" x="{_LEFT}" y="16">{title}</text>{grid}{below}'
        f'<text x="{_LEFT + inner / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{_P_Y}</text>'
        f'<svg x="{_LEFT}" y="{_TOP}" width="{inner}" height="{tall}" '
        f'viewBox="0 0 {inner} {tall}">{lines}</svg></svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Of the axis: what is drawn, with 0, cut at what others can be seen beside."""
    low = max(min([*values, 0.0]), -_MOST)
    high = min(max([*values, 0.0]), _MOST)
    if high - low < 1e-9:
        return low - 1, high + 1
    room = 0.04 * (high - low)
    return low - (room if low < 0 else 0), high + (room if high > 0 else 0)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + k) * step, 10) + 0.0 for k in range(count)]


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _pieces(
    at: Sequence[float], values: Sequence[float | None], inner: float, y: Any
) -> Iterator[str]:
    """The points of a curve, in one piece where it is finite."""
    piece: list[str] = []
    for p, value in [*zip(at, values, strict=True), (1.0, None)]:
        if value is not None:
            piece.append(f"{inner * p:.1f},{y(max(-99.0, min(99.0, value))):.1f}")
        elif piece:
            yield " ".join(piece)
            piece = []
