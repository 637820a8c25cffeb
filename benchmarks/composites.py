"""The catalogue as plain PyTorch, written by `python benchmarks/write_composites.py`.

Each function takes logits [N, V] (already in the dtype to compute in), target [N], then the
inputs (class [N, V], vocab [V], row [N]) and parameters of its base variant, and returns the loss
per row [N], or its outputs stacked [N, outputs].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _at(e: Tensor, y: Tensor) -> Tensor:
    return e.expand(y.shape[0], -1).gather(-1, y)


def _hot(y: Tensor, classes: int) -> Tensor:
    return torch.arange(classes, device=y.device) == y


def adaptive_smoothing(x: Tensor, y: Tensor, robust_x: Tensor, alpha: float) -> Tensor:
    """Mixture of an accurate and a robust classifier."""
    y = y[:, None]
    robust_x = robust_x.to(x.dtype)
    t2 = 1.0 - alpha
    t5 = torch.exp(_at(torch.log_softmax(x, -1), y))
    t9 = torch.exp(_at(torch.log_softmax(robust_x, -1), y))
    return (-torch.log((t2 * t5) + (alpha * t9))).expand(x.shape[0], 1).squeeze(-1)


def adv_comp_sum(
    x: Tensor, y: Tensor, adversarial_x: Tensor, tau: float, rho: float, nu: float
) -> Tensor:
    """Smooth adversarial comp-sum loss."""
    y = y[:, None]
    adversarial_x = adversarial_x.to(x.dtype)
    t3 = x - _at(x, y)
    t4 = _at(adversarial_x, y)
    t7 = torch.exp(t3 / rho)
    t8 = (
        torch.broadcast_to(t7, x.shape).masked_fill(_hot(y, x.shape[-1]), 0.0).sum(-1, keepdim=True)
    )
    t9 = 1.0 + t8
    t10 = 1.0 - tau
    t15 = torch.linalg.vector_norm(((adversarial_x - t4) - t3), dim=-1, keepdim=True)
    return ((((t9**t10) - 1.0) / t10) + (nu * t15)).expand(x.shape[0], 1).squeeze(-1)


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


def alpha_divergence(x: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Alpha divergence distillation."""
    teacher = teacher.to(x.dtype)
    t3 = torch.softmax(teacher, -1)
    t10 = ((torch.softmax(x, -1) ** (1.0 - alpha)) * (t3**alpha)).sum(-1, keepdim=True)
    return ((t10 - 1.0) / (alpha * (alpha - 1.0))).expand(x.shape[0], 1).squeeze(-1)


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


def asl_single_label(
    x: Tensor, y: Tensor, gamma_pos: float, gamma_neg: float, smoothing: float
) -> Tensor:
    """Asymmetric loss, single label."""
    y = y[:, None]
    t2 = smoothing / float(x.shape[-1])
    t3 = (1.0 - smoothing) + t2
    t5 = torch.log_softmax(x, -1)
    t9 = (1.0 - torch.exp(_at(t5, y))) ** gamma_pos
    t14 = (torch.softmax(x, -1) ** gamma_neg) * t5
    t15 = (
        torch.broadcast_to(t14, x.shape)
        .masked_fill(_hot(y, x.shape[-1]), 0.0)
        .sum(-1, keepdim=True)
    )
    return ((((-t3) * t9) * _at(t5, y)) - (t2 * t15)).expand(x.shape[0], 1).squeeze(-1)


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


def dc_pdd(x: Tensor, y: Tensor, frequency: Tensor, cap: float) -> Tensor:
    """Divergence-calibrated pretraining-data score."""
    y = y[:, None]
    frequency = frequency.to(x.dtype)[None]
    t4 = torch.exp(_at(torch.log_softmax(x, -1), y))
    t6 = _at(frequency, y)
    return torch.clamp(((-t4) * torch.log(t6)), max=cap).expand(x.shape[0], 1).squeeze(-1)


