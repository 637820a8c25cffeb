"""``lossgen.loss``: a loss from a formula in Python, without a file.

    lossgen.loss("-(1 - p[y])**gamma * logp[y]", gamma=2.0)

The formula and what it declares become the text of a spec, which is compiled and cached like the
file that it could be.  The formula is data there: it is a block of indented lines, whatever they
hold, so that it can neither end nor add to what surrounds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from lossgen.cache import load_text
from lossgen.errors import BuildError, Location, LossgenError, UnknownName

__all__ = ["loss"]

_FORMULA, _DECLARED = "<formula>", "<declarations>"
_KINDS = ("class", "row", "vocab")
_HEAD = "transform: |2-\n"  # 2 blanks before each line are not the formula's


class BadDeclaration(BuildError):
    id = "LG319"
    template = "'{name}' is declared as {value}"
    advice = (
        "a number is a parameter's default, a pair adds its domain, as in (2.0, '[0, inf)'); "
        "'class', 'row' or 'vocab' is an input; a dict has the keys of a spec"
    )


def loss(
    formula: str,
    /,
    *,
    name: str = "custom",
    linear: bool = False,
    draft: bool = False,
    **declared: Any,
) -> Callable[..., Any]:
    """The function of a loss that is written as a formula.

    Args:
        formula: as ``transform`` in a spec: ``-(1 - p[y])**gamma * logp[y]``.
        name: of the loss, for messages and for the function, ``<name>_loss``.
        linear: the function of hidden states and a weight instead, ``linear_<name>_loss``.
        draft: check neither accuracy nor limits; see :func:`lossgen.load`.
        declared: what the formula names. A number is the default of a parameter, whose domain is
            (0, 1) if it is between them, (0, inf) if it is larger, [0, inf) if it is 0 and
            (-inf, 0) if it is negative; a pair ``(2.0, "[0, inf)")`` has another domain.
            "class", "row" or "vocab" is an input of that kind. A dict says all that a spec can:
            ``{"default": 0, "domain": "[0, 1)", "off": 0}``, ``{"kind": "row", "off": 1}``.

    Returns:
        The function, as :func:`lossgen.load` of a file would have it. The same formula with the
        same declarations is compiled once, and is the same function every time.

    Raises:
        SpecError, CompileError: the formula is wrong; the message shows where.
        BadDeclaration: a declaration is neither of these.
    """
    if not isinstance(formula, str):
        raise TypeError(f"a formula is text, not {type(formula).__name__}")
    lines = formula.splitlines() or [""]
    text = _HEAD + "".join(f"  {line}\n" for line in lines) + _declarations(name, declared)
    try:
        module = load_text(name, text, _FORMULA, draft)
    except LossgenError as error:
        error.location = error.location and _place(error.location, len(lines))
        if isinstance(error, UnknownName):
            close = error.hint if (error.hint or "").startswith("did you") else ""
            unknown = error.message.split("'")[1]
            declare = f"declare it: {unknown}=2.0 for a number, {unknown}='row' for a tensor"
            error.hint = f"{close} or {declare}".removeprefix(" or ")
        raise
    function: Callable[..., Any] = getattr(module, f"{'linear_' if linear else ''}{name}_loss")
    return function


def _place(location: Location, lines: int) -> Location:
    """A place of the spec as one of what the caller wrote."""
    if location.file != _FORMULA:
        return location
    line = location.line - 1
    if not line:  # what is wrong is that there is none
        return Location(_FORMULA, 1, 1)
    if line > lines:
        return replace(location, file=_DECLARED, line=line - lines)
    return replace(location, line=line, column=max(1, location.column - 2), text=location.text[2:])


def _declarations(name: str, declared: Mapping[str, Any]) -> str:
    """The rest of the spec, in JSON, which is YAML."""
    entries = {key: _entry(key, value) for key, value in declared.items()}
    inputs = {key: entry for key, entry in entries.items() if "kind" in entry}
    parameters = {key: entry for key, entry in entries.items() if key not in inputs}
    lines = [f"name: {_json(name)}"]
    for section, found in (("parameters", parameters), ("inputs", inputs)):
        lines += [f"{section}:"] if found else []
        lines += [f"  {_json(key)}: {_json(entry)}" for key, entry in found.items()]
    return "\n".join([*lines, ""])


def _entry(name: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str) and value in _KINDS:
        return {"kind": value}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        value, domain = value
        if _is_number(value):
            return {"default": value, "domain": domain}
    elif _is_number(value):
        return {"default": value, "domain": _domain(float(value))}
    raise BadDeclaration(name=name, value=repr(value)[:60])


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _domain(value: float) -> str:
    """Where a number of this size can be expected to make sense: open ends, as 0 and 1 often give
    a quotient or a logarithm nothing to work with."""
    if value == 0:
        return "[0, inf)"
    if value < 0:
        return "(-inf, 0)"
    return "(0, 1)" if value < 1 else "(0, inf)"


def _json(value: Any) -> str:
    """On one line, with YAML's infinities."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_json(str(k))}: {_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_json, value)) + "]"
    if _is_number(value):
        number = int(value) if isinstance(value, Integral) else float(value)
        return f"{'-' * (number < 0)}.inf" if math.isinf(number) else repr(number)
    return json.dumps(value if isinstance(value, bool) else str(value), ensure_ascii=False)
