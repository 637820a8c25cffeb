"""The first gate of a formula: its characters and words, before Python's parser sees them.

Everything dangerous or foreign stops here: length, nesting, huge numbers, strings, keywords,
attribute access, operators that the language lacks, brackets that do not match, two values with
nothing between them.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn

from lossgen.errors import (
    BadCharacter,
    FormulaSyntax,
    FormulaTooLarge,
    Location,
    NotInLanguage,
    NumberTooLarge,
    SpecError,
)
from lossgen.spec.expr import Span
from lossgen.spec.source import shorten
from lossgen.spec.vocabulary import (
    FUNCTIONS,
    LIBRARIES,
    TYPOGRAPHY,
    repair,
    repair_call,
    spelled,
    usual,
)

__all__ = ["check_words"]

MAX_CHARACTERS = 4000
MAX_WORDS = 1000
MAX_BRACKETS = 40
MAX_DIGITS = 40
MAX_EXPONENT = 300

_WORD = re.compile(
    r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?P<tail>[\w.]*)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<operator>\*\*|//|<<|>>|->|:=|[<>=!]=|[-+*/%@&|^~<>=.,()\[\]{}:])|(?P<quote>[\"'])"
    r"|(?P<other>[^ ])",
    re.ASCII | re.DOTALL,
)
_ALLOWED = {*"+-*/<>=,()[]", "**", "<=", ">=", "==", "!="}
_CLOSING = {")": "(", "]": "["}
_OPERATOR_HINTS = {
    "^": "powers are written with **",
    "|": "the absolute value is abs(e); a choice is where(a < b, …, …)",
    "@": "write sum(a * b)",
    "=": "a formula is the right side alone; its parts have names under let; equality is ==",
    ":": "the only index is [y]",
    ":=": "name a subexpression with the key let",
    **dict.fromkeys(("//", "%"), "rounding is not in the language: its derivative is 0"),
}
_BEHIND_THE_KEY = "a formula is what stands behind the ':'"
_CHARACTER_HINTS = {
    ";": "name a subexpression with the key let",
    "#": "comments stand on lines of their own, or behind a formula without quotes",
    "\\": "write it as Python has it, not LaTeX: -log(p[y])",
}
_NO_TEXT = (
    "a formula holds numbers and names: what changes is a parameter, text stands in doc and notes"
)
_ATTRIBUTE = re.compile(r"\.\s*(?P<name>[A-Za-z_]\w*(?:\.\w+)*)\s*(?P<arguments>\([^()]{0,60}\))?")
_FILES = ("yaml", "yml")  # in place of a formula
_KEYWORD_HINTS = {
    "lambda": "is it a parameter? call it lam",
    **dict.fromkeys(("if", "else"), "write where(a < b, value if so, value if not)"),
    **dict.fromkeys(("and", "or", "not"), "nest where(…) instead"),
    **dict.fromkeys(("for", "in"), "sum(e) goes over the classes by itself"),
    "None": "leave the argument out; a value that is nothing is 0",
}
_ONE_EXPRESSION = "a formula is one expression, as -logp[y]"


def check_words(text: str, locate: Callable[[Span], Location]) -> None:
    """Raise a SpecError at the first word that has no place where it stands."""
    words = _Words(text, locate)
    if not text:
        words.fail(FormulaSyntax, 0, problem="it is empty")
    if len(text) > MAX_CHARACTERS:
        what = f"{len(text)} characters, at most {MAX_CHARACTERS}"
        words.fail(FormulaTooLarge, 0, what=what)
    for count, found in enumerate(_WORD.finditer(text)):
        if count == MAX_WORDS:
            words.fail(FormulaTooLarge, found.start(), what=f"more than {MAX_WORDS} words")
        words.next(found)
    words.finish()


class _Words:
    """Goes through the words; knows the open brackets and whether a value is due."""

    def __init__(self, text: str, locate: Callable[[Span], Location]) -> None:
        self.text, self.locate = text, locate
        self.brackets: list[tuple[str, int]] = []
        self.before = ""  # the word before, "" at the start
        self.due = True  # a value must come next

    def fail(self, error: type[SpecError], start: int, end: int = 0, **fields: Any) -> NoReturn:
        raise error(location=self.locate(Span(start, max(end, start + 1))), **fields)

    def next(self, found: re.Match[str]) -> None:
        word, (start, end) = found[0], found.span()
        match found.lastgroup:
            case "number" | "tail":
                if found["tail"] or re.match(r"0\d", word):
                    problem = f"'{shorten(word)}' is neither a number nor a name"
                    name = found["tail"]
                    hint = f"write {found['number']}*{name}" if name.isidentifier() else None
                    self.fail(FormulaSyntax, start, end, problem=problem, hint=hint)
                self.value(word, start, end)
                self.number(word, start, end)
            case "name":
                if keyword.iskeyword(word):
                    hint = _KEYWORD_HINTS.get(word) or repair(word, []) or _ONE_EXPRESSION
                    self.fail(NotInLanguage, start, end, what=f"the word '{word}' is", hint=hint)
                self.value(word, start, end)
            case "quote":
                self.fail(NotInLanguage, start, end, what="strings are", hint=_NO_TEXT)
            case "other":
                instead = TYPOGRAPHY.get(word) or _spelled_out(word)
                hint = f"write {instead}" if instead else _CHARACTER_HINTS.get(word)
                shown = f"'{word}'" if word.isprintable() else repr(word)
                self.fail(BadCharacter, start, end, what=f"unexpected character {shown}", hint=hint)
            case _:
                self.operator(word, start, end)
        self.before = word

    def value(self, word: str, start: int, end: int) -> None:
        if not self.due:
            problem = f"an operator is missing before '{shorten(word)}'"
            hint = "multiplication is written with *"
            if self.before in FUNCTIONS:
                hint = f"a function has its argument in brackets: {usual(self.before)}"
            self.fail(FormulaSyntax, start, end, problem=problem, hint=hint)
        self.due = False

    def number(self, word: str, start: int, end: int) -> None:
        digits, _, exponent = word.lower().partition("e")
        if len(digits) > MAX_DIGITS:
            what = f"a number has at most {MAX_DIGITS} digits"
            self.fail(NumberTooLarge, start, end, what=what)
        if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
            what, hint = (
                f"the number '{word}' is out of range",
                (f"exponents go to ±{MAX_EXPONENT}; the largest number of float32 is 3.4e38"),
            )
            self.fail(NumberTooLarge, start, end, what=what, hint=hint)

    def operator(self, word: str, start: int, end: int) -> None:
        if word == ".":
            hint = self.without_attribute(start)
            self.fail(NotInLanguage, start, end, what="attribute access is", hint=hint)
        if word not in _ALLOWED or (word == "=" and not self.brackets):
            alone = word == ":" and not self.brackets
            hint = _BEHIND_THE_KEY if alone else _OPERATOR_HINTS.get(word)
            self.fail(NotInLanguage, start, end, what=f"the operator '{word}' is", hint=hint)
        if word in _CLOSING and (not self.brackets or self.brackets[-1][0] != _CLOSING[word]):
            self.fail(FormulaSyntax, start, end, problem=f"nothing for this '{word}' to close")
        empty = word == ")" and self.before == "("  # f() is the builder's to judge
        if self.due and word not in ("(", "[", "+", "-") and not empty:
            self.fail(FormulaSyntax, start, end, problem=f"a value is missing before '{word}'")
        if word in ("(", "["):
            self.brackets.append((word, start))
            if len(self.brackets) > MAX_BRACKETS:
                what = f"brackets nest more than {MAX_BRACKETS} deep"
                self.fail(FormulaTooLarge, start, end, what=what)
        elif word in _CLOSING:
            self.brackets.pop()
        self.due = word not in _CLOSING

    def without_attribute(self, start: int) -> str | None:
        """torch.log(p), p.log()  →  write log(p)"""
        found = _ATTRIBUTE.match(self.text, start)
        if found is None:
            return None
        if found["name"] in _FILES:
            return "a file is compiled by lossgen.load(...)"
        name, arguments = found["name"].rpartition(".")[2], found["arguments"] or "(e)"
        function = spelled(name)
        if function is None:
            return repair_call(name, [])
        if self.before not in LIBRARIES:
            own = self.before if self.before.isidentifier() else "e"
            arguments = f"({own})" if arguments in ("()", "(e)") else f"({own}, {arguments[1:]}"
        return f"write {function}{arguments}"

    def finish(self) -> None:
        if self.brackets:
            word, start = self.brackets[-1]
            self.fail(FormulaSyntax, start, problem=f"this '{word}' is never closed")
        if self.due:
            problem = f"a value is missing after '{self.before}'"
            self.fail(FormulaSyntax, len(self.text) - len(self.before), problem=problem)


def _spelled_out(letter: str) -> str | None:
    """γ → gamma; what Unicode calls LAMDA is a parameter called lam."""
    *script, name = unicodedata.name(letter, "?").lower().split()
    return {"lamda": "lam"}.get(name, name) if script[:1] == ["greek"] else None
