"""Every error lossgen raises on purpose: one class per kind of mistake, each with a stable id.

``LG1xx`` the spec is wrong, ``LG2xx`` the compiler cannot build this loss, ``LG3xx`` files and
options, ``LG4xx`` a loss failed verification, ``LG9xx`` lossgen itself is wrong.  An error says
where, what and what to do::

    gce.yaml:5:17: error LG144: unknown name 'qq'
      transform: (1 - qq) / q
                      ^^
    hint: did you mean 'q'?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "Location",
    "LossgenError",
    "SpecError",
    "CompileError",
    "BuildError",
    "VerificationError",
    "CompilerBug",
    # the file
    "UnreadableSpec",
    "YamlSyntax",
    "UnsupportedYaml",
    "DuplicateKey",
    "UnknownKey",
    "MissingKey",
    "WrongType",
    "BadName",
    "ReservedName",
    "DuplicateName",
    "NoFormula",
    "FileNameMismatch",
    "TooLarge",
    # values
    "BadDomain",
    "OutsideDomain",
    "NotInteger",
    "UnknownParameter",
    "UnknownVariant",
    "NotForKind",
    "BadRange",
    "BadNormalizer",
    "Unused",
    "BadLimit",
    "BadValue",
    # formulas
    "FormulaSyntax",
    "BadCharacter",
    "FormulaTooLarge",
    "NumberTooLarge",
    "UnknownName",
    "UnknownFunction",
    "RankError",
    "WrongArguments",
    "NotInLanguage",
    "BareTarget",
    "ConstantLoss",
    "MisplacedComparison",
    "NotReal",
    "NotAFunction",
    "BareFunction",
]

_WINDOW = 110  # characters of a source line that are shown
_TABLE = dict.fromkeys((*range(32), 127), "?") | {9: " "}


@dataclass(frozen=True)
class Location:
    """A place in a text file; ``line`` and ``column`` count characters from 1."""

    file: str
    line: int
    column: int
    width: int = 1
    text: str = ""  # the whole source line, without its end; "" when it is not known

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def caret(self) -> str:
        """The source line, cut to fit, over a line of carets; "" when the line is not known."""
        if not self.text.strip():
            return ""
        line = self.text.translate(_TABLE)
        start = min(self.column - 1, len(line))
        cut = max(0, min(start - _WINDOW // 2, len(line) - _WINDOW))
        shown = line[cut : cut + _WINDOW]
        head, tail = "…" if cut else "", "…" if cut + _WINDOW < len(line) else ""
        width = max(1, min(self.width, len(shown) - (start - cut)))
        if not cut:  # the indentation of the source says nothing here
            indent = min(len(shown) - len(shown.lstrip()), start)
            shown, start = shown[indent:], start - indent
        blank = " " * (start - cut + len(head))
        return f"  {head}{shown}{tail}\n  {blank}{'^' * width}"


class LossgenError(Exception):
    """Base of all errors raised on purpose.

    ``template`` is filled with the keyword arguments; classes without a template of their own
    take the message as it is.  ``location`` may be set later, by whoever knows the place.
    """

    id: ClassVar[str] = "LG000"
    template: ClassVar[str] = "{message}"
    advice: ClassVar[str | None] = None  # the hint, where the raiser gives none

    def __init__(
        self,
        message: str = "",
        *,
        location: Location | None = None,
        hint: str | None = None,
        **fields: Any,
    ) -> None:
        self.message = self.template.format(message=message, **fields)
        self.location = location
        self.hint = hint if hint is not None else self.advice
        super().__init__(self.message)

    @property
    def source_line(self) -> str | None:
        """The line of the spec that is wrong, if known."""
        return self.location.text if self.location else None

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location else ""
        lines = [f"{place}error {self.id}: {self.message}"]
        if self.location and (caret := self.location.caret()):
            lines.append(caret)
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.__dict__)  # keyword arguments survive a process pool


def _restore(cls: type[LossgenError], state: dict[str, Any]) -> LossgenError:
    error = cls.__new__(cls, state["message"])
    error.__dict__.update(state)
    return error


class SpecError(LossgenError):
    """The spec is wrong; the author can repair it."""

    id = "LG100"


class CompileError(LossgenError):
    """The spec is well formed, but this release cannot compile it."""

    id = "LG200"


class BuildError(LossgenError):
    """Files, options and the environment."""

    id = "LG300"


class VerificationError(LossgenError):
    """A loss does not have a property it must have."""

    id = "LG400"


class CompilerBug(LossgenError):
    """An invariant of lossgen does not hold; never the user's fault."""

    id = "LG900"
    advice = "this is a bug in lossgen: please report it, with the spec"


# ------------------------------------------------------------------------------------ the file
class UnreadableSpec(SpecError):
    id = "LG101"
    template = "cannot read the spec: {reason}"


class YamlSyntax(SpecError):
    id = "LG102"
    template = "not valid YAML: {problem}"


