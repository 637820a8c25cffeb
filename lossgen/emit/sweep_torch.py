"""The row program in torch, for a chunk of whole rows: statistics, then the gradients.

A chunk is small enough to stay in cache.  A mask that leaves out one class is a scatter there, and
what is not read again is overwritten:

    valid = cols != y                                    l0 = x.scatter_(1, y, -inf)
    l0 = select(valid, x, -inf)                     →    m0 = l0.amax(1, keepdim=True)
    m0 = row_max(l0); t0 = l0 - m0                       t0 = l0.sub_(m0)

``x`` is a buffer of the caller's that the forward may overwrite; the backward has the logits
themselves, and other streams are only read.
"""

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
    as_node,
    rewritten,
    variables,
    walk,
    where,
)
from lossgen.lower.constants import FAR, MASKED
from lossgen.lower.fuse import folded, masked, needed, once
from lossgen.lower.model import RowModel
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import counting, finished_maxima, gradient, lift
from lossgen.spec.spelling import said

__all__ = ["TorchProgram"]

_IN_PLACE = {"+": "add_", "-": "sub_", "*": "mul_", "/": "div_"}
_EXPONENTIALS = ("exp", "exp_tile", "exp_below")
_ARGUMENT = 9  # of a method: an atom


#: The line after which a call without gradients is done.
_RESULTS = "results"


class TorchProgram:
    """The functions of one variant, as lines of text: ``rows`` computes results and, unless ``g``
    is None, the gradients; ``backward`` the gradients of what was saved."""

    def __init__(self, model: RowModel) -> None:
        self.model, self.scalars = model, RowScalars(model)
        cotangents = [f"{n} = g[:, {k} : {k + 1}]" for k, n in enumerate(model.cotangents)]
        results = self.scalars.results(with_gradient=True)
        coefficients = self.scalars.coefficients(saved=False)
        held = tuple(map(Name, [*model.outputs, *model.saved]))
        first = [*self._statistics(), *results, Line(_RESULTS, Call(_RESULTS, held))]
        returned = ["if g is None:", f"    return {self._outputs}, {self._saved}", *cotangents]
        whole = [*first, *coefficients, *self._gradient()]
        self.rows = self._text(whole, [*self._gradients, *model.outputs], returned=returned)
        self.rows.append(f"return {self._outputs}, {self._tuple}")
        saved = [*self.scalars.coefficients(saved=True), *self._gradient()]
        self.backward = cotangents + self._reloaded() + self._text(saved, self._gradients, owned=())
        self.backward.append(f"return {self._tuple}")

    @property
    def _outputs(self) -> str:
        names = self.model.outputs
        return names[0] if len(names) == 1 else f"torch.cat([{', '.join(names)}], 1)"

    @property
    def _saved(self) -> str:
        if not self.model.saved:
            return "x.new_empty(0, x.shape[0])"
        return f"torch.cat([{', '.join(self.model.saved)}], 1).t().to(x.dtype)"

    @property
    def _tuple(self) -> str:
        return f"({''.join(f'{n}, ' for n in self._gradients)})"

    @property
    def _gradients(self) -> list[str]:
        return [f"grad_{g.stream}" for g in self.model.gradients]

    # ------------------------------------------------------------------ the program
    def _statistics(self) -> list[Line]:
        """From the streams to the state, and to what the last sweep knows."""
        model, lines = self.model, list[Line]()
        for sweep in model.sweep_models:
            lines += [counting(sweep), *lift(sweep, whole_row=True)]
            lines += finished_maxima(sweep)
            if sweep.level < len(model.sweep_models):
                lines += self.scalars.between(sweep.level)
        return lines

    def _gradient(self) -> list[Line]:
        """Each with its value at y, times the gradient of the row."""
        model, lines = self.model, gradient(self.model)
        for name in self._gradients:
            own, at_y = Name(name), as_node(f"{name}_y")
            if not model.cotangents:
                lines.append(Line(name, own * as_node("g")))
                at_y = at_y * as_node("g")
            if model.pivot != "none":
                lines.append(Line(name, Call("put", (own, self._pivot, at_y))))
        return lines

    @property
    def _pivot(self) -> Node:
        return Name("y") if self.model.pivot == "target" else Call("index", (Name("pivot"),))

    def _reloaded(self) -> list[str]:
        model = self.model
        names = ", ".join(model.saved)
        one = len(model.saved) == 1
        lines = [f"{f'({names},)' if one else names} = saved.unsqueeze(2)"] if names else []
        return lines + (self._values_at("pivot.to(torch.int64)") if model.pivot == "argmax" else [])

    def _values_at(self, at: str) -> list[str]:
        """The streams' values at y, once y or the pivot is known."""
        model = self.model
        lines = [f"{n}_y = {n}.gather(1, {at})" for n in ["x", *model.streams]]
        if model.needs_reference:
            lines.append(f"x_ref = torch.where(x_y > {MASKED}, x_y, 0.0)")
            lines.append("x_own = x_y - x_ref")
        lines += [f"{n}_y = {n}_y.clamp_min({FAR})" for n in model.floored]
        lines += [f"{v}_y = {v}[{at}]" for v in model.vocab]
        return lines + ([f"index_y = {at}.to(x.dtype)"] if model.needs_index else [])

    # ------------------------------------------------------------------ its text
    def _text(
        self,
        lines: list[Line],
        results: list[str],
        owned: Iterable[str] = ("x",),
        returned: Iterable[str] = (),
    ) -> list[str]:
        model = self.model
        head = self._values_at("y") if model.pivot == "target" else []
        exponents = {f"{name}{f.index}" for f in model.forms for name in "te"}
        program = _sunk(folded(once(masked(lines), exponents), model.tile_streams))
        if returned:
            body = self._with_return(program, results, owned, list(returned))
        else:
            body = _Writer(model, program, results, owned).text(results)
        if any("cols" in _words(line) for line in body):
            head.append("cols = torch.arange(x.shape[1], device=x.device)")
        return head + body

    def _with_return(
        self, program: list[Line], results: list[str], owned: Iterable[str], returned: list[str]
    ) -> list[str]:
        """A call without gradients overwrites what they would read."""
        writer = _Writer(self.model, program, [*results, _RESULTS], owned)
        body = writer.text(results)
        end = body.index(_RESULTS)
        first = writer.lines[: end + 1]
        wanted = {id(line) for line in needed(first, [_RESULTS])}
        others = [line.name for line in first if id(line) not in wanted]
        alone = _Writer(self.model, first, [_RESULTS, *others], owned)
        texts = dict(zip(map(id, alone.lines), alone.text(()), strict=True))
        for k, line in enumerate(first[:-1]):
            text = texts.get(id(line), body[k])
            if text != body[k]:
                body[k] = f"{text} if g is None else {body[k].partition(' = ')[2]}"
        return [*body[:end], *returned, *body[end + 1 :]]