def dco(x: Tensor, y: Tensor, n: float) -> Tensor:
    """Direct coverage optimization."""
    y = y[:, None]
    t3 = torch.exp(_at(torch.log_softmax(x, -1), y))
    return (-torch.log(1.0 - ((1.0 - t3) ** n))).expand(x.shape[0], 1).squeeze(-1)


def dice(x: Tensor, y: Tensor, alpha: float, gamma: float) -> Tensor:
    """Self-adjusting dice loss."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t2 = torch.softmax(x, -1)
    t6 = torch.softmax(x, -1)
    t7 = (
        torch.broadcast_to(t6, x.shape)
        .masked_fill(_hot(y, x.shape[-1]), -math.inf)
        .max(-1, keepdim=True)
        .values
    )
    t11 = alpha * torch.log(1.0 - torch.softmax(x, -1))
    t17 = torch.clamp((1.0 - t7), min=1e-36)
    t24 = (2.0 * ((alpha * torch.log(t17)) + torch.log(t7))) - math.log(gamma)
    t25 = _at((((1.0 - t2) ** alpha) * t2), y)
    t27 = (1.0 - t25) ** 2.0
    t30 = ((t25**2.0) + 1.0) + gamma
    t34 = x.masked_fill(_hot(y, x.shape[-1]), -math.inf).argmax(-1, keepdim=True)
    t35 = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)[None] == t34
    t37 = torch.where(t35, 0.0, torch.sigmoid((2.0 * (t11 + t1)) - math.log(gamma)))
    t38 = (
        torch.broadcast_to(t37, x.shape)
        .masked_fill(_hot(y, x.shape[-1]), 0.0)
        .sum(-1, keepdim=True)
    )
    return (((t27 / t30) + torch.sigmoid(t24)) + t38).expand(x.shape[0], 1).squeeze(-1)


def dist_row(x: Tensor, teacher: Tensor, T: float) -> Tensor:
    """DIST, relations among the classes of a row."""
    teacher = teacher.to(x.dtype)
    t6 = torch.softmax((x / T), -1) - (1.0 / float(x.shape[-1]))
    t11 = torch.softmax((teacher / T), -1) - (1.0 / float(x.shape[-1]))
    t13 = (t6**2.0).sum(-1, keepdim=True)
    t14 = t11**2.0
    t18 = T**2.0
    t19 = (float(x.shape[-1]) * torch.minimum(t13, t14.sum(-1, keepdim=True))) > 1e-11
    t21 = (t6 * t11).sum(-1, keepdim=True)
    t22 = torch.linalg.vector_norm(t6, dim=-1, keepdim=True)
    t25 = t21 / (t22 * torch.linalg.vector_norm(t11, dim=-1, keepdim=True))
    return (t18 * (1.0 - torch.where(t19, t25, 0.0))).expand(x.shape[0], 1).squeeze(-1)


def dkd(x: Tensor, y: Tensor, teacher: Tensor, T: float, alpha: float, beta: float) -> Tensor:
    """Decoupled knowledge distillation."""
    y = y[:, None]
    teacher = teacher.to(x.dtype)
    t2 = teacher / T
    t3 = torch.log_softmax(t2, -1)
    t4 = torch.softmax(t2, -1)
    t6 = torch.log_softmax((teacher / T), -1)
    t8 = torch.log_softmax((x / T), -1)
    t9 = teacher / T
    t10 = torch.logsumexp(
        torch.broadcast_to(t9, x.shape).masked_fill(_hot(y, x.shape[-1]), -math.inf),
        -1,
        keepdim=True,
    )
    t12 = t10 - torch.logsumexp(t9, -1, keepdim=True)
    t13 = x / T
    t14 = torch.logsumexp(
        torch.broadcast_to(t13, x.shape).masked_fill(_hot(y, x.shape[-1]), -math.inf),
        -1,
        keepdim=True,
    )
    t15 = torch.logsumexp(t13, -1, keepdim=True)
    t22 = (
        torch.broadcast_to(t4, x.shape).masked_fill(_hot(y, x.shape[-1]), 0.0).sum(-1, keepdim=True)
    )
    t25 = (torch.exp(_at(t3, y)) * (_at(t6, y) - _at(t8, y))) + (t22 * (t12 - (t14 - t15)))
    t26 = teacher / T
    t27 = torch.log_softmax(
        torch.broadcast_to(t26, x.shape).masked_fill(_hot(y, x.shape[-1]), -math.inf), -1
    )
    t28 = torch.softmax(
        torch.broadcast_to(t26, x.shape).masked_fill(_hot(y, x.shape[-1]), -math.inf), -1
    )
    t29 = x / T
    t30 = torch.log_softmax(
        torch.broadcast_to(t29, x.shape).masked_fill(_hot(y, x.shape[-1]), -math.inf), -1
    )
    t32 = t28 * (t27 - t30)
    t33 = (
        torch.broadcast_to(t32, x.shape)
        .masked_fill(_hot(y, x.shape[-1]), 0.0)
        .sum(-1, keepdim=True)
    )
    return ((T**2.0) * ((alpha * t25) + (beta * t33))).expand(x.shape[0], 1).squeeze(-1)


def elr(x: Tensor, y: Tensor, ensemble: Tensor, strength: float) -> Tensor:
    """Early-learning regularisation."""
    y = y[:, None]
    ensemble = ensemble.to(x.dtype)
    t3 = torch.softmax(x.masked_fill(_hot(y, x.shape[-1]), -math.inf), -1)
    t5 = t3 * (1.0 - ensemble)
    t6 = (
        torch.broadcast_to(t5, x.shape).masked_fill(_hot(y, x.shape[-1]), 0.0).sum(-1, keepdim=True)
    )
    t7 = torch.log_softmax(x, -1)
    t8 = _at(t7, y)
    t11 = torch.exp(_at(t7, y))
    t14 = t11 * (1.0 - _at(ensemble, y))
    t16 = (1.0 - t11) * t6
    return ((-t8) + (strength * torch.log(t14 + t16))).expand(x.shape[0], 1).squeeze(-1)


def emo(x: Tensor, y: Tensor, cost: Tensor) -> Tensor:
    """Earth mover distance optimisation."""
    y = y[:, None]
    cost = cost.to(x.dtype)
    t4 = -_at(torch.log_softmax(x, -1), y)
    t7 = (torch.softmax(x, -1) * cost).sum(-1, keepdim=True)
    return ((t4 + ((t4 / t7).detach() * t7)) / 2.0).expand(x.shape[0], 1).squeeze(-1)


def entropy_bonus(x: Tensor, y: Tensor, advantage: Tensor, weight: float) -> Tensor:
    """Policy gradient with an entropy bonus."""
    y = y[:, None]
    advantage = advantage.to(x.dtype)[:, None]
    t3 = torch.log_softmax(x, -1)
    t5 = (-advantage) * _at(t3, y)
    t7 = torch.softmax(x, -1) * t3
    return (t5 + (weight * t7.sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


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


def grpo(
    x: Tensor,
    y: Tensor,
    advantage: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor,
    low: float,
    high: float,
    beta: float,
) -> Tensor:
    """GRPO token loss."""
    y = y[:, None]
    advantage = advantage.to(x.dtype)[:, None]
    old_logp = old_logp.to(x.dtype)[:, None]
    ref_logp = ref_logp.to(x.dtype)[:, None]
    t4 = torch.log_softmax(x, -1)
    t8 = torch.exp(torch.clamp((_at(t4, y) - old_logp), (-20.0), 20.0))
    t11 = torch.clamp((ref_logp - _at(t4, y)), (-20.0), 20.0)
    t13 = (-t8) * advantage
    t19 = torch.maximum(t13, ((-torch.clamp(t8, (1.0 - low), (1.0 + high))) * advantage))
    return (t19 + (beta * ((torch.exp(t11) - t11) - 1.0))).expand(x.shape[0], 1).squeeze(-1)


def hard_bootstrap(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Hard bootstrapping."""
    y = y[:, None]
    t2 = torch.log_softmax(x, -1)
    t4 = (-beta) * _at(t2, y)
    t5 = 1.0 - beta
    return (t4 - (t5 * t2.max(-1, keepdim=True).values)).expand(x.shape[0], 1).squeeze(-1)


