"""What the compiler must find: statistics, sweeps, saved scalars, shared gradients."""

from __future__ import annotations

import pytest

from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.errors import CompileError
from lossgen.ir.plan import KernelPlan
from lossgen.passes.points import parameter_points
from lossgen.spec.load import load_spec, load_text

#: name -> (statistics, saved scalars) of the base variant
PINS = {
    "aexp": (1, 2),
    "agce": (1, 2),
    "aul": (1, 2),
    "balanced_softmax": (1, 2),
    "comp_sum": (1, 2),
    "cross_entropy": (1, 2),
    "dco": (1, 2),
    "focal": (1, 2),
    "gce": (1, 2),
    "gjs": (1, 2),
    "ldam": (1, 2),
    "ldr_kl": (1, 2),
    "logit_adjustment": (1, 2),
    "mae": (1, 2),
    "poly1": (1, 2),
    "pseudo_spherical": (1, 2),
    "sce": (1, 2),
    "taylor_ce": (1, 2),
    "truncated_gce": (1, 2),
    "brier": (2, 3),
    "confidence_penalty": (2, 3),
    "logit_l2": (2, 2),
    "ngce": (2, 3),
    "soft_bootstrap": (2, 3),
    "spherical": (2, 3),
    "tsallis_score": (2, 3),
    "elr": (2, 3),
    "entropy_min": (2, 4),
    "nce": (3, 3),
    "apl_nce_mae": (3, 3),
    "apl_nce_rce": (3, 3),
    "crammer_singer": (1, 2),
    "weston_watkins": (2, 1),
    "dc_pdd": (1, 2),
    "dice": (5, 5),
    "dist_row": (7, 12),
    "dkd": (4, 4),
    "grpo": (1, 2),
    "kl_cov": (1, 2),
    "mixce": (1, 2),
    "ppo_clip": (1, 2),
    "tailr": (1, 2),
    "entropy_bonus": (2, 3),
    "hard_bootstrap": (3, 5),
    "sar": (2, 4),
    "token_stats": (3, 4),
    "token_head": (5, 4),
    "adaptive_smoothing": (2, 4),
    "adv_comp_sum": (3, 4),
    "alpha_divergence": (3, 7),
    "asl_single_label": (3, 4),
    "emo": (2, 3),
    "hl_gauss": (4, 4),
    "jsd_beta": (4, 6),
    "kd_forward_kl": (3, 5),
    "logit_norm": (3, 4),
    "logit_pairing": (3, 4),
    "mart": (6, 10),
    "nfl": (3, 4),
    "renyi": (3, 7),
    "reverse_kl": (3, 7),
    "rmt_symmetric_ce": (4, 6),
    "sigmoid_bce": (1, 0),
    "sigmoid_focal": (4, 4),
    "skew_kl": (4, 6),
    "skew_reverse_kl": (4, 6),
    "soft_target_ce": (4, 4),
    "trades": (4, 6),
    "tvd": (4, 6),
    "two_hot": (4, 4),
    "vat": (3, 5),
    # of the whole batch: what is summed of each row
    "any_f": (3, 0),
    "generalized_dice": (2, 3),
    "information_maximization": (3, 5),
    "jaccard": (2, 3),
    "marginal_entropy": (2, 4),
    "repri": (3, 5),
    "soft_dice": (2, 3),
    "switch_balance": (3, 4),
    "tversky": (2, 3),
    "topk_kl": (7, 8),
    "taid": (3, 5),
    "cispo": (1, 2),
    "complementary_label": (1, 2),
    "coral": (1, 0),
    "cosface": (1, 2),
    "dino": (3, 5),
    "dual_clip_ppo": (1, 2),
    "energy_ood": (1, 3),
    "mdca": (2, 3),
    "partial_label": (3, 5),
    "sapo": (1, 2),
    "seesaw": (2, 4),
    "unlikelihood": (6, 8),
    "topk_reverse_kl": (7, 11),
    "arcface": (1, 2),
    "circle": (2, 5),
    "asl_multi_label": (1, 0),
    "evidential_mse": (2, 2),
    "evidential_log": (1, 1),
    "dual_focal": (2, 4),
    "mbls": (5, 6),
    "squentropy": (2, 2),
    "label_relaxation": (1, 2),
    "phuber_ce": (1, 2),
    "dcl": (1, 2),
    "rince": (1, 2),
    "supcon": (4, 4),
    "dft": (1, 2),
    "npo": (1, 2),
    "clip_cov": (1, 2),
    "min_k": (3, 4),
    "bias_weighted": (1, 2),
    "lk_alpha": (4, 7),
    "lk_hybrid": (5, 7),
    "eql_v2": (1, 0),
    "corn": (1, 0),
    "ca_calibration": (3, 5),
    "sparsemax": (5, 3),
    "entmax15": (5, 3),
}
#: what no algebra makes one sweep; everything else takes one
TWO_SWEEPS = {
    "lk_alpha",
    "lk_hybrid",
    "mbls",
    "taid",
    "seesaw",
    "unlikelihood",
    "dice",
    "dist_row",
    "jsd_beta",
    "logit_norm",
    "mart",
    "nfl",
    "skew_kl",
    "skew_reverse_kl",
    "tvd",
}
#: the maximum, the root's own sweep, which is repeated, and what stands at the root
THREE_SWEEPS = {"sparsemax", "entmax15"}
#: losses of p_y alone: one scalar f'(z), the gradient f'(z)·R_j and -f'(z), which sum to zero
OF_TARGET_PROBABILITY = [
    "aexp",
    "agce",
    "aul",
    "comp_sum",
    "cross_entropy",
    "dco",
    "focal",
    "gce",
    "gjs",
    "mae",
    "poly1",
    "sce",
    "taylor_ce",
    "truncated_gce",
]


