"""The words of the formula language: names, functions and what authors write by mistake."""

from __future__ import annotations

from difflib import get_close_matches

from lossgen.spec.expr import NameKind, Rank

__all__ = [
    "ARGUMENTS",
    "CLASS_MAPS",
    "FUNCTIONS",
    "LEAVES",
    "REDUCTIONS",
    "RESERVED",
    "RESERVED_OUTPUTS",
    "SUGAR",
    "repair",
    "spelled",
]

LEAVES: dict[str, tuple[NameKind, Rank]] = {
    "x": (NameKind.LOGITS, Rank.CLASS),
    "onehot": (NameKind.ONEHOT, Rank.CLASS),
    "V": (NameKind.CLASSES, Rank.PARAMETER),
    "pi": (NameKind.CONSTANT, Rank.PARAMETER),
    "index": (NameKind.INDEX, Rank.CLASS),  # 0, 1, …, V - 1
}
SUGAR = {"p": "softmax(x)", "logp": "log_softmax(x)", "u": "sum(exp(x - x[y]), over=others)"}

# elementwise functions and the names of their arguments
ELEMENTWISE = {
    **dict.fromkeys(
        (
            "exp",
            "log",
            "log1p",
            "expm1",
            "sqrt",
            "tanh",
            "abs",
            "relu",
            "sigmoid",
            "softplus",
            "log_sigmoid",
            "erf",
            "sign",
            "stop_gradient",
        ),
        ("e",),
    ),
    "minimum": ("a", "b"),
    "maximum": ("a", "b"),
    "clip": ("e", "low", "high"),
    "where": ("condition", "a", "b"),
    "softcap": ("e", "cap"),
    "mercator": ("q", "t"),
}
CLASS_MAPS = ("softmax", "log_softmax")  # class → class
REDUCTIONS = ("sum", "mean", "max", "logsumexp", "norm", "argmax", "second_max")  # class → row
ARGUMENTS: dict[str, tuple[str, ...]] = ELEMENTWISE | dict.fromkeys(CLASS_MAPS + REDUCTIONS, ("e",))
FUNCTIONS = frozenset(ARGUMENTS)

RESERVED = {
    **dict.fromkeys(SUGAR, "a word of the formula language"),
    **dict.fromkeys((*LEAVES, "over", "others"), "a word of the formula language"),
    **dict.fromkeys(("x", "logits"), "the logits"),
    **dict.fromkeys(("y", "target"), "the target class"),
    # softcap is also the customary name of its parameter, and a call is never a name
    **dict.fromkeys(FUNCTIONS - {"softcap"}, "a function of the formula language"),
    "self": "the first argument of a method",
    **dict.fromkeys(("transform", "regularizer", "adversarial", "normalizer"), "a part of a spec"),
    **dict.fromkeys(
        (
            *("ignore_index", "reduction", "backend", "inplace_grad", "class_dim"),
            *("hidden", "linear_weight", "linear_bias"),
            *("shift", "memory_budget", "schedule", "filter", "skip_ignored"),
        ),
        "an argument of every loss",
    ),
}
# an output is a field of a named tuple, and no formula can name it
RESERVED_OUTPUTS = dict.fromkeys(("count", "index"), "a method of every tuple")

_ALIASES = {
    "ln": "log",
    "lse": "logsumexp",
    "logsoftmax": "log_softmax",
    "logsigmoid": "log_sigmoid",
    "sigma": "sigmoid",
    "pow": "**",
    "power": "**",
    "min": "minimum",
    "fmax": "maximum",
    "one_hot": "onehot",
    "clamp": "clip",
    "K": "V",
    "C": "V",
    "n_classes": "V",
    "logits": "x",
    "detach": "stop_gradient",
    "log_p": "logp",
    "log_prob": "logp",
    "amax": "max",
    "avg": "mean",
    "probs": "p",
    "z": "x",
    "if_else": "where",
    "norm2": "norm",
    "arange": "index",
    "second_largest": "second_max",
}


