"""Class inputs, [N, V] beside the logits: their names, and the numbers that tests give them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lossgen.spec.domain import Interval
from lossgen.spec.model import Input, LossSpec

__all__ = [
    "LOGITS",
    "RELATIONS",
    "beside",
    "draw",
    "normal",
    "onto",
    "relations",
    "streams",
    "uniform",
    "vectors",
]

Array = NDArray[np.float64]

LOGITS = "logits"  # what a gradient with respect to the logits is filed under
# How a stream lies to the logits: a teacher may agree with its student, be it, or contradict it.
RELATIONS = ("free", "close", "equal", "same", "other")
_MARGIN = 2.0**-6  # of an interval, kept from its open ends: bfloat16 rounds onto them


def streams(spec: LossSpec) -> tuple[str, ...]:
    """The class inputs, in order."""
    return tuple(n for n, entry in spec.inputs.items() if entry.kind == "class")


def vectors(spec: LossSpec) -> tuple[str, ...]:
    """Everything that gets a gradient: "logits", then the differentiable class inputs."""
    return (LOGITS, *(n for n in streams(spec) if spec.inputs[n].differentiable))


def normal(entry: Input) -> bool:
    """Is the stream drawn like logits? Not if it states a range or a bound."""
    domain = entry.domain
    unbounded = domain is None or (math.isinf(domain.lo) and math.isinf(domain.hi))
    return entry.range is None and unbounded


def relations(spec: LossSpec, first: str) -> dict[str, str]:
    """Each stream's relation to the logits: after the first's the next one, unless all are free."""
    names = streams(spec)
    if first == "free":
        return dict.fromkeys(names, first)
    start, related = RELATIONS.index(first), RELATIONS[1:]
    return {n: related[(start - 1 + k) % len(related)] for k, n in enumerate(names)}


def draw(spec: LossSpec, x: Array, kind: str, relation: str, seed: int) -> dict[str, Array]:
    """Numbers [N, V] of every stream; ``relation`` is the first stream's."""
    found = {}
    for k, (name, own) in enumerate(relations(spec, relation).items()):
        rng = np.random.default_rng((seed, k + 1))  # (seed, 0) is seed: the logits
        found[name] = onto(spec.inputs[name], _scores(x, kind, own, rng), rng)
    return found


def _scores(x: Array, kind: str, relation: str, rng: np.random.Generator) -> Array:
    """Numbers like logits, of the same kind as the row's logits ``x`` and related to them."""
    if relation == "equal":
        return x.copy()
    if relation == "close":
        apart = rng.choice([1e-1, 1e-2, 1e-3, 1e-4, 1e-5], (len(x), 1))
        return x + apart * rng.normal(0.0, 1.0, x.shape)
    rows, classes = x.shape
    at, top = np.arange(rows), x.argmax(1)
    if relation == "other":
        top = (top + 1) % classes
    scores = rng.normal(0.0, 2.0, x.shape)
    if relation != "free":
        scores[at, top] += rng.choice([6.9, 12.0, 17.0, 25.0], rows)
    if kind == "tiny":
        scores *= 1e-3
    elif kind == "tied":
        scores = np.round(scores)
        scores[:, 0] = scores[:, -1] = scores.max(1)
    elif kind == "large":
        scores *= 40.0
    elif kind == "offset":
        scores += np.array([-3e3, 300.0, 1e4])[at % 3][:, None]
    elif kind == "masked":  # the same classes as in the logits, or others
        hidden = np.isinf(x) if relation == "same" else rng.random(x.shape) < 0.4
        hidden[at, top] = False
        scores[hidden] = -np.inf
    return scores


def onto(entry: Input, scores: Array, rng: np.random.Generator) -> Array:
    """The scores as a stream of this domain: as they are, (log-)probabilities, or uniform."""
    domain = entry.domain
    if entry.range is not None or entry.values or entry.integer:
        return beside(entry, scores.shape, scores.shape[-1], rng)
    if normal(entry):
        return scores
    assert domain is not None
    if domain.lo == 0.0 and domain.hi >= 1.0:
        p = np.exp(_log_softmax(scores))
        low = _MARGIN**2 if domain.lo_open else 0.0
        return np.clip(p, low, 1.0 - _MARGIN if domain.hi == 1.0 and domain.hi_open else 1.0)
    if math.isinf(domain.lo) and domain.hi == 0.0:
        low = -math.inf if domain.contains(-math.inf) else -1e4
        return np.clip(_log_softmax(scores), low, -_MARGIN if domain.hi_open else 0.0)
    low, high = uniform(domain)
    margin = _MARGIN * (high - low)
    return rng.uniform(low + margin, high - margin, scores.shape)


def beside(entry: Input, shape: tuple[int, ...], classes: int, rng: np.random.Generator) -> Array:
    """Numbers of an input: some of the values it may hold, or of its range, the ends included; of
    whole numbers a few, so that some are equal, or a class."""
    low, high = entry.range or uniform(entry.domain)
    if entry.values:
        chosen = rng.choice(entry.values, shape)
        kind = int(rng.integers(4))  # now and then all are the same, as a mask may be
        same = {1: entry.values[0], 2: entry.values[-1]}.get(kind)
        return chosen if same is None else np.full(shape, same)
    if entry.integer:
        bounded = entry.range is not None or entry.domain is not None
        ends = (int(low), int(high) + 1) if bounded else (0, min(3, classes))
        return rng.integers(*ends, shape).astype(np.float64)
    values = rng.uniform(low, high, shape)
    if entry.range is not None:
        values = np.where(rng.random(shape) < 0.1, rng.choice([low, high], shape), values)
    return values


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def uniform(domain: Interval | None) -> tuple[float, float]:
    """Where to draw from a domain: all of it, or four units next to its finite end."""
    low = domain.lo if domain and math.isfinite(domain.lo) else -2.0
    high = domain.hi if domain and math.isfinite(domain.hi) else low + 4.0
    return low + 1e-3, high
