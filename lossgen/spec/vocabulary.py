"""The words of the formula language: names, functions and what authors write by mistake."""

from __future__ import annotations

from lossgen.spec.definitions import DEFINED
from lossgen.spec.expr import NameKind, Rank
from lossgen.spec.functions import ELEMENTWISE
from lossgen.unknown import nearest

__all__ = [
    "ALIASES",
    "ARGUMENTS",
    "BATCH_WORDS",
    "CLASS_MAPS",
    "CLASS_WORDS",
    "ELEMENTWISE",
    "FUNCTIONS",
    "LEAVES",
    "LIBRARIES",
    "OF_CALLS",
    "OVER_CLASSES",
    "REDUCTIONS",
    "RESERVED",
    "RESERVED_OUTPUTS",
    "ROOT",
    "SUGAR",
    "TYPOGRAPHY",
    "repair",
    "repair_call",
    "spelled",
    "usual",
]

LEAVES: dict[str, tuple[NameKind, Rank]] = {
    "x": (NameKind.LOGITS, Rank.CLASS),
    "onehot": (NameKind.ONEHOT, Rank.CLASS),
    "V": (NameKind.CLASSES, Rank.PARAMETER),
    "pi": (NameKind.CONSTANT, Rank.PARAMETER),
    "index": (NameKind.INDEX, Rank.CLASS),  # 0, 1, …, V - 1
}
SUGAR = {"p": "softmax(x)", "logp": "log_softmax(x)", "u": "sum(exp(x - x[y]), over=others)"}

#: solved for its first argument, a name of its own
ROOT = {"root": ("t", "e", "low", "high")}
CLASS_MAPS = ("softmax", "log_softmax")  # class → class
REDUCTIONS = ("sum", "mean", "max", "logsumexp", "norm", "argmax", "second_max")  # class → row
#: over the rows of a batch, of any rank
BATCH_WORDS = dict.fromkeys(("batch_sum", "batch_mean"), ("e",))
#: the names of the arguments
ARGUMENTS: dict[str, tuple[str, ...]] = (
    ELEMENTWISE | ROOT | dict.fromkeys(CLASS_MAPS + REDUCTIONS, ("e",))
)
FUNCTIONS = frozenset({*ARGUMENTS, *BATCH_WORDS, *DEFINED})
#: the words of ``DEFINED`` that go over the classes
CLASS_WORDS = tuple(
    name for name, word in DEFINED.items() if word.calls & {*REDUCTIONS, *CLASS_MAPS}
)
#: they take over=others; at the class that an equation leaves out there would be no value
OVER_CLASSES = frozenset(
    (*CLASS_MAPS, *REDUCTIONS, *(n for n in CLASS_WORDS if not DEFINED[n].calls & ROOT.keys()))
)
# A call is never a name: all others, and the words of ``DEFINED``, may be names of parameters too.
_NO_NAMES = {
    *("exp", "log", "log1p", "expm1", "sqrt", "abs", "sign", "relu", "tanh", "sigmoid", "softplus"),
    *("log_sigmoid", "erf", "minimum", "maximum", "clip", "where", "mercator", "stop_gradient"),
    *(*CLASS_MAPS, *REDUCTIONS),
}

#: arguments of every loss
OF_CALLS = (
    *("ignore_index", "reduction", "backend", "inplace_grad", "class_dim"),
    *("hidden", "linear_weight", "linear_bias"),
    *("shift", "memory_budget", "schedule", "filter", "skip_ignored"),
)
RESERVED = {
    **dict.fromkeys(SUGAR, "a word of the formula language"),
    **dict.fromkeys((*LEAVES, "over", "others"), "a word of the formula language"),
    **dict.fromkeys(("x", "logits"), "the logits"),
    **dict.fromkeys(("y", "target"), "the target class"),
    **dict.fromkeys(_NO_NAMES, "a function of the formula language"),
    **dict.fromkeys(BATCH_WORDS, "a function of the formula language"),
    "self": "the first argument of a method",
    **dict.fromkeys(
        ("transform", "regularizer", "adversarial", "normalizer", "batch"), "a part of a spec"
    ),
    **dict.fromkeys(OF_CALLS, "an argument of every loss"),
}
# an output is a field of a named tuple, and no formula can name it
RESERVED_OUTPUTS = dict.fromkeys(("count", "index"), "a method of every tuple")

