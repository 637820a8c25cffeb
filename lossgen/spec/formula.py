"""Formula text → expression tree; where it is refused, a hint with what the author meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lossgen.errors import BareTarget, Location, RankError, SpecError, UnknownName
from lossgen.spec.expr import Expr, NameKind, Rank, Span
from lossgen.spec.parser import MAX_DEPTH, Scope, parse
from lossgen.spec.suggest import rewritten
from lossgen.spec.vocabulary import LEAVES, SUGAR

__all__ = ["MAX_DEPTH", "Scope", "parse_formula"]

_NOWHERE = Location("", 1, 1)


def parse_formula(text: str, scope: Scope, locate: Callable[[Span], Location]) -> Expr:
    """The typed tree of a formula; any rank (see ``check`` for what each place requires).

    Args:
        text: the formula, on one line and stripped; spans count its characters.
        scope: the names it may use.
        locate: where a span stands in the spec.

    Raises:
        SpecError: with the place of the character, word or subexpression that is wrong, and with
            the formula in the language's words where it is written in those of torch or numpy.
    """
    spans = [Span(0, 1)]

    def located(span: Span) -> Location:
        spans.append(span)
        return locate(span)

    try:
        return parse(text, scope, located)
    except SpecError as error:
        meant = None
        if not isinstance(error, (UnknownName, RankError, BareTarget)):
            meant = rewritten(text, spans[-1].start, sorted(scope.names), _accepted_by(scope))
        if meant is not None:
            error.hint = _with_example(error.hint, meant)
        raise


def _accepted_by(scope: Scope) -> Callable[[str, list[str]], bool]:
    """Does a formula parse, whatever the names mean that nobody declared?"""

    def accepts(text: str, unknown: list[str]) -> bool:
        free = {
            n: (NameKind.STREAM, Rank.CLASS) for n in unknown if n not in {*LEAVES, *SUGAR, "y"}
        }
        wide = replace(scope, names={**free, **scope.names}, later=frozenset())
        try:
            parse(text, wide, lambda span: _NOWHERE)
        except SpecError:
            return False
        return True

    return accepts


def _with_example(hint: str | None, meant: str) -> str:
    """The rule, if the hint is one, and what it makes of this formula."""
    rule, found, _ = (hint or "").partition(": write ")
    if found:
        return f"{rule}: write {meant}"
    said = rule and not rule.startswith(("write ", "did you mean"))
    return f"{rule}; write {meant}" if said else f"write {meant}"
