"""Row scalars as lines: from the state of the sweeps to the results and the coefficients.

Per form, from (m, a) or the saved (m, log a):   z = scale·(m - l_y) + log a,   lam = L - m
Per sum, from its moments:                       T = exp(-κ·lam)·Σ binomial·(-lam)^(n-k)·M_k
"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

from sympy import Expr, Symbol, log

from lossgen.emit.constants import CLAMP, FAR_GAP, LARGEST
from lossgen.emit.model import RowModel, exponential_names
from lossgen.emit.names import assignments
from lossgen.emit.printers import TORCH, Dialect, Printer
from lossgen.emit.spoilt import symbols_of, unread
from lossgen.emit.sweep_triton import centred, joint
from lossgen.ir.bernoulli import bernoulli
from lossgen.ir.plan import Moment
from lossgen.ir.statistics import Form, Sum

__all__ = ["RowScalars"]


class RowScalars:
    """The lines of one model in one language."""

    def __init__(self, model: RowModel, dialect: Dialect) -> None:
        self.model, self.dialect = model, dialect
        self.printer = Printer(dialect)
        self.where = "torch.where" if dialect is TORCH else "tl.where"

    # ------------------------------------------------------------------ the whole
    def results(self, with_gradient: bool = False) -> list[str]:
        """From the finished state to the results, everything that is saved, and, if the gradient
        follows at once, what it reads."""
        stable = self.model.plan.stable
        wanted = symbols_of(stable.results)
        wanted |= {s for e in self.model.sums for s in e.body.free_symbols if e.level > 1}
        if with_gradient:
            wanted |= self._gradient_symbols()
        lines = self._settled(self.model.levels[-1], wanted, with_gradient)
        clamped, printer = self._clamp(stable.clamp_loss, self.model.forms)
        targets = list(zip(self.model.outputs, stable.results, strict=True))
        lines += clamped + assignments(targets, printer)
        if stable.clamp_loss:  # what a clamped z leaves of infinity
            inf, ends = 'float("inf")', [f"(z{f.index} != zc{f.index})" for f in self.model.forms]
            for name, _ in targets:
                high, low = (f"({name} {side}{LARGEST})" for side in ("> ", "< -"))
                text = f"{self.where}({high}, {inf}, {self.where}({low}, -{inf}, {name}))"
                lines.append(f"{name} = {self.where}({' | '.join(ends)}, {text}, {name})")
        for name, value in targets:
            lines += self._shown(name, unread(self.model, value, with_sums=True))
        return lines

    def between(self, level: int) -> list[str]:
        """From the state of the first ``level`` sweeps to what the next one needs."""
        following = self.model.sweep_models[level]
        wanted = {s for e in following.bodies for s in e.free_symbols}
        wanted |= {s for e in self.model.sums for s in e.body.free_symbols if e.level > 1}
        lines = self._settled(level, wanted, False)
        names = self.model.read(following.bodies)
        return lines + self._inverses(names, level)

    def coefficients(self, saved: bool) -> list[str]:
        """The row scalars of the gradient; ``saved``: from what the forward stored."""
        model, stable = self.model, self.model.plan.stable
        wanted: set[Symbol] = self._tops()
        targets: list[tuple[str, Expr]] = []
        for scalar in model.plan.coefficients:
            wanted |= scalar.expr.free_symbols
            targets.append((scalar.symbol.name, scalar.expr))
        known = {s.expr: s.symbol for s in model.plan.coefficients}
        if model.pivot != "none":
            for gradient in model.gradients:
                wanted |= gradient.at_y.free_symbols
                value = _in_terms_of(gradient.at_y, known)
                targets.append((f"grad_{gradient.stream}_y", value))
        lines: list[str] = []
        if saved:
            for form in model.forms:
                lines += self._softmax(form, wanted, True, True)
            for level in model.levels:
                lines += self._log_sums(level, wanted)
        forms = tuple(f for f in model.forms if f.z in wanted)
        clamped, printer = self._clamp(stable.clamp_gradient, forms)
        lines += clamped + assignments(targets, printer)
        if model.pivot != "none":
            for gradient in model.gradients:
                missed = unread(model, gradient.at_y)
                lines += self._shown(f"grad_{gradient.stream}_y", missed)
        return lines + self._inverses(model.gradient_names, model.levels[-1])

    def _shown(self, result: str, missed: list[str]) -> list[str]:
        """NaN in a result where it is in a value that it does not read."""
        return [f"{result} = {self.where}({n} == {n}, {result}, {n})" for n in missed]

    @property
    def _even(self) -> str:
        return self.printer(log(self.model.plan.stable.vocabulary.classes), 1)

    # ------------------------------------------------------------------ parts
    def _settled(self, level: int, wanted: set[Symbol], gradient: bool) -> list[str]:
        lines = []
        for k in range(1, level + 1):
            for form in self.model.forms:
                if form.level == k:
                    lines += self._softmax(form, wanted, False, gradient)
            lines += self._log_sums(k, wanted)
            for entry in (e for e in self.model.sums if e.level == k):
                lines += [self._sum(entry)] if entry.against is None else self._divergence(entry)
        return lines

    def _softmax(self, form: Form, wanted: set[Symbol], saved: bool, gradient: bool) -> list[str]:
        i, prefix, lines = form.index, self.dialect.prefix, []
        if saved and f"m{i}" not in self.model.saved:
            return []
        if not saved:
            lines.append(f"la{i} = {self.dialect.log}(a{i})")
        if self.model.pivot == "argmax" and i == 0:
            lines.append(f"z{i} = la{i}")
            lines.append(f"lam{i} = {prefix}softplus(z{i})")
        else:
            gap, empty = self._gap(form), f'la{i} == float("-inf")'
            if form.parts:  # a pivot that one part masks: its distance counts as finite
                for k, _ in form.parts:
                    own = self._gap(self.model.forms[k])
                    far = f"{prefix}clip({own}, -{FAR_GAP}, {FAR_GAP})"
                    lines.append(f"gap{k} = {far if own != '0.0' else own}")
            else:
                lines.append(f"ly{i} = {self.printer(form.base_y)}")
            # An empty set of other classes has log a = -inf and m = 0: z = -inf.
            lines.append(f"z{i} = {gap} + la{i}")
            if self._uses_lam(form, wanted, saved, gradient):
                lines.append(
                    f"lam{i} = {self.where}(z{i} > 0.0, la{i} + {prefix}softplus(-z{i}), "
                    f"{prefix}softplus(z{i}) - ({gap}))"
                )
                if form.parts:
                    lines.append(f"lam{i} = {self.where}({empty}, 0.0, lam{i})")
        if form.joint in wanted:
            lines.append(f"joint{i} = m{i} + la{i} - ({joint(form, self.printer, 'lam{}')})")
        if form.top in wanted:
            gap = self._gap(form)
            lines.append(
                f"top{i} = {self.where}(z{i} > 0.0, {prefix}log1p(rest{i} + "
                f"{self.dialect.exp}(-({gap}))), {prefix}softplus(z{i}) - ({gap}))"
            )
            infinite = 'float("inf")'
            lines.append(f'top{i} = {self.where}(la{i} == float("-inf"), {infinite}, top{i})')
        if not saved and self._uses_lamu(form, wanted):
            lines.append(f"lamu{i} = lam{i} - {self._even}")
        if form.logu_y in wanted:
            lines.append(
                f"loguy{i} = {self.where}(z{i} > -1.0, -({self._gap(form)}) - lamu{i}, "
                f"{self._even} - {prefix}softplus(z{i}))"
            )
        scaled = "" if form.scale == 1 else f"{self.printer(form.scale, 2)} * "
        if form.O in wanted:
            lines.append(f"O{i} = {scaled}m{i} + la{i}")
        if form.L in wanted:
            lines.append(f"L{i} = {scaled}m{i} + lam{i}")
            for k, rate in form.parts:
                at = self.printer(rate * self.model.forms[k].scale * Symbol(f"m{k}"))
                lines.append(f"L{i} = L{i} + {at}")
        return lines

    def _log_sums(self, level: int, wanted: set[Symbol]) -> list[str]:
        """What divergences of a sweep are at y, and lse: log-sum-exps from the running maxima.

        Where the target is the largest of each row, it stands far above those maxima, and how
        much farther in one row than in the other is one accurate difference.
        """
        lines: list[str] = []
        for centre in self.model.plan.stable.centres:
            asked = {centre.lse, centre.symbol_y, centre.bernoulli} & wanted
            if centre.level != level or not asked:
                continue
            if centre.bernoulli in asked:
                z, other = (self.model.forms[k].z for k, _ in centre.softmaxes)
                value = (str(centre.bernoulli), bernoulli(z, other))
                lines += assignments([value], self.printer, f"{centre.bernoulli}_")
            far = centre.lse in asked and len(centre.pairs) > 1 and self.model.pivot == "target"
            origin = f" - {centre.at_largest}" if self.model.plan.stable.measures(centre) else ""
            at_y = centre.at_y(self.model.forms)
            if centre.symbol_y in asked or far:
                lines += centred(at_y, self.printer, self.where)
            if centre.symbol_y in asked:
                lines.append(f"{centre.symbol_y} = {at_y.symbol}{origin}")
            if centre.lse not in asked:
                continue
            name, own = centre.lse, []
            for k, sign in centre.softmaxes:
                own.append((f"{name}_{k}", self._gap(self.model.forms[k]), sign, k))
                lines.append(
                    f"{name}_{k} = {self.where}(z{k} > 0.0, la{k} + "
                    f"{self.dialect.prefix}softplus(-z{k}), {self.dialect.prefix}softplus(z{k}))"
                )
            total = _signed((sign, part) for part, _, sign, _ in own)
            if self.model.pivot == "argmax":  # the maxima are those of all classes
                lines.append(f"{name} = {total}{origin}")
                continue
            rest = _signed((-s, f"{self.where}(z{k} > 0.0, 0.0, {gap})") for _, gap, s, k in own)
            if len(own) > 1:
                largest = " & ".join(f"(z{k} <= 0.0)" for *_, k in own)
                rest = f"{self.where}({largest}, {at_y.symbol}, {rest})"
            lines.append(f"{name} = {total} + ({rest}){origin}")
        return lines

    def _gap(self, form: Form) -> str:
        """scale·(m - base_y) - shift_y: how far the largest other exponent is above l_y."""
        i = form.index
        if form.parts:
            return f"(m{i} + {joint(form, self.printer, 'gap{}')})"
        if self.model.pivot == "argmax" and i == 0:
            return "0.0"
        gap = f"(m{i} - ly{i})"
        if form.scale != 1:
            gap = f"{self.printer(form.scale, 2)} * {gap}"
        return gap if form.shift_y == 0 else f"{gap} - {self.printer(form.shift_y, 2)}"

    def _uses_lam(self, form: Form, wanted: set[Symbol], saved: bool, gradient: bool) -> bool:
        finishes = not saved and any(s.form == form.index and not s.others for s in self.model.sums)
        names = self.model.gradient_names if gradient else set()
        if not saved:
            later = [b for s in self.model.sweep_models[1:] for b in s.bodies]
            names = names | self.model.read(later)
        reads = names & (exponential_names(form) - {f"r{form.index}"})
        joint = any(f.joint in wanted for f in self.model.forms if form.index in dict(f.parts))
        rows = form.L in wanted or (not saved and self._uses_lamu(form, wanted))
        return rows or finishes or joint or bool(reads)

    def _uses_lamu(self, form: Form, wanted: set[Symbol]) -> bool:
        """lam - log V is saved: sums and gradient must share what it was rounded to."""
        return f"lamu{form.index}" in self.model.saved or bool({form.logu, form.logu_y} & wanted)

    def _gradient_symbols(self) -> set[Symbol]:
        """The symbols of the gradient's row scalars, and of its class expressions."""
        plan = self.model.plan
        found = self._tops().union(*(c.expr.free_symbols for c in plan.coefficients))
        return found.union(*(g.at_y.free_symbols | g.expr.free_symbols for g in plan.gradients))

    def _tops(self) -> set[Symbol]:
        """What the gradient's select - p is made of."""
        names = self.model.gradient_names
        owners = {m.form for m in self.model.maxes if m.rise.name in names}
        return {f.top for f in self.model.forms if f.index in owners}

    def _sum(self, entry: Sum) -> str:
        """A finished sum."""
        moment = Moment(
            "", entry.form, entry.kappa, entry.power, entry.weight, entry.centre, level=entry.level
        )
        if entry.form is None:
            text = self.model.lower(moment, 0)
            counted = self.dialect.sums_pivot and entry.level == 1
            if self.model.pivot == "argmax" and counted:
                at_pivot = entry.body.xreplace(self.model.plan.stable.vocabulary.at_y)
                text += f" - {self.printer(at_pivot, 2)}"
            return f"{entry.symbol} = {text}"
        i, n = entry.form, entry.power
        if entry.others:  # b/a, and nothing where there is no other class
            return (
                f'{entry.symbol} = {self.where}(la{i} == float("-inf"), 0.0, '
                f"{self.dialect.exp}(-la{i}) * {self.model.lower(moment, 0)})"
            )
        terms: list[str] = []
        for power in range(n, -1, -1):
            sign = " - " if (n - power) % 2 else (" + " if terms else "")
            scale = [str(float(comb(n, power)))] if comb(n, power) > 1 else []
            factors = [*scale, *[f"lam{i}"] * (n - power), self.model.lower(moment, power)]
            terms.append(sign + " * ".join(factors))
        total = "".join(terms)
        if entry.kappa != 0:
            exponent = self.printer(-entry.kappa * Symbol(f"lam{i}"))
            total = f"{self.dialect.exp}({exponent}) * ({total})"
            if self.model.pivot != "argmax" or i != 0:  # lam may be anything without other classes
                total = f'{self.where}(la{i} == float("-inf"), 0.0, {total})'
        return f"{entry.symbol} = {total}"

    def _divergence(self, entry: Sum) -> list[str]:
        """Σ R·log(R/R') = Σ R·δ + log(A'/A), and nothing where there is no other class.

        A'/A is 1 + gap/A where it is near 1.
        """
        i, k, name, prefix = entry.form, entry.against, entry.symbol, self.dialect.prefix
        mean, gap = self.model.between(entry)
        near = f"(2.0 * {gap} < a{i}) & (-2.0 * {gap} < a{i})"
        inf = 'float("inf")'
        apart = f"{self.where}({near}, {prefix}log1p({gap} / a{i}), la{k} - la{i})"
        whole = f"{self.where}({name} == {inf}, {name}, {name} + {apart})"
        centre = self.model.centre(entry.centre)
        origin = f" + {centre.at_largest}" if centre in self.model.measured else ""
        return [
            f"{name} = {mean} / a{i}{origin}",  # infinite where the other softmax masks a class
            f"{name} = {self.where}(la{i} == -{inf}, 0.0, {whole})",
        ]

    def _inverses(self, names: set[str], level: int) -> list[str]:
        """1/Σ exp(t), over all classes and over the others, for the tiles' p and R."""
        lines = []
        for form in self.model.forms:
            i = form.index
            if form.level > level:
                continue
            for weight, inverse, total in (("p", "pinv", "lam"), ("r", "rinv", "la")):
                if f"{weight}{i}" in names:  # nothing where there is no other class
                    text = f"{self.dialect.exp}(-{total}{i})"
                    empty = f'la{i} == float("-inf")'
                    lines.append(f"{inverse}{i} = {self.where}({empty}, 0.0, {text})")
                if f"{weight}{i}" in names and total == "la" and self.model.pivot == "argmax":
                    over = f'{inverse}{i} == float("inf")'  # r of classes 90 below the pivot: 0·∞
                    lines.append(f"{inverse}{i} = {self.where}({over}, {CLAMP}, {inverse}{i})")
        return lines

    def _clamp(self, clamp: bool, forms: tuple[Form, ...]) -> tuple[list[str], Printer]:
        if not clamp:
            return [], self.printer
        lines = [
            f"zc{f.index} = {self.dialect.prefix}clip(z{f.index}, -{CLAMP}, {CLAMP})" for f in forms
        ]
        return lines, Printer(self.dialect, {f.z: f"zc{f.index}" for f in forms})


def _signed(terms: Iterable[tuple[int, str]]) -> str:
    """Their sum as text."""
    return " ".join(f"{'-' if sign < 0 else '+'} {text}" for sign, text in terms).removeprefix("+ ")


def _in_terms_of(expr: Expr, known: dict[Expr, Symbol]) -> Expr:
    """Use a named coefficient where the expression is one, up to sign or a constant factor."""
    coefficient, rest = expr.as_coeff_Mul()
    for value, symbol in known.items():
        if expr in (value, -value):
            return symbol if expr == value else -symbol
        scale, body = value.as_coeff_Mul()
        if body == rest:
            return coefficient / scale * symbol
    return expr