def plan(name: str) -> KernelPlan:
    return compile_loss(load_spec(paths.require_spec(name))).variants[0]


def formula(text: str, parameters: str = "") -> KernelPlan:
    spec = f"name: t\ntitle: T\nreference: R\n{parameters}transform: '{text}'\n"
    return compile_loss(load_text(spec)).variants[0]


def test_every_loss_is_pinned() -> None:
    assert set(PINS) == set(paths.spec_names())


@pytest.mark.parametrize("name", PINS)
def test_statistics_sweeps_and_saved(name: str) -> None:
    found = plan(name)
    assert (found.statistics, len(found.saved)) == PINS[name]
    assert found.sweeps == (3 if name in THREE_SWEEPS else 2 if name in TWO_SWEEPS else 1)
    assert found.certificate is not None
    assert max(found.certificate.loss_kappa, found.certificate.gradient_kappa) <= (
        found.certificate.bound
    )


@pytest.mark.parametrize("name", OF_TARGET_PROBABILITY)
def test_gradient_is_one_scalar(name: str) -> None:
    stable = plan(name).stable
    (gradient,) = stable.gradients
    ((coefficient, basis),) = gradient.terms
    assert basis == stable.forms[0].R
    assert gradient.at_y == -coefficient


TAU = 'parameters:\n  tau: {default: 1.5, domain: "[0, inf)", doc: d}\n'


@pytest.mark.parametrize(
    "text",
    [
        "(p[y]**(tau - 1) - 1) / (1 - tau)",
        "((1 + u)**(1 - tau) - 1) / (1 - tau)",
        "((1 + sum(exp(x - x[y]), over=others))**(1 - tau) - 1) / (1 - tau)",
        "((1 + exp(logsumexp(x, over=others) - x[y]))**(1 - tau) - 1) / (1 - tau)",
    ],
)
def test_one_loss_written_in_four_ways(text: str) -> None:
    found, expected = formula(text, TAU), formula("(p[y]**(tau - 1) - 1) / (1 - tau)", TAU)
    assert found.stable.loss == expected.stable.loss
    assert found.stable.gradients == expected.stable.gradients


def test_identities() -> None:
    absolute = formula("sum(abs(p - onehot))")
    assert str(absolute.stable.loss) == "2*sigmoid(z0)"
    assert str(formula("logsumexp(x) - x[y]").stable.loss) == "softplus(z0)"
    assert str(formula("log(1 + u)").stable.loss) == "softplus(z0)"
    assert formula("sum(p**2) - 2*p[y] + 1").stable.gradients[0].at_y == (
        formula("sum((p - onehot)**2)").stable.gradients[0].at_y
    )


