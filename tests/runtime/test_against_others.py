"""Losses against what others publish on PyPI; skipped where a package is not installed.

``make peers`` installs them: liger-kernel, torchmetrics and timm, without their dependencies.  Of
timm one file at a time is read, as importing the package needs torchvision.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lossgen.losses import (
    asl_single_label_loss,
    cross_entropy_loss,
    grpo_loss,
    jsd_beta_loss,
    kd_forward_kl_loss,
    reverse_kl_loss,
    sigmoid_bce_loss,
    soft_target_ce_loss,
)

Loss = Callable[[Tensor], Tensor]


@pytest.fixture(params=["c", "torch"])
def backend(request) -> str:
    return request.param


def rows(seed: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows of logits [8, 21] and labels [8]."""
    generator = torch.Generator().manual_seed(seed)
    x, u = (scale * torch.randn(8, 21, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, u, torch.randint(0, 21, (8,), generator=generator)


def check(ours: Loss, theirs: Loss, x: Tensor, rtol: float = 1e-9) -> None:
    """Value and gradient; ``rtol`` of the largest gradient of the batch."""
    found = []
    for loss in (ours, theirs):
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        (grad,) = torch.autograd.grad(value, leaf)
        found.append((value.detach(), grad))
    (a, da), (b, db) = found
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)
    torch.testing.assert_close(da, db, rtol=0.0, atol=rtol * float(db.abs().max()))


def of_timm(name: str) -> ModuleType:
    """timm/loss/<name>.py of the installed distribution."""
    try:
        path = importlib.metadata.distribution("timm").locate_file(f"timm/loss/{name}.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("timm is not installed")
    spec = importlib.util.spec_from_file_location(f"timm_{name}", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCALES = pytest.mark.parametrize("scale", [1.0, 10.0])


@SCALES
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_of_liger(beta, scale, backend):
    module = pytest.importorskip("liger_kernel.chunked_loss.jsd_loss", reason="not installed")
    function = module.LigerFusedLinearJSDFunction.distillation_loss_fn
    x, u, _ = rows(0, scale)
    check(
        lambda leaf: jsd_beta_loss(leaf, u, beta=beta, reduction="sum", backend=backend),
        lambda leaf: function(leaf, u, beta=beta),
        x,
    )


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_grpo_of_liger(beta, backend):
    module = pytest.importorskip("liger_kernel.chunked_loss.grpo_loss", reason="not installed")
    function = module.LigerFusedLinearGRPOFunction.ppo_loss_fn
    x, _, y = rows(1, 1.0)
    advantage, old, ref = (torch.randn(8, dtype=torch.float64) for _ in range(3))
    old, ref = -3 + 0.3 * old, -3 + 0.3 * ref

    def theirs(leaf: Tensor) -> Tensor:
        """A batch of one token per sequence."""
        logp = leaf.log_softmax(-1).gather(-1, y[:, None])
        mask = torch.ones(8, 1, dtype=torch.float64)
        given = {"ref_per_token_logps": ref[:, None], "old_per_token_logps": old[:, None]}
        return function(logp, mask, advantage, mask, beta=beta, loss_type="bnpo", **given)[0]

    inputs = {"advantage": advantage, "old_logp": old, "ref_logp": ref}
    check(lambda leaf: grpo_loss(leaf, y, beta=beta, **inputs, backend=backend), theirs, x, 1e-6)


@SCALES
def test_divergences_of_torchmetrics(scale, backend):
    functional = pytest.importorskip("torchmetrics.functional", reason="not installed")
    x, u, _ = rows(2, scale)
    wanted = u.log_softmax(-1)
    check(
        lambda leaf: kd_forward_kl_loss(leaf, u, T=1.0, backend=backend),
        lambda leaf: functional.kl_divergence(wanted, leaf.log_softmax(-1), log_prob=True),
        x,
    )
    check(
        lambda leaf: reverse_kl_loss(leaf, u, backend=backend),
        lambda leaf: functional.kl_divergence(leaf.log_softmax(-1), wanted, log_prob=True),
        x,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_asymmetric_loss_of_timm(smoothing, backend):
    module = of_timm("asymmetric_loss")
    x, _, y = rows(3, 2.0)
    theirs = module.AsymmetricLossSingleLabel(gamma_pos=1, gamma_neg=4, eps=smoothing)
    options = {"gamma_pos": 1.0, "gamma_neg": 4.0, "smoothing": smoothing}
    check(
        lambda leaf: asl_single_label_loss(leaf, y, **options, backend=backend),
        lambda leaf: theirs(leaf, y),
        x,
    )


def test_cross_entropies_of_timm(backend):
    module = of_timm("cross_entropy")
    x, u, y = rows(4, 3.0)
    weights = u.softmax(-1)
    check(
        lambda leaf: soft_target_ce_loss(leaf, weights, backend=backend),
        lambda leaf: module.SoftTargetCrossEntropy()(leaf, weights),
        x,
    )
    check(
        lambda leaf: cross_entropy_loss(leaf, y, label_smoothing=0.2, backend=backend),
        lambda leaf: module.LabelSmoothingCrossEntropy(0.2)(leaf, y),
        x,
    )


def test_binary_cross_entropy_of_timm_is_a_mean_over_the_classes(backend):
    module = of_timm("binary_cross_entropy")
    x, u, _ = rows(5, 3.0)
    labels = (u > 0).double()
    theirs = module.BinaryCrossEntropy(smoothing=0.0)
    check(
        lambda leaf: sigmoid_bce_loss(leaf, labels, backend=backend) / 21,
        lambda leaf: theirs(leaf, labels),
        x,
    )
