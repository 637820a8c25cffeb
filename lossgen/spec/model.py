"""The data model of a spec: what the YAML may say (pydantic) and what the compiler reads (frozen).

``RawSpec`` is the file as written, checked key by key; its JSON schema serves editors.
``LossSpec`` is the same with formulas parsed, domains read and defaults filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lossgen.errors import Location
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Expr, Span

__all__ = ["Accuracy", "Input", "Limit", "LossSpec", "Parameter", "RawSpec", "Role", "Term"]

Role = Literal["transform", "regularizer", "adversarial"]


class _Raw(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class RawParameter(_Raw):
    """A run-time scalar."""

    default: int | float
    domain: str = Field(description='an interval such as "(0, 1]"')
    doc: str
    off: int | float | None = Field(
        None, description="the value at which the term is compiled out"
    )
    integer: bool = False


class RawInput(_Raw):
    """A tensor beside the logits."""

    kind: Literal["vocab", "row"] = Field(description="[V], shared by all rows, or one per row")
    doc: str
    off: int | float | None = Field(None, description="makes it optional: None stands for this")
    domain: str | None = None
    range: tuple[float, float] | None = Field(None, description="where tests draw it from")


class RawTerm(_Raw):
    """One named regularizer or adversarial term."""

    name: str
    value: str
    weight: str | None = None


class RawLimit(_Raw):
    """An identity that the verifier checks."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    when: dict[str, float]
    equals: str
    with_: dict[str, float] = Field(default_factory=dict, alias="with")


class Accuracy(_Raw):
    """A wider bound than 4·(1 + kappa) ulp, and why."""

    ulp: float = Field(gt=0)
    reason: str


class RawSpec(_Raw):
    """A spec as written in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    reference: str
    class_: str | None = Field(None, alias="class", pattern=r"^[A-Z][A-Za-z0-9]*$")
    parameters: dict[str, RawParameter] = Field(default_factory=dict)
    inputs: dict[str, RawInput] = Field(default_factory=dict)
    let: dict[str, str] = Field(default_factory=dict)
    transform: str | None = None
    regularizer: str | list[RawTerm] | None = None
    adversarial: str | list[RawTerm] | None = None
    normalizer: str | None = None
    variants: list[list[str]] = Field(default_factory=list)
    limits: list[RawLimit] = Field(default_factory=list)
    accuracy: Accuracy | None = None
    min_classes: int = Field(1, ge=1)
    notes: str = ""


@dataclass(frozen=True)
class Parameter:
    """A run-time scalar of the loss; never recompiles."""

    default: float
    domain: Interval
    doc: str
    off: float | None = None  # structural neutral value: at it, the term is compiled out
    integer: bool = False


@dataclass(frozen=True)
class Input:
    """A tensor beside the logits: [V] shared by the rows, or one number per row."""

    kind: Literal["vocab", "row"]
    doc: str
    off: float | None = None  # optional, and None stands for this constant
    domain: Interval | None = None
    range: tuple[float, float] | None = None  # where tests draw it from


@dataclass(frozen=True)
class Term:
    """One summand of the loss."""

    role: Role
    name: str | None
    weight: str | None  # a parameter
    expr: Expr
    source: str  # the formula as written


@dataclass(frozen=True)
class Limit:
    """At ``when``, the loss equals another loss of the catalogue or an expression."""

    when: dict[str, float]
    equals: str | Expr
    with_: dict[str, float]
    source: str


@dataclass(frozen=True)
class LossSpec:
    """One loss family, checked and parsed: loss = Σ weight·term, a number per row."""

    name: str
    title: str
    reference: str
    class_name: str
    parameters: dict[str, Parameter]
    inputs: dict[str, Input]
    let: dict[str, Expr]
    terms: tuple[Term, ...]
    limits: tuple[Limit, ...]
    normalizer: Expr | None
    normalizer_source: str | None
    variants: tuple[frozenset[str], ...]  # the empty and the full set included, smallest first
    notes: str
    accuracy: Accuracy | None
    min_classes: int
    has_target: bool
    path: Path | None
    source: str  # the YAML text
    locate: Callable[[str, Span], Location | None] = field(repr=False, compare=False)

    def location_of(self, name: str, span: Span) -> Location | None:
        """Where a span of the formula of a term or let lies in the file."""
        return self.locate(name, span)