def _sunk(lines: list[Line]) -> list[Line]:
    """What the results do not need stands behind them, unless what it reads is another by then."""
    names = [line.name for line in lines]
    if _RESULTS not in names:
        return lines
    end = names.index(_RESULTS)
    wanted = {id(line) for line in needed(lines[: end + 1], [_RESULTS])}
    bound = 0  # what stands before the last that cannot move stays with it
    for k, line in enumerate(lines[:end]):
        later = {other.name for other in lines[k + 1 : end] if id(other) in wanted}
        if id(line) not in wanted and later & (variables(line.value) | {line.name}):
            bound = k + 1
    first, behind = list[Line](), list[Line]()
    for k, line in enumerate(lines[:end]):
        (first if k < bound or id(line) in wanted else behind).append(line)
    return [*first, lines[end], *behind, *lines[end + 1 :]]


def _words(line: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in line).split())


# ------------------------------------------------------------------------------- writing
class _Writer:
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
            if line.name == _RESULTS:  # printed by the caller
                found.append(_RESULTS)
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
            case Call(op=op) if op in (*REDUCTIONS, "take"):
                return False
            case Call(args=args):
                if any(map(self._is_full, args)):
                    return True
                compared = node.op in (*COMPARISONS, *LOGIC) or node.op == "select"
                return compared and "cols" in variables(node)
        return False