class DuplicateKey(SpecError):
    id = "LG103"
    template = "duplicate key '{key}': it is already on line {line}"


class UnknownKey(SpecError):
    id = "LG104"
    template = "unknown key '{key}'"


class MissingKey(SpecError):
    id = "LG105"
    template = "missing key '{key}'"


class WrongType(SpecError):
    id = "LG106"
    template = "'{key}' must be {expected}"


class BadName(SpecError):
    id = "LG107"
    template = "{name} cannot be a name"


class ReservedName(SpecError):
    id = "LG108"
    template = "the name '{name}' is taken: it is {what}"
    advice = "choose another name"


class DuplicateName(SpecError):
    id = "LG109"
    template = "the name '{name}' is declared twice: as {first} and as {second}"


class NoFormula(SpecError):
    id = "LG110"
    template = "the spec has no formula"
    advice = "give at least one of transform, regularizer, adversarial, or outputs"


class FileNameMismatch(SpecError):
    id = "LG111"
    template = "the name '{name}' is not the file's name"
    advice = "name and file name must agree: the generated module is named after them"


class UnsupportedYaml(SpecError):
    id = "LG112"
    template = "{what} have no place in a spec"


class TooLarge(SpecError):
    id = "LG113"
    template = "the spec is too large: {what}"


# ------------------------------------------------------------------------------------ values
class BadDomain(SpecError):
    id = "LG120"
    template = "{text} is not a domain: {problem}"
    advice = 'write an interval such as "(0, 1]", "[0, inf)" or "(-inf, inf)"'


class OutsideDomain(SpecError):
    id = "LG121"
    template = "{what} {value} of '{name}' is outside its domain {domain}"
    advice = "choose another value, or a wider domain"


class NotInteger(SpecError):
    id = "LG122"
    template = "{what} {value} of the integer parameter '{name}' is not a whole number"


class UnknownParameter(SpecError):
    id = "LG123"
    template = "{where} names '{name}', which is not a parameter"
    advice = "declare it under parameters"


class UnknownVariant(SpecError):
    id = "LG124"
    template = "variants names '{name}', which {problem}"


class BadLimit(SpecError):
    id = "LG125"
    template = "{problem}"


class NotForKind(SpecError):
    id = "LG126"
    template = "'{name}' has no place in an input of kind {kind}"


class BadRange(SpecError):
    id = "LG127"
    template = "[{lo}, {hi}] is not a sampling range for '{name}': {problem}"


class BadNormalizer(SpecError):
    id = "LG128"
    template = "the normalizer may not use {what}"
    advice = "it is a row expression of row inputs and of vocab inputs at the target: weight[y]"


class Unused(SpecError):
    id = "LG129"
    template = "the {what} '{name}' is never used"
    advice = "use it in a formula, or remove it"


class BadValue(SpecError):
    id = "LG130"
    template = "{problem}"


# ------------------------------------------------------------------------------------ formulas
class FormulaSyntax(SpecError):
    id = "LG140"
    template = "the formula does not parse: {problem}"


class BadCharacter(SpecError):
    id = "LG141"
    template = "{what} in a formula"


class FormulaTooLarge(SpecError):
    id = "LG142"
    template = "the formula is too large: {what}"
    advice = "name parts of it with `let`"


class NumberTooLarge(SpecError):
    id = "LG143"
    template = "{what}"


class UnknownName(SpecError):
    id = "LG144"
    template = "unknown name '{name}'"
    advice = "declare it: a number under parameters, a tensor under inputs, a formula under let"


class UnknownFunction(SpecError):
    id = "LG145"
    template = "unknown function '{name}'"


class RankError(SpecError):
    id = "LG146"
    template = "{what}: '{text}' has rank {rank}, {meaning}"


class WrongArguments(SpecError):
    id = "LG147"
    template = "{problem}"


class NotInLanguage(SpecError):
    id = "LG148"
    template = "{what} not part of the formula language"


class BareTarget(SpecError):
    id = "LG149"
    template = "y is the target class; it occurs only as an index"
    advice = (
        "write x[y] or p[y] for the value at the target, index[y] for its number, "
        "onehot for the indicator vector"
    )


class ConstantLoss(SpecError):
    id = "LG150"
    template = "{what} does not depend on {vectors}: its gradient is zero everywhere"
    advice = "it needs x, p or logp in it, outside stop_gradient and argmax"


class MisplacedComparison(SpecError):
    id = "LG151"
    template = "a comparison stands only as the first argument of where"
    advice = "write where(a < b, value if so, value if not)"


class NotReal(SpecError):
    id = "LG152"
    template = "'{text}' is not a finite real number"


class NotAFunction(SpecError):
    id = "LG153"
    template = "'{name}' is {what}, not a function"
    advice = "multiplication is written with *"


class BareFunction(SpecError):
    id = "LG154"
    template = "'{name}' is a function; it needs its arguments"
