"""The spec as data: ``SpecFile`` is what the author writes, ``LossSpec`` what the compiler reads.

``lossgen.spec.schema`` makes of the descriptions here what editors read.  All models are frozen;
formulas of a ``LossSpec`` are trees of :mod:`lossgen.spec.expr`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, InstanceOf, Tag
from pydantic_core import PydanticCustomError

from lossgen.errors import Location
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Expr, Span
from lossgen.spec.source import Formula, Source, compose

__all__ = [
    "Accuracy",
    "AccuracyEntry",
    "Batch",
    "Input",
    "InputEntry",
    "Limit",
    "LimitEntry",
    "LossSpec",
    "Output",
    "Parameter",
    "ParameterEntry",
    "Part",
    "PlainText",
    "SpecFile",
    "Term",
    "TermEntry",
]

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"([-+]?)\.?inf")


class PlainText(str):
    """The text of an unquoted YAML scalar: the only one that may also be a number or a flag."""

    __slots__ = ()


def _number(value: Any) -> Any:
    if isinstance(value, PlainText):
        if found := _INFINITE.fullmatch(value):
            return -math.inf if found[1] == "-" else math.inf
        if len(value) <= 40 and _NUMBER.fullmatch(value):
            number = int(value) if value.lstrip("+-").isdigit() else float(value)
            if abs(number) < 1e300:
                return number
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("number", "a number")


def _whole(value: Any) -> Any:
    number = _number(value)
    if not isinstance(number, int):
        raise PydanticCustomError("whole", "a whole number")
    return number


def _flag(value: Any) -> Any:
    if isinstance(value, PlainText) and value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise PydanticCustomError("flag", "true or false")


Real = Annotated[int | float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, BeforeValidator(_flag)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


# ------------------------------------------------------------------------- what the author writes
class ParameterEntry(_Model):
    """A run-time scalar of the loss."""

    default: Real = Field(description="the value of a call that gives none")
    domain: str = Field(description='an interval: "(0, 1]", "[0, inf)"')
    doc: str = Field("", description="what it does, for the docstring")
    off: Real | None = Field(None, description="neutral value: there the term is compiled out")
    integer: Flag = Field(False, description="true: whole numbers only")
    range: list[Real] | None = Field(None, description="[low, high], for tests")


class InputEntry(_Model):
    """An extra tensor: one value per logit, per class, or per row."""

    kind: Literal["class", "vocab", "row"] = Field(
        description="class: [N, V]; vocab: [V], shared by all rows; row: [N]"
    )
    differentiable: Flag = Field(False, description="it gets a gradient")
    doc: str = Field("", description="what it holds, for the docstring")
    off: Real | None = Field(None, description="what an absent input stands for; none: required")
    integer: Flag = Field(False, description="whole numbers: class indices, groups, counts")
    values: list[Real] | None = Field(None, description="all it may hold, as [0, 1] of a mask")
    domain: str | None = Field(None, description='an interval: "[0, 1]"')
    range: list[Real] | None = Field(None, description="[low, high], for tests")


class TermEntry(_Model):
    """One named term of the loss."""

    name: str = Field(description="of the term, for the derivation and for messages")
    weight: str | None = Field(None, description="the parameter that multiplies the term")
    value: str = Field(description="a formula")
    normalizer: Real | None = Field(None, description="1: the mean is over rows, not weights")


class LimitEntry(_Model):
    """An identity that the verifier checks."""

    when: dict[str, Real] = Field({}, description="values of parameters; open ends are limits")
    equals: str = Field(description="a loss of the catalogue, or a formula")
    with_: dict[str, Real] = Field({}, alias="with", description="that loss's parameters")


class AccuracyEntry(_Model):
    """A bound of the certificate other than the usual one, and why."""

    ulp: Real = Field(description="the bound, in (1 + kappa) ulp")
    scale: Real | None = Field(None, description="errors of smaller values are relative to this")
    reason: str = Field(description="why these digits are enough")


Terms = Annotated[
    Annotated[str, Tag("<formula>")] | Annotated[list[TermEntry], Tag("<terms>")],
    Discriminator(lambda value: "<terms>" if isinstance(value, (list, tuple)) else "<formula>"),
]


class SpecFile(_Model):
    """A loss, as its YAML file says it."""

    name: str = Field(description="of the loss and of this file; the function is <name>_loss")
    class_name: str | None = Field(None, alias="class", description="name of the nn.Module")
    title: str | None = Field(None, description="what it is called in a sentence")
    reference: str = Field("", description="where the formula comes from")
    parameters: dict[str, ParameterEntry] = Field({}, description="run-time scalars, by name")
    inputs: dict[str, InputEntry] = Field({}, description="tensors beside the logits, by name")
    let: dict[str, str] = Field({}, description="named subexpressions, in order")
    transform: str | None = Field(None, description="a formula: one number per row")
    regularizer: Terms | None = Field(None, description="a formula, or a list of named terms")
    adversarial: Terms | None = Field(None, description="a formula, or a list of named terms")
    outputs: dict[str, str] | None = Field(None, description="row results in place of a loss")
    batch: str | None = Field(
        None, description="a formula in sums over the rows: one number per batch"
    )
    normalizer: str | None = Field(
        None, description="a formula in inputs: the mean divides by its sum over the rows"
    )
    variants: list[list[str]] = Field(
        [], description="sets of optional names to compile a variant for, besides none and all"
    )
    limits: list[LimitEntry] = Field([], description="identities that every build checks")
    notes: str = Field("", description="for those who read the spec")
    accuracy: AccuracyEntry | None = Field(
        None, description="a bound of the certificate other than the usual one, and why"
    )
    min_classes: Whole = Field(1, description="a call with fewer classes is an error")


# ------------------------------------------------------------------------- what the compiler reads
class Parameter(_Model):
    """A run-time scalar, within ``domain``; at ``off`` (if any) its terms drop out.  Tests keep to
    ``range``, if the author said."""

    default: float | int
    domain: InstanceOf[Interval]
    doc: str
    off: float | None
    integer: bool
    range: tuple[float, float] | None

    @property
    def tested(self) -> Interval:
        """Where tests choose values."""
        return Interval(*self.range, False, False) if self.range else self.domain


class Input(_Model):
    """An extra tensor: [N, V] (class, a *stream* like the logits), [V] (vocab) or [N] (row).

    ``off`` is what None stands for; without it, as for every stream, the input is required.
    ``range`` is where tests sample, if the author said.
    ``values`` are the only numbers it holds (empty: any of the domain), ``integer`` inputs hold
    whole ones.
    """

    kind: Literal["class", "vocab", "row"]
    differentiable: bool
    doc: str
    off: float | None
    domain: InstanceOf[Interval] | None
    range: tuple[float, float] | None
    integer: bool = False
    values: tuple[float, ...] = ()


class Term(_Model):
    """A summand of the loss: ``weight`` (a parameter's name; None is 1) times ``expr``."""

    role: Literal["transform", "regularizer", "adversarial"]
    name: str | None
    weight: str | None
    expr: InstanceOf[Expr]
    source: str  # the formula as written, on one line
    counted: bool = False  # the mean divides it by the rows that count, not by the normalizer


class Output(_Model):
    """One of several row results, given in place of a loss."""

    name: str
    expr: InstanceOf[Expr]
    source: str  # the formula as written, on one line


class Part(_Model):
    """A sum over the rows of a batch, made by the output of the same name.

    Of class terms e_j the output is Σ_j vector_j·e_j, for an input of kind class of ours whose
    gradients are the terms; of a number per row it is that number.
    """

    name: str
    vector: str | None
    expr: InstanceOf[Expr]  # what is summed, as written


class Batch(_Model):
    """What is added to the mean of a batch's rows: a formula in parts, and in what has no rows."""

    class_name: str  # of the nn.Module
    formula: InstanceOf[Expr]  # lets opened, parts by name
    source: str  # as written, on one line
    parts: tuple[Part, ...]
    rows: str | None  # the output that is the loss of one row, if there are terms
    parameters: dict[str, Parameter]  # all that the spec declares; the outputs may use fewer
    inputs: dict[str, Input]


class Limit(_Model):
    """With parameters at ``when``, the loss equals another one (with ``with_``) or an expression.

    A value of ``when`` may be an open end of the domain: a limit.
    """

    when: dict[str, float]
    equals: str | InstanceOf[Expr]
    with_: dict[str, float]
    source: str  # ``equals`` as written


class Accuracy(_Model):
    """The certificate's bound, in ulp, and why it is not the usual one.

    Errors are relative to the true value, and to ``scale`` where that is smaller.
    """

    ulp: float
    scale: float
    reason: str
    absolute: bool = False  # to 1 at least, where another class than the target is far above it


class LossSpec(_Model):
    """A checked spec: every name is known, every rank fits, every value is in its domain."""

    name: str
    class_name: str
    title: str
    reference: str
    parameters: dict[str, Parameter]
    inputs: dict[str, Input]
    let: dict[str, InstanceOf[Expr]]
    let_sources: dict[str, str]  # the lets' formulas as written
    terms: tuple[Term, ...]  # empty if there are outputs
    outputs: tuple[Output, ...]  # empty if this is a loss of rows
    batch: Batch | None = None  # a loss of all rows together, whose parts the outputs are
    limits: tuple[Limit, ...]
    normalizer: InstanceOf[Expr] | None
    normalizer_source: str | None
    shared: tuple[str, ...]  # beside counted terms: the normalizer's inputs, which scale the others
    variants: tuple[frozenset[str], ...]  # with ∅ and the full set; by size, then names
    notes: str
    accuracy: Accuracy | None
    min_classes: int
    has_target: bool
    path: Path | None
    origin: LossSpec | None = Field(default=None, repr=False)  # whose derivatives the outputs are
    by: str = ""  # of what ``spec.derived`` makes: with respect to what
    tangent: str = ""  # the input along which ``by`` is moved
    source: str = Field(repr=False)  # the YAML text
    file: str = Field(repr=False)  # what error messages call it
    formulas: dict[str, InstanceOf[Formula]] = Field(repr=False, exclude=True)

    @property
    def function(self) -> str:
        """Of the generated functions, the one whose results are per row."""
        return self.name + ("_parts" if self.batch else "" if self.outputs else "_loss")

    @property
    def trees(self) -> list[Expr]:
        """Of every formula: terms, outputs, lets."""
        formulas = [t.expr for t in self.terms] + [o.expr for o in self.outputs]
        return [*formulas, *self.let.values()]

    def location_of(self, name: str, span: Span) -> Location:
        """Where a part of a formula stands.

        Args:
            name: a term's name (its role, if it has none), a let's or an output's name, or
                "normalizer".
            span: characters of the formula, as the nodes of its tree have.

        Raises:
            KeyError: no such formula.
        """
        return Source(self.source, self.file).at(self.formulas[name], span)

    def location_of_value(self, *path: str | int) -> Location:
        """Where a value of the file stands; the nearest key above it that does."""
        source = Source(self.source, self.file)
        node = compose(source)
        for part in path:
            node = node.get(part) or node
        return source.of(node)
