"""YAML file → checked spec: ``load_spec(path)`` is the only way in.

text → nodes with places (source) → plain data → SpecFile (pydantic) → LossSpec (check).
Every error names file, line and column of the key, value or character that is wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from lossgen.errors import (
    BadValue,
    FileNameMismatch,
    Location,
    MissingKey,
    SpecError,
    TooLarge,
    UnknownKey,
    UnreadableSpec,
    WrongType,
)
from lossgen.spec.characters import check_characters, check_text
from lossgen.spec.check import check
from lossgen.spec.model import (
    AccuracyEntry,
    InputEntry,
    LimitEntry,
    LossSpec,
    ParameterEntry,
    PlainText,
    SpecFile,
    TermEntry,
)
from lossgen.spec.source import FLOW_HINT, MAX_CHARACTERS, Node, Source, compose, shorten
from lossgen.spec.vocabulary import OF_CALLS
from lossgen.unknown import nearest

__all__ = ["load_spec", "load_text"]

_MAX_BYTES = 4 * MAX_CHARACTERS
#: What a key that may not be left out is for, by how deep it stands.
_NEEDED = {
    (1, "name"): "the name of the function and of the file, as in my_loss",
    (3, "default"): "the value where a call gives none, as in {default: 2, domain: ...}",
    (3, "domain"): 'where it may lie, as in domain: "[0, inf)"',
    (3, "kind"): "class for [N, V], row for [N], vocab for [V]",
}
_NOT_PYTHON = (
    "a spec is YAML: `lossgen new my_loss` writes one to start from; in Python, a formula is given "
    "to lossgen.loss('-logp[y]')"
)
_FORMULA = ("formula", "loss", "equation", "expression", "expr", "function", "objective")
_EXAMPLES = {  # of an entry that is not a mapping
    "parameters": 'write {}: {{default: {}, domain: "[0, inf)"}}',
    "inputs": "write {}: {{kind: class}}, or kind row or vocab",
}
_EXPECTED = {
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "literal_error": "class, vocab or row",
    "number": "a number",
    "whole": "a whole number",
    "flag": "true or false",
}
_ENTRIES: dict[str, type[BaseModel]] = {
    "parameters": ParameterEntry,
    "inputs": InputEntry,
    "regularizer": TermEntry,
    "adversarial": TermEntry,
    "limits": LimitEntry,
    "accuracy": AccuracyEntry,
}


def load_spec(path: str | os.PathLike[str]) -> LossSpec:
    """Read and check a spec.

    Args:
        path: a YAML file, UTF-8, named like the loss: ``gce.yaml``.

    Raises:
        SpecError: the file cannot be read, or is not a valid spec; with its place.
    """
    file = Path(path)
    if file.suffix == ".py":
        place = Location(str(path), 1, 1)
        raise UnreadableSpec(reason="it is a file of Python", location=place, hint=_NOT_PYTHON)
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            what = f"more than {_MAX_BYTES} bytes"
            raise TooLarge(what=what, location=Location(str(path), 1, 1))
        text = raw.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableSpec(reason=reason, location=Location(str(path), 1, 1)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        place = Location(str(path), line, column)
        raise UnreadableSpec(reason="it is not UTF-8 text", location=place) from None
    return _load(text, str(path), file)


def load_text(text: str, name: str = "<string>") -> LossSpec:
    """Check a spec given as text; ``name`` stands for the file in error messages.

    Raises:
        SpecError: not a valid spec; with its place.
    """
    return _load(text.removeprefix("\ufeff"), name, None)


def _load(text: str, name: str, path: Path | None) -> LossSpec:
    source = Source(text.replace("\r\n", "\n").replace("\r", "\n"), name)
    check_text(source)
    root = compose(source)
    check_characters(root, source)
    try:
        spec = SpecFile.model_validate(_data(root, source))
    except ValidationError as error:
        _report(error, root, source)
    if path is not None and path.stem != spec.name:
        node = root.get("name")
        raise FileNameMismatch(name=shorten(spec.name), location=source.of(node or root))
    return check(spec, root, source, path)


def _data(node: Node, source: Source) -> Any:
    if node.kind == "list":
        return [_data(item, source) for item in node.items]
    if node.kind == "scalar":
        return PlainText(node.text) if node.style is None else node.text
    for key, value in node.pairs:
        if value.kind == "scalar" and value.style is None and value.text in ("", "~", "null"):
            problem = f"'{shorten(key.text)}' has no value"
            # {a: max(x, b)} and {doc: first, second} read as two entries
            cut = source.text.startswith("{", node.start) and value.end <= value.start
            hint = FLOW_HINT if cut else "give it one, indented if it is below, or remove the key"
            raise BadValue(problem=problem, location=source.of(key), hint=hint)
    return {key.text: _data(value, source) for key, value in node.pairs}


def _report(error: ValidationError, root: Node, source: Source) -> NoReturn:
    """Raise the first of pydantic's findings, in the order of the text, in our words."""
    found = [_translate(dict(entry), root, source) for entry in error.errors(include_url=False)]
    raise min(found, key=_position) from None


