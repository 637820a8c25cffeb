"""A class input by its entries is the class input: K classes a row, on every backend and path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lossgen
from lossgen import Entries
from lossgen.losses import (
    kd_forward_kl_loss,
    linear_kd_forward_kl_loss,
    linear_sigmoid_bce_loss,
    linear_soft_target_ce_loss,
    sigmoid_bce_loss,
    soft_target_ce_loss,
)

INF = math.inf
N, V, D, K = 6, 21, 5, 4


def dense(entries: Entries, classes: int) -> Tensor:
    """The rows that entries stand for, one number at a time."""
    indices, values, fill = entries
    dtype = torch.float32 if values is None else values.dtype
    found = torch.full((*indices.shape[:-1], classes), fill, dtype=dtype)
    flat, rows = indices.flatten(0, -2), found.view(-1, classes)
    for i, listed in enumerate(flat.tolist()):
        for k, j in enumerate(listed):
            if j >= 0 and values is None:
                rows[i, j] = 1.0
            elif j >= 0:
                own = values.reshape(flat.shape)[i, k]
                rows[i, j] = own if j not in listed[:k] else rows[i, j] + own
    return found


def listed(seed: int, lead: tuple[int, ...] = (N,), k: int = K, fill: float = -INF) -> Entries:
    """Logits of distinct classes; some places are padding."""
    random = torch.Generator().manual_seed(seed)
    indices = torch.rand((*lead, V), generator=random).argsort(-1)[..., :k]
    values = torch.randn((*lead, k), generator=random)
    padded = torch.rand((*lead, k), generator=random) < 0.2
    padded[..., :1] = False
    return Entries(indices.masked_fill(padded, -1), values, fill)


def gradients(result: Tensor, *sources: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result.sum(), sources)


@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
def test_rows_are_those_of_the_dense_input(backend: str, reduction: str) -> None:
    logits, teacher = torch.randn(N, V, requires_grad=True), listed(0)
    options: dict[str, Any] = {"backend": backend, "reduction": reduction, "T": 2.0}
    found = kd_forward_kl_loss(logits, teacher, **options)
    wanted = kd_forward_kl_loss(logits, dense(teacher, V), **options)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, logits), gradients(wanted, logits))


@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
@pytest.mark.parametrize("budget", [None, 4 * V * 4 * 3])
def test_of_a_linear_layer(backend: str, budget: int | None) -> None:
    hidden = torch.randn(2, 5, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    teacher = listed(1, (2, 5))
    options: dict[str, Any] = {"backend": backend, "memory_budget": budget}
    found = linear_kd_forward_kl_loss(hidden, weight, teacher, **options)
    wanted = linear_kd_forward_kl_loss(hidden, weight, dense(teacher, V), **options)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, hidden, weight), gradients(wanted, hidden, weight))


def test_a_mask_counts_a_class_once_and_values_of_one_class_are_added() -> None:
    logits = torch.randn(2, V)
    labels = Entries(torch.tensor([[3, 3, -1], [0, V - 1, 5]]))
    torch.testing.assert_close(
        sigmoid_bce_loss(logits, labels), sigmoid_bce_loss(logits, dense(labels, V))
    )
    halves = Entries(torch.tensor([[3, 3], [1, 2]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    target = dense(halves, V)
    assert target[0, 3] == 1.0
    torch.testing.assert_close(
        soft_target_ce_loss(logits, halves), soft_target_ce_loss(logits, target)
    )


@given(
    st.integers(0, 2**31),
    st.integers(1, 9),
    st.integers(0, 5),
    st.sampled_from([1, 2, 3, 17, 64]),
)
@example(0, 1, 0, 1)  # one class, and none is listed
@example(1, 9, 5, 1)  # more places than classes
def test_any_shape(seed: int, rows: int, k: int, classes: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=random).requires_grad_()
    indices = torch.randint(-2, classes, (rows, k), generator=random, dtype=torch.int32)
    target = Entries(indices, torch.rand(rows, k, generator=random))
    found = soft_target_ce_loss(logits, target, reduction="none")
    wanted = soft_target_ce_loss(logits, dense(target, classes), reduction="none")
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, logits), gradients(wanted, logits))


def test_a_buffer_is_clean_in_the_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossgen.runtime import linear_bind

    monkeypatch.setattr(linear_bind, "rows_in_cache", lambda logits: 2)
    logits, teacher = torch.randn(N, V, requires_grad=True), listed(3)
    found = kd_forward_kl_loss(logits, teacher)
    wanted = kd_forward_kl_loss(logits, dense(teacher, V))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, logits), gradients(wanted, logits))


def test_values_learn_where_the_input_does(tmp_path: Any) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_text(
        "name: mixed\ninputs:\n"
        "  t: {kind: class, differentiable: true, domain: '[0, inf)'}\n"
        "transform: sum(t*logp)**2\n"
    )
    loss = lossgen.load(path).mixed_loss
    logits = torch.randn(N, V, requires_grad=True)
    entries = listed(4, fill=0.0)
    values = entries.values.abs().requires_grad_()
    found = loss(logits, Entries(entries.indices, values))
    rows = torch.zeros(N, V).scatter_add(
        1, entries.indices.clamp(min=0), values.masked_fill(entries.indices < 0, 0.0)
    )
    wanted = loss(logits, rows)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, logits, values), gradients(wanted, logits, values))


def test_weights_and_other_arguments_compose() -> None:
    logits, teacher = torch.randn(N, V, requires_grad=True), listed(5)
    weights = torch.rand(N)
    for options in (
        {"row_weight": weights},
        {"normalizer": 3.0},
        {"T": torch.tensor(1.5, requires_grad=True)},
    ):
        found = kd_forward_kl_loss(logits, teacher, **options)
        wanted = kd_forward_kl_loss(logits, dense(teacher, V), **options)
        torch.testing.assert_close(found, wanted)
        sources = [logits, *(v for v in options.values() if getattr(v, "requires_grad", False))]
        torch.testing.assert_close(gradients(found, *sources), gradients(wanted, *sources))


def test_classes_may_stand_on_axis_1() -> None:
    logits = torch.randn(2, V, 3, requires_grad=True)
    teacher = listed(6, (2, 3))
    moved = teacher.mapped(lambda t: t.movedim(-1, 1))
    wanted = kd_forward_kl_loss(logits.movedim(1, -1), dense(teacher, V))
    torch.testing.assert_close(kd_forward_kl_loss(logits, moved, class_dim=1), wanted)


@pytest.mark.parametrize("linear", [False, True])
def test_compiled(linear: bool) -> None:
    teacher = listed(7)
    logits = torch.randn(N, V, requires_grad=True)
    hidden, weight = torch.randn(N, D, requires_grad=True), torch.randn(V, D)
    if linear:
        function: Callable[..., Tensor] = linear_kd_forward_kl_loss
        first: tuple[Tensor, ...] = (hidden, weight)
    else:
        function, first = kd_forward_kl_loss, (logits,)
    teacher = teacher._replace(fill=-4.0)
    compiled = torch.compile(
        lambda *given: function(*given[:-2], Entries(*given[-2:], -4.0)),
        backend="aot_eager",
        fullgraph=True,
    )
    found = compiled(*first, teacher.indices, teacher.values)
    wanted = function(*first, teacher)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, first[0]), gradients(wanted, first[0]))


class _Largest(TorchDispatchMode):
    """The most numbers that an operation makes."""

    only_counts = True

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.most = max(self.most, storage)
        return found


def test_no_rows_of_all_classes_are_made() -> None:
    rows, classes = 3000, 900
    hidden, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(classes, 4)
    indices = torch.randint(0, classes, (rows, 8))
    teacher = Entries(indices, torch.randn(rows, 8), -INF)
    with _Largest() as seen:
        linear_kd_forward_kl_loss(hidden, weight, teacher).backward()
    assert 512 * classes <= seen.most < rows * classes / 4  # it saw the chunks


BAD: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "float_indices",
        lambda: Entries(torch.zeros(N, K), torch.zeros(N, K)),
        TypeError,
        "the indices of teacher must have an integer dtype, not float32",
    ),
    (
        "no_tensor",
        lambda: Entries([[1, 2]], None),  # type: ignore[arg-type]
        TypeError,
        "the indices of teacher must be a tensor, not list; pass torch.as_tensor(the indices of "
        "teacher)",
    ),
    (
        "rows",
        lambda: Entries(torch.zeros(N + 1, K, dtype=torch.long)),
        ValueError,
        f"the indices of teacher have shape [{N + 1}, {K}], but these logits need [{N}, K], of "
        "each row K classes",
    ),
    (
        "values",
        lambda: Entries(torch.zeros(N, K, dtype=torch.long), torch.zeros(N, K + 1)),
        ValueError,
        f"the values of teacher have shape [{N}, {K + 1}], but the indices have shape [{N}, {K}]",
    ),
    (
        "whole_values",
        lambda: Entries(torch.zeros(N, K, dtype=torch.long), torch.zeros(N, K, dtype=torch.long)),
        TypeError,
        "the values of teacher must be floating point, not int64",
    ),
    (
        "no_class",
        lambda: Entries(torch.full((N, K), V), torch.zeros(N, K)),
        IndexError,
        f"the indices of teacher hold {V}, but the classes are 0 to {V - 1}; padding is below 0",
    ),
    (
        "fill",
        lambda: Entries(torch.zeros(N, K, dtype=torch.long), None, math.nan),
        TypeError,
        "the fill of teacher must be a number, not nan",
    ),
]


@pytest.mark.parametrize(("make", "kind", "said"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
@pytest.mark.parametrize("linear", [False, True])
def test_wrong_entries_say_so(
    make: Callable[[], Any], kind: type[Exception], said: str, linear: bool
) -> None:
    function = linear_kd_forward_kl_loss if linear else kd_forward_kl_loss
    first = (torch.zeros(N, D), torch.zeros(V, D)) if linear else (torch.zeros(N, V),)
    with pytest.raises(kind) as error:
        function(*first, make())
    assert str(error.value) == f"{function.__name__}: {said}"


def test_permuted_values_learn(tmp_path: Any) -> None:
    """Their gradient had their strides, and no view by rows."""
    path = tmp_path / "turned.yaml"
    path.write_text(
        "name: turned\ninputs:\n  t: {kind: class, differentiable: true, domain: '[0, inf)'}\n"
        "transform: sum(t*logp)**2\n"
    )
    loss = lossgen.load(path).turned_loss
    values = torch.rand(2, 5, 3).transpose(0, 1).requires_grad_()
    indices = torch.rand(5, 2, V).argsort(-1)[..., :3]
    logits = torch.randn(5, 2, V)
    found = torch.autograd.grad(loss(logits, Entries(indices, values)), values)
    rows = torch.zeros(5, 2, V).scatter(-1, indices, values)
    torch.testing.assert_close(found, torch.autograd.grad(loss(logits, rows), values))


def test_no_places_are_no_classes_and_what_is_no_class_is_said_when_compiled() -> None:
    logits = torch.randn(2, V)
    none = Entries(torch.zeros(2, 0, dtype=torch.uint8), torch.zeros(2, 0))
    assert soft_target_ce_loss(logits, none) == 0
    compiled = torch.compile(
        lambda x, i: sigmoid_bce_loss(x, Entries(i)), backend="aot_eager", fullgraph=True
    )
    with pytest.raises(IndexError, match="the classes are 0 to"):
        compiled(logits, torch.full((2, 1), V))


def test_values_keep_to_the_domain() -> None:
    padded = torch.tensor([[1, -1]])
    logits = torch.zeros(1, V)
    with pytest.raises(ValueError, match=r"soft_target_ce_loss: .* outside its domain"):
        soft_target_ce_loss(logits, Entries(padded, torch.tensor([[-0.5, 0.0]])))
    assert soft_target_ce_loss(logits, Entries(padded, torch.tensor([[0.5, -1.0]]))).isfinite()
    with pytest.raises(ValueError, match="the fill of probabilities is -1, outside its domain"):
        linear_soft_target_ce_loss(torch.zeros(1, D), torch.zeros(V, D), Entries(padded, fill=-1))


def test_by_the_tile_there_is_none() -> None:
    with pytest.raises(ValueError, match="reads rows of labels, which is given by its entries"):
        linear_sigmoid_bce_loss(
            torch.zeros(N, D),
            torch.zeros(V, D),
            Entries(torch.zeros(N, K, dtype=torch.long)),
            backend="triton",
            schedule="tiled",
        )
