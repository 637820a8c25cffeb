"""Sums over classes in normal form.

    Σ_j e_j   →   Σ_k coefficient_k(row) · T_k      with T_k = Σ_{j≠y} exp(κ·logp)·logp^n·w

A body without statistics is already one online sum and is never expanded.  A body with
statistics is expanded in exp(κ·logp), logp and the statistics only; every other class expression
is an opaque weight.  Identities: Σ_{j≠y} p_j = Q, Σ_{j≠y} 1 = V - 1.  Equal sums are one sum.
Products of powers of several softmaxes are one softmax: Σ t^a·p^b = exp(L' - a·L_t - b·L_p) with
l' = a·l_t + b·l_p.  What does not separate (log(1 - p_j), |p_j - q_j|) is summed whole, one level
up: in a sweep of its own, where the softmax is known.
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Add, Dummy, Expr, Integer, Mul, Symbol, collect, exp, expand, factor_terms

from lossgen.ir.stages import Pivot, Vocabulary
from lossgen.ir.statistics import Centre, Form, Max, Root, Sum
from lossgen.passes.absolute import without_abs
from lossgen.passes.algebra import cancel_fractions
from lossgen.passes.equations import held_sum
from lossgen.passes.maxima import without_places
from lossgen.passes.separate import Piece, separate

__all__ = ["Reductions"]

_FIXED = "_fixed"  # suffix of the twin symbols under stop_gradient


class Reductions:
    """The statistics of one program under construction (the only mutable object of a pass)."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        pivot: Pivot,
        forms: tuple[Form, ...] = (),
        sums: tuple[Sum, ...] = (),
        maxes: tuple[Max, ...] = (),
        centres: tuple[Centre, ...] = (),
        whole: bool = False,
        roots: tuple[Root, ...] = (),
    ) -> None:
        self.whole = whole  # what several terms make up is summed as it is written
        self.vocabulary = vocabulary
        self.pivot = pivot
        self.forms = list(forms)
        self.sums = list(sums)
        self.maxes = list(maxes)
        self.centres = list(centres)
        self.roots = list(roots)
        self._twins: dict[Symbol, Symbol] = {}

    @property
    def count(self) -> Expr:
        """The number of classes a sum runs over."""
        classes = self.vocabulary.classes
        return classes if self.pivot is Pivot.NONE else classes - 1

    # ------------------------------------------------------------------ what varies along what
    def class_symbols(self) -> set[Symbol]:
        found: set[Symbol] = set(self.vocabulary.class_symbols)
        for form in self.forms:
            found.update(form.class_symbols)
        found.update(s for m in self.maxes for s in (m.select, m.rise))
        found.update(c.symbol for c in self.centres)
        return found | {t for live, t in self._twins.items() if live in found}

    def levels(self) -> dict[Symbol, int]:
        """Every symbol that is known only after a sweep, and which."""
        found: dict[Symbol, int] = {s.symbol: s.level for s in self.sums}
        for entry in self.maxes:
            own = (entry.symbol, entry.select, entry.index, entry.rise)
            found |= dict.fromkeys(own, entry.level)
        for form in self.forms:
            found |= dict.fromkeys((*form.row_symbols, *form.class_symbols), form.level)
        for centre in (c for c in self.centres if c.softmaxes):
            found |= dict.fromkeys((centre.symbol, centre.lse), centre.level)
        for root in self.roots:
            found |= {root.symbol: root.level, root.trial: root.level - 1}
        return found | {t: found[live] for live, t in self._twins.items() if live in found}

    def level(self, expr: Expr) -> int:
        """The sweep after which ``expr`` is known; 0: before any."""
        levels = self.levels()
        return max((levels.get(s, 0) for s in expr.free_symbols), default=0)

    def statistics(self) -> set[Symbol]:
        """Row symbols that are known only after a sweep."""
        return set(self.levels()) - self.class_symbols()

    def varies(self, expr: Expr) -> bool:
        return bool(expr.free_symbols & self.class_symbols())

    # ------------------------------------------------------------------ stop_gradient
    def freeze(self, expr: Expr) -> Expr:
        """Replace every symbol that depends on a stream by a twin with zero derivative."""
        names = self.vocabulary
        expr = without_places(expr, names.index[1], self.maxes)
        live = set(self.levels()) | self.class_symbols()
        live |= {s for pair in names.streams.values() for s in pair} | {names.x_own}
        for symbol in sorted(expr.free_symbols & live, key=str):
            if symbol not in self._twins and not symbol.name.endswith(_FIXED):
                self._twins[symbol] = symbol.func(symbol.name + _FIXED, **symbol.assumptions0)
        return expr.xreplace(self._twins)

    def unfreeze(self, expr: Expr) -> Expr:
        """Give the twins their values again, and the sums over twins too."""
        back: dict[Expr, Expr] = {t: live for live, t in self._twins.items()}
        for entry in list(self.sums):
            if entry.body.free_symbols & set(back):
                back[entry.symbol] = self.sum(_followed(entry.body, back))
        return _followed(expr, back)

    def followed(self, form: Form) -> Form:
        """A softmax whose exponent holds twins, with their values: its derivative is taken."""
        fields = (form.scale, form.base, form.base_y, form.shift_y)
        if not set(self._twins.values()) & set().union(*(f.free_symbols for f in fields)):
            return form
        scale, base, base_y, shift_y = map(self.unfreeze, fields)
        return replace(form, scale=scale, base=base, base_y=base_y, shift_y=shift_y)

    def followed_root(self, root: Root) -> Root:
        """The same of an equation."""
        residual, slope, low, high = map(self.unfreeze, root.exprs)
        return replace(root, residual=residual, slope=slope, low=low, high=high)

    def followed_difference(self, centre: Centre) -> Centre:
        """The same of a difference of such exponents."""
        pairs = tuple((self.unfreeze(c), self.unfreeze(o)) for c, o in centre.pairs)
        return replace(centre, pairs=pairs, factor=self.unfreeze(centre.factor))

    def is_frozen(self, expr: Expr) -> bool:
        """Does it vary along the classes through twins alone?"""
        live = expr.free_symbols - set(self._twins.values())
        return bool(expr.free_symbols & set(self._twins.values())) and not live & (
            self.class_symbols() | set(self.levels()) | {y for _, y in self.vocabulary.pairs}
        )

    def adopt_twins(self, twins: dict[Symbol, Symbol]) -> None:
        """Take over the twins of an earlier pass."""
        self._twins.update(twins)

    @property
    def twins(self) -> dict[Symbol, Symbol]:
        return dict(self._twins)

    def without_twins(self, entries: tuple[Sum, ...]) -> tuple[Sum, ...]:
        twins = set(self._twins.values())
        return tuple(e for e in entries if not e.body.free_symbols & twins)

    # ------------------------------------------------------------------ statistics
    def form(self, ell: Expr, ell_y: Expr) -> tuple[Form, Expr]:
        """The form of exp(ell), and the row constant stripped from it: exp(ell) = e^c·exp(form)."""
        symbols = self.class_symbols()
        scale, body = ell.as_independent(*symbols, as_Add=False)
        if not scale.is_positive:
            scale, body = Integer(1), ell
        offset, base = body.as_independent(*symbols, as_Add=True)
        x, x_ref = self.vocabulary.x, self.vocabulary.x_ref
        rest = base - x
        alone = not rest.free_symbols & {pair[0] for pair in self.vocabulary.streams.values()}
        if self.pivot is Pivot.TARGET and rest != 0 and alone:
            # x - x_y is exact where it matters, x + rest at |x| = 3000 is not
            offset, base = offset + x_ref, base - x_ref
        constant = scale * offset
        raw_y = {x_ref, *(pair[1] for pair in self.vocabulary.streams.values())}
        raw_y |= {twin for live, twin in self._twins.items() if live in raw_y}
        along, shift_y = list[Expr](), list[Expr]()
        # expanded, 1/(std(x) + eps) would be spelled in two ways, which are rounded apart
        held = {f: Dummy("factor", positive=True) for f in Mul.make_args(scale) if f.atoms(Add)}
        back = {factor: node for node, factor in held.items()}
        flat, unit = expand((ell_y - constant).xreplace(held)), scale.xreplace(held)
        for term in Add.make_args(collect(flat, sorted(raw_y, key=str))):
            (along if term.free_symbols & raw_y else shift_y).append(term)
        base_y, apart = (
            without_abs(Add(*terms).xreplace(back))
            for terms in ([term / unit for term in along], shift_y)
        )
        level = self.level(ell) + 1
        return self._numbered(Form(len(self.forms), scale, base, base_y, apart, level)), constant

    def weighted(self, scale: Expr, base: Expr, base_y: Expr) -> Form:
        """The form with these exponents, as they stand."""
        level = self.level(scale * base) + 1
        return self._numbered(Form(len(self.forms), scale, base, base_y, Integer(0), level))

    def without_pivot(self, form: Form) -> Form:
        """The softmax again, in a sweep that knows the arg-max pivot: with the others' maximum."""
        return self._numbered(replace(form, index=len(self.forms), level=form.level + 1))

    def _numbered(self, found: Form) -> Form:
        for form in self.forms:
            if replace(found, index=form.index, parts=form.parts) == form:
                return form
        self.forms.append(found)
        return found

    def centre(self, expr: Expr, expr_y: Expr) -> Centre:
        """The class symbol of expr - expr_y, a difference of raw streams."""
        symbols = self.class_symbols()
        row, _ = expr.as_independent(*symbols, as_Add=True)
        expr, expr_y = expand(expr - row), expand(expr_y - row)
        factor, expr = factor_terms(expr).as_independent(*symbols, as_Add=False)
        return self._registered(_by_stream(expr, expand(expr_y / factor)), factor)

    def apart(self, weight: Form, *terms: tuple[Form, int]) -> Centre:
        """Σ sign·l_j of softmaxes of one sweep, less what it is at the largest class of one."""
        scales = {f.scale for f, _ in terms}
        factor = scales.pop() if len(scales) == 1 else Integer(1)
        pairs = tuple((k * f.scale / factor * f.base, k * f.scale / factor * f.m) for f, k in terms)
        softmaxes = tuple((f.index, k) for f, k in terms)
        return self._registered(pairs, factor, softmaxes, weight.index, weight.level)

    def _registered(
        self,
        pairs: tuple[tuple[Expr, Expr], ...],
        factor: Expr,
        softmaxes: tuple[tuple[int, int], ...] = (),
        weight: int = 0,
        level: int = 0,
    ) -> Centre:
        for entry in self.centres:
            if (entry.pairs, entry.factor, entry.weight) == (pairs, factor, weight):
                return entry
        symbol = Symbol(f"delta{len(self.centres)}", real=True)
        self.centres.append(Centre(symbol, pairs, factor, softmaxes, weight, level))
        return self.centres[-1]

    def leaves_out_pivot(self, body: Expr) -> bool:
        """Does a reduction of ``body`` run over j ≠ y? An arg-max pivot is known after the first
        sweep."""
        return self.pivot is Pivot.TARGET or (self.pivot is Pivot.ARGMAX and self.level(body) > 0)

    def maximum(self, body: Expr, below: int | None = None, form: int | None = None) -> Max:
        """The largest of ``body``, or of what statistic ``below`` leaves."""
        for k, entry in enumerate(self.maxes):
            if (entry.body, entry.below) == (body, below):
                # one statistic, however it is written: max(x), and max(p) of the same x
                if entry.form is None:
                    self.maxes[k] = replace(entry, form=form)
                return self.maxes[k]
        k = len(self.maxes)
        entry = Max(
            Symbol(f"max{k}", real=True),
            Symbol(f"is_max{k}", nonnegative=True),
            Symbol(f"index{k}", nonnegative=True),
            body,
            below,
            self.level(body) + 1,
            form,
        )
        self.maxes.append(entry)
        return entry

    def sum(self, body: Expr) -> Expr:
        """Σ_{j≠y} body as a row expression in sum symbols."""
        if not self.varies(body):
            return self.count * body
        body = self._centred(body)
        if self.level(body) == 0:
            return self._whole(body)
        groups = self._by_row(cancel_fractions(body, self.class_symbols()))
        return Add(*(row * self._class_sum(cls) for row, cls in groups))

    def _centred(self, body: Expr) -> Expr:
        """Differences of several streams, each from its value at y, as one class symbol."""
        if self.pivot is not Pivot.TARGET or not body.args:
            return body
        body = body.func(*(self._centred(a) for a in body.args))
        if not body.is_Add:
            return body
        pairs = []
        for raw, raw_y in self.vocabulary.streams.values():
            pairs += [(t, t.xreplace({raw: raw_y})) for t in body.args if t.has(raw)]
        matched = [(t, t_y) for t, t_y in pairs if t != t_y and -t_y in body.args]
        streams = {s for t, _ in matched for s in t.free_symbols & self.vocabulary.class_symbols}
        if len(streams) < 2:
            return body
        apart = self.centre(Add(*(t for t, _ in matched)), Add(*(t_y for _, t_y in matched)))
        return body - Add(*(t - t_y for t, t_y in matched)) + apart.symbol

    def _by_row(self, body: Expr) -> list[tuple[Expr, Expr]]:
        """Σ row·class, with class parts together whose rows differ by a number only."""
        symbols = self.class_symbols()
        by_class: dict[Expr, Expr] = {}
        for term in Add.make_args(body):
            row, cls = term.as_independent(*symbols, as_Add=False)
            by_class[cls] = by_class.get(cls, Integer(0)) + row
        groups: list[tuple[Expr, list[Expr]]] = []
        for cls, row in by_class.items():
            number, row = factor_terms(row).as_coeff_Mul()
            for known, parts in groups:
                if known in (row, -row):
                    parts.append(number * cls if known == row else -number * cls)
                    break
            else:
                groups.append((row, [number * cls]))
        return [(row, Add(*parts)) for row, parts in groups]

    def _class_sum(self, body: Expr) -> Expr:
        if not self.varies(body):
            return self.count * body
        if self.level(body) == 0:
            return self._whole(body)
        pieces = separate(body, self)
        if pieces is None or (self.whole and len(pieces) > 1):
            return self._whole(body)
        return Add(*(piece.row * self._piece(piece) for piece in pieces))

    def _piece(self, piece: Piece) -> Expr:
        """One monomial as a row expression."""
        if not piece.kappa and not piece.power:
            return self.count if piece.body == 1 else self._whole(piece.body)
        if len(piece.kappa) > 1:
            return self._joint(piece)
        (index,) = {*piece.kappa, *piece.power}
        form = self.forms[index]
        kappa, power = piece.kappa.get(index, Integer(0)), piece.power.get(index, 0)
        if piece.is_mass and kappa == 1:
            return Integer(1) if piece.others else form.Q
        return self._register(
            Sum(
                Symbol("_"),
                piece.body,
                index,
                kappa,
                power,
                piece.weight,
                piece.centre,
                piece.others,
                form.level,
            )
        )

    def _joint(self, piece: Piece) -> Expr:
        """Σ exp(Σ κ_f·logp_f) = Q'·exp(s' - Σ κ_f·s_f) of the form with l' = Σ κ_f·l_f."""
        forms = [(self.forms[index], kappa) for index, kappa in piece.kappa.items()]
        names = self.vocabulary.pairs
        # (1 - a)·v stays a product: v - a·v is NaN for a masked class
        ell = collect(Add(*(expand(k * f.ell) for f, k in forms)), [v for v, _ in names])
        ell_y = collect(Add(*(expand(k * f.ell_y) for f, k in forms)), [v for _, v in names])
        known = len(self.forms)
        joint, _ = self.form(ell, ell_y)
        if joint.index == known:
            joint = replace(joint, parts=tuple((f.index, kappa) for f, kappa in forms))
            self.forms[known] = joint
        # with every L_f as s_f + l_f(y) the l(y) cancel, and common offsets with them
        return joint.Q * exp(joint.s - Add(*(kappa * f.s for f, kappa in forms)))

    def _whole(self, body: Expr) -> Expr:
        row, cls = body.as_independent(*self.class_symbols(), as_Add=False)
        if (known := held_sum(self.roots, self.sums, cls)) is not None:
            return row * known
        return row * self.register(cls)

    def register(self, body: Expr) -> Symbol:
        """Σ_{j≠y} body as it stands, in a statistic of its own."""
        return self._register(Sum(Symbol("_"), body, weight=body, level=self.level(body) + 1))

    def _register(self, key: Sum) -> Symbol:
        for entry in self.sums:
            if entry.form == key.form and (entry.body == key.body or _same(entry.body, key.body)):
                return entry.symbol
        sign = {}
        if key.weight.is_nonnegative and key.centre is None:
            sign = {"nonnegative": True} if key.power % 2 == 0 else {"nonpositive": True}
        symbol = Symbol(f"T{len(self.sums)}", real=True, **sign)
        self.sums.append(replace(key, symbol=symbol))
        return symbol


def _by_stream(expr: Expr, expr_y: Expr) -> tuple[tuple[Expr, Expr], ...]:
    """The summands of a class expression, each with the part of its value at y that belongs to
    its streams."""
    terms = sorted(Add.make_args(expr), key=lambda t: (str(t)[0] == "-", str(t)))
    left, found = list(Add.make_args(expr_y)), []
    for term in terms:
        names = {f"{s}_y" for s in term.free_symbols}
        own = [t for t in left if names & {s.name for s in t.free_symbols}]
        left = [t for t in left if t not in own]
        found.append((term, Add(*own)))
    found[0] = (found[0][0], Add(found[0][1], *left))
    return tuple(found)


def _same(a: Expr, b: Expr) -> bool:
    """Equal once expanded, and short enough to ask."""
    if a.free_symbols != b.free_symbols or max(a.count_ops(), b.count_ops()) > 80:
        return False
    return bool(expand(a, power_base=False, log=False) == expand(b, power_base=False, log=False))


def _followed(expr: Expr, back: dict[Expr, Expr]) -> Expr:
    """Replaced until nothing changes: a twin may be that of a sum over twins."""
    while (replaced := expr.xreplace(back)) != expr:
        expr = replaced
    return expr
