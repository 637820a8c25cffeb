"""Shapes of the rows that a loss is measured on: confident, flat, tied, masked, offset, few."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lossgen.spec.expr import Call, Name, NameKind, Number
from lossgen.spec.model import LossSpec
from lossgen.spec.trees import nodes

__all__ = [
    "ALONE",
    "ALWAYS",
    "CONFIDENT",
    "LAST",
    "PAIRS",
    "PER_POINT",
    "SOMETIMES",
    "SPARED",
    "Shape",
    "counted",
]

_CLASSES = 7
_MANY = 33


@dataclass(frozen=True)
class Shape:
    """A kind of row: what is added where, and how the class inputs lie to it."""

    target: float = 0.0  # how far y is above the others
    other: float = 0.0  # how far another class is
    scale: float = 1.5
    offset: float = 0.0
    tied: str = ""  # "all", "top" (the two largest), "y" (with the largest)
    masked: float = 0.0  # what is written into masked classes; 0: none
    mask: str = "one"  # "one", "most", or "y"
    alone: bool = False  # free class inputs do not mask what the logits do
    near: float | None = None  # free class inputs are the logits but for this; None: far from them
    classes: int = _CLASSES
    holds: int = 0  # which of the inputs' special values


#: At the default parameters.
ALWAYS: tuple[Shape, ...] = (
    Shape(near=1.0),
    Shape(target=12.0, near=1.0),
    Shape(target=40.0, near=0.1),
    Shape(target=4.0, offset=3000.0, near=1.0),
    Shape(other=6.0, offset=-3000.0, near=0.3),
    Shape(target=-12.0, near=3.0),
    Shape(scale=1.5e-3, near=1.0),
    Shape(target=20.0, masked=-np.inf, near=0.3),
    Shape(target=90.0, near=1.0),
    Shape(target=8.0, near=1e-3),
    Shape(other=5.0),
    Shape(other=17.0, near=1.0),
    Shape(other=40.0, near=0.1),
    Shape(other=90.0),
    Shape(other=86.0, near=1.0),
    Shape(other=96.0, near=1.0),
    Shape(other=1e4),
    Shape(target=1e4),
    Shape(tied="all", near=0.1),
    Shape(tied="all", scale=0.0, near=0.0),
    Shape(tied="top", near=1.0),
    Shape(tied="y", near=1.0),
    Shape(near=1e-1),
    Shape(near=1e-2),
    Shape(near=1e-3),
    Shape(near=1e-4),
    Shape(near=1e-5),
    Shape(near=0.0),
    Shape(other=12.0, near=1e-3),
    Shape(near=1e-2, offset=3000.0),
    Shape(masked=-1e4, near=1.0),
    Shape(masked=-1e9, near=1e-2),
    Shape(masked=-np.inf, mask="most", other=6.0),
    Shape(masked=-np.inf, mask="y"),
    Shape(masked=-1e4, mask="y", near=1.0),
    Shape(classes=1),
    Shape(classes=2, near=1.0),
    Shape(classes=2, target=20.0, near=0.1),
    Shape(classes=2, other=20.0),
    Shape(classes=2, scale=1.5e-3),
    Shape(classes=_MANY, near=1.0),
    Shape(classes=_MANY, other=25.0, near=0.1),
)
#: One after another at the other parameter points.
SOMETIMES = (
    Shape(target=12.0, near=1.0),
    Shape(target=40.0, near=0.1),
    Shape(target=-12.0, near=3.0),
    Shape(other=17.0),
    Shape(near=1e-2),
    Shape(tied="top", near=1.0),
    Shape(masked=-np.inf, near=1.0),
    Shape(scale=1.5e-3, near=1.0),
    Shape(classes=1),
)
PER_POINT = 2
#: One more at each of them: powers of what float32 does not hold may be numbers that it does.
CONFIDENT = Shape(target=110.0, near=1.0)
#: And where the largest class alone counts, which is not y: 1 - q of a scaled softmax.
ALONE = Shape(other=3.5, near=1.0, holds=6)
#: And where a mask spares it: of w·log(1 - p) no infinity, but what the others leave.
SPARED = Shape(other=17.0, near=1.0, holds=5)
#: And, where a parameter is 0, what is the last that float32 holds.
LAST = (Shape(other=96.0, near=1.0), Shape(target=96.0, near=1.0))
#: And of two, of which the other is fairly sure: no difference of the two vanishes.
PAIRS = (Shape(classes=2, other=7.0, near=1.0), Shape(classes=2, other=9.0))
#: Counts of classes that are tried where a formula has one of these numbers.
_FEW = range(2, 12)


def counted(spec: LossSpec) -> list[Shape]:
    """Confident rows of as many classes as make a number of the formula cancel: p[y] - 3*mean(p)
    is p[y] - 1 at three classes, and V - 4 is 0 at four."""
    written = [n for tree in spec.trees for n in nodes(tree)]
    counts = any(
        (isinstance(n, Name) and n.kind is NameKind.CLASSES)
        or (isinstance(n, Call) and n.func == "mean")
        for n in written
    )
    numbers = {int(n.value) for n in written if isinstance(n, Number) and n.value in _FEW}
    sizes = sorted(numbers.union(n + 1 for n in numbers)) if counts else []
    sure = [Shape(target=20.0, near=1.0), Shape(other=20.0, near=0.1), Shape(near=1.0)]
    return [replace(shape, classes=size) for size in sizes for shape in sure]
