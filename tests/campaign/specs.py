"""Random specs: what builds must be right on every backend, against the oracle in mpmath.

A row is right if loss and gradient are within 32 times what one rounding of the inputs does to
the true value (measured by shaking them), which is how a certificate counts, with room to spare;
and within what the certificate says that it leaves aside.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import mpmath as mp
import numpy as np
import torch

import lossgen
from lossgen.errors import CompilerBug, LossgenError
from tests.campaign.grammar import draw
from tests.campaign.oracle import Dual, Kink, NotReal, evaluate
from tests.campaign.outcome import Outcome
from tests.campaign.promise import Promise, promise_of
from tests.campaign.trees import Call, Compare, Gather, Leaf, Node, Operation, Spec, text

__all__ = ["Row", "Truth", "case", "differs", "truth"]

ROUNDINGS = 32
SHAKES = 3
ALIKE = 8  # times what the formula as written loses in float64, where that is what is computed
TOO_SLOW = 30.0  # seconds of processor time of a build, its C compiler included
_DIGITS = 160
_ULP = 2.0**-23
_TINY = 1e-33  # absolute: underflow is not inaccuracy
_MASKED = (mp.mpf(10) ** 30, mp.mpf(10) ** 31)  # what stands for -inf: two of them, as a limit


@dataclass(frozen=True)
class Row:
    """One row of a call; the numbers are exact in float32."""

    kind: str
    x: tuple[float, ...]
    y: int
    classes: dict[str, tuple[float, ...]]
    scalars: dict[str, float]


def case(seed: int, index: int, backends: tuple[str, ...] = ("torch", "c")) -> Outcome:
    """Draw, build and judge one spec."""
    random = Random(f"specs-{seed}-{index}")
    spec = draw(random)
    name = f"random_{index}"
    source = spec.yaml(name)
    began = _processor_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.yaml")
        path.write_text(source, encoding="utf-8")
        try:
            module = lossgen.load(path)
        except CompilerBug as error:
            return Outcome(
                "bug", "LG900", f"{text(spec.formula)}\n{error}", _processor_time() - began
            )
        except LossgenError as error:
            taken = _processor_time() - began
            first = str(error).partition("\n")[0].removeprefix(str(path))
            if taken > TOO_SLOW:
                return Outcome("slow", "refused", f"{text(spec.formula)}: {first}", taken)
            return Outcome("refused", error.id, f"{text(spec.formula)}: {first}", taken)
        except Exception as error:
            return Outcome(
                "crash",
                type(error).__name__,
                f"{text(spec.formula)}\n{error!r}",
                _processor_time() - began,
            )
    taken = _processor_time() - began
    promise = promise_of(module)
    judged = [
        (row, promised(exact, spec, row, promise))
        for row in rows(spec, random)
        if (exact := truth(spec, row)) and (promise.masked or not _is_edge(row))
    ]
    wrong = next(_wrong(spec, module, name, judged, backends), None)
    if wrong is not None:
        backend, what = wrong
        return Outcome("wrong", backend, f"{source}{what}", taken)
    if taken > TOO_SLOW:
        return Outcome("slow", "built", text(spec.formula), taken)
    kind = f"of {len(judged)} rows" if judged else "but no row has a value"
    return Outcome("right", kind, text(spec.formula), taken)


def _processor_time() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# ------------------------------------------------------------------------------- rows
def rows(spec: Spec, random: Random) -> Iterator[Row]:
    """Structured rows: plain, confident, dominated, offset, nearly equal, masked, one class."""
    for kind in (
        "plain",
        "plain",
        "confident",
        "dominated",
        "offset",
        "near",
        "near",
        "masked",
        "one",
        "flat",
    ):
        yield _row(kind, spec, random)


def _is_edge(row: Row) -> bool:
    """Where a formula as it is written may be no number: masked classes, or no other class."""
    return -np.inf in row.x or len(row.x) == 1


def _row(kind: str, spec: Spec, random: Random) -> Row:
    width = 1 if kind == "one" else random.choice([2, 3, 3, 4, 6])
    y = random.randrange(width)
    other = (y + 1 + random.randrange(width - 1)) % width if width > 1 else y
    x = [random.gauss(0, 2) for _ in range(width)]
    if kind == "confident":
        x[y] += random.choice([5.0, 12.0, 17.0, 25.0, 40.0, 88.0])
    if kind == "dominated":
        x[other] += random.choice([5.0, 12.0, 17.0, 25.0, 40.0, 88.0])
    if kind == "offset":
        shift = random.choice([300.0, -3000.0])
        x = [v + shift for v in x]
    if kind == "flat":
        x = [v * 1e-3 for v in x]
    near = random.choice([1e-1, 1e-2, 1e-3, 1e-4])
    classes: dict[str, tuple[float, ...]] = {}
    for name, role in spec.streams.items():
        if role == "mask":
            values = [float(random.random() < 0.5) for _ in range(width)]
        elif role == "soft":
            values = [random.choice([0.0, 1.0, random.random()]) for _ in range(width)]
        elif role == "groups":
            values = [float(random.randrange(3)) for _ in range(width)]
        elif kind == "near":
            values = [v + near * random.gauss(0, 1) for v in x]
        else:
            values = [random.gauss(0, 2) + (v if kind in ("confident", "offset") else 0) for v in x]
        classes[name] = _floats(values)
    if kind == "masked" and width > 2:
        x[other] = -np.inf
    for name in spec.vocab:
        classes[name] = _floats([0.2 + 1.8 * random.random() for _ in range(width)])
    scalars = {}
    for name, (_, low, high) in spec.domains.items():
        value = random.choice([low, high, low + (high - low) * random.random()])
        scalars[name] = float(np.float32(value))
    return Row(kind, _floats(x), y, classes, scalars)


def _floats(values: list[float]) -> tuple[float, ...]:
    return tuple(float(np.float32(v)) for v in values)


# ------------------------------------------------------------------------------- judging
def _wrong(
    spec: Spec,
    module: ModuleType,
    name: str,
    judged: list[tuple[Row, Truth]],
    backends: tuple[str, ...],
) -> Iterator[tuple[str, str]]:
    for row, exact in judged:
        for backend in backends:
            found = _call(spec, module, name, row, backend)
            if isinstance(found, str):
                yield backend, f"{row}\n{found}"
            else:
                problem = differs(exact, *found)
                if problem:
                    yield backend, f"{row}\n{problem}"


@dataclass(frozen=True)
class Truth:
    value: Any
    slopes: tuple[Any, ...]
    slack_value: Any
    slack_slope: Any
    smooth: bool


def truth(spec: Spec, row: Row) -> Truth | None:
    with mp.workdps(_DIGITS):
        exact = _exact(spec, row)
        if exact is None:
            return None
        dual, smooth = exact
        with mp.workdps(2 * _DIGITS):
            again = _exact(spec, row)
        # log(1 - 1) of numbers that are equal is what the digits leave
        if again is None or abs(again[0].value - dual.value) > 1e-20 * (1 + abs(dual.value)):
            return None
        if not mp.isfinite(dual.value) or abs(dual.value) > 1e37:
            return None
        random = Random("shake")
        # the signs of a few draws may cancel: log-sums of two halves of a nearly flat row
        moved_value = _first_order(spec, row, dual.slopes)
        moved_slope = mp.mpf(0)
        for _ in range(SHAKES):
            shaken = _exact(spec, _shake(spec, row, random))
            if shaken is None:
                return None
            smooth = smooth and shaken[1]
            moved_value = max(moved_value, abs(shaken[0].value - dual.value))
            for a, b in zip(shaken[0].slopes, dual.slopes, strict=True):
                moved_slope = max(moved_slope, abs(a - b))
        largest = max((abs(s) for s in dual.slopes), default=mp.mpf(0))
        if largest > 1e37:
            smooth = False
        # integers that coincide, as q = 1 in sum(p**q): what cancels is of the size of the loss
        steepest = largest if largest > 1e-60 else abs(dual.value)
        return Truth(
            dual.value,
            dual.slopes,
            ROUNDINGS * (_ULP * abs(dual.value) + moved_value) + _TINY,
            ROUNDINGS * (_ULP * steepest + moved_slope) + _TINY,
            smooth,
        )


def promised(exact: Truth, spec: Spec, row: Row, promise: Promise) -> Truth:
    """The truth with the slack that the certificate leaves beside the conditioning."""
    loss, gradient = promise.floors(row.x, row.y, row.classes, row.scalars, float(exact.value))
    slack_value = exact.slack_value + ROUNDINGS * _ULP * mp.mpf(loss)
    slack_slope = exact.slack_slope + ROUNDINGS * _ULP * mp.mpf(gradient)
    if promise.double or promise.undone:
        with mp.workprec(53):
            written = _exact(spec, row)
            real = written and _exact(spec, row, largest=mp.mpf(2) ** 1024)
        if not real:
            slack_value = slack_slope = mp.inf
        elif written is not None and promise.double:
            lost = [abs(a - b) for a, b in zip(written[0].slopes, exact.slopes, strict=True)]
            slack_value += ALIKE * abs(written[0].value - exact.value)
            slack_slope += ALIKE * max(lost)
        if promise.double:  # what float64 leaves of terms of the size of the loss
            slack_slope += ALIKE * mp.mpf(2) ** -53 * abs(exact.value)
    return replace(exact, slack_value=slack_value, slack_slope=slack_slope)


def _shake(spec: Spec, row: Row, random: Random) -> Row:
    def move(value: float, least: float = 0.0) -> Any:
        size = max(abs(value), least) if mp.isfinite(value) else 0.0
        return mp.mpf(value) + size * random.choice([-1, 1]) * mp.mpf(2) ** -24

    def logit(value: float) -> Any:
        """A softmax is off by an ulp of itself, 2**-23, however small the logits are: as much as
        the certificate allows."""
        return move(value, least=2.0)

    def vector(name: str, values: tuple[float, ...]) -> tuple[Any, ...]:
        role = spec.streams.get(name)
        if role in ("mask", "groups"):
            return values
        return tuple(map(logit if role in ("logits", "teacher") else move, values))

    return replace(
        row,
        x=tuple(map(logit, row.x)),
        classes={n: vector(n, v) for n, v in row.classes.items()},
        scalars={n: move(v) for n, v in row.scalars.items()},
    )


def _first_order(spec: Spec, row: Row, slopes: Sequence[Any]) -> Any:
    """What half an ulp of every logit moves the loss at most, the signs being the worst."""
    leaves = [row.x, *(row.classes[n] for n, role in spec.streams.items() if role == "logits")]
    sizes = (max(abs(v), 1.0) if abs(v) < inf else 0.0 for values in leaves for v in values)
    return mp.fsum(abs(g) * size for g, size in zip(slopes, sizes, strict=True)) * mp.mpf(2) ** -24


def _exact(spec: Spec, row: Row, largest: Any = mp.inf) -> tuple[Dual, bool] | None:
    """The value and whether it has a gradient; None where there is no real value."""
    differentiable = [n for n, role in spec.streams.items() if role == "logits"]
    masked = any(v == -mp.inf for v in row.x)

    def at(far: Any) -> Dual | None:
        logits = [-far if v == -mp.inf else v for v in row.x]
        try:
            return evaluate(
                spec.formula, row.y, logits, row.classes, row.scalars, differentiable, largest
            )
        except (NotReal, ZeroDivisionError, ValueError, OverflowError, Kink):
            return None

    first, last = (at(far) for far in (_MASKED if masked else _MASKED[:1] * 2))
    if first is None or last is None:
        return None
    numbers = zip((first.value, *first.slopes), (last.value, *last.slopes), strict=True)
    if any(
        abs(a - b) > mp.mpf(10) ** -20 * (abs(a) + abs(b))
        for a, b in numbers
        if max(abs(a), abs(b)) > 1e-100
    ):
        return None
    return last, True


def _call(
    spec: Spec, module: ModuleType, name: str, row: Row, backend: str
) -> tuple[float, list[float]] | str:
    """Loss and gradients (logits, then differentiable inputs), or what went wrong."""
    logits = torch.tensor([row.x], dtype=torch.float32, requires_grad=True)
    leaves = [logits]
    streams = []
    for key, role in spec.streams.items():
        stream = torch.tensor(
            [row.classes[key]], dtype=torch.float32, requires_grad=role == "logits"
        )
        streams.append(stream)
        leaves += [stream] if role == "logits" else []
    keywords: dict[str, Any] = dict(row.scalars)
    keywords |= {n: torch.tensor(row.classes[n], dtype=torch.float32) for n in spec.vocab}
    target = [torch.tensor([row.y])] if _has_target(spec.formula) else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function = getattr(module, f"{name}_loss")
            loss = function(logits, *target, *streams, **keywords, reduction="sum", backend=backend)
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    slopes = [
        v
        for leaf, g in zip(leaves, found, strict=True)
        for v in (torch.zeros_like(leaf) if g is None else g)[0].tolist()
    ]
    return loss.item(), slopes


def _has_target(node: Node) -> bool:
    match node:
        case Leaf(name=name):
            return name in ("u", "onehot")
        case Gather():
            return True
        case Operation(left=left, right=right) | Compare(left=left, right=right):
            return _has_target(left) or _has_target(right)
        case Call(args=args, others=others):
            return others or any(map(_has_target, args))
    return False


def differs(truth: Truth, value: float, slopes: list[float]) -> str | None:
    with mp.workdps(30):
        if truth.slack_value == mp.inf:
            return None
        if not np.isfinite(value) or abs(mp.mpf(value) - truth.value) > truth.slack_value:
            return (
                f"loss {value!r} instead of {mp.nstr(truth.value, 10)}, "
                f"{mp.nstr(truth.slack_value, 3)} allowed"
            )
        if not truth.smooth:
            return None
        for j, (ours, exact) in enumerate(zip(slopes, truth.slopes, strict=True)):
            if not np.isfinite(ours) or abs(mp.mpf(ours) - exact) > truth.slack_slope:
                right = [float(s) for s in truth.slopes]
                slack = mp.nstr(truth.slack_slope, 3)
                return f"gradient {slopes} instead of {right} at {j}, {slack} allowed"
    return None
