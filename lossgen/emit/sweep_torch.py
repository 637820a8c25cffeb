"""The same row program in torch, for a chunk of whole rows: statistics, then the gradients.

A chunk is small enough to stay in cache, and ``x`` is a buffer of the caller's that may be
overwritten: with one softmax of x itself, x → t → exp(t) → gradient all live in it.  The other
streams are only read.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Symbol

from lossgen.emit.printers import TORCH
from lossgen.ir.plan import Moment
from lossgen.ir.program import Name, Node, call
from lossgen.ir.statistics import Form
from lossgen.lower.constants import FAR, FLOOR, MASKED
from lossgen.lower.expressions import ROW, assignments
from lossgen.lower.model import RowModel, Sweep, exponential_names, whole
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import between, deltas, joint, scaled

__all__ = ["TorchSweep", "values_at_y"]

_EMPTY = 'float("-inf")'


def _text(expr: Expr, level: int = 0) -> str:
    return TORCH(ROW(expr), level)


def _floored(k: int) -> Node:
    return call("floored", f"t{k}")


def values_at_y(model: RowModel) -> list[str]:
    """The streams' values at y, once y or the pivot is known."""
    if model.pivot == "none":
        return []
    at = "y" if model.pivot == "target" else "pivot"
    lines = [f"{n}_y = {n}.gather(1, {at})" for n in ["x", *model.streams]]
    if model.needs_reference:
        lines.append(f"x_ref = torch.where(x_y > {MASKED}, x_y, 0.0)")
        lines.append("x_own = x_y - x_ref")
    lines += [f"{n}_y = {n}_y.clamp_min({FAR})" for n in model.floored]
    lines += [f"{v}_y = {v}[{at}]" for v in model.vocab]
    return lines + ([f"index_y = {at}.to(x.dtype)"] if model.needs_index else [])


