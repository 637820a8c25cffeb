"""Random calls of the catalogue: dtypes × layouts × options × backends, right and hostile ones.

A right call is compared with the literal formula in float64 on rows of moderate logits: accuracy
at the ends is the business of ``specs`` and of ``lossgen verify``; here it is whether strides,
dtypes, ignored rows, reductions and schedules mean what they say.  A hostile call has one argument
that makes no sense: it must raise what torch would, and never end the process.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import torch
from torch import Tensor

import lossgen
from lossgen import paths
from lossgen.spec.load import load_spec
from lossgen.spec.model import LossSpec
from lossgen.verify.reference import Arguments, literal
from tests.campaign.outcome import Outcome

__all__ = ["case"]

_DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TARGETS = (torch.int64, torch.int64, torch.int32, torch.int16, torch.uint8)
_CLASSES = (1, 2, 3, 5, 8, 16, 33, 100)
#: Relative to the largest entry: float32 sums of moderate rows; storage in half precision.
_CLOSE = {torch.float64: 1e-6, torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
_POLITE = (TypeError, ValueError, IndexError, RuntimeError, NotImplementedError, MemoryError)


@dataclass
class _Drawn:
    """A call, still as parts that can be spoilt."""

    spec: LossSpec
    linear: bool
    shape: tuple[int, ...]
    classes: int
    dtype: torch.dtype
    tensors: dict[str, Tensor] = field(default_factory=dict)  # logits or hidden …, target, inputs
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        shown = {
            n: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)} strides {t.stride()}"
            if t.layout is torch.strided
            else str(t.layout)
            for n, t in self.tensors.items()
            if isinstance(t, Tensor)
        }
        return (
            f"{self.spec.name}{' linear' if self.linear else ''} {shown} {self.options} {self.note}"
        )


@cache
def _spec(name: str) -> LossSpec:
    return load_spec(paths.specs_dir() / f"{name}.yaml")


def case(seed: int, index: int) -> Outcome:
    """Draw one call, make it, judge it."""
    random = Random(f"calls-{seed}-{index}")
    torch.manual_seed(random.randrange(2**31))
    drawn = _draw(random)
    hostile = random.random() < 0.3
    if hostile:
        drawn.note = _spoil(drawn, random)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _make(drawn, random)
            if hostile:
                return Outcome("right", "took it", str(drawn))
            return _judge(drawn, *found)
    except _POLITE as error:
        if hostile:
            return Outcome("refused", type(error).__name__, str(drawn))
        return Outcome("wrong", type(error).__name__, f"{drawn}\n{error}")
    except Exception as error:
        return Outcome("crash", type(error).__name__, f"{drawn}\n{error!r}")


# ------------------------------------------------------------------------------- drawing
def _draw(random: Random) -> _Drawn:
    spec = _spec(random.choice(paths.spec_names()))
    classes = random.choice([v for v in _CLASSES if v >= spec.min_classes])
    shape = random.choice([(), (1,), (0,), (3,), (7,), (2, 3), (130,)])
    dtype = random.choice(_DTYPES)
    drawn = _Drawn(spec, random.random() < 0.25, shape, classes, dtype)
    tensors = drawn.tensors
    if drawn.linear:
        depth = random.choice([1, 4, 9])
        tensors["hidden"] = _laid(torch.randn(*shape, depth).to(dtype), random)
        tensors["linear_weight"] = _laid(
            (torch.randn(classes, depth) / math.sqrt(depth)).to(dtype), random
        )
    else:
        tensors["logits"] = _laid((2 * torch.randn(*shape, classes)).to(dtype), random)
        if len(shape) > 1 and (*shape, classes)[2:] == shape[1:]:  # fits both readings
            drawn.options["class_dim"] = -1
    ignored = random.choice([-100, -100, -1, 0, classes - 1, 10**6])
    if spec.has_target:
        target = torch.randint(classes, shape)
        if random.random() < 0.5:
            hidden = torch.rand(shape) < 0.3
            target = torch.where(hidden, torch.tensor(ignored), target)
        narrow = random.choice(_TARGETS)
        fits = target.numel() == 0 or (target.to(narrow).long() == target).all()
        tensors["target"] = _laid(target.to(narrow) if fits else target, random)
        drawn.options["ignore_index"] = ignored
    for name, entry in spec.inputs.items():
        if entry.off is not None and random.random() < 0.5:
            continue
        size = {"class": (*shape, classes), "row": shape, "vocab": (classes,)}[entry.kind]
        values = _within(entry, size, random)
        tensors[name] = _laid(values.to(dtype if entry.kind == "class" else torch.float32), random)
    for name, entry in spec.parameters.items():
        if entry.off is not None and random.random() < 0.5:
            continue
        low, high = entry.range or (entry.domain.lo, entry.domain.hi)
        low, high = max(low, -2.0), min(high, max(low, -2.0) + 3.0)
        value = low + (high - low) * random.uniform(0.1, 0.9)
        drawn.options[name] = round(value) if entry.integer else value
    if not spec.outputs:
        drawn.options["reduction"] = random.choice(["mean", "sum", "none"])
    drawn.options["backend"] = random.choice(
        ["auto", "c", "torch"] + ["triton"] * (random.random() < 0.15)
    )
    if drawn.options["backend"] == "triton" and dtype is torch.float64:
        drawn.options["backend"] = "auto"
    return drawn


def _within(entry: Any, size: tuple[int, ...], random: Random) -> Tensor:
    """Values of an input in its domain; class inputs look like logits where they may."""
    low, high = entry.range or (
        (entry.domain.lo, entry.domain.hi) if entry.domain else (-math.inf, math.inf)
    )
    if math.isinf(low) and math.isinf(high):
        values = 2 * torch.randn(size)
        return values.round() if getattr(entry, "integer", False) else values
    if math.isinf(low):
        return high - 3 * torch.rand(size) - 0.01
    values = low + (min(high, low + 3.0) - low) * (0.05 + 0.9 * torch.rand(size))
    if getattr(entry, "integer", False):
        return values.round()
    chosen = getattr(entry, "values", None)
    return torch.tensor(chosen)[torch.randint(len(chosen), size)] if chosen else values


def _laid(tensor: Tensor, random: Random) -> Tensor:
    """The same numbers in some other layout."""
    layouts: list[Callable[[Tensor], Tensor]] = [
        lambda t: t,
        lambda t: t,
        lambda t: t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t,
        lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]] if t.dim() else t,
        lambda t: torch.stack([t, t], -1)[..., 0],
        lambda t: torch.cat([t, t], 0)[t.shape[0] :] if t.dim() else t,
        lambda t: t[:1].expand_as(t).clone() if t.dim() > 1 else t,
    ]
    made = random.choice(layouts[:-1])(tensor)
    return made.requires_grad_(False)


# ------------------------------------------------------------------------------- calling
def _make(drawn: _Drawn, random: Random) -> tuple[Tensor, dict[str, Tensor | None], Tensor | None]:
    spec, tensors = drawn.spec, dict(drawn.tensors)
    module = lossgen.load(spec.name)
    function = getattr(module, f"{'linear_' if drawn.linear else ''}{spec.function}")
    first = ["hidden", "linear_weight"] if drawn.linear else ["logits"]
    wanted = [
        *first,
        *(n for n, i in spec.inputs.items() if i.kind == "class" and i.differentiable),
    ]
    for name in wanted:
        if isinstance(tensors.get(name), Tensor) and tensors[name].dtype.is_floating_point:
            tensors[name] = tensors[name].detach().requires_grad_()
    positional = [tensors.pop(name) for name in first]
    positional += [tensors.pop("target")] if spec.has_target else []
    positional += [tensors.pop(n) for n, i in spec.inputs.items() if i.kind == "class"]
    found = function(*positional, **tensors, **drawn.options)
    result = torch.stack(list(found)) if isinstance(found, tuple) else found
    leaves = {
        n: t for n, t in zip(_positional(spec, first), positional, strict=True) if n in wanted
    }
    leaves = {n: t for n, t in leaves.items() if isinstance(t, Tensor) and t.requires_grad}
    upstream = torch.randn(result.shape).to(result.dtype) if result.dim() else None
    again = random.random() < 0.2
    if result.requires_grad:
        grads = torch.autograd.grad(
            result, list(leaves.values()), upstream, allow_unused=True, retain_graph=again
        )
        if again:
            second = torch.autograd.grad(result, list(leaves.values()), upstream, allow_unused=True)
            for a, b in zip(grads, second, strict=True):
                if a is not None and b is not None:
                    torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3, equal_nan=True)
    else:
        grads = [None] * len(leaves)
    return result.detach(), dict(zip(leaves, grads, strict=True)), upstream


def _positional(spec: LossSpec, first: list[str]) -> list[str]:
    return [
        *first,
        *(["target"] if spec.has_target else []),
        *(n for n, i in spec.inputs.items() if i.kind == "class"),
    ]


# ------------------------------------------------------------------------------- judging
def _judge(
    drawn: _Drawn, result: Tensor, grads: dict[str, Tensor | None], upstream: Tensor | None
) -> Outcome:
    spec, tensors = drawn.spec, drawn.tensors
    leaves = {n: tensors[n].detach().double().requires_grad_() for n in grads}
    given = {n: leaves.get(n, t.double()) for n, t in tensors.items() if n != "target"}
    logits = given["hidden"] @ given["linear_weight"].t() if drawn.linear else given["logits"]
    flat = logits.reshape(-1, drawn.classes)
    rows = flat.shape[0]
    keep = torch.ones(rows, dtype=torch.bool)
    target = None
    if spec.has_target:
        target = tensors["target"].reshape(-1).long()
        keep = target != drawn.options["ignore_index"]
        target = torch.where(keep, target, 0)
    inputs = {}
    for name, entry in spec.inputs.items():
        shape = {"class": (-1, drawn.classes), "row": (-1,), "vocab": (-1,)}[entry.kind]
        size = drawn.classes if entry.kind == "vocab" else rows
        value = given.get(name)
        inputs[name] = (
            torch.full((size,), float(entry.off or 0)).double()
            if value is None
            else value.reshape(shape)
        )
    parameters = {n: float(drawn.options.get(n, e.default)) for n, e in spec.parameters.items()}
    if rows == 0:
        return Outcome("right", "no rows", str(drawn))
    per_row = literal(spec, Arguments(flat, target, parameters, inputs))
    per_row = per_row.t() if spec.outputs else per_row[None]
    per_row = torch.where(keep, per_row, 0.0)
    reduction = drawn.options.get("reduction", "none")
    if reduction == "mean":
        if spec.normalizer is not None:
            return Outcome("right", "not judged", str(drawn))
        expected = per_row.sum() / keep.sum()
    else:
        expected = per_row.sum() if reduction == "sum" else per_row.reshape(result.shape)
    if not expected.isfinite().all() or expected.abs().max() > 1e4:
        return Outcome("right", "not judged", str(drawn))
    problem = _differs("loss", result, expected.detach(), drawn.dtype, loss=True)
    if problem is None and leaves and expected.requires_grad:
        exact = torch.autograd.grad(
            expected,
            list(leaves.values()),
            None if upstream is None else upstream.double(),
            allow_unused=True,
        )
        for (name, ours), true in zip(grads.items(), exact, strict=True):
            if true is None or not true.isfinite().all():
                continue
            ours = torch.zeros_like(true) if ours is None else ours
            if ours.dtype is not drawn.dtype and ours.dtype is not torch.float64:
                problem = f"gradient of {name} is {ours.dtype}"
            problem = problem or _differs(
                f"gradient of {name}", ours, true, drawn.dtype, loss=False
            )
    return (
        Outcome("wrong", drawn.options["backend"], f"{drawn}\n{problem}")
        if problem
        else Outcome("right", "", str(drawn))
    )


def _differs(what: str, ours: Tensor, true: Tensor, dtype: torch.dtype, loss: bool) -> str | None:
    close = _CLOSE[torch.float32 if loss and dtype is not torch.float64 else dtype]
    if ours.shape != true.shape:
        return f"{what} has shape {list(ours.shape)}, not {list(true.shape)}"
    size = max(1.0 if loss else 1e-2, float(true.abs().max()))
    error = (ours.double() - true).abs().max()
    if bool(error <= close * size):
        return None
    return f"{what}: off by {float(error):.3g}, the largest entry is {float(true.abs().max()):.3g}"


# ------------------------------------------------------------------------------- hostile
def _spoil(drawn: _Drawn, random: Random) -> str:
    """Make one argument senseless; says which and how."""
    name = random.choice([*drawn.tensors, *drawn.options])
    if name in drawn.tensors:
        how, spoilt = random.choice(_SPOILERS)
        try:
            drawn.tensors[name] = spoilt(drawn.tensors[name])
        except _POLITE:
            drawn.tensors[name] = None  # type: ignore[assignment]
            how = "None"
    else:
        how, drawn.options[name] = random.choice(_NONSENSE)
    return f"with {name} {how}"


class _Subclass(Tensor):
    """A tensor like a user's own."""