_ORDER = "scans and sorts are not in the language: a formula does not know the order of classes"
_ROUND = "rounding is not in the language: its derivative is 0; where(a < b, …, …) makes a step"
_ANGLES = "angles are not in the language"
_RANDOM = "a loss draws no random numbers: give the noise as an input"
#: What other libraries call something, and how it is written here; or why it is not.
_INSTEAD = {
    "cosh": "write (exp(e) + exp(-e))/2",
    "sinh": "write (exp(e) - exp(-e))/2",
    "asinh": "write log(e + sqrt(e**2 + 1))",
    "acosh": "write log(e + sqrt(e**2 - 1))",
    "atanh": "write (log1p(e) - log1p(-e))/2",
    "log2": "write log(e)/log(2)",
    "log10": "write log(e)/log(10)",
    "exp2": "write 2**e",
    "square": "write e**2",
    "rsqrt": "write 1/sqrt(e)",
    "reciprocal": "write 1/e",
    "erfc": "write 1 - erf(e)",
    **dict.fromkeys(("silu", "swish"), "write e*sigmoid(e)"),
    "gelu": "write e*(1 + erf(e/sqrt(2)))/2",
    "mish": "write e*tanh(softplus(e))",
    "huber": "write where(abs(e) < 1, e**2/2, abs(e) - 0.5)",
    "smooth_l1": "write where(abs(e) < 1, e**2/2, abs(e) - 0.5)",
    "hinge": "write relu(1 + max(x, over=others) - x[y])",
    "relu6": "write clip(e, 0, 6)",
    "leaky_relu": "write maximum(e, 0.01*e)",
    "elu": "write where(e > 0, e, expm1(e))",
    "hardtanh": "write clip(e, -1, 1)",
    "logaddexp": "write a + softplus(b - a)",
    "softmin": "write softmax(-e)",
    "logit": "write log(e) - log(1 - e)",
    "prod": "write exp(sum(log(e)))",
    "var": "write mean((e - mean(e))**2)",
    "std": "write sqrt(mean((e - mean(e))**2))",
    "argmin": "write argmax(-e)",
    "amin": "the least over the classes is -max(-e)",
    "norm1": "write sum(abs(e))",
    "count_nonzero": "write sum(where(e != 0, 1, 0))",
    "heaviside": "write where(e > 0, 1, 0)",
    "gather": "write e[y]",
    "dot": "write sum(a * b)",
    "matmul": "write sum(a * b)",
    "einsum": "write sum(a * b)",
    **dict.fromkeys(("nll_loss", "ce", "nll"), "write -logp[y]"),
    **dict.fromkeys(("pt", "p_t", "p_y", "py", "prob", "p_true"), "write p[y]"),
    **dict.fromkeys(("y_true", "ytrue", "one_hot_target"), "write onehot, the indicator of y"),
    "e": "write exp(…)",
    "kl_div": "write sum(t * (log(t) - logp)), where t is an input of kind class",
    "entropy": "write -sum(p * logp)",
    "lambda": "call the parameter lam",
    **dict.fromkeys(("true", "false", "True", "False"), "write 1 or 0"),
    **dict.fromkeys(("inf", "nan", "infinity"), "a formula has finite numbers only"),
    **dict.fromkeys(("target", "targets", "label", "labels"), "the target class is y: write p[y]"),
    **dict.fromkeys(("floor", "ceil", "round", "trunc", "rint", "fmod", "mod"), _ROUND),
    **dict.fromkeys(
        ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "arcsin", "arccos", "arctan"),
        _ANGLES,
    ),
    **dict.fromkeys(("rand", "randn", "random", "normal", "dropout", "gumbel", "noise"), _RANDOM),
    **dict.fromkeys(
        [
            "cumsum",
            "cumprod",
            "cummax",
            "cumlogsumexp",
            "logcumsumexp",
            "scan",
            "flip",
            "diff",
            "sort",
            "argsort",
            "topk",
            "kthvalue",
            "median",
            "quantile",
            "rank",
            "roll",
        ],
        _ORDER,
    ),
}
_INSTEAD |= {
    f"arc{n[1:]}": hint for n, hint in _INSTEAD.items() if n in ("asinh", "acosh", "atanh")
}


def repair(name: str, known: list[str]) -> str | None:
    """A hint for a misspelt name: one of ``known``, or the language's word for it."""
    if name in _INSTEAD and name not in known:
        return _INSTEAD[name]
    alias = _ALIASES.get(name)
    if alias == "**":
        return "powers are written with **"
    close = [alias] if alias in known else get_close_matches(name[:60], known, n=1)
    return f"did you mean '{close[0]}'?" if close else None


def spelled(name: str) -> str | None:
    """The language's function for what a library calls ``name``, if there is one."""
    name = _ALIASES.get(name, name)
    return name if name in FUNCTIONS else None
