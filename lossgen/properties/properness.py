"""Does the label's distribution q minimise the risk Σ_k q_k·loss(x, k), as softmax(x)?

Yes by one theorem: a loss g(p_y) + Σ_j h(p_j) with h'(p) + p·g'(p) constant and g' < 0 on (0, 1) is
strictly proper, since Σ_j (q_j·g(p_j) + h(p_j)) − const·Σ_j p_j has, class by class, the derivative
(q_j − p_j)·g'(p_j).  No by a q and logits whose risk is smaller than that of log q.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy
from sympy import Symbol

from lossgen.properties.conditional import Conditional, conditional, softmax
from lossgen.properties.labels import NotSymbolic, labelled
from lossgen.properties.model import NO, NOT_FOUND, Statement, number, vector
from lossgen.properties.setting import Array, Setting
from lossgen.properties.witness import shortened

__all__ = ["distributions", "minimisers", "properness"]

_DRAWN = 40
_FAR = 12.0
_APART = 1e-5  # of probabilities
_WEIGHTS = (0.6, 0.3, 0.1)


def properness(setting: Setting) -> Statement:
    """Which p minimises the expected loss under q."""
    if _separable(setting):
        because = "g(p_y) + Σ h(p_j) with h' + p·g' constant and g' < 0, in symbols"
        return Statement("proper", "yes, strictly", "proof", because)
    risk = conditional(setting)
    q = distributions(setting.classes)
    x, value = minimisers(risk, q)
    own = _own(risk, q)
    gain = own - value
    apart = np.abs(softmax(x) - q).max(1)
    better = gain > 1e-9 * (1 + np.abs(value))
    if better.any():
        for k in map(int, np.flatnonzero(better)):
            if shown := _improper(setting, risk, q[k], x[k]):
                return shown
    if (apart > _APART).any():
        k = int(np.flatnonzero(apart > _APART)[0])
        because = f"no better p than q for {len(q)} q, but others as good"
        line = f"q = {vector(q[k].tolist())}: p = {vector(softmax(x[k]).tolist())}"
        return Statement("proper", f"{NOT_FOUND}, not strictly", "search", because, (line,))
    because = f"p = q is the minimiser found for each of {len(q)} q"
    return Statement("proper", NOT_FOUND, "search", because, data={"tried": len(q)})


def _separable(setting: Setting) -> bool:
    """The theorem above, checked by SymPy."""
    try:
        parts = labelled(setting).separated()
    except NotSymbolic:
        return False
    if parts is None:
        return False
    p, (g, h) = Symbol("p", positive=True), parts
    slope = sympy.simplify(g.diff(p))
    constant = sympy.simplify(h.diff(p) + p * slope)
    return bool(constant.is_number) and slope.is_negative is True


def distributions(classes: int) -> Array:
    """Label distributions without zeros, the readable ones first."""
    rng = np.random.default_rng(3)
    first = np.zeros((3, classes))
    shown = _WEIGHTS[:classes] if classes > 2 else (0.7, 0.3)
    first[:, : len(shown)] = shown
    if classes > 3:
        first[:, 3:] = 0.1 / (classes - 2)
        first[:, 2] = 0.1 / (classes - 2)
    first[1] = np.full(classes, 0.9 / classes)
    first[1, 0] += 0.1
    first[2] = np.full(classes, 0.1 / max(1, classes - 1))
    first[2, 0] = 0.9
    drawn = rng.dirichlet(np.ones(classes), _DRAWN)
    found = np.concatenate([first, np.maximum(drawn, 1e-3)])
    return np.asarray(found / found.sum(1, keepdims=True))


def minimisers(risk: Conditional, q: Array) -> tuple[Array, Array]:
    """The best logits for each q, of several starts, and their risks."""
    classes = q.shape[1]
    vertices = [np.broadcast_to(_FAR * np.eye(classes)[k], q.shape) for k in range(min(classes, 3))]
    starts = [np.log(q), np.zeros(q.shape), *vertices]
    return risk.best(q, [1] * classes, starts)


def _own(risk: Conditional, q: Array) -> Array:
    """The risk of log q, plus the best constant where that matters."""
    shifts = np.linspace(-6, 6, 25)
    classes = q.shape[1]
    derivatives = risk.derivatives(np.repeat(q, len(shifts), 0), [1] * classes)
    x = (np.log(q)[:, None, :] + shifts[None, :, None]).reshape(-1, classes)
    value = derivatives(x, np.arange(len(x)))[0]
    return np.asarray(value.reshape(len(q), len(shifts)).min(1))


def _improper(setting: Setting, risk: Conditional, q: Array, x: Array) -> Statement | None:
    """The statement, where the formula in mpmath agrees."""
    logs = [float(v) for v in np.log(q)]
    own = min(risk.risk([v + c for v in logs], list(q)) for c in np.linspace(-6, 6, 13))

    gain = own - risk.risk([float(v) for v in x], list(q))

    def holds(row: Sequence[float]) -> bool:
        return gain > 0 and risk.risk(row, list(q)) < own - 0.999999 * gain

    row = shortened([float(v) for v in x], holds)
    if row is None:
        return None
    p = softmax(np.array(row))
    line = (
        f"q = {vector(q.tolist())}: minimised by p = {vector(p.tolist())}, risk "
        f"{number(risk.risk(row, list(q)))}; at p = q it is {number(own)}"
    )
    data = {"q": q.tolist(), "p": softmax(x).tolist()}
    return Statement("proper", NO, "witness", "another p than q has a smaller risk", (line,), data)
