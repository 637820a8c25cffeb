"""The same row program in torch, for a chunk of whole rows: statistics, then the gradient.

A chunk is small enough to stay in cache, and ``x`` is a buffer of the caller's that may be
overwritten: with one softmax of x itself, x → t → exp(t) → gradient all live in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Symbol

from lossgen.emit.model import FLOOR, RowModel, whole
from lossgen.emit.names import assignments, named_weights
from lossgen.emit.printers import TORCH, Printer
from lossgen.emit.sweep_triton import scaled
from lossgen.ir.stages import Form, Moment

__all__ = ["TorchSweep"]

_EMPTY = 'float("-inf")'


@dataclass(frozen=True)
class TorchSweep:
    """``with_gradient``: the gradient follows, so keep what it reads."""

    model: RowModel
    with_gradient: bool

    @property
    def _printer(self) -> Printer:
        return Printer(TORCH)

    def _keeps_x(self) -> bool:
        """Is x read again after the first exponent has been formed?"""
        model = self.model
        x = model.plan.stable.vocabulary.x
        expr, _ = named_weights(model.plan.gradient, model.forms)
        later = [m.weight for m in model.plan.moments if m.form is not None]
        later += [f.base for f in model.forms[1:]]
        later += [expr] if self.with_gradient else []
        return any(x in e.free_symbols for e in later)

    def _keeps_t(self, form: Form) -> bool:
        wanted = self.with_gradient and form.logp.name in self.model.gradient_names
        return (
            wanted
            or self.model.needs_powers(form)
            or any(
                m.form == form.index and m.kappa == 0 and m.power for m in self.model.plan.moments
            )
        )

    def _fresh(self, expr: Expr) -> str:
        """Text of a [rows, V] tensor that may be written to."""
        text = self._printer(expr)
        if isinstance(expr, Symbol) or self._x not in expr.free_symbols:
            return f"({text} + torch.zeros_like(x))"
        return f"({text})"

    @property
    def _x(self) -> Symbol:
        return self.model.plan.stable.vocabulary.x

    # ------------------------------------------------------------------ statistics
    def lines(self) -> list[str]:
        """From x, y and the parameters to the state: m{i}, moments, maxima with index."""
        model, lines = self.model, []
        pivot = {"target": "y", "argmax": "pivot", "none": ""}[model.pivot]
        if model.pivot == "target":
            lines.append("x_y = x.gather(1, y)")
            lines += [f"{v}_y = {v}[y]" for v in model.vocab]
        for moment in model.plan.moments:
            if moment.form is None:
                write = f".scatter_(1, {pivot}, 0.0)" if model.pivot == "target" else ""
                lines.append(
                    f"{moment.name} = {self._fresh(moment.weight)}{write}.sum(1, keepdim=True)"
                )
        for k, largest in enumerate(model.plan.stable.maxes):
            write = f".scatter_(1, {pivot}, {_EMPTY})" if model.pivot == "target" else ""
            lines.append(
                f"max{k}, index{k} = {self._fresh(largest.body)}{write}.max(1, keepdim=True)"
            )
        for form in model.forms:
            lines += self._softmax(form, pivot)
        return lines

    def _softmax(self, form: Form, pivot: str) -> list[str]:
        i, ell, lines = form.index, self._printer(form.base), []
        if form.base == self._x:
            ell = "x.clone()" if self._keeps_x() else "x"
        if self.model.pivot == "argmax":
            lines += [
                f"m{i}, pivot = {'x' if form.base == self._x else f'({ell})'}.max(1, keepdim=True)",
                "x_y = x.gather(1, pivot)",
            ]
        lines.append(f"l{i} = ({ell}).scatter_(1, {pivot}, {_EMPTY})".replace("(x)", "x"))
        if self.model.pivot != "argmax":
            lines.append(f"m{i} = l{i}.amax(1, keepdim=True)")
        lines += [
            f"m{i} = torch.where(m{i} == {_EMPTY}, 0.0, m{i})",
            f"t{i} = l{i}.sub_(m{i})"
            + ("" if form.scale == 1 else f".mul_({self._printer(form.scale)})"),
            f"e{i} = t{i}.exp()" if self._keeps_t(form) else f"e{i} = t{i}.exp_()",
        ]
        if self.model.needs_powers(form):
            lines.append(f"u{i} = t{i}.clamp_min({FLOOR})")
        for moment in self.model.plan.moments:
            if moment.form == i:
                lines.append(f"{moment.name} = {self._moment(moment, pivot)}")
        return lines

    def _moment(self, moment: Moment, pivot: str) -> str:
        i, parts = moment.form, []
        if moment.kappa != 0:
            count = whole(moment.kappa)
            scaled = f"torch.exp({self._printer(moment.kappa, 2)} * u{i})"
            parts += [f"e{i}"] * count if 0 < count <= 4 else [scaled]
        parts += [f"u{i}" if moment.kappa != 0 else f"t{i}"] * moment.power
        if moment.weight != 1:
            parts.append(self._printer(moment.weight, 2))
        body = " * ".join(parts) or "1.0"
        if moment.kappa == 0:
            body = f"({body} + torch.zeros_like(x)).scatter_(1, {pivot}, 0.0)"
        elif len(parts) > 1:
            body = f"({body})"
        return f"{body}.sum(1, keepdim=True)"

    # ------------------------------------------------------------------ gradient
    def gradient(self) -> list[str]:
        """grad = g·dloss/dx of the chunk; reads t{i}, e{i} of the statistics if these ran."""
        model = self.model
        expr, names = named_weights(model.plan.gradient, model.forms)
        pivot = {"target": "y", "argmax": "pivot", "none": ""}[model.pivot]
        lines: list[str] = []
        single = self._one_exponential(expr)
        for form in model.forms:
            lines += self._exponentials(form, names, single is not None)
        if single is not None:
            symbol, row = single
            i = symbol.name[1:]
            scale = self._printer(row * Symbol("g") * Symbol(f"{symbol.name[0]}inv{i}"))
            lines.append(f"grad = e{i}.mul_({scale})")
            return [*lines, f"grad.scatter_(1, {pivot}, (grad_y * g).expand_as(x_y))"]
        for k, largest in enumerate(model.plan.stable.maxes):
            if largest.select.name in names:
                cols = "torch.arange(x.shape[1], device=x.device)"
                lines.append(f"{largest.select} = ({cols} == index{k}).to(x.dtype)")
        lines += assignments([("grad", expr)], self._printer)
        if lines[-1] == "grad = x" or not self._is_tile(expr):
            lines.append("grad = grad + torch.zeros_like(x)")
        if pivot:
            lines.append(f"grad = grad.scatter(1, {pivot}, grad_y + torch.zeros_like(x_y))")
        return [*lines, "grad = grad * g"]

    def _is_tile(self, expr: Expr) -> bool:
        names = {s.name for s in expr.free_symbols}
        tiles = {f"{k}{f.index}" for f in self.model.forms for k in ("p", "r", "logp")}
        tiles |= {m.select.name for m in self.model.plan.stable.maxes} | {"x"}
        return bool(names & tiles)

    def _one_exponential(self, expr: Expr) -> tuple[Symbol, Expr] | None:
        """(p or R symbol, row factor) where the gradient is just their product."""
        weights = {Symbol(f"{k}{f.index}", positive=True) for f in self.model.forms for k in "pr"}
        row, cls = expr.as_independent(*weights, as_Add=False)
        tile = {self._x, *(v for v, _ in self.model.plan.stable.vocabulary.vocab.values())}
        if cls in weights and not row.free_symbols & tile:
            return cls, row
        return None

    def _exponentials(self, form: Form, names: set[str], single: bool) -> list[str]:
        i, lines = form.index, []
        if not {f"p{i}", f"r{i}", form.logp.name} & names:
            return []
        if not self.with_gradient:
            difference = f"{self._printer(form.base, 1)} - m{i}"
            lines.append(f"t{i} = {scaled(form, difference, self._printer)}")
        if form.logp.name in names:
            lines.append(f"{form.logp} = t{i}.clamp_min({FLOOR}) - lam{i}")
        if not self.with_gradient and {f"p{i}", f"r{i}"} & names:
            lines.append(f"e{i} = t{i}.exp_()")
        if not single:
            lines += [f"p{i} = e{i} * pinv{i}"] if f"p{i}" in names else []
            lines += [f"r{i} = e{i} * rinv{i}"] if f"r{i}" in names else []
        return lines
