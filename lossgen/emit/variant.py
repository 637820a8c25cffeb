"""One variant of a loss as the templates read it: its model, its row program and its C source."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

from lossgen.compiler import Compiled
from lossgen.emit.environment import environment
from lossgen.emit.row_c import CRow, wrapped
from lossgen.emit.sweep_torch import TorchProgram
from lossgen.emit.text import python_comment
from lossgen.ir.given import Given
from lossgen.ir.ops import BUILTINS, OPS
from lossgen.ir.program import REDUCTIONS, Call, Function, walk
from lossgen.ir.show import differences
from lossgen.lower.constants import MASKED
from lossgen.lower.functions import RowProgram, lowered
from lossgen.lower.model import RowModel

__all__ = ["Variant", "variants"]

#: Of the pivot, where it is no number of the state or of what is saved.
_PLACES = {"target": -1, "none": -2}


class Variant(RowModel):
    """A model with what the templates want ready: texts, places of the state, functions."""

    @cached_property
    def program(self) -> RowProgram:
        return lowered(self)

    # ------------------------------------------------------------------ facts
    @property
    def target(self) -> bool:
        return self.pivot == "target"

    @property
    def from_first(self) -> bool:
        """Is the first class the pivot of a loss without a target?"""
        return self.target and not self.plan.stable.spec.has_target

    @property
    def absolute(self) -> bool:
        """Does the certificate promise absolute accuracy where another class dominates?"""
        certificate = self.plan.stable.certificate
        return certificate is not None and bool(certificate.dominated)

    @property
    def uses(self) -> list[str]:
        return sorted(self.plan.stable.uses)

    @property
    def arithmetic(self) -> str:
        return self.plan.stable.arithmetic

    @property
    def pivot_at(self) -> int:
        """The place of the pivot in the first sweep's state."""
        return _place(self.pivot, self.sweep_models[0].state)

    @property
    def saved_pivot(self) -> int:
        return _place(self.pivot, self.saved)

    @property
    def carried(self) -> int:
        """Values at the pivot that the state carries with it."""
        return len(self.at_y) if self.pivot == "argmax" else 0

    @property
    def whole_rows(self) -> bool:
        """Does a later sweep, or one more, need what one has found of all classes?"""
        return len(self.sweep_models) > 1 or bool(self.plan.roots)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Of each sweep's state in that of all."""
        lengths = [len(sweep.found) for sweep in self.sweep_models]
        return tuple(accumulate(lengths[:-1], initial=0))

    @cached_property
    def indexed(self) -> bool:
        """Is a class's number among what its sums or gradients are made of?"""
        functions = [*self.program.lifts, self.program.gradient]
        return any(line.name == "index" for f in functions for line in f.lines)

    @cached_property
    def work(self) -> int:
        return max(map(_operations, [*self.program.lifts, self.program.gradient]))

    # ------------------------------------------------------------------ texts
    @property
    def torch_arguments(self) -> list[str]:
        at_y = ["y"] if self.target else []
        return ["x", *at_y, *self.streams, *self.inputs, *self.parameters]

    @cached_property
    def torch(self) -> TorchProgram:
        return TorchProgram(self)

    @cached_property
    def c_source(self) -> str:
        return wrapped(environment().get_template("row_c.jinja").render(v=self, c=CRow(self)))

    @cached_property
    def comment(self) -> str:
        """The mathematics: results, gradients and what their names mean."""
        rule, title = "=" * 86, self.plan.stable.spec.title
        if self.uses:
            title += f", with {', '.join(self.uses)}"
        every = [*self._results(), *self._meanings()]
        lines = [w for c in every for w in textwrap.wrap(c, 94, subsequent_indent="    ")]
        return python_comment([rule, title, *(f"  {line}" for line in lines), rule])

    def _results(self) -> list[str]:
        stable, plan = self.plan.stable, self.plan
        results = stable.outputs or (("loss", stable.loss),)
        comments = [f"{name:<8} = {value}" for name, value in results]
        comments += [f"{c.symbol}       = {c.expr}" for c in plan.coefficients]
        for entry in self.gradients:
            comments.append(f"dloss/d{entry.stream} = {entry.expr}")
            if stable.pivot.value != "none":
                comments.append(f"dloss/d{entry.stream}_y = {entry.at_y}")
        if declared := sorted({s for s in self.used if isinstance(s, Given)}, key=str):
            first = declared[0]
            comments.append(f"names of the spec begin with u_: {first} is its {first.said}")
        return comments

    def _meanings(self) -> list[str]:
        stable, plan, comments = self.plan.stable, self.plan, list[str]()
        over = "j" if stable.pivot.value == "none" else "j != y"
        measured = {k for centre in stable.centres for k, _ in centre.softmaxes}
        for form in stable.forms:
            i = form.index
            among = over if stable.pivot.value == "target" else "j"
            at = f", m{i} = max_({among}) {form.base}" if i in measured else ""
            comments.append(
                f"with l{i}_j = {form.ell}, z{i} = logsumexp_(j != y) l{i}_j - l{i}_y, "
                f"logp{i} = l{i}_j - logsumexp l{i}, R{i} = exp(l{i}_j - logsumexp_(j != y) l{i}_j)"
                f"{at}"
            )
        comments += [f"{name} = {value}" for name, value in differences(stable)]
        comments += [f"{s.symbol} = sum_({over}) {s.body}" for s in plan.sums]
        comments += [
            f"{r.symbol} = the {r.trial} between {r.low} and {r.high} where {r.residual} = 0"
            for r in plan.roots
        ]
        if stable.vocabulary.x_ref in {s for f in stable.forms for s in f.ell.free_symbols}:
            comments.append(f"x_ref = x_y, or 0 where that is not above {float(MASKED):g}")
        for k, largest in enumerate(stable.maxes):
            comments.append(
                f"max{k} = max_({over}) {largest.body}, first at index{k}; "
                f"is_max{k} = [j is index{k}]"
            )
            if largest.form is not None:
                i = largest.form
                comments.append(f"top{i} = logsumexp l{i} - max_({over}) l{i}")
                comments.append(f"rise{k} = is_max{k} - exp(logp{i})")
        return comments


def variants(compiled: Compiled) -> list[Variant]:
    """Of a loss, the base first."""
    plans = zip(compiled.variants, _suffixes(compiled), strict=True)
    return [Variant(plan, suffix) for plan, suffix in plans]


def _place(pivot: str, names: Sequence[str]) -> int:
    return _PLACES[pivot] if pivot in _PLACES else names.index("pivot")


def _operations(function: Function) -> int:
    """A rough count: a line is one, a reduction another, a function of the vocabulary four."""
    lines = function.lines
    calls = [n.op for line in lines for n in walk(line.value) if isinstance(n, Call)]
    reductions = sum(op in REDUCTIONS or op == "take" for op in calls)
    return len(lines) + reductions + 4 * sum(op in BUILTINS or op in OPS for op in calls)


def _suffixes(compiled: Compiled) -> list[str]:
    """Of the variants' functions: what they use, numbered where that could be misread."""
    found = ["".join(f"_{n}" for n in sorted(v.stable.uses)) for v in compiled.variants]
    if len(found) > 1:
        found[-1] = "_all"
    levels = max(v.sweeps for v in compiled.variants)
    every = [f"{s}_{k}" for s in found for k in range(2, levels + 1)] + found
    if len(set(every)) == len(every):
        return found
    return [f"_v{k}{suffix}" for k, suffix in enumerate(found)]
