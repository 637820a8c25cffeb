"""Pairs of functions for test_against_others.py: a loss, and the code that a package publishes."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossgen import losses

Loss = Callable[[Tensor], Tensor]
# The losses on the torch backend: compiling a C module for each would take most of the time.
plain = SimpleNamespace(
    **{
        name: partial(getattr(losses, name), backend="torch")
        for name in dir(losses)
        if name.endswith("_loss") or name == "token_stats"
    }
)


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
    # some compute in float32 whatever they are given, and return it
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, check_dtype=False)
    torch.testing.assert_close(da, db, rtol=0.0, atol=rtol * float(db.abs().max()))


def of_timm(name: str) -> ModuleType:
    """timm/loss/<name>.py of the installed distribution, without timm/__init__.py."""
    try:
        folder = importlib.metadata.distribution("timm").locate_file("timm/loss")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("timm is not installed")
    package = ModuleType("loss_of_timm")
    package.__path__ = [str(folder)]
    sys.modules.setdefault("loss_of_timm", package)
    return importlib.import_module(f"loss_of_timm.{name}")


def of_triton(name: str) -> ModuleType:
    """A module of Liger's kernels, for CPU tensors."""
    if os.environ["TRITON_INTERPRET"] != "1":
        pytest.skip("needs Triton's interpreter")
    return pytest.importorskip(f"liger_kernel.transformers.{name}", reason="not installed")


Pair = tuple[Callable[..., Tensor], Callable[..., Tensor]]
# Of torchmetrics: of its functions, the two rows' probabilities and the one-hot labels.  V = 21
# undoes its means over the classes.
METRICS: dict[str, Pair] = {
    "tvd": (
        lambda x, u, y: plain.tvd_loss(x, u, reduction="sum"),
        lambda f, p, t, e: f.minkowski_distance(p, t, p=1) / 2,
    ),
    "skew_kl": (
        lambda x, u, y: plain.skew_kl_loss(x, u, skew=0.2),
        lambda f, p, t, e: f.kl_divergence(t, 0.2 * t + 0.8 * p),
    ),
    "skew_reverse_kl": (
        lambda x, u, y: plain.skew_reverse_kl_loss(x, u, skew=0.2),
        lambda f, p, t, e: f.kl_divergence(p, 0.2 * t + 0.8 * p),
    ),
    "jsd_beta": (
        lambda x, u, y: plain.jsd_beta_loss(x, u, beta=0.5),
        lambda f, p, t, e: f.regression.jensen_shannon_divergence(p, t),
    ),
    "entropy_min": (
        lambda x, u, y: plain.entropy_min_loss(x),
        lambda f, p, t, e: math.log(21) - f.kl_divergence(p, torch.full_like(p, 1 / 21)),
    ),
    "brier": (
        lambda x, u, y: plain.brier_loss(x, y),
        lambda f, p, t, e: 21 * f.mean_squared_error(p, e),
    ),
    "mae": (  # the loss is halved, as its notes say
        lambda x, u, y: plain.mae_loss(x, y),
        lambda f, p, t, e: 21 * f.mean_absolute_error(p, e) / 2,
    ),
    "spherical": (
        lambda x, u, y: plain.spherical_loss(x, y),
        lambda f, p, t, e: -f.cosine_similarity(p, e, reduction="mean"),
    ),
}


# A case of a scale: the loss, the other one, the rows, the tolerance (1e-5: they are in float32).
Case = tuple[Loss, Loss, Tensor, float]
CASES: dict[str, Callable[[float], Case]] = {}


def case(function: Callable[[float], Case]) -> Callable[[float], Case]:
    CASES[function.__name__] = function
    return function


def metric(name: str, scale: float) -> Case:
    functional = pytest.importorskip("torchmetrics.functional", reason="not installed")
    ours, theirs = METRICS[name]
    x, u, y = rows(12, scale)
    t, e = u.softmax(-1), F.one_hot(y, 21).double()
    return (
        lambda leaf: ours(leaf, u, y),
        lambda leaf: theirs(functional, leaf.softmax(-1), t, e),
        x,
        1e-6 if name == "spherical" else 1e-9,  # cosines are in float32
    )


CASES.update({f"{name}_of_torchmetrics": partial(metric, name) for name in METRICS})


@case
def poly1_of_timm(scale: float) -> Case:
    x, _, y = rows(6, scale)
    theirs = of_timm("poly_loss").PolyCrossEntropy(epsilon=2.0)
    return (
        lambda leaf: plain.poly1_loss(leaf, y, epsilon=2.0),
        lambda leaf: theirs(leaf, y),
        x,
        1e-5,
    )


@case
def focal_is_the_asymmetric_loss_of_timm(scale: float) -> Case:
    """With equal exponents, and no label smoothing that would bring in the other classes."""
    x, _, y = rows(7, scale)
    theirs = of_timm("asymmetric_loss").AsymmetricLossSingleLabel(gamma_pos=2, gamma_neg=2, eps=0.0)
    return lambda leaf: plain.focal_loss(leaf, y, gamma=2.0), lambda leaf: theirs(leaf, y), x, 1e-9


@case
def sigmoid_focal_of_timm(scale: float) -> Case:
    """Its 1 - p_t is a difference in float32: rows of at most a few units."""
    x, u, _ = rows(8, min(scale, 2.0))
    labels = (u > 0).double()
    options = {"alpha": 0.25, "gamma": 1.5}
    function = of_timm("poly_loss").PolyBinaryCrossEntropy
    theirs = function(epsilon=0.0, reduction="batchmean", **options)
    return (
        lambda leaf: plain.sigmoid_focal_loss(leaf, labels, **options),
        lambda leaf: theirs(leaf, labels),
        x,
        1e-5,
    )


