"""Lines of the row program in torch, for a chunk of whole rows: what is not read again is
overwritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lossgen.emit.printers import TORCH
from lossgen.ir.program import (
    COMPARISONS,
    LOGIC,
    REDUCTIONS,
    Call,
    Line,
    Name,
    Node,
    Number,
    rewritten,
    variables,
    walk,
    where,
)
from lossgen.lower.fuse import needed
from lossgen.lower.model import RowModel
from lossgen.spec.spelling import said

__all__ = ["RESULTS", "SOLVED", "Writer"]

#: What functions that find a root are called.
SOLVED = "_torch_root"
#: The line after which a call without gradients is done.
RESULTS = "results"

_IN_PLACE = {"+": "add_", "-": "sub_", "*": "mul_", "/": "div_"}
_EXPONENTIALS = ("exp", "exp_tile", "exp_below")
_ARGUMENT = 9  # of a method: an atom


class Writer:
    """Prints lines; overwrites class values that are not read again.

    A class value is ``full`` if it is [rows, V] for sure: a vocab input is [V].
    """

    def __init__(
        self, model: RowModel, lines: list[Line], results: list[str], owned: Iterable[str]
    ) -> None:
        self.vocab = set(model.vocab)
        self.lines = needed(lines, results)
        self.live: list[set[str]] = [set(results)]  # after each line
        for line in reversed(self.lines):
            before = (self.live[0] - {line.name}) | variables(line.value)
            self.live.insert(0, before)
        self.full = {"x", *model.streams}
        self.numbers = {"V", *model.parameters}  # Python's, not tensors
        domains = {n: model.plan.stable.spec.parameters[said(n)].domain for n in model.parameters}
        self.not_zero = {"V", *(n for n, d in domains.items() if not d.contains(0.0))}
        self.owned = set(owned)
        self.dying: set[str] = set()  # what this line is the last to read

    def text(self, results: Iterable[str]) -> list[str]:
        gradients = {n for n in results if n.startswith("grad_")}
        last = {line.name: k for k, line in enumerate(self.lines)}
        found = []
        for k, line in enumerate(self.lines):
            uses = Counter(n.name for n in walk(line.value) if isinstance(n, Name))
            gone = {n for n in uses if n not in self.live[k + 1] or n == line.name}
            self.dying = {n for n in gone & self.owned & self.full if uses[n] == 1}
            if line.name == RESULTS:  # printed by the caller
                found.append(RESULTS)
                continue
            text, full = self._text(line.value)
            if line.name in gradients and last[line.name] == k and not full:
                text, full = f"{text} + torch.zeros_like(x)", True
            found.append(f"{line.name} = {text}")
            if isinstance(line.value, Name):  # one tensor with two names
                self.owned -= {line.name, line.value.name}
            else:
                self.owned.add(line.name)
            self.full = self.full | {line.name} if full else self.full - {line.name}
            for known, holds in (
                (self.numbers, self._is_number(line.value)),
                (self.not_zero, self._is_not_zero(line.value)),
            ):
                (known.add if holds else known.discard)(line.name)
        return found

    def _text(self, node: Node) -> tuple[str, bool]:
        """As the value of a line; is it full?"""
        fresh = self._overwriting(node)
        if fresh is not None:
            return fresh, True
        return self._plain(node), self._is_full(node)

    def _overwriting(self, node: Node) -> str | None:
        """In the place of a value that is not read again."""
        if isinstance(node, Name):
            return node.name if node.name in self.dying else None
        if not isinstance(node, Call):
            return None
        match node:
            case Call(op="put", args=[values, at, value]):
                return self._put(values, at, value)
            case Call(op=op, args=[a]) if op in _EXPONENTIALS or op == "neg":
                inner = self._overwriting(a)
                return inner and f"{inner}.{'neg_' if op == 'neg' else 'exp_'}()"
            case Call(op="*", args=[a, b]) if not self._reaches(a) and self._reaches(b):
                inner = self._overwriting(b)
                return inner and f"{inner}.mul_({self._plain(a)})"
            case Call(op=op, args=[a, b]) if op in _IN_PLACE and self._reaches(a):
                inner = self._overwriting(a)
                return inner and f"{inner}.{_IN_PLACE[op]}({self._plain(b)})"
        return None

    def _reaches(self, node: Node) -> bool:
        """Does it end in a value that can be overwritten?"""
        match node:
            case Name(name=name):
                return name in self.dying
            case Call(op="*", args=[a, b]):
                return self._reaches(a) or self._reaches(b)
            case Call(op="put", args=[_, _, _]):
                return True
            case Call(op=op, args=[a, *_]) if op in (*_IN_PLACE, "neg"):
                return self._reaches(a)
        return False

    def _put(self, values: Node, at: Node, value: Node) -> str:
        """Another value at one class; in place where the values are nobody's."""
        held = self._overwriting(values)
        method = "scatter_"
        if held is None:
            held = self._filled(values)
            named = isinstance(values, Name) and self._is_full(values)
            method = "scatter" if named else "scatter_"
        text = self._plain(value)
        if not isinstance(value, Number):
            text = f"{text} + torch.zeros_like(x_y)"
        return f"{held}.{method}(1, {self._plain(at)}, {text})"

    def _filled(self, node: Node) -> str:
        """As the object of a method, [rows, V]."""
        if self._is_full(node):
            return self._plain(node, _ARGUMENT)
        return f"({self._plain(node)} + torch.zeros_like(x))"

    def _plain(self, node: Node, level: int = 0) -> str:
        return TORCH(rewritten(node, self._spelled), level)

    def _spelled(self, node: Node) -> Node | None:
        """What torch writes as a method, as a name that is its text."""
        text: str | None = None
        match node:
            case Call(op=op, args=args) if op.startswith(SOLVED):
                text = f"{op}({', '.join(map(self._plain, args))})"
            case Call(op="put", args=[values, at, value]):
                text = self._put(values, at, value)
            case Call(op="row_sum", args=[body]):
                text = f"{self._filled(body)}.sum(1, keepdim=True)"
            case Call(op="row_max" | "row_max_or_nan", args=[body]):
                text = f"{self._filled(body)}.amax(1, keepdim=True)"
            case Call(op="row_min", args=[body]):  # there may be no such class
                least = f"{self._plain(body, _ARGUMENT)}.amin(1, keepdim=True)"
                text = f"{least}.clamp_max(x.shape[1] - 1)"
            case Call(op="take", args=[Name(name=name), at]):
                chosen = self._plain(at)
                text = f"{name}[{chosen}]" if name in self.vocab else f"{name}.gather(1, {chosen})"
            case Call(op="number", args=[a]):
                text = f"{self._plain(a, _ARGUMENT)}.to(x.dtype)"
            case Call(op="index", args=[a]):
                text = f"{self._plain(a, _ARGUMENT)}.to(torch.int64)"
            case Call(op="/", args=[a, b]) if self._is_number(node) and not self._is_not_zero(b):
                text = f"el.quotient({self._plain(a)}, {self._plain(b)})"
            case Call(op="fmax", args=[a, Number(value=least)]):
                text = f"{self._plain(a, _ARGUMENT)}.clamp_min({least!r})"
            case Call(op="fmax", args=[a, b]):
                text = f"torch.maximum({self._plain(a)}, {self._plain(b)})"
            case Call(op="select", args=[condition, Number(), Number()]):
                named = where(Name(self._plain(condition)), *node.args[1:])
                text = f"{TORCH(named)}.to(x.dtype)"
        return None if text is None else Name(text)

    def _is_number(self, node: Node) -> bool:
        """Is it made of V and the parameters alone?"""
        return variables(node) <= self.numbers

    def _is_not_zero(self, node: Node) -> bool:
        """For sure? Python refuses a division by 0, as in 1/(V - 1) where V is 1."""
        match node:
            case Name(name=name):
                return name in self.not_zero
            case Number(value=value):
                return value != 0
            case Call(op="*" | "/" | "neg", args=args):
                return all(map(self._is_not_zero, args))
        return False

    def _is_full(self, node: Node) -> bool:
        match node:
            case Name(name=name):
                return name in self.full
            case Call(op="put"):
                return True
            case Call(op=op) if op in (*REDUCTIONS, "take") or op.startswith(SOLVED):
                return False
            case Call(args=args):
                if any(map(self._is_full, args)):
                    return True
                compared = node.op in (*COMPARISONS, *LOGIC) or node.op == "select"
                return compared and "cols" in variables(node)
        return False