def test_stage_dump() -> None:
    compiled = compile_loss(load_spec(paths.require_spec("brier")))
    assert str(compiled.stages["schedule"]) == "\n".join(
        [
            "sweeps       1",
            "statistics   2",
            "maximum      m0 = max of x; t = 1 * (. - m)",
            "accumulate   a0 = sum exp(t)",
            "accumulate   b0 = sum exp(2 * t)",
            "save         m0, la0, T0",
            "loss         T0 + sigmoid(z0)**2",
            "per row      c0 = -2*T0 + 2*sigmoid(-z0)*sigmoid(z0)",
            "per logit    c0*exp(logp0) + 2*exp(2*logp0)",
            "at y         -2*(T0 + sigmoid(z0)**2)*sigmoid(-z0)",
        ]
    )


def test_stop_gradient() -> None:
    weighted = formula("-stop_gradient(p[y]) * logp[y]")
    assert str(weighted.stable.gradients[0].at_y) == "-sigmoid(-z0)*sigmoid(z0)"
    entropy = formula("-sum(stop_gradient(p) * logp)")
    assert entropy.stable.gradients[0].terms == ()  # -sum(p̄·logp) is stationary at p̄ = p


def test_parameters_are_chosen_in_their_range() -> None:
    """low and high chosen apart would make low > high."""
    spec = load_spec(paths.require_spec("hl_gauss"))
    points = parameter_points(spec, ["low", "high"])
    assert len(points) > 5
    assert all(-2 <= p["low"] <= 0.25 and 0.75 <= p["high"] <= 3 for p in points)


def test_arguments_of_functions_are_not_expanded() -> None:
    """(v - low)·(V - 1)/(high - low) of 65 centres as a·V - a - b·V + b: off by 4e-5."""
    stable = plan("two_hot").stable
    found = [s.body for s in stable.sums] + [b for g in stable.gradients for _, b in g.terms]
    product = "(-u_low + clip(u_value, u_low, u_high))*(V - 1)"
    assert sum(product in str(body) for body in found) >= 2
    assert not any("V*u_low" in str(body) for body in found)


SWEEPS = {
    "-sum(log(1 - p), over=others)": 2,
    "sum(abs(p - 1/V))": 2,
    "-log_softmax(x / (2 + norm(p)))[y]": 2,
    "-log_softmax(p)[y]": 3,  # softmaxes of different sweeps are no product
    "-log_softmax(x / (2 + sum(abs(p - 1/V))))[y]": 3,
    "sum(p**3) - log(p[y])": 1,
}


@pytest.mark.parametrize(("text", "sweeps"), SWEEPS.items())
def test_sweeps(text: str, sweeps: int) -> None:
    lax = "accuracy: {ulp: 1.0e+9, reason: counts sweeps}\n"
    assert formula(text, lax).sweeps == sweeps


@pytest.mark.parametrize(
    "text", ["log(p[y] - 2)", "sqrt(p[y] - 2)", "sum(sqrt(p - 2))", "sqrt(-p[y])"]
)
def test_formulas_that_are_never_a_number_are_refused(text: str) -> None:
    with pytest.raises(CompileError, match=r"is not a real number at any|is never a number"):
        formula(text)


def test_inaccurate_formulas_are_computed_in_float64() -> None:
    """tanh(1) - tanh(p_y) vanishes for a confident row, and no rule knows tanh."""
    said = formula("tanh(1) - tanh(p[y])").stable.precision
    assert said.startswith("float64")
    assert "in float32 it is off by" in said


def test_inaccurate_formulas_are_refused() -> None:
    """∞ - ∞ is no number in float64 either."""
    with pytest.raises(CompileError, match="is not accurate in float64") as caught:
        formula("exp(exp(x[y])) - exp(exp(x[y]) - 1)")
    assert "no bound accepts this" in str(caught.value.hint)
    text, carets = str(caught.value).splitlines()[1:3]
    at = slice(carets.index("^"), carets.rindex("^") + 1)
    assert text[at] == "exp(exp(x[y])) - exp(exp(x[y]) - 1)"
