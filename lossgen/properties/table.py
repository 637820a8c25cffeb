"""The properties of a sheet, in order, and what a loss must have for each to say anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lossgen.properties.calibration import calibration, consistency
from lossgen.properties.consistency import Point
from lossgen.properties.convexity import convexity
from lossgen.properties.ends import ends
from lossgen.properties.lipschitz import lipschitz
from lossgen.properties.model import Statement
from lossgen.properties.properness import properness
from lossgen.properties.range import value_range
from lossgen.properties.setting import Setting
from lossgen.properties.shift import shift
from lossgen.properties.symmetry import symmetry
from lossgen.spec.expr import Name, NameKind
from lossgen.spec.model import LossSpec
from lossgen.spec.trees import nodes

__all__ = ["PROPERTIES", "Property", "without_label"]


@dataclass(frozen=True)
class Property:
    """One line of a sheet.

    ``of_label`` properties speak of labels drawn from a distribution: they need a single label,
    and inputs beside it that can be neutral.
    """

    name: str
    check: Callable[[Setting], Statement] | Callable[[Setting, list[Point]], Statement]
    of_label: bool = False
    of_regrets: bool = False

    @property
    def doc(self) -> str:
        """The first line of the function's docstring."""
        return (self.check.__doc__ or self.name).strip().splitlines()[0]


PROPERTIES: tuple[Property, ...] = (
    Property("bounded", value_range),
    Property("convex", convexity),
    Property("Lipschitz", lipschitz),
    Property("shift invariant", shift),
    Property("gradient at the ends", ends, of_label=True),
    Property("symmetric", symmetry, of_label=True),
    Property("proper", properness, of_label=True),
    Property("calibrated", calibration, of_label=True, of_regrets=True),
    Property("transform", consistency, of_label=True, of_regrets=True),
)


def without_label(spec: LossSpec) -> str:
    """Why a property of the label does not apply; nothing where it does."""
    if not spec.has_target:
        return "does not apply: needs a single label"
    held = [n for n, e in spec.inputs.items() if e.kind == "class" and e.off is None]
    fixed = [n for n in held if not spec.inputs[n].differentiable]
    if fixed:
        return f"does not apply: {fixed[0]} goes with the label"
    every = (n for tree in spec.trees for n in nodes(tree))
    if any(isinstance(n, Name) and n.kind is NameKind.INDEX for n in every):
        return "does not apply: the classes are not alike"
    return ""
