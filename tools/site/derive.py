"""What costs time: the derivation of a loss, and its curves; kept between runs.

Kept under a digest of the spec and the compiler (that of ``lossgen.load``), the module, and this
file: a loss is derived again when one of them has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from lossgen import compare, paths
from lossgen.cache import name_of
from lossgen.derivation import derivation, explain
from lossgen.draw import family
from tools.site.facts import Facts

__all__ = ["derived", "key_of"]

_POINTS = 121
_AT = tuple((k + 0.5) / _POINTS for k in range(_POINTS))
_DIGITS = 5


def derived(loss: Facts, folder: Path, said: Callable[[str], None] = print) -> dict[str, Any]:
    """The derivation and the curves, as JSON has them.

    Args:
        folder: where they are kept.

    Returns:
        ``summary`` and ``stages`` of ``lossgen explain``, ``latex`` of the stable form, and
        ``families``: for each parameter that moves the curves, these at several of its values.
    """
    key, file = key_of(loss), folder / f"{loss.name}.json"
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept
    said(f"deriving {loss.name}")
    found = {"key": key, **_derivation(loss), "families": _families(loss)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


def key_of(loss: Facts) -> str:
    """A digest of all that decides what ``derived`` finds."""
    module = paths.generated_dir() / f"{loss.name}.py"
    path = paths.require_spec(loss.name)
    digest = sha256(name_of(path).encode())
    for source in (module, Path(__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _derivation(loss: Facts) -> dict[str, Any]:
    """As the module was compiled; what was certified stands in its header and is not done again,
    unless that changed how the loss is computed."""
    swept = f"{loss.header['statistics']} in {loss.header['sweeps']} sweep"
    draft = derivation(loss.name, draft=True)
    as_built = draft["summary"]["statistics"].startswith(swept)
    as_built &= draft["summary"]["saved"] == loss.header["saved"]
    as_built &= draft["summary"]["arithmetic"] == loss.arithmetic
    found = draft if as_built else derivation(loss.name)
    latex = explain(loss.name, latex=True, draft=as_built)
    return {"summary": found["summary"], "stages": found["stages"], "latex": latex}


def _families(loss: Facts) -> list[dict[str, Any]]:
    if loss.spec.batch:  # no curve of one row
        return []
    names = list(loss.spec.parameters) or [None]
    found = [_family(loss, name) for name in names]
    return [one for one in found if one["moves"]] or found[:1]


def _family(loss: Facts, parameter: str | None) -> dict[str, Any]:
    entries = family(loss.name, parameter)
    found = compare(*entries, over="p", at=_AT)
    curves = [
        {"label": c.label, "loss": _rounded(c.loss), "gradient": _rounded(c.gradient)}
        for c in found.curves
    ]
    first = curves[0]
    moves = any(c["loss"] != first["loss"] or c["gradient"] != first["gradient"] for c in curves)
    return {
        "parameter": parameter,
        "moves": moves,
        "at": [round(p, _DIGITS) for p in _AT],
        "curves": curves,
        "assumed": list(found.assumed),
    }


def _rounded(values: tuple[float, ...]) -> list[float | None]:
    """To what a picture shows; what is not finite, as None."""
    return [round(v, _DIGITS) if abs(v) < 1e6 else None for v in values]