@case
def divergence_and_cross_entropy_of_timm(scale: float) -> Case:
    """AugMix of two views, to both of which its gradient goes."""
    x, u, y = rows(10, min(scale, 2.0))  # flatter than its floor of the mixture
    theirs = of_timm("jsd").JsdCrossEntropy(num_splits=2, alpha=12, smoothing=0.1)

    def ours(leaf: Tensor) -> Tensor:
        """At beta = 1/2 the rows may change places: so does the gradient."""
        first, second = leaf.chunk(2)
        one = plain.jsd_beta_loss(first, second.detach(), beta=0.5)
        other = plain.jsd_beta_loss(second, first.detach(), beta=0.5)
        divergence = one + (other - other.detach())  # the value once, both gradients
        return plain.cross_entropy_loss(first, y, label_smoothing=0.1) + 12 * divergence

    return ours, lambda leaf: theirs(leaf, torch.cat((y, y))), torch.cat((x, u)), 1e-9


@case
def gjs_of_liger(scale: float) -> Case:
    """The divergence from a hard label, over the factor that makes CE and MAE its limits."""
    module = pytest.importorskip("liger_kernel.chunked_loss.jsd_loss", reason="not installed")
    function = module.LigerFusedLinearJSDFunction.distillation_loss_fn
    x, _, y = rows(16, scale)
    label, pi1 = 1000.0 * F.one_hot(y, 21).double(), 0.3
    factor = -(1 - pi1) * math.log1p(-pi1)
    return (
        lambda leaf: plain.gjs_loss(leaf, y, pi1=pi1, reduction="sum"),
        lambda leaf: function(leaf, label, beta=pi1) / factor,
        x,
        1e-9,
    )


@case
def dpo_of_liger_over_token_stats(scale: float) -> Case:
    module = pytest.importorskip("liger_kernel.chunked_loss.dpo_loss", reason="not installed")
    x, _, y = rows(17, scale)
    tokens = y.view(4, 2)  # two chosen sequences of two tokens, then two rejected ones
    head, options = torch.eye(21), {"beta": 0.3, "compiled": False, "use_ref_model": False}
    theirs = module.LigerFusedLinearDPOLoss(**options)

    def ours(leaf: Tensor) -> Tensor:
        chosen, rejected = plain.token_stats(leaf, y).logp.view(2, 2, 2).sum(-1)
        return -F.logsigmoid(0.3 * (chosen - rejected)).mean()

    return ours, lambda leaf: theirs(head, leaf.view(4, 2, 21), tokens)[0], x.float(), 1e-5


@case
def cross_entropy_kernel_of_liger(scale: float) -> Case:
    function = of_triton("functional").liger_cross_entropy
    x, _, y = rows(18, scale)
    y[0] = -100
    theirs = {"label_smoothing": 0.1, "lse_square_scale": 0.01}
    ours = {"label_smoothing": 0.1, "z_loss": 0.01}
    return (
        lambda leaf: plain.cross_entropy_loss(leaf, y, **ours),
        lambda leaf: function(leaf, y, **theirs),
        x.float(),
        1e-5,
    )


def divergence_kernel(beta: float, scale: float) -> Case:
    """At the ends, where the divergence tends to 0, Liger jumps to one of KL: another scale."""
    function = of_triton("functional").liger_jsd
    x, u, _ = (a.float() for a in rows(19, scale))
    wanted = u.log_softmax(-1)
    ends: dict[float, Loss] = {
        0.0: lambda leaf: plain.kd_forward_kl_loss(leaf, u, T=1.0),
        1.0: lambda leaf: plain.reverse_kl_loss(leaf, u),
    }
    return (
        ends.get(beta, lambda leaf: plain.jsd_beta_loss(leaf, u, beta=beta)),
        lambda leaf: function(leaf.log_softmax(-1), wanted, beta=beta),
        x,
        1e-5,
    )


def policy_kernel(beta: float, scale: float) -> Case:
    function = of_triton("grpo_loss").triton_grpo_loss
    x, _, y = rows(20, scale)
    x = x.float()
    advantage, old, ref = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    old, ref = (x.log_softmax(-1)[range(8), y] + 0.3 * a for a in (old, ref))  # some are clipped

    def theirs(leaf: Tensor) -> Tensor:
        """Sequences of one token; the logits of the position after it are dropped."""
        logits, given = torch.stack((leaf, leaf), 1), (old[:, None], ref[:, None], y[:, None])
        options = {"temperature": 1.0, "beta": beta, "eps_high": 0.28, "inplace": False}
        return function(logits, *given, advantage, **options, reduce=True)[0]

    def ours(leaf: Tensor) -> Tensor:
        options = {"advantage": advantage, "old_logp": old, "high": 0.28}
        if beta == 0.0:
            return plain.ppo_clip_loss(leaf, y, **options)
        return plain.grpo_loss(leaf, y, **options, ref_logp=ref, beta=beta)

    return ours, theirs, x, 1e-5


for value in (0.0, 0.1, 0.5, 1.0):
    CASES[f"divergence_kernel_of_liger_{value}"] = partial(divergence_kernel, value)
for value in (0.0, 0.04):
    CASES[f"policy_kernel_of_liger_{value}"] = partial(policy_kernel, value)
