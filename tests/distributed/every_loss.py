"""Each loss over classes in shards, beside the same call on one process: run by ``launch``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import lossgen
from lossgen import losses, paths
from lossgen.spec.load import load_spec
from lossgen.verify.cases import Case
from lossgen.verify.tolerances import least, slack

CLASSES, FEATURES, ROWS = 33, 6, 5
#: Classes of each rank: uneven, and of none.
SIZES = {2: (20, 13), 3: (1, 30, 2), 4: (9, 0, 17, 7)}
KINDS = ("plain", "peaked", "wrong", "masked", "tied")
_ALL = slice(None)
_EPS = 2.0**-23


def judged(names: Sequence[str], worlds: Sequence[int]) -> dict[str, list[str]]:
    """What is wrong with each loss, as this rank sees it."""
    groups = {world: dist.new_group(list(range(world))) for world in worlds}
    found: dict[str, list[str]] = {name: [] for name in names}
    for name, problems in found.items():
        for world, group in groups.items():
            if dist.get_rank() >= world:
                continue
            shards = lossgen.ClassShards(group, SIZES[world])
            for k, case in enumerate(_cases(name)):
                given = group if k % 2 else shards  # every second asks the ranks for their sizes
                for linear in (False, True):
                    one = _Trial(case, linear, shards, given)
                    problems += (f"{world} ranks, {case}: {text}" for text in one.problems())
    return found


@cache
def names() -> list[str]:
    """The losses of rows."""
    return [n for n in paths.spec_names() if load_spec(paths.require_spec(n)).batch is None]


def _cases(name: str) -> Iterator[Case]:
    spec = load_spec(paths.require_spec(name))
    for k, kind in enumerate(KINDS):
        variant = 0 if k % 2 else len(spec.variants) - 1
        yield Case(spec, ROWS, CLASSES, kind, variant=variant, point=k, seed=k, relation="close")


@dataclass(frozen=True)
class _Answer:
    """Results [outputs, N], and the gradient to each source."""

    results: Tensor
    gradients: dict[str, Tensor]


@dataclass
class _Trial:
    """One call: ``sources`` are cut along ``axes`` where classes are in shards."""

    case: Case
    linear: bool
    shards: lossgen.ClassShards
    group: Any
    sources: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = self.case.spec
        logits, target = self.case.tensors()
        self.rest = {**self.case.keywords(), "backend": "torch"}
        self.rest |= {} if spec.outputs else {"reduction": "none"}
        streams = {n: self.rest.pop(n) for n, i in spec.inputs.items() if i.kind == "class"}
        if target is not None:
            target[0] = -100
            self.rest["target"] = target
        drawn = torch.Generator().manual_seed(self.case.seed)
        sizes = {"linear_weight": (CLASSES, FEATURES), "linear_bias": (CLASSES,)}
        if self.linear:
            self.sources["hidden"] = torch.randn(ROWS, FEATURES, generator=drawn)
            for name, size in sizes.items():
                self.sources[name] = torch.randn(size, generator=drawn)
                self.axes[name] = 0
        else:
            streams = {"logits": logits, **streams}
        self.sources |= streams
        self.axes |= dict.fromkeys(streams, 1)

    def answer(self, dtype: torch.dtype, whole: bool = True, moved: float = 0.0) -> _Answer:
        """``moved``: every number of the sources by so much of it, up or down."""
        spec = self.case.spec
        function = getattr(losses, f"{'linear_' if self.linear else ''}{spec.function}")
        given, drawn = {}, torch.Generator().manual_seed(1)
        for name, value in self.sources.items():
            side = torch.randint(0, 2, value.shape, generator=drawn) * 2.0 - 1.0
            taken = value.to(dtype) * (1.0 + moved * side.to(dtype))
            held = spec.inputs.get(name)
            if held is not None and held.domain is not None:
                taken = taken.clamp(held.domain.lo, held.domain.hi)
            taken = taken if whole else self.cut(name, taken)
            given[name] = taken.clone().requires_grad_(held is None or held.differentiable)
        shared = {} if whole else {"group": self.group}
        found = function(**given, **self.rest, **shared)
        rows = torch.stack(found) if isinstance(found, tuple) else found.unsqueeze(0)
        weight = torch.linspace(0.5, 1.5, rows.numel(), dtype=rows.dtype).view_as(rows)
        wanted = {name: t for name, t in given.items() if t.requires_grad}
        gradients = torch.autograd.grad((rows * weight).sum(), [*wanted.values()])
        return _Answer(rows.detach(), dict(zip(wanted, gradients, strict=True)))

    def cut(self, name: str, value: Tensor) -> Tensor:
        """This rank's part."""
        axis = self.axes.get(name)
        return value if axis is None else value[(*[_ALL] * axis, self.shards.own)]

    def problems(self) -> Iterator[str]:
        gold, one = self.answer(torch.float64), self.answer(torch.float32)
        moved = self.answer(torch.float64, moved=_EPS / 2)
        many = self.answer(torch.float32, whole=False)
        where = "linear" if self.linear else "rows"
        if not _same_everywhere(many.results, self.shards.group):
            yield f"{where}: other bits on another rank"
        sides = (gold.results, one.results, moved.results)
        yield from self._compared(f"{where} results", *sides, many.results)
        for name, found in many.gradients.items():
            every = (self.cut(name, side.gradients[name]) for side in (gold, one, moved))
            yield from self._compared(f"{where} gradient to {name}", *every, found)

    def _compared(
        self, what: str, gold: Tensor, one: Tensor, moved: Tensor, many: Tensor
    ) -> Iterator[str]:
        """Four times as wrong as on one process, or as what a rounding of the inputs does, and some
        roundings of the row's largest number, or of 1: a probability is a sum over all ranks."""
        if not gold.numel():
            return
        spec, far = self.case.spec, torch.finfo(torch.float32).max
        sound = gold.isfinite() & (gold.abs() < far) & one.isfinite() & moved.isfinite()

        def largest(values: Tensor) -> Tensor:
            found = values.double().abs().masked_fill(~sound, 0.0)
            return found.amax(-1, keepdim=True) if found.dim() > 1 else found.amax()

        wrong = torch.maximum(largest(one - gold), largest(moved - gold))
        scale = largest(gold).clamp_min(max(least(spec), 1.0))
        bad = sound & ~((many - gold).abs() <= 4 * wrong + 16 * slack(spec) * _EPS * scale)
        if bad.any():
            at = tuple(bad.nonzero()[0].tolist())
            sides = f"one process {one[at]:.9g}, float64 {gold[at]:.9g}"
            yield f"{what} at {[*at]}: {many[at]:.9g}, {sides}"


def _same_everywhere(results: Tensor, group: Any) -> bool:
    every = [torch.empty_like(results) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, results.contiguous(), group=group)
    return all(torch.equal(other.view(torch.int32), every[0].view(torch.int32)) for other in every)
