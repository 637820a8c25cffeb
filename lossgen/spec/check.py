"""SpecFile → LossSpec: names, values, formulas and their ranks, in the order of the file."""

from __future__ import annotations

import builtins
import keyword
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lossgen.errors import (
    BadName,
    BadNormalizer,
    BadValue,
    ConstantLoss,
    FormulaTooLarge,
    NoFormula,
    RankError,
    UnknownParameter,
    UnknownVariant,
    Unused,
)
from lossgen.options import options
from lossgen.spec.batch import taken_apart
from lossgen.spec.declarations import IDENTIFIER, REQUIRED, Declarations, paragraph
from lossgen.spec.expr import Call, Expr, Name, NameKind, Rank
from lossgen.spec.formula import MAX_DEPTH, Scope, parse_formula
from lossgen.spec.limit import LOSS_NAME, limit_of
from lossgen.spec.model import (
    Accuracy,
    Input,
    LossSpec,
    Output,
    SpecFile,
    Term,
    TermEntry,
)
from lossgen.spec.proportion import BadCountedTerm, disproportion
from lossgen.spec.refused import OF_BATCHES, OF_OUTPUTS, Beside, ConstantOutput
from lossgen.spec.source import Formula, Node, Source, shorten
from lossgen.spec.trees import (
    culprit,
    depends_on,
    names,
    needs_others,
    nodes,
    reaches,
    uses_target,
)
from lossgen.spec.vocabulary import repair

__all__ = ["check"]

_ROLES = ("transform", "regularizer", "adversarial")
_OF_ROWS = ("outputs", "normalizer", "limits")  # what a spec with a formula of the batch has not
_OF_A_LOSS = (*_ROLES, "batch", "normalizer", "limits")  # what a spec with outputs has not


def check(spec: SpecFile, root: Node, source: Source, path: Path | None) -> LossSpec:
    """Turn a spec's data into a checked spec.

    Raises:
        SpecError: at the first thing that is wrong.
    """
    return Checker(spec, root, source).build(path)


def _rounded(count: float) -> str:
    return f"{count:.0f}" if count < 1e9 else "over a billion"