def _position(error: SpecError) -> tuple[bool, int, int]:
    assert error.location is not None
    known = not isinstance(error, UnknownKey)  # a misspelt key often leaves another one missing
    return known, error.location.line, error.location.column


def _translate(entry: dict[str, Any], root: Node, source: Source) -> SpecError:
    path = [part for part in entry["loc"] if part not in ("<formula>", "<terms>", "[key]")]
    node, parent, shown = root, root, ""
    holder: Node | None = None  # the key that holds the innermost mapping
    for part in path:
        parent = node
        if node.kind == "mapping":
            holder = node.key(part) or holder
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else str(part)
        node = node.get(part) or node
    last = str(path[-1]) if path else ""
    match entry["type"]:
        case "extra_forbidden":
            known = _known_keys(path)
            close = nearest(last, known)
            close = ["transform"] if last in _FORMULA and "transform" in known else close
            hint = f"did you mean '{close[0]}'?" if close else f"keys: {', '.join(known)}"
            if last in OF_CALLS:
                hint = "every loss has it as an argument of its calls; a spec does not set it"
            key = parent.key(path[-1]) or node
            return UnknownKey(key=shorten(last), location=source.of(key), hint=hint)
        case "missing":
            place = source.of(holder or parent) if len(path) > 1 else source.location(0, 1)
            if isinstance(path[-2] if len(path) > 1 else "", int):
                place = source.location(node.start)
            return MissingKey(key=last, location=place, hint=_NEEDED.get((len(path), last)))
    expected = _EXPECTED.get(entry["type"])
    if expected is None:  # a pydantic check that no test has met yet
        return BadValue(problem=f"'{shown}': {entry['msg']}", location=source.of(node))
    if entry["type"] == "string_type" and path[-1] in ("transform", "regularizer", "adversarial"):
        expected = "a formula" if path[-1] == "transform" else "a formula or a list of terms"
    elif entry["type"] == "string_type" and path[0] == "outputs":
        expected = "a formula"
    advice = "remove the quotes" if node.style in ("'", '"') and node.text else None
    if entry["type"] == "literal_error":
        advice = _NEEDED[3, "kind"]
    if expected == "a mapping" and len(path) == 1 and path[0] in _EXAMPLES:
        advice = _EXAMPLES[str(path[0])].format("name", "0.5")
    if expected == "a mapping" and len(path) == 2 and path[0] in _EXAMPLES:
        advice = _EXAMPLES[str(path[0])].format(path[1], node.text)
    if expected == "a number" and node.text.lower() in ("true", "false", "yes", "no"):
        advice = "write 1 or 0"
    if expected.startswith("a formula") and node.kind == "list":
        advice = (
            "'- ' begins an entry of a list: write -x without the blank, or put quotes around it"
        )
    if last == "domain" and node.kind == "list":
        advice = f'quote it: domain: "{source.text[node.start : node.end]}"'
    return WrongType(key=shorten(shown), expected=expected, location=source.of(node), hint=advice)


def _known_keys(path: list[str | int]) -> list[str]:
    model = _ENTRIES.get(str(path[0]), SpecFile) if len(path) > 1 else SpecFile
    return [field.alias or name for name, field in model.model_fields.items()]