#: what stands before a dot and is no value
LIBRARIES = {"torch", "np", "numpy", "jnp", "jax", "tf", "math", "F", "nn", "sympy", "scipy"}
TYPOGRAPHY = {
    "−": "-",
    "–": "-",
    "·": "*",
    "×": "*",
    "÷": "/",
    "²": "**2",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "√": "sqrt",
    "π": "pi",
    "Σ": "sum",
    "∑": "sum",
}
#: other words for names and functions of the language
ALIASES = {
    "sigma": "sigmoid",
    "fmin": "minimum",
    "fmax": "maximum",
    "one_hot": "onehot",
    "K": "V",
    "C": "V",
    "n_classes": "V",
    "num_classes": "V",
    **dict.fromkeys(("logits", "input", "inputs", "output", "outputs"), "x"),
    "detach": "stop_gradient",
    "sg": "stop_gradient",
    "stopgrad": "stop_gradient",
    "log_p": "logp",
    "log_prob": "logp",
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
_RANDOM = "a loss draws no random numbers: give the noise as an input"
_FINITE = "nothing is NaN where the inputs are numbers; where(a < b, …, …) makes a choice"
#: What other libraries call something, and how it is written here; or why it is not.
_INSTEAD = {
    "huber": "write where(abs(e) < d, e**2/2, d*(abs(e) - d/2)) for a threshold d",
    "huber_loss": "write where(abs(e) < d, e**2/2, d*(abs(e) - d/2)) for a threshold d",
    "smooth_l1": "write where(abs(e) < d, e**2/(2*d), abs(e) - d/2) for a threshold d",
    "smooth_l1_loss": "write where(abs(e) < d, e**2/(2*d), abs(e) - d/2) for a threshold d",
    "hinge": "write relu(1 + max(x, over=others) - x[y])",
    "atan2": "write atan(a/b) for b > 0",
    "arctan2": "write atan(a/b) for b > 0",
    "sinc": "write sin(e)/e",
    "softmin": "write softmax(-e)",
    "log_softmin": "write log_softmax(-e)",
    "softshrink": "write e - clip(e, -d, d) for a threshold d",
    "log_ndtr": "write log(ndtr(e)), accurate for e above -12",
    "prod": "write exp(sum(log(e)))",
    "norm1": "write sum(abs(e))",
    "normalize": "write e/norm(e)",
    "cosine_similarity": "write sum(a*b)/(norm(a)*norm(b))",
    **dict.fromkeys(("mse", "mse_loss"), "write mean((a - b)**2)"),
    "l1_loss": "write mean(abs(a - b))",
    **dict.fromkeys(("any", "any_of"), "write max(where(a < b, 1, 0))"),
    **dict.fromkeys(("all", "all_of"), "write 1 - max(where(a < b, 0, 1))"),
    "count_nonzero": "write sum(where(e != 0, 1, 0))",
    "heaviside": "write where(e > 0, 1, 0)",
    "threshold": "write where(e > d, e, value)",
    "gather": "write e[y]",
    "dot": "write sum(a * b)",
    "matmul": "write sum(a * b)",
    "einsum": "write sum(a * b)",
    **dict.fromkeys(("add", "subtract", "sub"), "write a + b or a - b"),
    **dict.fromkeys(("multiply", "mul", "divide", "div", "true_divide"), "write a*b or a/b"),
    **dict.fromkeys(("nll_loss", "ce", "nll", "cross_entropy"), "write -logp[y]"),
    **dict.fromkeys(("pt", "p_t", "p_y", "py", "prob", "p_true"), "write p[y]"),
    **dict.fromkeys(("y_true", "ytrue", "Y", "one_hot_target"), "write onehot, the indicator of y"),
    **dict.fromkeys(
        ("y_pred", "y_hat", "yhat", "pred", "preds", "prediction", "predictions", "scores"),
        "write x, the logits, or p, their softmax",
    ),
    **dict.fromkeys(("eps", "epsilon"), "write the number, 1e-8, or logp[y], which needs none"),
    "e": "write exp(…)",
    **dict.fromkeys(
        ("kl_div", "kl"), "write sum(t * (log(t) - logp)), where t is an input of kind class"
    ),
    "entropy": "write -sum(p * logp)",
    "lambda": "call the parameter lam",
    **dict.fromkeys(("true", "false", "True", "False"), "write 1 or 0"),
    **dict.fromkeys(("inf", "nan", "infinity"), "a formula has finite numbers only"),
    **dict.fromkeys(("target", "targets", "label", "labels"), "the target class is y: write p[y]"),
    **dict.fromkeys(("isnan", "isinf", "isfinite", "nan_to_num"), _FINITE),
    **dict.fromkeys(
        ("floor", "ceil", "round", "trunc", "rint", "fix", "frac", "fmod", "mod", "remainder"),
        _ROUND,
    ),
    **dict.fromkeys(("rand", "randn", "random", "normal", "dropout", "gumbel", "noise"), _RANDOM),
    **dict.fromkeys(
        (
            *("cumsum", "cumprod", "cummax", "cumlogsumexp", "logcumsumexp", "scan", "flip"),
            *("diff", "sort", "argsort", "topk", "kthvalue", "median", "quantile", "rank"),
            *("roll", "percentile", "searchsorted"),
        ),
        _ORDER,
    ),
}


#: Functions, by names that are usual for parameters too.
_SPECIAL = {
    *("gammainc", "gammaincc", "zeta", "erfinv", "erfcinv", "erfcx", "ndtri"),
    *("lambertw", "i0", "i1", "i0e", "i1e", "bessel_j0", "bessel_j1"),
}
_OF_GAMMA = {
    "gamma": "write exp(lgamma(e))",
    "factorial": "write exp(lgamma(e + 1))",
    "betaln": "write lgamma(a) + lgamma(b) - lgamma(a + b)",
    "beta": "write exp(lgamma(a) + lgamma(b) - lgamma(a + b))",
    "binom": "write exp(lgamma(a + 1) - lgamma(b + 1) - lgamma(a - b + 1))",
}


def repair_call(name: str, known: list[str]) -> str | None:
    """``repair`` of the name of a function."""
    if name in _SPECIAL:
        return (
            f"{name} is not in the language, whose special functions are erf, erfc, ndtr, lgamma, "
            "digamma, polygamma: compute it in torch, and give it as an input of kind row or class"
        )
    return _OF_GAMMA.get(name) or repair(name, known)


def repair(name: str, known: list[str]) -> str | None:
    """A hint for a misspelt name: one of ``known``, or the language's word for it."""
    if name in _INSTEAD and name not in known:
        return _INSTEAD[name]
    alias = ALIASES.get(name)
    close = [alias] if alias in known else nearest(name, known)
    return f"did you mean '{close[0]}'?" if close else None


def usual(name: str) -> str:
    """A function with its arguments: ``clip(e, low, high)``."""
    if name in DEFINED:
        return DEFINED[name].call
    return f"{name}({', '.join((ARGUMENTS | BATCH_WORDS)[name])})"


def spelled(name: str) -> str | None:
    """The language's function for what a library calls ``name``, if there is one."""
    name = ALIASES.get(name, name)
    return name if name in FUNCTIONS else None
