"""YAML file → LossSpec, with every complaint at its line and column."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lossgen.errors import Location, SpecError
from lossgen.spec.check import check_spec
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Call, Expr, Gather, Name, NameKind, Rank, Span
from lossgen.spec.model import Input, Limit, LossSpec, Parameter, RawSpec, RawTerm, Role, Term
from lossgen.spec.parser import VOCABULARY, FormulaError, parse_formula

__all__ = ["load_spec", "load_text", "nodes_of"]

MAX_BYTES = 100_000


def load_spec(path: str | Path) -> LossSpec:
    """Read a spec file.

    Raises:
        SpecError: anything wrong with it, at ``file:line:column``.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {error}") from None
    return _Loader(text, str(path)).load(path)


def load_text(text: str, name: str = "<string>") -> LossSpec:
    """Read a spec from a string; ``name`` stands for the file in messages."""
    return _Loader(text, name).load(None)


def nodes_of(tree: Expr) -> list[Expr]:
    """Every node of a tree."""
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        found.append(node)
        for value in vars(node).values():
            stack.extend(v for v in (value if isinstance(value, tuple) else (value,))
                         if isinstance(v, Expr))
    return found


@dataclass
class _Loader:
    text: str
    file: str

    def load(self, path: Path | None) -> LossSpec:
        if len(self.text.encode()) > MAX_BYTES:
            raise SpecError(f"{self.file}: a spec has at most {MAX_BYTES} bytes")
        self.lines = self.text.splitlines()
        yaml = YAML(typ="safe", pure=True)
        try:
            self.root = yaml.compose(self.text)
            plain = YAML(typ="safe", pure=True).load(self.text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = (error.problem or "not YAML").split("\n")[0]
            location = self.at(mark.line, mark.column) if mark else None
            raise SpecError(problem, location=location) from None
        except (YAMLError, ValueError, RecursionError) as error:
            raise SpecError(f"{self.file}: not YAML: {error}") from None
        if not isinstance(self.root, MappingNode):
            raise SpecError("a spec is a mapping of keys to values", location=self.at(0, 0))
        try:
            raw = RawSpec.model_validate(plain)
        except ValidationError as error:
            self._invalid(error)
        return self._spec(raw, path)

    # ------------------------------------------------------------------ places
    def at(self, line: int, column: int, width: int = 1) -> Location:
        source = self.lines[line] if line < len(self.lines) else ""
        return Location(self.file, line + 1, column + 1, width, source)

    def node(self, *keys: str | int) -> Node:
        """The value node at a path of keys; the deepest that exists."""
        node: Node = self.root
        for key in keys:
            found = None
            if isinstance(node, MappingNode):
                found = next((v for k, v in node.value if k.value == str(key)), None)
            elif isinstance(node, SequenceNode) and isinstance(key, int):
                found = node.value[key] if key < len(node.value) else None
            if found is None:
                break
            node = found
        return node

    def key(self, *keys: str | int) -> Location:
        """The place of a key itself."""
        parent = self.node(*keys[:-1])
        if isinstance(parent, MappingNode):
            for k, _ in parent.value:
                if k.value == str(keys[-1]):
                    return self.at(k.start_mark.line, k.start_mark.column, len(k.value))
        return self.place(*keys)

    def place(self, *keys: str | int) -> Location:
        node = self.node(*keys)
        mark, end = node.start_mark, node.end_mark
        same = end.line == mark.line
        width = end.column - mark.column if same and isinstance(node, ScalarNode) else 1
        return self.at(mark.line, mark.column, width)

    def inside(self, span: Span, *keys: str | int) -> Location:
        """A span of a formula: exact for plain and quoted scalars on one line."""
        node = self.node(*keys)
        mark = node.start_mark
        if mark.line != node.end_mark.line or not isinstance(node, ScalarNode):
            return self.at(mark.line, mark.column)
        quote = 1 if node.style in ("'", '"') else 0
        return self.at(mark.line, mark.column + quote + span.start, max(1, span.end - span.start))

    def fail(self, message: str, location: Location, hint: str = "", id: str = "LG102") -> NoReturn:
        raise SpecError(message, location=location, hint=hint or None)

    def _invalid(self, error: ValidationError) -> NoReturn:
        first = error.errors()[0]
        loc = tuple(p for p in first["loc"] if not str(p).startswith(("str", "list[")))
        loc = tuple("with" if p == "with_" else p for p in loc)
        dotted = ".".join(str(p) for p in loc)
        match first["type"]:
            case "extra_forbidden":
                self.fail(f"unknown key {loc[-1]!r}", self.key(*loc), self._known(loc), "LG103")
            case "missing":
                place = self.key(*loc[:-1]) if loc[:-1] else self.at(0, 0)
                self.fail(f"the key {loc[-1]!r} is missing", place, id="LG104")
            case "string_pattern_mismatch" if loc == ("name",):
                self.fail("the name of a loss is lower case letters, digits and _",
                          self.place(*loc))
            case _:
                what = str(first["msg"])
                self.fail(f"{dotted}: {what[0].lower()}{what[1:]}", self.place(*loc))

    @staticmethod
    def _known(loc: tuple[Any, ...]) -> str:
        if len(loc) > 1:
            return ""
        known = [f.alias or n for n, f in RawSpec.model_fields.items()]
        return "known keys: " + ", ".join(known)

    # ------------------------------------------------------------------ the spec
    def _spec(self, raw: RawSpec, path: Path | None) -> LossSpec:
        if path is not None and path.stem != raw.name:
            self.fail(f"the name {raw.name!r} differs from the file's, {path.stem!r}",
                      self.place("name"))
        names: dict[str, Name] = {}
        parameters = {n: self._parameter(n, p, names) for n, p in raw.parameters.items()}
        inputs = {n: self._input(n, i, names) for n, i in raw.inputs.items()}
        self.paths: dict[str, tuple[str | int, ...]] = {}
        let: dict[str, Expr] = {}
        for name, formula in raw.let.items():
            self._new_name(name, names, "let")
            self.paths[name] = ("let", name)
            let[name] = self._formula(formula, names, "let", name)
            names[name] = Name(let[name].rank, Span(0, 0), name, NameKind.LET)
        terms = self._terms(raw, names)
        normalizer = None
        if raw.normalizer is not None:
            normalizer = self._formula(raw.normalizer, names, "normalizer")
        spec = LossSpec(
            name=raw.name, title=raw.title.strip(), reference=raw.reference.strip(),
            class_name=raw.class_ or "".join(p.capitalize() for p in raw.name.split("_")) + "Loss",
            parameters=parameters, inputs=inputs, let=let, terms=terms,
            limits=self._limits(raw, names), normalizer=normalizer,
            normalizer_source=raw.normalizer, variants=self._variants(raw), notes=raw.notes,
            accuracy=raw.accuracy, min_classes=raw.min_classes,
            has_target=_uses_target([*let.values(), *(t.expr for t in terms)]),
            path=path, source=self.text, locate=self._locate,
        )
        check_spec(spec, self)
        return spec

    def _locate(self, name: str, span: Span) -> Location | None:
        keys = self.paths.get(name)
        return self.inside(span, *keys) if keys else None

    def _new_name(self, name: str, names: dict[str, Name], where: str) -> None:
        if not name.isidentifier() or name.startswith("_"):
            self.fail(f"{name!r} cannot be a name", self.key(where, name))
        if name in VOCABULARY or name in ("lambda", "if", "is", "in", "or", "and", "not"):
            self.fail(f"the name {name!r} belongs to the spec language", self.key(where, name),
                      "choose another name", "LG105")
        if name in names:
            self.fail(f"the name {name!r} is declared twice", self.key(where, name), id="LG105")

    def _interval(self, text: str, *keys: str) -> Interval:
        try:
            return Interval.parse(text)
        except ValueError as error:
            self.fail(str(error), self.place(*keys), id="LG106")

    def _parameter(self, name: str, raw: Any, names: dict[str, Name]) -> Parameter:
        self._new_name(name, names, "parameters")
        names[name] = Name(Rank.PARAMETER, Span(0, 0), name, NameKind.PARAMETER)
        domain = self._interval(raw.domain, "parameters", name, "domain")
        for key, value in (("default", raw.default), ("off", raw.off)):
            if value is None:
                continue
            if not domain.contains(value):
                self.fail(f"the {key} {value:g} of {name} lies outside its domain {domain}",
                          self.place("parameters", name, key), id="LG107")
            if raw.integer and value != int(value):
                self.fail(f"the {key} of the integer {name} is {value:g}",
                          self.place("parameters", name, key), id="LG107")
        return Parameter(raw.default, domain, raw.doc, raw.off, raw.integer)

    def _input(self, name: str, raw: Any, names: dict[str, Name]) -> Input:
        self._new_name(name, names, "inputs")
        vocab = raw.kind == "vocab"
        kind = NameKind.VOCAB_INPUT if vocab else NameKind.ROW_INPUT
        names[name] = Name(Rank.CLASS if vocab else Rank.ROW, Span(0, 0), name, kind)
        domain = self._interval(raw.domain, "inputs", name, "domain") if raw.domain else None
        return Input(raw.kind, raw.doc, raw.off, domain, raw.range)

    def _formula(self, text: str, names: dict[str, Name], *keys: str | int) -> Expr:
        try:
            return parse_formula(text, names)
        except FormulaError as error:
            self.fail(error.message, self.inside(error.span, *keys), error.hint, "LG110")

    def _terms(self, raw: RawSpec, names: dict[str, Name]) -> tuple[Term, ...]:
        roles: tuple[tuple[Role, str | list[RawTerm] | None], ...] = (
            ("transform", raw.transform), ("regularizer", raw.regularizer),
            ("adversarial", raw.adversarial),
        )
        terms: list[Term] = []
        for role, value in roles:
            if isinstance(value, str):
                self.paths[role] = (role,)
                terms.append(Term(role, None, None, self._formula(value, names, role), value))
            for k, entry in enumerate(value if isinstance(value, list) else []):
                self.paths[entry.name] = (role, k, "value")
                if entry.weight is not None and entry.weight not in raw.parameters:
                    self.fail(f"the weight {entry.weight!r} is not a parameter",
                              self.place(role, k, "weight"))
                expr = self._formula(entry.value, names, role, k, "value")
                terms.append(Term(role, entry.name, entry.weight, expr, entry.value))
        if not terms:
            self.fail("there is no formula: give transform, regularizer or adversarial",
                      self.at(0, 0), "transform: -logp[y]", "LG108")
        return tuple(terms)

    def _limits(self, raw: RawSpec, names: dict[str, Name]) -> tuple[Limit, ...]:
        limits = []
        for k, limit in enumerate(raw.limits):
            for name in limit.when:
                if name not in raw.parameters:
                    self.fail(f"the limit is in {name!r}, which is not a parameter",
                              self.key("limits", k, "when", name))
            plain = limit.equals.isidentifier() and limit.equals not in names
            equals = limit.equals if plain and limit.equals not in VOCABULARY else (
                self._formula(limit.equals, names, "limits", k, "equals")
            )
            limits.append(Limit(dict(limit.when), equals, dict(limit.with_), limit.equals))
        return tuple(limits)

    def _variants(self, raw: RawSpec) -> tuple[frozenset[str], ...]:
        optional = [n for table in (raw.parameters, raw.inputs)
                    for n, entry in table.items() if entry.off is not None]
        for k, names in enumerate(raw.variants):
            for name in names:
                if name not in optional:
                    self.fail(f"the variant names {name!r}, which has no `off` value",
                              self.place("variants", k))
        found = {frozenset(v) for v in raw.variants} | {frozenset(), frozenset(optional)}
        return tuple(sorted(found, key=lambda v: (len(v), sorted(v))))


def _uses_target(trees: list[Expr]) -> bool:
    for node in (n for tree in trees for n in nodes_of(tree)):
        if isinstance(node, Gather) or (isinstance(node, Call) and node.others):
            return True
        if isinstance(node, Name) and node.kind is NameKind.ONEHOT:
            return True
    return False