class Checker(Declarations):
    # ------------------------------------------------------------------ the whole
    def build(self, path: Path | None) -> LossSpec:
        spec = self.spec
        if not LOSS_NAME.fullmatch(spec.name) or keyword.iskeyword(spec.name):
            self.fail(
                BadName,
                "name",
                name=repr(shorten(spec.name)),
                hint="lower-case letters, digits and _, as in my_loss",
            )
        if spec.outputs and hasattr(builtins, spec.name):
            hint = "the function is called so, and Python has one of this name"
            self.fail(BadName, "name", name=repr(spec.name), hint=hint)
        class_name = self.class_name()
        if spec.min_classes < 1:
            self.fail(BadValue, "min_classes", problem="min_classes must be at least 1")
        if spec.accuracy and not 0 < spec.accuracy.ulp < math.inf:
            self.fail(BadValue, "accuracy", "ulp", problem="accuracy.ulp must be positive")
        scale = spec.accuracy.scale if spec.accuracy else None
        if scale is not None and not 0 < scale < math.inf:
            problem = "accuracy.scale must be positive and finite"
            self.fail(BadValue, "accuracy", "scale", problem=problem)
        parameters = {name: self.parameter(name) for name in spec.parameters}
        inputs = {name: self.input(name) for name in spec.inputs}
        self.lets()
        outputs, terms = tuple(self.outputs()), tuple(self.terms())
        batch = self.batch()
        if not terms and not outputs and batch is None:
            raise NoFormula(location=self.source.location(0))
        normalizer = self.normalizer()
        limits = tuple(limit_of(self, self.row, i, parameters) for i in range(len(spec.limits)))
        trees = [*(t.expr for t in terms), *(o.expr for o in outputs), *self.let.values()]
        trees += [tree for tree in (normalizer, batch) if tree is not None]
        self.check_use(trees, {t.weight for t in terms if t.weight})
        made = LossSpec(
            name=spec.name,
            class_name=class_name,
            title=paragraph(spec.title or spec.name.replace("_", " ").capitalize()),
            reference=paragraph(spec.reference),
            parameters=parameters,
            inputs=inputs,
            let=self.let,
            let_sources={name: self.formulas[name].text for name in self.let},
            terms=terms,
            outputs=outputs,
            limits=limits,
            normalizer=normalizer,
            normalizer_source=self.formulas["normalizer"].text if normalizer else None,
            shared=self.shared(terms, normalizer, inputs),
            variants=self.variants(),
            notes=spec.notes,
            accuracy=Accuracy(
                ulp=float(accuracy.ulp),
                scale=float(accuracy.scale or 0.0),
                reason=paragraph(accuracy.reason),
            )
            if (accuracy := spec.accuracy)
            else None,
            min_classes=max(spec.min_classes, 2 if any(map(needs_others, trees)) else 1),
            has_target=any(map(uses_target, trees)),
            path=path,
            source=self.source.text,
            file=self.source.file,
            formulas=self.formulas,
        )
        return made if batch is None else taken_apart(made, batch)

    def class_name(self) -> str:
        """The class of the module: an nn.Module, or a named tuple of outputs."""
        spec = self.spec
        suffix = "" if spec.outputs else "Loss"
        camel = "".join(part.capitalize() for part in spec.name.split("_")) + suffix
        function = f"{spec.name}{suffix and '_loss'}"
        name = spec.class_name or camel
        hint = f"a Python class name, as in {camel}"
        if name in (function, f"linear_{function}"):
            hint = f"it is the name of the function; a class is named as in {camel}"
        elif hasattr(builtins, name):
            hint = f"Python has one of this name; a class is named as in {camel}"
        elif IDENTIFIER.fullmatch(name) and name[0] != "_" and not keyword.iskeyword(name):
            return name
        self.fail(BadName, "class", name=repr(shorten(name)), hint=hint)

    # ------------------------------------------------------------------ formulas
    def parse(
        self, label: str, *path: str | int, later: frozenset[str] = frozenset(), batch: bool = False
    ) -> Expr:
        formula = self.source.formula(self.node(*path))
        self.formulas[label] = formula
        expr = parse_formula(
            formula.text,
            Scope(
                self.names,
                self.integers,
                later,
                frozenset(self.spec.outputs or ()),
                batch,
            ),
            lambda span: self.source.at(formula, span),
        )
        self.weigh(expr, formula)
        return expr

    def row(self, label: str, what: str, *path: str | int) -> Expr:
        """A formula that gives one number per row; ``what`` it is of, for the message."""
        expr = self.parse(label, *path)
        if expr.rank == Rank.CLASS:
            self.not_a_row(expr, self.formulas[label], what)
        return expr

    def weigh(self, expr: Expr, formula: Formula) -> None:
        """Refuse what is small as it stands and large once its lets and powers are open."""
        size, most = self.sizes.of(expr), options().max_nodes
        if size.nodes <= most and size.depth <= MAX_DEPTH:
            return
        raise FormulaTooLarge(
            what=f"multiplied out, it and its derivative have {_rounded(size.nodes)} nodes, "
            f"at most {most}"
            if size.nodes > most
            else f"with its lets, operations nest more than {MAX_DEPTH} deep",
            location=self.source.at(formula, expr.span),
            hint="lets are opened, powers and products of sums multiplied out: lower powers and "
            "less nesting cost less"
            + ("; LOSSGEN_MAX_NODES raises the limit" if size.nodes > most else ""),
        )

    def lets(self) -> None:
        order = list(self.spec.let)
        for i, name in enumerate(order):
            self.declare(name, "a let", "let", name)
            batch = self.spec.batch is not None
            expr = self.parse(name, "let", name, later=frozenset(order[i:]), batch=batch)
            self.let[name] = expr
            self.names[name] = (NameKind.LET, expr.rank)

    def terms(self) -> Iterator[Term]:
        for role in _ROLES:
            entry = getattr(self.spec, role)
            if isinstance(entry, str):
                yield self.term(role, None, role)
            for i, item in enumerate(entry if isinstance(entry, list) else ()):
                yield self.term(role, item, role, i)

    def term(self, role: Any, entry: TermEntry | None, *path: str | int) -> Term:
        name = weight = None
        label = role
        if entry is not None:
            name, weight, label = entry.name, entry.weight, entry.name
            self.declare(name, "a term", *path, "name", key=False)
            if entry.normalizer not in (None, 1):
                self.fail(BadValue, *path, "normalizer", problem="a term's normalizer is 1")
            if weight is not None and weight not in self.spec.parameters:
                self.fail(
                    UnknownParameter,
                    *path,
                    "weight",
                    where="weight",
                    name=shorten(weight),
                    hint=repair(weight, list(self.spec.parameters)),
                )
            path = (*path, "value")
        expr = self.parse(label, *path)
        formula = self.formulas[label]
        if expr.rank == Rank.CLASS:
            self.not_a_row(expr, formula)
        self.check_gradient(expr, f"the term '{label}'" if name else f"the {label}", *path)
        source, counted = formula.text, bool(entry and entry.normalizer)
        return Term(role=role, name=name, weight=weight, expr=expr, source=source, counted=counted)

    def check_gradient(self, expr: Expr, what: str, *path: str | int) -> None:
        """Refuse a term that no gradient leaves, neither to the logits nor to a stream."""
        streams = self.streams()
        moving = [n for n in streams if self.spec.inputs[n].differentiable]
        if reaches(expr, self.let, ["x", *moving]):
            return
        fixed = next((n for n in streams if reaches(expr, self.let, [n])), None)
        self.fail(
            ConstantLoss,
            *path,
            what=what,
            vectors=" or ".join(["the logits", *(f"'{n}'" for n in moving)]),
            hint=fixed and f"does '{fixed}' get a gradient? then give it `differentiable: true`",
        )

    def streams(self) -> list[str]:
        """The inputs of kind class."""
        return [name for name, entry in self.spec.inputs.items() if entry.kind == "class"]

    def outputs(self) -> Iterator[Output]:
        if self.spec.outputs is None:
            return
        for key in _OF_A_LOSS:
            if self.root.get(key):
                self.fail(Beside, key, key=True, name=key, what="outputs", hint=OF_OUTPUTS)
        if not self.spec.outputs:
            hint = 'give at least one, as in {entropy: "-sum(p * logp)"}'
            self.fail(BadValue, "outputs", problem="'outputs' is empty", hint=hint)
        for name in self.spec.outputs:
            self.declare(name, "an output", "outputs", name)
            if name[0] == "_":
                hint = "a field of a named tuple begins with a letter"
                self.fail(BadName, "outputs", name, key=True, name=repr(name), hint=hint)
            expr = self.row(name, "an output", "outputs", name)
            if not depends_on(expr, self.let, ["x", *self.streams()]):
                self.fail(ConstantOutput, "outputs", name, name=name)
            yield Output(name=name, expr=expr, source=self.formulas[name].text)

    def not_a_row(self, expr: Expr, formula: Formula, what: str = "a loss") -> NoReturn:
        found = culprit(expr)
        text = formula.text[found.span.start : found.span.end]
        reduced = f"sum({text})" if len(text) <= 30 else "sum(…)"
        short = isinstance(found, (Name, Call)) and len(text) <= 30
        gathered = f", or {text}[y]?" if short else "?"
        raise RankError(
            what=f"{what} is one number per row",
            text=shorten(text),
            rank=found.rank,
            meaning="one number per row and class",
            hint=f"did you forget {reduced}{gathered}",
            location=self.source.at(formula, found.span),
        )

    def batch(self) -> Expr | None:
        if self.spec.batch is None:
            return None
        for key in _OF_ROWS:
            if self.root.get(key):
                self.fail(Beside, key, key=True, name=key, what="batch", hint=OF_BATCHES)
        expr = self.parse("batch", "batch", batch=True)
        if expr.rank == Rank.CLASS:
            raise RankError(
                what="the loss of a batch is one number",
                text=shorten(self.formulas["batch"].text),
                rank=expr.rank,
                meaning="one number per class",
                hint="did you forget sum(…) or mean(…)?",
                location=self.source.at(self.formulas["batch"], expr.span),
            )
        return expr

    def normalizer(self) -> Expr | None:
        if self.spec.normalizer is None:
            return None
        expr = self.parse("normalizer", "normalizer")
        formula = self.formulas["normalizer"]
        for node in nodes(expr):
            if not isinstance(node, Name):
                continue
            if node.kind in (NameKind.ROW_INPUT, NameKind.VOCAB_INPUT, NameKind.CONSTANT):
                continue
            text = formula.text[node.span.start : node.span.end]
            raise BadNormalizer(what=f"'{text}'", location=self.source.at(formula, node.span))
        if expr.rank == Rank.CLASS:
            self.not_a_row(expr, formula, "a normalizer")
        if expr.rank == Rank.PARAMETER:
            self.fail(BadNormalizer, "normalizer", what="constants alone")
        return expr

    def shared(
        self, terms: tuple[Term, ...], normalizer: Expr | None, inputs: dict[str, Input]
    ) -> tuple[str, ...]:
        """The normalizer's inputs where terms are counted, else none."""
        counted = next((term for term in terms if term.counted), None)
        used = names(normalizer) if normalizer and counted else ()
        shared = {name: entry for name, entry in inputs.items() if name in used}
        if counted and (problem := disproportion(terms, normalizer, self.let, shared)):
            at = self.source.at(self.formulas[counted.name or ""], counted.expr.span)
            raise BadCountedTerm(problem=problem, location=at)
        return tuple(shared)

    # ------------------------------------------------------------------ limits and variants
    def optional(self) -> list[str]:
        """The parameters and inputs that have a neutral value."""
        parameters, inputs = self.spec.parameters, self.spec.inputs
        return [
            *(n for n, e in parameters.items() if e.off is not None),
            *(n for n, e in inputs.items() if e.off is not None),
        ]

    def variants(self) -> tuple[frozenset[str], ...]:
        optional = self.optional()
        for i, names_ in enumerate(self.spec.variants):
            for j, name in enumerate(names_):
                if name in optional:
                    continue
                known = name in self.spec.parameters or name in self.spec.inputs
                problem = "has no neutral value" if known else "is not declared"
                hint = "give it `off`" if known else repair(name, optional)
                hint = REQUIRED if name in self.streams() else hint
                self.fail(
                    UnknownVariant, "variants", i, j, name=shorten(name), problem=problem, hint=hint
                )
        every = {frozenset(), frozenset(optional), *map(frozenset, self.spec.variants)}
        return tuple(sorted(every, key=lambda uses: (len(uses), sorted(uses))))

    def check_use(self, trees: list[Expr], used: set[str]) -> None:
        """Refuse declarations that neither the formulas mention nor ``used`` holds."""
        used = used.union(*map(names, trees))
        for section in ("parameters", "inputs", "let"):
            for name in getattr(self.spec, section):
                if name not in used:
                    what = {"parameters": "parameter", "inputs": "input"}.get(section, section)
                    self.fail(Unused, section, name, key=True, what=what, name=name)
