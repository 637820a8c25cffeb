"""Losses against what others publish on PyPI; skipped where a package is not installed.

``make peers`` installs them: liger-kernel, torchmetrics and timm, without their dependencies.  Of
timm one file at a time is read, as importing the package needs torchvision.  Liger's Triton kernels
run in the interpreter.  EMOLoss is compared where it is there.  Where a package deviates from its
paper, a test says by how much.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
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


def beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = beside("others_cases")
check, of_timm, plain, rows = cases.check, cases.of_timm, cases.plain, cases.rows


@pytest.fixture(params=["c", "torch"])
def backend(request) -> str:
    return request.param


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
    generator = torch.Generator().manual_seed(1)
    advantage, old, ref = (
        torch.randn(8, dtype=torch.float64, generator=generator) for _ in range(3)
    )
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


@SCALES
@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # masked lanes, interpreted
def test_value_and_gradient_are_theirs(name, scale):
    check(*cases.CASES[name](scale))


def test_asymmetric_loss_of_timm_may_detach_its_weights():
    module = of_timm("asymmetric_loss")
    x, u, _ = rows(9, 1.0)
    labels = (u > 0).double()
    options = {"gamma_neg": 2, "gamma_pos": 2, "clip": 0.0}
    # unclipped and with equal exponents it is focal loss, of which alpha = 1/2 is one half
    theirs = module.AsymmetricLossMultiLabel(**options)
    check(
        lambda leaf: 2 * plain.sigmoid_focal_loss(leaf, labels, alpha=0.5, gamma=2.0),
        lambda leaf: theirs(leaf, labels),
        x,
        1e-5,
    )
    # the default of its authors' code: the same value, the gradient of a weighted cross-entropy
    detached = module.AsymmetricLossMultiLabel(**options, disable_torch_grad_focal_loss=True)
    weight = (x.sigmoid() - labels).abs() ** 2
    options = {"weight": weight, "reduction": "sum"}
    check(
        lambda leaf: F.binary_cross_entropy_with_logits(leaf, labels, **options) / 8,
        lambda leaf: detached(leaf, labels),
        x,
        1e-5,
    )


def test_divergence_of_timm_floors_the_mixture_at_1e_7():
    x, u, y = rows(11, 10.0)
    theirs = of_timm("jsd").JsdCrossEntropy(num_splits=2, alpha=1, smoothing=0.0)
    found = theirs(torch.cat((x, u)), torch.cat((y, y))) - F.cross_entropy(x, y)
    m = (x.softmax(-1) + u.softmax(-1)) / 2
    lost = (m * (m.clamp(min=1e-7) / m).log()).sum(-1).mean()
    assert lost > 1e-9
    wanted = plain.jsd_beta_loss(x, u, beta=0.5) - lost
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_divergence_of_torchmetrics_rounds_log_2_to_float32():
    module = pytest.importorskip("torchmetrics.functional.regression", reason="not installed")
    x, u, _ = rows(13, 1.0)
    found = module.jensen_shannon_divergence(x.log_softmax(-1), u.log_softmax(-1), log_prob=True)
    rounding = float(torch.tensor(2.0).log()) - math.log(2)  # 1.9e-9, in a float64 function
    wanted = plain.jsd_beta_loss(x, u, beta=0.5) + rounding
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_crammer_singer_of_torchmetrics_is_of_probabilities():
    module = pytest.importorskip("torchmetrics.functional.classification", reason="not installed")
    x, _, y = rows(14, 2.0)

    def theirs(scores: Tensor) -> Tensor:
        return module.multiclass_hinge_loss(scores, y, 21)

    check(lambda leaf: plain.crammer_singer_loss(leaf, y), theirs, x.sigmoid())
    # scores outside [0, 1], which the paper's are, it takes for logits of probabilities
    check(lambda leaf: plain.crammer_singer_loss(leaf.softmax(-1), y), theirs, x)


def test_emo_of_its_authors_caps_the_ratio_at_3():
    module = pytest.importorskip("emo.loss", reason="EMOLoss is not installed")
    x, _, y = rows(15, 1.0)
    embedding = torch.randn(21, 16, generator=torch.Generator().manual_seed(0)).double()
    unit = F.normalize(embedding, dim=-1)
    cost = 1 - unit[y] @ unit.T

    def distance(leaf: Tensor) -> Tensor:
        return (leaf.softmax(-1) * cost).sum(-1)

    def theirs(leaf: Tensor) -> Tensor:
        """One sequence, whose labels are the next tokens: the last row and first label drop."""
        return module.EMOLoss(F.pad(leaf, (0, 0, 0, 1))[None], F.pad(y, (1, 0))[None], embedding)

    sure, unsure = x + 3 * F.one_hot(y, 21), x - 3 * F.one_hot(y, 21)
    assert (F.cross_entropy(sure, y, reduction="none") / distance(sure)).max() < 3
    assert (F.cross_entropy(unsure, y, reduction="none") / distance(unsure)).min() > 3
    check(lambda leaf: plain.emo_loss(leaf, y, cost), theirs, sure)
    # where the ratio is larger, value and gradient are of another loss
    check(lambda leaf: (F.cross_entropy(leaf, y) + 3 * distance(leaf).mean()) / 2, theirs, unsure)
