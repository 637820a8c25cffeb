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
    "repair",
    "SUGAR",
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


def repair(name: str, known: list[str]) -> str | None:
    """A hint for a misspelt name: one of ``known``, or the language's word for it."""
    alias = _ALIASES.get(name)
    if alias == "**":
        return "powers are written with **"
    close = [alias] if alias in known else get_close_matches(name[:60], known, n=1)
    return f"did you mean '{close[0]}'?" if close else None
