"""Every word of the language's tables, on every backend, against mpmath: a new entry is tested by
being there.

The words are compiled in groups, each as two outputs: at the target, and summed over the classes
(those that go over the classes: of all, and of the others).  A row holds one number of the domain
twice, a tie, and one from its middle.  What overflows float32 is the business of tests/ops.  What a
word means is asked of torch, numpy or mpmath, by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.nn import functional

import lossgen
from lossgen.compiler import compile_loss
from lossgen.errors import FormulaTooLarge
from lossgen.ir.literal import Truth, literal
from lossgen.ir.ops import OPS
from lossgen.runtime import c_build
from lossgen.runtime import device as dl
from lossgen.spec.definitions import DEFINED
from lossgen.spec.domain import Interval
from lossgen.spec.load import load_text
from lossgen.spec.vocabulary import (
    _INSTEAD,
    ALIASES,
    CLASS_MAPS,
    CLASS_WORDS,
    ELEMENTWISE,
    FUNCTIONS,
    ROOT,
)

GROUP = 6
ULP = 2.0**-23
TINY, LARGEST = 1e-37, 3.4028e38
#: 0, kinks, ties, and both ends of every domain
POINTS = (0.0, 1e-6, 0.3, 0.77, 1 - 2.0**-22, 1.0, 3.0, 7.5, 80.0)
FAR = 2e3  # where an exponential is no float32
SECOND = ("1.5", "2.5")  # the arguments after the first


@dataclass(frozen=True)
class Word:
    """A function of one class vector, with numbers for its other arguments."""

    name: str
    call: str  # of a
    domain: str

    @property
    def outputs(self) -> dict[str, str]:
        others = f"{self.call[:-1]}, over=others)"
        if self.name not in CLASS_WORDS:
            at_y = self.call.replace("(a", "(a[y]", 1)
            return {f"{self.name}_at": at_y, f"{self.name}_all": f"sum({self.call})"}
        if DEFINED[self.name].calls & {*CLASS_MAPS, *ROOT}:
            return {f"{self.name}_at": f"{self.call}[y]", f"{self.name}_all": f"sum({self.call})"}
        return {f"{self.name}_all": self.call, f"{self.name}_others": others}


def _defined() -> Iterator[Word]:
    """One word for each formula of the table that is more than another name."""
    seen = set()
    for entry in DEFINED.values():
        renamed = re.fullmatch(r"\w+\(e\)", entry.formula)
        if not renamed and (entry.formula, entry.required) not in seen:
            arguments = ", ".join(("a", *SECOND)[: entry.required])
            yield Word(entry.name, f"{entry.name}({arguments})", entry.domain)
        seen.add((entry.formula, entry.required))


def _operations() -> Iterator[Word]:
    """The operations of one argument that authors may use."""
    for name in ELEMENTWISE:
        if name in OPS and OPS[name].arity == 1 and name != "stop_gradient":
            low = OPS[name].domain[0][0]
            yield Word(name, f"{name}(a)", f"({low:g}, inf)" if low > -9 else "(-inf, inf)")


WORDS = (*_defined(), *_operations())


def _groups() -> Iterator[tuple[Word, ...]]:
    """Of one domain; those that are finite at ±2000, and those that are not: 0·∞ is NaN."""
    for domain in dict.fromkeys(word.domain for word in WORDS):
        for grows in (False, True):
            held = [w for w in WORDS if w.domain == domain and _grows(w) == grows]
            yield from (tuple(held[k : k + GROUP]) for k in range(0, len(held), GROUP))


@cache
def _grows(word: Word) -> bool:
    spec, inside = load_text(_spec((word,), "t")), Interval.parse(word.domain)
    far = [v for v in (FAR, -FAR) if inside.contains(v)]
    with mp.workdps(30):
        truths = [literal(spec, [0.0] * 3, 0, {"a": [v, v, v / 2]}) for v in far]
        return any(abs(v) > LARGEST for t in truths for v in (*t.results, *t.gradients["a"]))


def _spec(words: tuple[Word, ...], name: str) -> str:
    domain = Interval.parse(words[0].domain)
    span = "" if math.isinf(domain.lo) or math.isfinite(domain.hi) else ", range: [1.5, 9]"
    lines = [f"  {n}: {formula}" for word in words for n, formula in word.outputs.items()]
    entry = f"{{kind: class, differentiable: true, domain: '{domain}'{span}}}"
    return f"name: {name}\ninputs:\n  a: {entry}\noutputs:\n" + "\n".join(lines) + "\n"


def _rows(word: Word) -> torch.Tensor:
    """Numbers of the domain, [N, 3] in float32: each twice, and one from the middle."""
    inside = Interval.parse(word.domain)
    points = POINTS if _grows(word) else (*POINTS, FAR)
    values = [v for v in sorted({s * v for v in points for s in (1, -1)}) if inside.contains(v)]
    middle = values[len(values) // 2]
    return torch.tensor([[v, v, middle] for v in values], dtype=torch.float32)


GROUPS = {f"{group[0].name}_{group[-1].name}": group for group in _groups()}


@cache
def _module(group: str, folder: str) -> ModuleType:
    path = Path(folder, f"words_{group}.yaml")
    path.write_text(_spec(GROUPS[group], path.stem), encoding="utf-8")
    return lossgen.load(path)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModuleType]:
    folder = str(tmp_path_factory.mktemp("words"))
    return lambda group: _module(group, folder)


@cache
def _truths(group: str) -> dict[str, list[list[Truth]]]:
    """Of every output and row: the truth, and again with each of its numbers a little larger."""
    found: dict[str, list[list[Truth]]] = {}
    rows = _rows(GROUPS[group][0]).tolist()
    with mp.workdps(60):
        for word in GROUPS[group]:
            spec = load_text(_spec((word,), "t"))
            for n, name in enumerate(word.outputs):
                unit = [float(n == k) for k in range(len(word.outputs))]
                found[name] = [
                    [literal(spec, [0.0] * 3, 0, {"a": v}, unit) for v in _shaken(row)]
                    for row in rows
                ]
    return found


def _shaken(row: list[float]) -> Iterator[list[mp.mpf]]:
    for k in range(-1, len(row)):
        yield [mp.mpf(v) * (1 + mp.mpf(2) ** -60 * (j == k)) for j, v in enumerate(row)]


def _right(got: float, true: mp.mpf, shaken: list[mp.mpf], where: str) -> None:
    """Within 4 (1 + κ) ulp."""
    change = mp.fsum(abs(v - true) for v in shaken) * mp.mpf(2) ** 60
    limit = 4 * ULP * (abs(true) + change) + TINY
    assert abs(got - true) <= limit, f"{got} instead of {mp.nstr(true, 9)}, {where}"


BACKENDS = [
    pytest.param(
        "c", marks=pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
    ),
    pytest.param("triton", marks=pytest.mark.skipif(not dl.HAS_TRITON, reason="no triton")),
    "torch",
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_values_and_gradients(load: Callable[[str], ModuleType], group: str, backend: str) -> None:
    rows = _rows(GROUPS[group][0])
    function = getattr(load(group), f"words_{group}")
    logits, target = torch.zeros_like(rows), torch.zeros(len(rows), dtype=torch.int64)
    leaf = rows.clone().requires_grad_()
    results = function(logits, target, leaf, backend=backend)._asdict()
    for m, (name, value) in enumerate(results.items()):  # two of each word
        slopes = torch.zeros_like(rows)
        if value.requires_grad:
            (slopes,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
        _check(group, name, m % 2, value.tolist(), slopes.tolist(), backend)


def _check(
    group: str, name: str, n: int, values: list[float], slopes: list[list[float]], backend: str
) -> None:
    rows = _rows(GROUPS[group][0]).tolist()
    with mp.workdps(60):
        for k, (row, (true, *shaken)) in enumerate(zip(rows, _truths(group)[name], strict=True)):
            where = f"{name} of {row} on {backend}"
            _right(values[k], true.results[n], [t.results[n] for t in shaken], where)
            for j, slope in enumerate(true.gradients["a"]):
                own = [t.gradients["a"][j] for t in shaken]
                _right(slopes[k][j], slope, own, f"d/da_{j} {where}")


# ---------------------------------------------------------------------------- what a word means
def _peer(name: str) -> tuple[Callable[..., object], str] | None:
    """The function of that name, and whose it is."""
    homes = {"torch": (torch, torch.special, functional), "numpy": (np,), "mpmath": (mp,)}
    order = ("numpy", "mpmath") if name in CLASS_WORDS else ("torch", "numpy", "mpmath")
    for library in order:
        for home in homes[library]:
            if callable(getattr(home, name, None)):
                return getattr(home, name), library
    return None


#: what the libraries do not have under these names
ALONE = {"swish", "log_cosh", "lse", "logsoftmax", "trigamma", "sparsemax", "entmax15"}


@pytest.mark.parametrize("name", sorted(DEFINED))
def test_a_word_means_what_others_mean_by_it(name: str) -> None:
    """In value, and in gradient where torch has it: at kinks too."""
    peer = _peer(name)
    if peer is None:
        assert name in ALONE
        return
    function, library = peer
    arguments = SECOND[: DEFINED[name].required - 1]
    word = Word(name, f"{name}({', '.join(('a', *arguments))})", DEFINED[name].domain)
    spec = load_text(_spec((word,), "t"))
    rows = _rows(word).double()
    leaf = rows[:, 0].clone().requires_grad_()
    if library == "torch":
        theirs = function(leaf, *(torch.tensor(float(v)) for v in arguments))
        (slopes,) = torch.autograd.grad(theirs.sum(), leaf)
        theirs = theirs.detach()
    elif name in CLASS_WORDS:
        theirs, slopes = torch.from_numpy(np.asarray(function(rows.numpy(), axis=-1))), None
    else:
        numbers = [float(v) for v in arguments]
        theirs = torch.tensor([float(function(v, *numbers)) for v in leaf.tolist()])
        slopes = None
    with mp.workdps(60):
        for k, row in enumerate(rows.tolist()):
            ours = literal(spec, [0.0] * 3, 0, {"a": row}, (1.0, 0.0))
            _same(ours.results[0], float(theirs[k]), f"{name} of {row}")
            if slopes is not None:
                total = ours.gradients["a"][0]
                _same(total, float(slopes[k]), f"derivative of {name} at {row[0]}")


def _same(ours: mp.mpf, theirs: float, where: str) -> None:
    if math.isinf(theirs):
        assert abs(ours) > 1e300, where
    else:
        assert float(ours) == pytest.approx(theirs, rel=1e-7, abs=1e-12), where


def test_no_word_is_refused_too() -> None:
    assert not _INSTEAD.keys() & FUNCTIONS
    assert not ALIASES.keys() & FUNCTIONS


def test_words_written_out_do_not_explode() -> None:
    """Each of thirty nested words has its argument three times."""
    text = "x[y]"
    for _ in range(30):
        text = f"elu({text})"
    with pytest.raises(FormulaTooLarge, match="written out in other functions"):
        load_text(f"name: t\ntransform: {text}\n")


def test_a_word_may_be_the_name_of_a_parameter() -> None:
    spec = load_text(
        "name: t\nparameters: {std: {default: 2, domain: '(0, inf)'}}\n"
        "transform: -std*logp[y] + std*std(x)\n"
    )
    with mp.workdps(30):
        value = literal(spec, [1.0, 3.0], 0, {"std": 2.0}).results[0]
        assert float(value) == pytest.approx(2.0 * math.log1p(math.exp(2.0)) + 2.0)


@pytest.mark.parametrize(
    "formula",
    [
        "log(cosh(x[y]))",  # cosh alone overflows at 90
        "sum(log(2*cosh(x - x[y])))",
        "log1p(-p[y])",  # 1 - p has no digits left
        "atanh(p[y])",
        "sum(gelu(x))",  # 0·∞ where a class is masked
        "sum(mish(x))",
        "std(x) + var(x)",  # ties are exactly 0
        "min(x, over=others) - x[y]",
    ],
)
def test_certified(formula: str) -> None:
    certificate = (
        compile_loss(load_text(f"name: t\ntransform: {formula}\n")).variants[0].certificate
    )
    assert certificate is not None
