"""Losses of a linear layer under torch.compile: one graph, and no logits in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lossgen.losses import (
    linear_cross_entropy_loss,
    linear_gce_loss,
    linear_grpo_loss,
    linear_kd_forward_kl_loss,
    linear_token_stats,
    linear_trades_loss,
)
from lossgen.verify import interpreter
from tests.runtime.test_linear import BUDGET, D, V, draw, same
from tests.runtime.tiled_calls import TILED, launched


def compiled(call: Callable[..., Any]) -> tuple[Callable[..., Any], list[torch.fx.Graph]]:
    """In one graph; and the graphs that were made."""
    graphs: list[torch.fx.Graph] = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module.graph)
        return torch._dynamo.lookup_backend("aot_eager")(module, inputs)

    torch.compiler.reset()
    return torch.compile(call, backend=backend, fullgraph=True), graphs


def products(graphs: list[torch.fx.Graph]) -> list[str]:
    names = [str(node.target) for graph in graphs for node in graph.nodes]
    return [n for n in names if "linear" in n or "matmul" in n]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"softcap": 3.0, "temperature": 2.0}])
def test_the_logits_are_not_in_the_graph(options: dict[str, float], reduction: str) -> None:
    hidden, weight, bias, target = draw()

    def call(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_gce_loss(
            hidden,
            weight,
            target,
            linear_bias=bias,
            reduction=reduction,
            memory_budget=2 * BUDGET,
            **options,
        )

    run, graphs = compiled(call)
    same(run(hidden, weight, bias), call(hidden, weight, bias), [hidden, weight, bias])
    (only,) = products(graphs)
    assert "linear_rows" in only


def test_streams_row_inputs_and_shift() -> None:
    hidden, weight, bias, target = draw()
    moved = (hidden + 0.1).detach().requires_grad_()
    teacher, (states, head) = torch.randn(12, V).double(), torch.randn(2, V, 3).double()
    rows = dict(zip(("advantage", "old_logp", "ref_logp"), torch.randn(3, 3, 4), strict=True))
    calls: list[Callable[..., Tensor]] = [
        lambda h, w: linear_trades_loss(h, w, target, (moved, w, bias), linear_bias=bias),
        lambda h, w: linear_kd_forward_kl_loss(h, w, teacher),
        lambda h, w: linear_kd_forward_kl_loss(h, w, (states[:12], head)),
        lambda h, w: linear_grpo_loss(
            h.reshape(3, 4, D), w, target.reshape(3, 4), **rows, shift=1, reduction="none"
        ),
        lambda h, w: linear_cross_entropy_loss(h, w, target, label_smoothing=0.1),
        lambda h, w: torch.stack(linear_token_stats(h, w, target)),
    ]
    for call in calls:
        run, _ = compiled(call)
        same(run(hidden, weight), call(hidden, weight), [hidden, weight])


def test_tiles_under_compile() -> None:
    interpreter.install()
    hidden, weight, _, target = draw(torch.float32)

    def call(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_gce_loss(hidden, weight, target, **TILED)

    run, _ = compiled(call)
    with launched():
        same(run(hidden, weight), call(hidden, weight), [hidden, weight], rtol=1e-5)


def test_a_frozen_weight_and_autocast() -> None:
    hidden, weight, _, target = draw(torch.float32)
    frozen = weight.detach()

    def call(hidden: Tensor) -> Tensor:
        return linear_gce_loss(hidden, frozen, target)

    run, _ = compiled(call)
    same(run(hidden), call(hidden), [hidden], rtol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = run(hidden), call(hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)
    assert ours.item() != call(hidden).item()  # bfloat16 factors


def test_a_target_out_of_range_is_an_error() -> None:
    hidden, weight, _, target = draw()
    run, _ = compiled(lambda h: linear_gce_loss(h, weight, target + V))
    with pytest.raises(IndexError, match="out of bounds"):
        run(hidden)


def test_the_operators_keep_their_contracts() -> None:
    hidden, weight, _, target = draw(torch.float32, rows=5)
    from lossgen.losses.gce import LOSS

    numbers = torch.tensor([1.0, 1.0, 0.7], dtype=torch.float64)
    arguments = (LOSS.key, [hidden, weight], [True, True, False], target, [], [], numbers)
    options = ([math.nan], False, -100, "auto", 0, None, "auto", True, None, None, [])
    operator = torch.ops.lossgen.linear_rows.default
    torch.library.opcheck(operator, (*arguments, *options))