def hl_gauss(x: Tensor, value: Tensor, low: float, high: float, sigma: float) -> Tensor:
    """HL-Gauss, a histogram of a Gaussian around the value."""
    value = value.to(x.dtype)[:, None]
    t3 = math.sqrt(2.0) * sigma
    t5 = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)[None] * (high - low)
    t7 = low + (t5 / float(x.shape[-1]))
    t9 = (high - low) / float(x.shape[-1])
    t10 = torch.clamp(value, low, high)
    t17 = torch.erf((high - t10) / t3) - torch.erf((low - t10) / t3)
    t25 = torch.erf(((t7 + t9) - t10) / t3) - torch.erf((t7 - t10) / t3)
    t26 = torch.log_softmax(x, -1)
    return ((-(t25 * t26).sum(-1, keepdim=True)) / t17).expand(x.shape[0], 1).squeeze(-1)


def jsd_beta(x: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Generalized Jensen-Shannon divergence."""
    teacher = teacher.to(x.dtype)
    t3 = torch.softmax(teacher, -1)
    t10 = torch.log((beta * t3) + ((1.0 - beta) * torch.softmax(x, -1)))
    t14 = beta * (t3 * (torch.log_softmax(teacher, -1) - t10)).sum(-1, keepdim=True)
    t15 = 1.0 - beta
    t18 = torch.softmax(x, -1) * (torch.log_softmax(x, -1) - t10)
    return (t14 + (t15 * t18.sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


def kd_forward_kl(x: Tensor, teacher: Tensor, T: float) -> Tensor:
    """Knowledge distillation, forward KL."""
    teacher = teacher.to(x.dtype)
    t2 = T**2.0
    t3 = teacher / T
    t4 = torch.log_softmax(t3, -1)
    t5 = torch.softmax(t3, -1)
    t7 = torch.log_softmax((x / T), -1)
    return (t2 * (t5 * (t4 - t7)).sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def kl_cov(
    x: Tensor, y: Tensor, advantage: Tensor, old_logp: Tensor, selected: Tensor, weight: float
) -> Tensor:
    """KL-Cov token loss."""
    y = y[:, None]
    advantage = advantage.to(x.dtype)[:, None]
    old_logp = old_logp.to(x.dtype)[:, None]
    selected = selected.to(x.dtype)[:, None]
    t7 = torch.clamp((_at(torch.log_softmax(x, -1), y) - old_logp), (-20.0), 20.0)
    t10 = (-torch.exp(t7)) * advantage
    return (t10 + ((weight * selected) * torch.abs(t7))).expand(x.shape[0], 1).squeeze(-1)


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


def logit_norm(x: Tensor, y: Tensor, T: float) -> Tensor:
    """LogitNorm."""
    y = y[:, None]
    t2 = T * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (-_at(torch.log_softmax((x / t2), -1), y)).expand(x.shape[0], 1).squeeze(-1)


def logit_pairing(x: Tensor, y: Tensor, adversarial_x: Tensor, weight: float) -> Tensor:
    """Adversarial logit pairing."""
    y = y[:, None]
    adversarial_x = adversarial_x.to(x.dtype)
    t2 = torch.log_softmax(x, -1)
    t5 = torch.log_softmax(adversarial_x, -1)
    t10 = ((x - adversarial_x) ** 2.0).sum(-1, keepdim=True) / x.shape[-1]
    return (((-_at(t2, y)) - _at(t5, y)) + (weight * t10)).expand(x.shape[0], 1).squeeze(-1)


def mae(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error between softmax and one-hot, halved."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    return (1.0 - torch.exp(_at(t1, y))).expand(x.shape[0], 1).squeeze(-1)


def mart(x: Tensor, y: Tensor, adversarial_x: Tensor, beta: float) -> Tensor:
    """Misclassification-aware adversarial training."""
    y = y[:, None]
    adversarial_x = adversarial_x.to(x.dtype)
    t2 = torch.log_softmax(adversarial_x, -1)
    t4 = -_at(t2, y)
    t5 = torch.softmax(adversarial_x, -1)
    t6 = (
        torch.broadcast_to(t5, x.shape)
        .masked_fill(_hot(y, x.shape[-1]), -math.inf)
        .max(-1, keepdim=True)
        .values
    )
    t8 = torch.log(1.0 - t6)
    t10 = torch.log_softmax(x, -1)
    t14 = beta * (1.0 - torch.exp(_at(t10, y)))
    t16 = torch.softmax(x, -1) * (t10 - t2)
    return ((t4 - t8) + (t14 * t16.sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


def mixce(x: Tensor, y: Tensor, eta: float) -> Tensor:
    """MixCE."""
    y = y[:, None]
    t1 = 1.0 - eta
    t2 = torch.log_softmax(x, -1)
    t4 = torch.exp(_at(t2, y))
    return ((-(eta + (t1 * t4.detach()))) * _at(t2, y)).expand(x.shape[0], 1).squeeze(-1)


def nce(x: Tensor, y: Tensor) -> Tensor:
    """Normalized cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    return (_at(t1, y) / t1.sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def nfl(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Normalized focal loss."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = (1.0 - torch.exp(_at(t1, y))) ** gamma
    t6 = _at(t1, y)
    t9 = (1.0 - torch.softmax(x, -1)) ** gamma
    return ((t5 * t6) / (t9 * t1).sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


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


def ppo_clip(
    x: Tensor, y: Tensor, advantage: Tensor, old_logp: Tensor, low: float, high: float
) -> Tensor:
    """Clipped policy-gradient token loss."""
    y = y[:, None]
    advantage = advantage.to(x.dtype)[:, None]
    old_logp = old_logp.to(x.dtype)[:, None]
    t3 = torch.log_softmax(x, -1)
    t7 = torch.exp(torch.clamp((_at(t3, y) - old_logp), (-20.0), 20.0))
    t9 = (-t7) * advantage
    t12 = torch.clamp(t7, (1.0 - low), (1.0 + high))
    return torch.maximum(t9, ((-t12) * advantage)).expand(x.shape[0], 1).squeeze(-1)


def pseudo_spherical(x: Tensor, y: Tensor, a: float) -> Tensor:
    """Pseudo-spherical score."""
    y = y[:, None]
    t2 = torch.log_softmax((a * x), -1)
    return (-(torch.exp(_at(t2, y)) ** ((a - 1.0) / a))).expand(x.shape[0], 1).squeeze(-1)


def renyi(x: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Renyi divergence distillation."""
    teacher = teacher.to(x.dtype)
    t3 = torch.softmax(teacher, -1)
    t10 = ((torch.softmax(x, -1) ** (1.0 - alpha)) * (t3**alpha)).sum(-1, keepdim=True)
    return (torch.log(t10) / (alpha - 1.0)).expand(x.shape[0], 1).squeeze(-1)


def reverse_kl(x: Tensor, teacher: Tensor) -> Tensor:
    """Reverse KL distillation."""
    teacher = teacher.to(x.dtype)
    t2 = torch.log_softmax(x, -1)
    t3 = torch.softmax(x, -1)
    t4 = torch.log_softmax(teacher, -1)
    return (t3 * (t2 - t4)).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def rmt_symmetric_ce(x: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Symmetric cross-entropy with a teacher."""
    teacher = teacher.to(x.dtype)
    t3 = -(1.0 - alpha)
    t9 = t3 * (torch.softmax(teacher, -1) * torch.log_softmax(x, -1)).sum(-1, keepdim=True)
    t11 = torch.softmax(x, -1) * torch.log_softmax(teacher, -1)
    return (t9 - (alpha * t11.sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


def sar(x: Tensor, margin: float) -> Tensor:
    """Reliable entropy minimisation."""
    t5 = -(torch.softmax(x, -1) * torch.log_softmax(x, -1)).sum(-1, keepdim=True)
    t6 = t5.detach()
    t7 = math.log(float(x.shape[-1]))
    return torch.where((t6 < (margin * t7)), t5, 0.0).expand(x.shape[0], 1).squeeze(-1)


def sce(x: Tensor, y: Tensor, alpha: float, beta: float, A: float) -> Tensor:
    """Symmetric cross-entropy."""
    y = y[:, None]
    t2 = torch.log_softmax(x, -1)
    t4 = (-alpha) * _at(t2, y)
    t5 = beta * A
    return (t4 - (t5 * (1.0 - torch.exp(_at(t2, y))))).expand(x.shape[0], 1).squeeze(-1)


def sigmoid_bce(x: Tensor, labels: Tensor) -> Tensor:
    """Multi-label binary cross-entropy."""
    labels = labels.to(x.dtype)
    t2 = F.softplus(x)
    return (t2 - (labels * x)).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def sigmoid_focal(x: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Multi-label focal loss."""
    labels = labels.to(x.dtype)
    t3 = -gamma
    t4 = F.softplus(x)
    t7 = (alpha * labels) * torch.exp(t3 * t4)
    t9 = F.softplus(-x)
    t16 = ((1.0 - alpha) * (1.0 - labels)) * torch.exp(t3 * t9)
    return ((t7 * t9) + (t16 * t4)).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def skew_kl(x: Tensor, teacher: Tensor, skew: float) -> Tensor:
    """Skew KL divergence."""
    teacher = teacher.to(x.dtype)
    t2 = torch.log_softmax(teacher, -1)
    t3 = torch.softmax(teacher, -1)
    t10 = torch.log((skew * t3) + ((1.0 - skew) * torch.softmax(x, -1)))
    return (t3 * (t2 - t10)).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def skew_reverse_kl(x: Tensor, teacher: Tensor, skew: float) -> Tensor:
    """Skew reverse KL divergence."""
    teacher = teacher.to(x.dtype)
    t2 = torch.log_softmax(x, -1)
    t3 = torch.softmax(x, -1)
    t10 = torch.log(((1.0 - skew) * t3) + (skew * torch.softmax(teacher, -1)))
    return (t3 * (t2 - t10)).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def soft_bootstrap(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Soft bootstrapping."""
    y = y[:, None]
    t2 = torch.log_softmax(x, -1)
    t4 = (-beta) * _at(t2, y)
    t5 = 1.0 - beta
    t6 = torch.softmax(x, -1)
    return (t4 - (t5 * (t6 * t2).sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


def soft_target_ce(x: Tensor, probabilities: Tensor) -> Tensor:
    """Cross-entropy with soft targets."""
    probabilities = probabilities.to(x.dtype)
    t2 = torch.log_softmax(x, -1)
    return (-(probabilities * t2).sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def spherical(x: Tensor, y: Tensor) -> Tensor:
    """Spherical score."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = torch.linalg.vector_norm(torch.softmax(x, -1), dim=-1, keepdim=True)
    return ((-torch.exp(_at(t1, y))) / t5).expand(x.shape[0], 1).squeeze(-1)


def tailr(x: Tensor, y: Tensor, gamma: float, floor: float) -> Tensor:
    """TaiLr."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t3 = torch.exp(_at(t1, y))
    t8 = (t3 / (gamma + ((1.0 - gamma) * t3))).detach()
    return ((-torch.clamp(t8, min=floor)) * _at(t1, y)).expand(x.shape[0], 1).squeeze(-1)


def taylor_ce(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Taylor cross-entropy."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t5 = sum((1.0 - torch.exp(_at(t1, y))) ** _k / _k for _k in range(1, int(t) + 1))
    return t5.expand(x.shape[0], 1).squeeze(-1)


def token_head(x: Tensor, y: Tensor) -> Tensor:
    """What a trainer weighs and logs of a token."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t2 = _at(t1, y)
    t5 = (torch.softmax(x, -1) * t1).sum(-1, keepdim=True)
    t7 = _at(torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)[None], y)
    t10 = torch.where((t7 == x.argmax(-1, keepdim=True)), 1.0, 0.0)
    t11 = torch.logsumexp(x, -1, keepdim=True)
    t12 = x.sum(-1, keepdim=True) / x.shape[-1]
    t13 = torch.softmax(x, -1)
    return torch.cat([t2, (-t5), t10, t11, t12, (t13**2.0).sum(-1, keepdim=True)], -1)


def token_stats(x: Tensor, y: Tensor) -> Tensor:
    """What policy-gradient and filtering losses need of a token."""
    y = y[:, None]
    t1 = torch.log_softmax(x, -1)
    t2 = _at(t1, y)
    t6 = -(torch.softmax(x, -1) * t1).sum(-1, keepdim=True)
    t7 = torch.logsumexp(x, -1, keepdim=True)
    return torch.cat([t2, t6, t7, (torch.softmax(x, -1) ** 2.0).sum(-1, keepdim=True)], -1)


def trades(x: Tensor, y: Tensor, adversarial_x: Tensor, beta: float) -> Tensor:
    """TRADES."""
    y = y[:, None]
    adversarial_x = adversarial_x.to(x.dtype)
    t2 = torch.log_softmax(x, -1)
    t4 = -_at(t2, y)
    t5 = torch.softmax(x, -1)
    t7 = t2 - torch.log_softmax(adversarial_x, -1)
    return (t4 + (beta * (t5 * t7).sum(-1, keepdim=True))).expand(x.shape[0], 1).squeeze(-1)


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


def tvd(x: Tensor, teacher: Tensor) -> Tensor:
    """Total variation distance."""
    teacher = teacher.to(x.dtype)
    t6 = torch.softmax(x, -1) - torch.softmax(teacher, -1)
    return (torch.abs(t6).sum(-1, keepdim=True) / 2.0).expand(x.shape[0], 1).squeeze(-1)


def two_hot(x: Tensor, value: Tensor, low: float, high: float) -> Tensor:
    """Two-hot regression target."""
    value = value.to(x.dtype)[:, None]
    t3 = torch.clamp(value, low, high) - low
    t4 = float(x.shape[-1]) - 1.0
    t6 = high - low
    t8 = ((t3 * t4) / t6) - torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)[None]
    t11 = torch.relu(1.0 - torch.abs(t8))
    t12 = torch.log_softmax(x, -1)
    return (-(t11 * t12).sum(-1, keepdim=True)).expand(x.shape[0], 1).squeeze(-1)


def vat(x: Tensor, perturbed_x: Tensor) -> Tensor:
    """Virtual adversarial training divergence."""
    perturbed_x = perturbed_x.to(x.dtype)
    t2 = torch.log_softmax(x, -1)
    t4 = torch.softmax(x, -1).detach()
    t6 = torch.log_softmax(perturbed_x, -1)
    return (t4 * (t2.detach() - t6)).sum(-1, keepdim=True).expand(x.shape[0], 1).squeeze(-1)


def weston_watkins(x: Tensor, y: Tensor, margin: float) -> Tensor:
    """Multiclass hinge loss of Weston and Watkins."""
    y = y[:, None]
    t4 = torch.relu((margin + x) - _at(x, y))
    t5 = (
        torch.broadcast_to(t4, x.shape).masked_fill(_hot(y, x.shape[-1]), 0.0).sum(-1, keepdim=True)
    )
    return t5.expand(x.shape[0], 1).squeeze(-1)
