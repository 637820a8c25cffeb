"""The words that random formulas draw, by what their first argument may be."""

from __future__ import annotations

__all__ = ["NUMBER_FIRST", "OVER_CLASSES", "PAIRS", "SINGLE", "WITH_NUMBERS"]

#: One argument: any real number; not negative, mostly above 0; in (0, 1); at least 1.
SINGLE: dict[str, tuple[str, ...]] = {
    "real": (
        *("sin", "cos", "atan", "arctan", "sinh", "cosh", "tanh", "asinh", "arcsinh"),
        *("logcosh", "log_cosh", "sech", "erf", "erfc", "ndtr", "exp2", "square"),
        *("abs", "absolute", "fabs", "neg", "negative", "sign", "sgn"),
        *("sigmoid", "expit", "log_sigmoid", "logsigmoid", "softplus", "silu", "swish"),
        *("gelu", "mish", "softsign", "relu", "leaky_relu", "elu", "selu", "celu"),
        *("relu6", "hardtanh", "hardsigmoid", "expm1", "exp"),
    ),
    "positive": (
        *("log", "ln", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "entr"),
        *("lgamma", "digamma", "trigamma", "gammaln", "loggamma", "psi"),
    ),
    "unit": (*("logit", "entr", "asin", "arcsin", "acos", "arccos", "atanh", "arctanh", "tan"),),
    "above one": ("acosh", "arccosh", "log", "sqrt"),
}
#: Two arguments, by what each may be.
PAIRS: dict[str, tuple[str, str]] = {
    "hypot": ("real", "real"),
    "logaddexp": ("real", "real"),
    "minimum": ("real", "real"),
    "maximum": ("real", "real"),
    "xlogy": ("positive", "positive"),
    "xlog1py": ("positive", "positive"),
}
#: A real number or a positive one, then numbers.
WITH_NUMBERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("leaky_relu", "real", ("0.2",)),
    ("elu", "real", ("0.5",)),
    ("celu", "real", ("2",)),
    ("hardtanh", "real", ("-2", "0.5")),
    ("clip", "real", ("-1", "2")),
    ("clamp", "real", ("-3", "0.5")),
    ("clip", "unit", ("0.001", "0.9")),
    ("softcap", "real", ("5",)),
    ("pow", "positive", ("1.5",)),
    ("power", "positive", ("0.3",)),
    ("mercator", "unit", ("3",)),
    ("mercator", "unit", ("8",)),
    ("polygamma", "positive", ("1",)),
    ("polygamma", "above one", ("3",)),
)
NUMBER_FIRST = {"polygamma"}
OVER_CLASSES = ("min", "amin", "amax", "argmax", "argmin", "second_max", "var", "std", "average")
OVER_CLASSES += ("lse", "max", "mean", "norm")
