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
from typing import Any, NoReturn

from lossgen.cache import load_text
from lossgen.errors import BuildError, Location, LossgenError, UnknownName
from lossgen.paths import FORMULA

__all__ = ["loss"]

_DECLARED = "<declarations>"
_KINDS = ("class", "row", "vocab")
_HEAD = "transform: |2-\n"  # 2 blanks before each line are not the formula's


class BadDeclaration(BuildError):
    id = "LG319"
    template = "'{name}' is declared as {value}"
    advice = (
        "a number is a parameter's default, a pair adds its domain, as in (2.0, '[0, inf)'); "
        "'class', 'row' or 'vocab' is an input; a dict has the keys of a spec"
    )


_DECLARE = (
    "declare it: {0}=2.0 for a number, {0}='class', 'row' or 'vocab' for a tensor [*, V], [*] or "
    "[V]"
)


def loss(
    formula: str,
    /,
    *unnamed: NoReturn,
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
        The function, as :func:`lossgen.load` of a file would have it; the others of its module
        are its attributes: ``loss.linear_custom_loss``, ``loss.CustomLoss``. The same formula with
        the same declarations is compiled once, and is the same function every time.

    Raises:
        SpecError, CompileError: the formula is wrong; the message shows where.
        BadDeclaration: a declaration is neither of these.
    """
    if not isinstance(formula, str):
        raise TypeError(
            f"a formula is text, not {type(formula).__name__}: lossgen.loss('-logp[y]')"
        )
    if unnamed:
        raise TypeError("what a formula names is given by its name: lossgen.loss('q*x[y]', q=0.5)")
    lines = formula.splitlines() or [""]
    text = _HEAD + "".join(f"  {line}\n" for line in lines) + _declarations(name, declared)
    try:
        module = load_text(name, text, FORMULA, draft)
    except LossgenError as error:
        error.location = error.location and _place(error.location, lines)
        if isinstance(error, UnknownName):
            declare = _DECLARE.format(error.message.split("'")[1])
            if error.hint == error.advice:
                error.hint = declare
            elif str(error.hint).startswith("did you mean"):
                error.hint = f"{error.hint} or {declare}"
        raise
    function: Callable[..., Any] = getattr(module, f"{'linear_' if linear else ''}{name}_loss")
    for other in module.__all__:
        setattr(function, other, getattr(module, other))
    return function


def _place(location: Location, lines: list[str]) -> Location:
    """A place of the spec as one of what the caller wrote."""
    if location.file != FORMULA:
        return location
    line = location.line - 1
    if not line:  # the formula as a whole
        return Location(FORMULA, 1, 1, len(lines[0]), lines[0])
    if line > len(lines):
        return replace(location, file=_DECLARED, line=line - len(lines))
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
    if isinstance(value, tuple) and len(value) == 2 and _is_number(value[0]):
        default, domain = value
        if isinstance(domain, str):
            return {"default": default, "domain": domain}
        hint = f"a domain is text, as in {name}=({default}, '[0, inf)')"
        raise BadDeclaration(name=name, value=repr(value)[:60], hint=hint)
    if _is_number(value):
        return {"default": value, "domain": _domain(float(value))}
    if hasattr(value, "shape"):
        raise _tensor(name, [*value.shape])
    raise BadDeclaration(name=name, value=repr(value)[:60])


def _tensor(name: str, shape: list[int]) -> BadDeclaration:
    """What to write in place of a tensor."""
    kinds = {1: f"{name}='vocab' if it is [V], {name}='row' if [N]", 2: f"{name}='class'"}
    declare = f"declare what it is, {kinds.get(len(shape), kinds[2])}, and give it in the calls"
    return BadDeclaration(
        name=name,
        value=f"a tensor {shape}",
        hint=declare if shape else f"a number is one of Python: {name}={name}.item()",
    )


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
