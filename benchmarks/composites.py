"""The catalogue as plain PyTorch, written by `python benchmarks/write_composites.py`.

Each function takes logits [N, V] (already in the dtype to compute in), target [N], then the
inputs (class [N, V], vocab [V], row [N]) and parameters of its base variant, and returns the loss
per row [N], or its outputs stacked [N, outputs].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _at(e: Tensor, y: Tensor) -> Tensor:
    return e.expand(y.shape[0], -1).gather(-1, y)


def _hot(y: Tensor, classes: int) -> Tensor:
    return torch.arange(classes, device=y.device) == y


def aexp(x: Tensor, y: Tensor, a: float) -> Tensor:
    """Asymmetric exponential loss."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    return torch.exp((-torch.exp(_at(t1, y))) / a).expand(x.shape[0], 1).squeeze(-1)


def agce(x: Tensor, y: Tensor, a: float, q: float) -> Tensor:
    """Asymmetric generalized cross-entropy."""
    y = y[:, None]
    t2 = (a + 1.0) ** q
    t3 = torch.log_softmax(x, -1)
    return ((t2 - ((a + torch.exp(_at(t3, y))) ** q)) / q).expand(x.shape[0], 1).squeeze(-1)


def apl_nce_mae(x: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    """Active passive loss, NCE and MAE."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = (alpha * _at(t1, y)) / t1.sum(-1, keepdim=True)
    return (t5 + (beta * (1.0 - torch.exp(_at(t1, y))))).expand(x.shape[0], 1).squeeze(-1)


def apl_nce_rce(x: Tensor, y: Tensor, alpha: float, beta: float, A: float) -> Tensor:
    """Active passive loss, NCE and reverse cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = (alpha * _at(t1, y)) / t1.sum(-1, keepdim=True)
    t6 = beta * A
    return (t5 - (t6 * (1.0 - torch.exp(_at(t1, y))))).expand(x.shape[0], 1).squeeze(-1)


def aul(x: Tensor, y: Tensor, a: float, q: float) -> Tensor:
    """Asymmetric unhinged loss."""
    y = y[:, None]
    t3 = torch.exp(_at(torch.log_softmax(x, -1), y))
    return ((((a - t3) ** q) - ((a - 1.0) ** q)) / q).expand(x.shape[0], 1).squeeze(-1)


def balanced_softmax(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Balanced softmax."""
    y = y[:, None]
    counts = counts.to(x.dtype)[None]
    t2 = torch.log(counts)
    return (-_at(torch.log_softmax((x + t2), -1), y)).expand(x.shape[0], 1).squeeze(-1)


def brier(x: Tensor, y: Tensor) -> Tensor:
    """Brier (quadratic) score."""
    y = y[:, None]
    t3 = torch.softmax(x, -1) - _hot(y, x.shape[-1]).to(x.dtype)
    return (t3**2.0).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def comp_sum(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """Comp-sum loss."""
    y = y[:, None]
    t3 = torch.exp(x - _at(x, y))
    t4 = (
        torch.broadcast_to(t3, x.shape).masked_fill(_hot(y, x.shape[-1]), 0.0).sum(-1, keepdim=True)
    )
    t6 = 1.0 - tau
    return ((((1.0 + t4) ** t6) - 1.0) / t6).expand(x.shape[0], 1).squeeze(-1)


def confidence_penalty(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Cross-entropy with a confidence penalty."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t3 = -_at(t1, y)
    t4 = torch.softmax(x, -1)
    return (t3 + (beta * (t4 * t1).sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


def crammer_singer(x: Tensor, y: Tensor, margin: float) -> Tensor:
    """Multiclass hinge loss of Crammer and Singer."""
    y = y[:, None]
    t1 = x.masked_fill(_hot(y, x.shape[-1]), -math.inf).max(-1, keepdim=True).values
    return torch.relu((margin + t1) - _at(x, y)).expand(x.shape[0], 1).squeeze(-1)


def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with label smoothing, z-loss, class weights, softcap and temperature."""
    y = y[:, None]
    return (-_at(torch.log_softmax(x, -1), y)).expand(x.shape[0], 1).squeeze(-1)


def dco(x: Tensor, y: Tensor, n: float) -> Tensor:
    """Direct coverage optimization."""
    y = y[:, None]
    t3 = torch.exp(_at(torch.log_softmax(x, -1), y))
    return (-torch.log(1.0 - ((1.0 - t3) ** n))).expand(x.shape[0], 1).squeeze(-1)


def entropy_min(x: Tensor) -> Tensor:
    """Entropy minimisation."""
    t1 = torch.log_softmax(x, -1)
    t2 = torch.softmax(x, -1)
    return (-(t2 * t1).sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def focal(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Focal loss."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t3 = torch.exp(_at(t1, y))
    return ((-((1.0 - t3) ** gamma)) * _at(t1, y)).expand(x.shape[0], 1).squeeze(-1)


def gce(x: Tensor, y: Tensor, q: float) -> Tensor:
    """Generalized cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    return ((1.0 - (torch.exp(_at(t1, y)) ** q)) / q).expand(x.shape[0], 1).squeeze(-1)


def gjs(x: Tensor, y: Tensor, pi1: float) -> Tensor:
    """Generalized Jensen-Shannon divergence, hard label."""
    y = y[:, None]
    t1 = 1.0 - pi1
    t2 = torch.log_softmax(x, -1)
    t6 = pi1 + (t1 * torch.exp(_at(t2, y)))
    t7 = -pi1
    t9 = t7 * torch.log(t6)
    t11 = torch.exp(_at(t2, y))
    t14 = t11 * torch.log(t11 / t6)
    t16 = math.log1p(t7)
    t17 = (1.0 - t11) * t16
    return ((t9 + (t1 * (t14 - t17))) / ((-t1) * t16)).expand(x.shape[0], 1).squeeze(-1)


def ldam(x: Tensor, y: Tensor, margins: Tensor, s: float) -> Tensor:
    """Label-distribution-aware margin loss."""
    y = y[:, None]
    margins = margins.to(x.dtype)[None]
    t3 = x - (margins * _hot(y, x.shape[-1]).to(x.dtype))
    return (-_at(torch.log_softmax((s * t3), -1), y)).expand(x.shape[0], 1).squeeze(-1)


def ldr_kl(x: Tensor, y: Tensor, lam: float, margin: float) -> Tensor:
    """Label-distributionally robust loss with KL regularisation."""
    y = y[:, None]
    t1 = 1.0 - _hot(y, x.shape[-1]).to(x.dtype)
    t5 = torch.logsumexp(((x + (margin * t1)) / lam), -1, keepdim=True)
    t6 = math.log(float(x.shape[-1]))
    return ((lam * (t5 - t6)) - _at(x, y)).expand(x.shape[0], 1).squeeze(-1)


def logit_adjustment(x: Tensor, y: Tensor, log_prior: Tensor, tau: float) -> Tensor:
    """Logit-adjusted cross-entropy."""
    y = y[:, None]
    log_prior = log_prior.to(x.dtype)[None]
    t2 = tau * log_prior
    return (-_at(torch.log_softmax((x + t2), -1), y)).expand(x.shape[0], 1).squeeze(-1)


def logit_l2(x: Tensor, y: Tensor, weight: float) -> Tensor:
    """Cross-entropy with a penalty on the squared logits."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = (x**2.0).sum(-1, keepdim=True) / x.shape[-1]
    return ((-_at(t1, y)) + (weight * t5)).expand(x.shape[0], 1).squeeze(-1)


def mae(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error between softmax and one-hot, halved."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    return (1.0 - torch.exp(_at(t1, y))).expand(x.shape[0], 1).squeeze(-1)


def nce(x: Tensor, y: Tensor) -> Tensor:
    """Normalized cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    return (_at(t1, y) / t1.sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def ngce(x: Tensor, y: Tensor, q: float) -> Tensor:
    """Normalized generalized cross-entropy."""
    y = y[:, None]
    t2 = torch.softmax(x, -1)
    t5 = 1.0 - (torch.exp(_at(torch.log_softmax(x, -1), y)) ** q)
    return (t5 / (1.0 - (t2**q)).sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def poly1(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Poly-1 cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = torch.exp(_at(t1, y))
    return ((-_at(t1, y)) + (epsilon * (1.0 - t5))).expand(x.shape[0], 1).squeeze(-1)


def pseudo_spherical(x: Tensor, y: Tensor, a: float) -> Tensor:
    """Pseudo-spherical score."""
    y = y[:, None]
    t2 = torch.log_softmax((a * x), -1)
    return (-(torch.exp(_at(t2, y)) ** ((a - 1.0) / a))).expand(x.shape[0], 1).squeeze(-1)


def sce(x: Tensor, y: Tensor, alpha: float, beta: float, A: float) -> Tensor:
    """Symmetric cross-entropy."""
    y = y[:, None]
    t2 = torch.log_softmax(x, -1)
    t4 = (-alpha) * _at(t2, y)
    t5 = beta * A
    return (t4 - (t5 * (1.0 - torch.exp(_at(t2, y))))).expand(x.shape[0], 1).squeeze(-1)


def soft_bootstrap(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Soft bootstrapping."""
    y = y[:, None]
    t2 = torch.log_softmax(x, -1)
    t4 = (-beta) * _at(t2, y)
    t5 = 1.0 - beta
    t6 = torch.softmax(x, -1)
    return (t4 - (t5 * (t6 * t2).sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


def spherical(x: Tensor, y: Tensor) -> Tensor:
    """Spherical score."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = torch.linalg.vector_norm(torch.softmax(x, -1), dim=-1, keepdim=True)
    return ((-torch.exp(_at(t1, y))) / t5).expand(x.shape[0], 1).squeeze(-1)


def taylor_ce(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Taylor cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = sum((1.0 - torch.exp(_at(t1, y))) ** _k / _k for _k in range(1, int(t) + 1))
    return t5.expand(x.shape[0], 1).squeeze(-1)


def truncated_gce(x: Tensor, y: Tensor, q: float, k: float) -> Tensor:
    """Truncated generalized cross-entropy, stateless."""
    y = y[:, None]
    t6 = (1.0 - (torch.exp(_at(torch.log_softmax(x, -1), y)) ** q)) / q
    return torch.clamp(t6, max=((1.0 - (k**q)) / q)).expand(x.shape[0], 1).squeeze(-1)


def tsallis_score(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Tsallis (power) score."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t4 = (torch.softmax(x, -1) ** beta).sum(-1, keepdim=True)
    t5 = beta - 1.0
    t6 = beta / t5
    return (t4 - (t6 * (torch.exp(_at(t1, y)) ** t5))).expand(x.shape[0], 1).squeeze(-1)


def weston_watkins(x: Tensor, y: Tensor, margin: float) -> Tensor:
    """Multiclass hinge loss of Weston and Watkins."""
    y = y[:, None]
    t4 = torch.relu((margin + x) - _at(x, y))
    t5 = (
        torch.broadcast_to(t4, x.shape).masked_fill(_hot(y, x.shape[-1]), 0.0).sum(-1, keepdim=True)
    )
    return t5.expand(x.shape[0], 1).squeeze(-1)