_SPOILERS: list[tuple[str, Callable[[Tensor], Any]]] = [
    ("None", lambda t: None),
    ("a list", lambda t: t.tolist()),
    ("numpy", lambda t: t.float().numpy()),
    ("complex", lambda t: t.to(torch.complex64)),
    ("bool", lambda t: t > 0),
    ("integers", lambda t: t.to(torch.int32)),
    ("floating point", lambda t: t.float() + 0.5),
    ("of one more axis", lambda t: t[None]),
    ("of one less axis", lambda t: t[0]),
    ("longer", lambda t: torch.cat([t, t], -1)),
    ("empty", lambda t: t[..., :0]),
    ("a scalar", lambda t: t.new_zeros(())),
    ("on meta", lambda t: t.to("meta")),
    ("sparse", lambda t: t.to_sparse()),
    ("csr", lambda t: t.to_sparse_csr()),
    ("NaN", lambda t: t * math.nan),
    ("infinite", lambda t: t * math.inf),
    ("huge", lambda t: t * 10**9),
    ("negative", lambda t: -t.abs() - 5),
    ("with gradient", lambda t: t.detach().clone().requires_grad_()),
    ("of a subclass", lambda t: t.as_subclass(_Subclass)),
    ("a negated view", lambda t: torch._neg_view(t)),
    ("a conjugate's part", lambda t: torch.complex(t.float(), t.float()).conj().imag),
    ("zeros without storage", lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype)),
    ("quantized", lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)),
    ("mkldnn", lambda t: t.float().to_mkldnn()),
    ("inference", lambda t: _inference(t)),
    ("nested", lambda t: torch.nested.nested_tensor([t, t])),
]


def _inference(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


_NONSENSE: list[tuple[str, Any]] = [
    (repr(v) if not isinstance(v, Tensor) else "a tensor", v)
    for v in (
        None,
        "x",
        math.nan,
        math.inf,
        -math.inf,
        -7,
        10**30,
        2**63,
        1j,
        True,
        [],
        torch.zeros(()),
        torch.zeros(3),
        object,
    )
]
