"""The Triton vocabulary of float64: every function that the compiler may print, against numpy.

Functions are taken from the table of operations, so that a new one is tested here by being there.
"""

import numpy as np
import pytest
import torch

from lossgen.ir.ops import OPS
from lossgen.runtime import device64
from lossgen.verify import interpreter

triton = pytest.importorskip("triton")
tl = triton.language

SIZES = [1e-300, 1e-20, 1e-9, 1e-4, 0.1, 0.3, 0.5, 0.7, 0.9999, 1.0, 1.5, 2.4, 5.0, 13.0, 17.0]
SIZES += [36.0, 40.5, 80.5, 87.5, 104.0, 300.0, 708.0, 1e5, 1e12]
ENDS = [0.0, np.inf, np.nan]
#: Where an operation is asked for, if not everywhere; the rest of its twin is a convention.
DOMAINS = {
    **dict.fromkeys(("log", "sqrt", "safe_rsqrt", "log1mexp", "lgamma", "digamma"), (0.0, np.inf)),
    **dict.fromkeys(("log1p", "log1pmx"), (-1.0, np.inf)),
    "acosh": (1.0, np.inf),
    **dict.fromkeys(("sin", "cos"), (-1e5, 1e5)),
}
#: Second arguments.
BESIDE = {
    "mercator": [1.0, 2.0, 7.0, 16.0],
    "geometric": [1.0, 2.0, 7.0, 16.0],
    "softcap": [0.5, 30.0, np.inf],
    "expm1div": [0.0, 1e-12, 0.7, 2.0],
    "polygamma": [0.0, 1e-20, 1e-4, 0.7, 1.0, 4.0, 7.9, 8.0, 36.0, 1e5, np.inf],
}
ABSOLUTE = {"erfc": 1e-15}
BLOCK = 64


@triton.jit
def _apply(a, b, c, out, FN: tl.constexpr, ARGUMENTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(a + at)
    if ARGUMENTS == 1:
        y = FN(x)
    elif ARGUMENTS == 2:
        y = FN(x, tl.load(b + at))
    else:
        y = FN(x, tl.load(b + at), tl.load(c + at))
    tl.store(out + at, y)


def _points(name, arguments):
    low, high = DOMAINS.get(name, (-np.inf, np.inf))
    values = np.array([*SIZES, *(-s for s in SIZES), *ENDS, -np.inf])
    values = values[~((values < low) | (values > high))]
    if name in ("mercator", "geometric"):
        values = values[np.abs(values) <= 2]
    if name == "expm1div":
        values = values[np.abs(values) <= 300]
    if name == "polygamma":
        values = np.arange(1.0, 9.0)
    columns = [values]
    if arguments > 1:
        others = np.array(BESIDE.get(name, [-3.0, -0.5, 0.0, 0.5, 2.0, 3.0]))
        columns = [np.repeat(values, len(others)), np.tile(others, len(values))]
    if arguments > 2:
        columns.append(columns[1] + 1.5)
    return columns


NAMES = sorted(n for n in OPS if hasattr(device64, n))


@pytest.mark.parametrize("name", NAMES)
def test_as_numpy_has_it(name):
    interpreter.install()
    arguments = OPS[name].arity
    columns = _points(name, arguments)
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(OPS[name].numpy(*columns), columns[0].shape).astype(np.float64)
    size = -(-len(expected) // BLOCK) * BLOCK
    padded = [torch.tensor(np.resize(column, size)) for column in columns]
    padded += [padded[0]] * (3 - len(padded))
    found = []
    for start in range(0, size, BLOCK):
        out = torch.empty(BLOCK, dtype=torch.float64)
        parts = [p[start : start + BLOCK].contiguous() for p in padded]
        _apply[(1,)](*parts, out, getattr(device64, name), arguments, BLOCK)
        found.append(out)
    value = torch.cat(found).numpy()[: len(expected)]
    same = (value == expected) | (np.isnan(value) & np.isnan(expected))
    with np.errstate(all="ignore"):
        error = np.abs(value - expected)
        near = error <= 1e-11 * np.abs(expected) + ABSOLUTE.get(name, 1e-300)
    wrong = ~(same | near)
    shown = [(*(c[k] for c in columns), value[k], expected[k]) for k in np.flatnonzero(wrong)[:8]]
    assert not shown


def test_every_operation_is_there():
    """A loss may be computed in float64 whatever it uses."""
    from lossgen.runtime import device

    assert [name for name in device.__all__ if not hasattr(device64, name)] == []