@dataclass(frozen=True)
class TorchSweep:
    """``with_gradient``: the gradient follows, so keep what it reads."""

    model: RowModel
    with_gradient: bool

    @property
    def _pivot(self) -> str:
        return {"target": "y", "argmax": "pivot", "none": ""}[self.model.pivot]

    def _keeps_x(self) -> bool:
        """Is x read again after the first exponent has been formed?"""
        model = self.model
        x = model.plan.stable.vocabulary.x
        later = [m.weight for m in model.plan.moments if m.form is not None or m.level > 1]
        later += [f.base for f in model.forms[1:]]
        later += [m.body for m in model.maxes if m.level > 1]
        later += [c.expr for c in model.centres]
        if self.with_gradient:
            later += [g.expr for g in model.plan.gradients]
        if model.pivot == "argmax" and self.model.plan.sums:
            later += [m.weight for m in model.plan.moments if m.form is None]
        return any(x in e.free_symbols for e in later)

    def _keeps_t(self, form: Form) -> bool:
        later = [b for s in self.model.sweep_models if s.level > form.level for b in s.bodies]
        logs = {form.logp.name, form.logu.name}
        wanted = logs & self.model.read(later)
        wanted |= logs & self.model.gradient_names if self.with_gradient else set()
        return (
            bool(wanted)
            or self.model.needs_powers(form)
            or any(form.index == k for f in self.model.forms for k, _ in f.parts)
            or any(
                m.form == form.index and m.kappa == 0 and m.power for m in self.model.plan.moments
            )
        )

    def _fresh(self, expr: Expr) -> str:
        """Text of a [rows, V] tensor that may be written to."""
        text = _text(expr)
        tiles = {pair[0] for pair in self.model.plan.stable.vocabulary.streams.values()}
        if isinstance(expr, Symbol) or not tiles & expr.free_symbols:
            return f"({text} + torch.zeros_like(x))"
        return f"({text})"

    @property
    def _x(self) -> Symbol:
        return self.model.plan.stable.vocabulary.x

    # ------------------------------------------------------------------ statistics
    def lines(self) -> list[str]:
        """From the streams, y and the parameters to the state: m{i}, moments, maxima with index."""
        model, lines = self.model, []
        if model.needs_index:
            lines.append("index = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[None]")
        if model.pivot == "target":
            lines += values_at_y(model)
        for sweep in model.sweep_models:
            lines += self._sweep(sweep)
            if sweep.level < len(model.sweep_models):
                lines += TORCH.lines(RowScalars(model).between(sweep.level))
        return lines

    def _sweep(self, sweep: Sweep) -> list[str]:
        model, lines = self.model, []
        names = model.read(sweep.bodies)
        lines += self._selects(names)
        lines += self._exponentials(names, sweep.level - 1, set())
        lines += self._rises(names)
        raw = {c.symbol.name for c in model.centres if not c.softmaxes}
        lines += TORCH.lines(deltas(model, names & raw, ROW))
        plain = [m for m in sweep.moments if m.form is None]
        bodies = [(name.name, model.named(w)) for w, name in sweep.weights.items()]
        if sweep.level > 1:
            bodies = [(f"v{k}", model.named(m.weight)) for k, m in enumerate(plain)] + bodies
        lines += TORCH.lines(assignments(bodies, ROW))
        for k, moment in enumerate(plain):
            body = self._fresh(sweep.weight(moment))
            if sweep.level > 1:
                body = f"(v{k} + torch.zeros_like(x))"
            whole_row = (model.pivot == "argmax" and sweep.level == 1) or model.pivot == "none"
            write = "" if whole_row else f".scatter_(1, {self._pivot}, 0.0)"
            lines.append(f"{moment.name} = {body}{write}.sum(1, keepdim=True)")
        for k, largest in sweep.maxes:
            leaves_out = model.pivot == "target" or (model.pivot == "argmax" and sweep.level > 1)
            write = f".scatter_(1, {self._pivot}, {_EMPTY})" if leaves_out else ""
            if largest.below is not None:
                write += f".scatter_(1, index{largest.below}, {_EMPTY})"
            body = self._fresh(model.named(largest.body))
            lines.append(f"max{k}, index{k} = {body}{write}.max(1, keepdim=True)")
        for form in sweep.forms:
            lines += self._softmax(form, sweep)
        lines += TORCH.lines(deltas(model, names - raw, ROW, measuring=True))
        for form in sweep.forms:
            own = [m for m in sweep.moments if m.form == form.index]
            for moment in own:
                if moment.against is not None:
                    lines.append(f"{moment.name}_j = {TORCH(between(sweep, moment))}")
                weight = sweep.weight(moment)
                lines.append(f"{moment.name} = {self._moment(moment, weight)}")
        return lines

    def _softmax(self, form: Form, sweep: Sweep) -> list[str]:
        i, lines = form.index, []
        if form.parts:
            whole = f"l{i}.amax(1, keepdim=True)"
            if sweep.carries_pivot:
                for k, _ in form.parts:
                    own = self.model.forms[k]
                    apart = TORCH(scaled(own, ROW(own.base_y) - Name(f"m{k}"), ROW))
                    lines.append(f"at_y{k} = ({apart}).clamp_min({FLOOR})")
                at_y = TORCH(joint(form, ROW, lambda k: Name(f"at_y{k}")))
                whole = f"torch.maximum({whole}, {at_y})"
            mixed = TORCH(joint(form, ROW, _floored))
            return [
                *lines,
                f"l{i} = ({mixed}).scatter_(1, {self._pivot}, {_EMPTY})",
                f"m{i} = {whole}",
                f"m{i} = torch.where(m{i} == {_EMPTY}, 0.0, m{i})",
                f"t{i} = l{i}.sub_(m{i})",
                f"e{i} = t{i}.exp()" if self._keeps_t(form) else f"e{i} = t{i}.exp_()",
            ]
        base = self.model.named(form.base)
        ell, scatter = f"({_text(base)})", "scatter_"
        if isinstance(base, Symbol):
            ell = base.name
            scatter = "scatter" if base != self._x or self._keeps_x() else "scatter_"
        if sweep.carries_pivot and i == 0:
            lines.append(f"m{i}, pivot = {ell}.max(1, keepdim=True)")
            lines += values_at_y(self.model)
        joined = sweep.carries_pivot and (
            any(i in dict(f.parts) for f in self.model.forms)
            or any(i in dict(c.softmaxes) for c in self.model.centres)
        )
        if joined and i > 0:  # all of them with the pivot, or none: equal rows have equal t
            lines.append(f"m{i} = {ell}.amax(1, keepdim=True)")
        lines.append(f"l{i} = {ell}.{scatter}(1, {self._pivot}, {_EMPTY})")
        if not (sweep.carries_pivot and i == 0) and not joined:
            lines.append(f"m{i} = l{i}.amax(1, keepdim=True)")
        lines += [
            f"m{i} = torch.where(m{i} == {_EMPTY}, 0.0, m{i})",
            f"t{i} = l{i}.sub_(m{i})" + ("" if form.scale == 1 else f".mul_({_text(form.scale)})"),
            f"e{i} = t{i}.exp()" if self._keeps_t(form) else f"e{i} = t{i}.exp_()",
        ]
        if self.model.needs_powers(form):
            lines.append(f"u{i} = t{i}.clamp_min({FLOOR})")
        return lines

    def _moment(self, moment: Moment, weight: Expr) -> str:
        i, parts = moment.form, []
        if moment.against is not None:
            return f"{moment.name}_j.sum(1, keepdim=True)"
        if moment.rest:
            small = f"torch.where(e{i} == 1.0, 0.0, e{i}).sum(1, keepdim=True)"
            ties = f"((e{i} == 1.0).sum(1, keepdim=True) - 1)"
            return f"({small} + {ties}).clamp_min(0.0)"
        if moment.kappa != 0:
            count = whole(moment.kappa)
            exponential = f"torch.exp({_text(moment.kappa, 5)} * u{i})"
            parts += [f"e{i}"] * count if count else [exponential]
        parts += [f"u{i}" if moment.kappa != 0 else f"t{i}"] * moment.power
        parts += [moment.centre.name] if moment.centre is not None else []
        if weight != 1:
            parts.append(_text(weight, 5))
        body = " * ".join(parts) or "1.0"
        if moment.kappa == 0:
            body = f"({body} + torch.zeros_like(x)).scatter_(1, {self._pivot}, 0.0)"
            if weight != 1:  # 0·∞ is 0: a class of weight zero may be masked
                body = f"torch.where({_text(weight, 5)} != 0.0, {body}, 0.0)"
        elif weight != 1 or moment.centre is not None:
            body = f"torch.where(e{i} > 0.0, {body}, 0.0)"
        elif len(parts) > 1:
            body = f"({body})"
        return f"{body}.sum(1, keepdim=True)"

    def _selects(self, names: set[str]) -> list[str]:
        cols = "torch.arange(x.shape[1], device=x.device)"
        lines = []
        for k, largest in enumerate(self.model.maxes):
            if largest.select.name in names:
                lines.append(f"{largest.select} = ({cols} == index{k}).to(x.dtype)")
        return lines

    def _rises(self, names: set[str]) -> list[str]:
        lines = []
        for largest in self.model.maxes:
            if largest.rise.name in names:
                i = largest.form
                lines.append(
                    f"{largest.rise} = torch.where({largest.select} > 0.0, "
                    f"-el.expm1(-top{i}), -p{i})"
                )
        return lines

    # ------------------------------------------------------------------ gradient
    def gradient(self) -> list[str]:
        """grad_<stream> = g·dloss/d<stream> of the chunk; reads t{i}, e{i} where these are."""
        model = self.model
        names = model.gradient_names
        gradients = [(g.stream, model.named(g.expr)) for g in model.gradients]
        single = self._one_exponential([e for _, e in gradients])
        lines: list[str] = []
        if not self.with_gradient and model.needs_index:
            lines.append("index = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[None]")
        done = set() if not self.with_gradient else self._already(names)
        last = model.levels[-1]
        lines += self._selects(names)
        lines += self._exponentials(names, last, done, single is not None)
        if single is not None:
            symbol, row = single
            i = symbol.name[1:]
            scale = _text(row * Symbol("g") * Symbol(f"{symbol.name[0]}inv{i}"))
            lines.append(f"grad_x = e{i}.mul_({scale})")
            return [
                *lines,
                f"grad_x.scatter_(1, {self._pivot}, (grad_x_y * g).expand_as(x_y))",
            ]
        lines += self._rises(names)
        lines += TORCH.lines(deltas(model, names - done, ROW))
        named = [(f"grad_{s}", e) for s, e in gradients]
        lines += TORCH.lines(assignments(named, ROW))
        for stream, expr in gradients:
            lines += self._finished(stream, expr)
        return lines

    def _finished(self, stream: str, expr: Expr) -> list[str]:
        """The value at y, and the factor g."""
        name, lines = f"grad_{stream}", []
        if isinstance(expr, Symbol) or not self._is_tile(expr):
            lines.append(f"{name} = {name} + torch.zeros_like(x)")
        if self._pivot:
            value = f"{name}_y + torch.zeros_like(x_y)"
            lines.append(f"{name} = {name}.scatter(1, {self._pivot}, {value})")
        if not self.model.cotangents:
            lines.append(f"{name} = {name}.mul_(g)" if self._pivot else f"{name} = {name} * g")
        return lines

    def _already(self, names: set[str]) -> set[str]:
        """What the sweeps before the gradient have computed per class."""
        done: set[str] = set()
        for sweep in self.model.sweep_models:
            done |= self.model.read(sweep.bodies)
        return names & done

    def _is_tile(self, expr: Expr) -> bool:
        names = {s.name for s in expr.free_symbols}
        tiles = {f"{k}{f.index}" for f in self.model.forms for k in ("p", "r", "logp", "logu")}
        tiles |= {s.name for m in self.model.maxes for s in (m.select, m.rise)}
        tiles |= {"x", *self.model.streams, *(c.symbol.name for c in self.model.centres)}
        return bool(names & tiles)

    def _one_exponential(self, exprs: list[Expr]) -> tuple[Symbol, Expr] | None:
        """(p or R symbol, row factor) where the gradient is just their product."""
        if len(exprs) > 1 or len(self.model.sweep_models) > 1 or self.model.cotangents:
            return None
        weights = {Symbol(f"{k}{f.index}", positive=True) for f in self.model.forms for k in "pr"}
        row, cls = exprs[0].as_independent(*weights, as_Add=False)
        tile = {pair[0] for pair in self.model.plan.stable.vocabulary.pairs}
        tile |= {c.symbol for c in self.model.centres}
        if cls in weights and not row.free_symbols & tile:
            return cls, row
        return None

    def _exponentials(
        self, names: set[str], level: int, done: set[str], single: bool = False
    ) -> list[str]:
        lines: list[str] = []
        exponents = self.model.exponents(names)
        joined = {k for f in self.model.forms for k, _ in f.parts}
        for form in self.model.forms:
            i = form.index
            wanted = exponential_names(form) & names
            part = i in exponents and not wanted
            if form.level > level or not (wanted - done or part):
                continue
            computed = self.with_gradient or level < self.model.levels[-1]
            if not computed:
                value = scaled(form, ROW(self.model.named(form.base)) - Name(f"m{i}"), ROW)
                if form.parts:
                    value = joint(form, ROW, _floored) - Name(f"m{i}")
                lines.append(f"t{i} = {TORCH(value)}")
            if form.logp.name in wanted - done:
                lines.append(f"{form.logp} = t{i}.clamp_min({FLOOR}) - lam{i}")
            if form.logu.name in wanted - done:
                lines.append(f"{form.logu} = t{i}.clamp_min({FLOOR}) - lamu{i}")
            if not computed and {f"p{i}", f"r{i}"} & wanted:
                lines.append(f"e{i} = t{i}.exp()" if i in joined else f"e{i} = t{i}.exp_()")
            if not single:
                lines += [f"p{i} = e{i} * pinv{i}"] if f"p{i}" in wanted - done else []
                lines += [f"r{i} = e{i} * rinv{i}"] if f"r{i}" in wanted - done else []
        return lines
