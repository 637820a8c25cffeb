"""Properties of the function of hidden states and a weight, whose logits are made by the chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lossgen.verify.cases import Case
from lossgen.verify.judge import close, fail
from lossgen.verify.runner import Runner, tiles
from lossgen.verify.streams import LOGITS, normal, streams, vectors
from lossgen.verify.tolerances import slack

__all__ = ["linear_is_rows", "tiles_are_rows"]

_FEATURES = 5
_CHUNK = 1  # row
_IGNORED = -100
_ROWS = "rows"  # of a class input that is given as such


def linear_is_rows(case: Case, run: Runner) -> None:
    """A linear layer without its logits has the loss and the gradients of one with them."""
    buffers = 1 + 2 * len(streams(case.spec))
    _compare(case, run, {"memory_budget": _CHUNK * buffers * case.classes * 4})


def tiles_are_rows(case: Case, run: Runner) -> None:
    """So does a linear layer whose logits stay on chip; its class inputs are rows or factors."""
    if any(variant.tiled is None for variant in run.module.LOSS.variants):  # one in float64
        return
    _compare(case, run, {"schedule": "tiled", "filter": False}, existing=case.seed % 2 == 1)


def _compare(case: Case, run: Runner, extra: Mapping[str, Any], existing: bool = False) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    _, target = case.tensors(run.device)
    if target is not None and case.rows > 1:
        target = target.clone()
        target[case.seed % case.rows] = _IGNORED
    options = case.keywords(run.device)
    made = [LOGITS, *(n for n in streams(case.spec) if normal(case.spec.inputs[n]))]
    factors = {name: _factors(case, generator, run.device) for name in made}
    if existing:
        factors |= {name: {_ROWS: linear(*factors[name].values())} for name in made[1:]}
    shape = (case.rows, len(case.spec.outputs)) if case.spec.outputs else (case.rows,)
    weights = [(torch.randn(shape, generator=generator), "none")]
    if not case.spec.outputs:
        weights += [(torch.tensor(1.5), "sum")]
    for weight, reduction in weights:
        given = {**options, "reduction": reduction}
        with tiles(run.tile(case)):
            value, slopes = _with_logits(case, run, factors, target, given, weight)
        with tiles(run.tile(case), splits=(1, 2, 4)[case.seed % 3]):  # rows have powers of two
            loss, found = _without_logits(case, run, factors, target, {**given, **extra}, weight)
        close("the loss without logits and with them", loss, value, 64.0 * slack(case.spec))
        for name, parts in found.items():
            _same_gradients(case, name, factors[name], parts, slopes[name])


def _factors(case: Case, generator: torch.Generator, device: str) -> dict[str, Tensor]:
    """Quarters of small integers: their products and sums are exact, in any order."""
    shapes = {
        "hidden": (case.rows, _FEATURES),
        "linear_weight": (case.classes, _FEATURES),
        "linear_bias": (case.classes,),
    }
    return {
        name: torch.randint(-8, 9, shape, generator=generator).to(device).float() / 4
        for name, shape in shapes.items()
    }


def _leaves(
    case: Case, factors: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Of each vector that has a gradient; the others stay constant."""
    return {
        name: {n: t.clone().requires_grad_(name in vectors(case.spec)) for n, t in parts.items()}
        for name, parts in factors.items()
    }


def _without_logits(
    case: Case,
    run: Runner,
    factors: Mapping[str, Mapping[str, Tensor]],
    target: Tensor | None,
    options: Mapping[str, Any],
    weight: Tensor,
) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    held, keys = _leaves(case, factors), dict(options)
    outputs = bool(case.spec.outputs)
    function = f"linear_{case.spec.function}"
    if outputs:
        del keys["reduction"]
    own = held[LOGITS]
    first = [own["hidden"], own["linear_weight"], *([] if target is None else [target])]
    for name in streams(case.spec):
        parts = tuple(held[name].values()) if name in held else (keys[name].float(),)
        first.append(parts if len(parts) > 1 else parts[0])
    keys = {n: v for n, v in keys.items() if n not in streams(case.spec)}
    result = run.call(function, *first, linear_bias=own["linear_bias"], backend=run.backend, **keys)
    loss = torch.stack(tuple(result), -1) if outputs else result
    loss.backward(weight.to(loss))
    found = {
        name: {n: leaf.grad for n, leaf in held[name].items() if leaf.grad is not None}
        for name in held
        if name in vectors(case.spec)
    }
    return loss.detach(), found


def _with_logits(
    case: Case,
    run: Runner,
    factors: Mapping[str, Mapping[str, Tensor]],
    target: Tensor | None,
    options: Mapping[str, Any],
    weight: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradients of the rows that the factors make."""
    rows = {
        n: parts[_ROWS] if _ROWS in parts else linear(*parts.values())
        for n, parts in factors.items()
    }
    keys = {
        **options,
        **rows,
        **{n: options[n].float() for n in streams(case.spec) if n not in rows},
    }
    return run.slopes(keys.pop(LOGITS), target, keys, weight, wanted=rows)


def _same_gradients(
    case: Case,
    name: str,
    factors: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    rows: Tensor,
) -> None:
    """Each is a product with the rows' gradient, known to some ulps of the row's largest."""
    g = rows.double()
    size = g.abs().amax(1, keepdim=True).expand_as(g)
    size = size.clamp_min(1.0 / case.classes) if streams(case.spec) else size
    if _ROWS in factors:
        wanted = {_ROWS: (g, size)}
    else:
        hidden, weight = factors["hidden"].double(), factors["linear_weight"].double()
        wanted = {
            "hidden": (g @ weight, size @ weight.abs()),
            "linear_weight": (g.t() @ hidden, size.t() @ hidden.abs()),
            "linear_bias": (g.sum(0), size.sum(0)),
        }
    eps = 128.0 * slack(case.spec) * torch.finfo(torch.float32).eps
    for part, (exact, scale) in wanted.items():
        if part not in found:
            fail(f"{part} of {name} requires a gradient, and gets none")
        wrong = ~((found[part].double() - exact).abs() <= eps * scale + 1e-37) & exact.isfinite()
        if bool(wrong.any()):
            at = tuple(int(i) for i in wrong.nonzero()[0])
            fail(
                f"the gradient of {part} of {name} at {list(at)}: {found[part][at]:.9g} without "
                f"logits, {exact[at]:.9g} with them"
            )
