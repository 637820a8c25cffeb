"""The elementwise functions of the formula language: their arguments and their derivatives.

    "softplus": ("e",), ("sigmoid(e)*slope",)

For each argument, the derivative of the call where that argument's is ``slope``, as a formula of
the same language; the conventions at kinks are those of the gradient.  What such a function is in
numbers is in ``lossgen.ir.ops``; what goes over the classes, in ``lossgen.spec.vocabulary``.
"""

from __future__ import annotations

__all__ = ["ELEMENTWISE", "SLOPES"]

_Function = tuple[tuple[str, ...], tuple[str, ...] | None]
_ONE = ("e",)
_BEND = "(1 - tanh(maximum(e, -1e18)/cap)**2)"

#: function -> the names of its arguments, and the derivative with respect to each; None: ``where``,
#: whose first argument is no number, has a rule of its own (``lossgen.spec.slopes``)
_FUNCTIONS: dict[str, _Function] = {
    "exp": (_ONE, ("exp(e)*slope",)),
    "log": (_ONE, ("slope/e",)),
    "log1p": (_ONE, ("slope/(1 + e)",)),
    "expm1": (_ONE, ("exp(e)*slope",)),
    "sqrt": (_ONE, ("where(e > 0, slope/(2*sqrt(e)), 0)",)),
    "tanh": (_ONE, ("(1 - tanh(e)**2)*slope",)),
    "abs": (_ONE, ("sign(e)*slope",)),
    "relu": (_ONE, ("where(e > 0, slope, 0)",)),
    "sigmoid": (_ONE, ("sigmoid(e)*sigmoid(-e)*slope",)),
    "softplus": (_ONE, ("sigmoid(e)*slope",)),
    "log_sigmoid": (_ONE, ("sigmoid(-e)*slope",)),
    "erf": (_ONE, ("2/sqrt(pi)*exp(-e**2)*slope",)),
    "erfc": (_ONE, ("-2/sqrt(pi)*exp(-e**2)*slope",)),
    "sin": (_ONE, ("cos(e)*slope",)),
    "cos": (_ONE, ("-sin(e)*slope",)),
    "atan": (_ONE, ("slope/(1 + e**2)",)),
    "cosh": (_ONE, ("sinh(e)*slope",)),
    "sinh": (_ONE, ("cosh(e)*slope",)),
    "asinh": (_ONE, ("slope/sqrt(1 + e**2)",)),
    "acosh": (_ONE, ("where(e > 1, slope/(sqrt(e - 1)*sqrt(e + 1)), 0)",)),
    "logcosh": (_ONE, ("tanh(e)*slope",)),
    "lgamma": (_ONE, ("digamma(e)*slope",)),
    "digamma": (_ONE, ("polygamma(1, e)*slope",)),
    "polygamma": (("n", "e"), ("0", "polygamma(n + 1, e)*slope")),
    "sign": (_ONE, ("0",)),
    "stop_gradient": (_ONE, ("0",)),
    "logaddexp": (("a", "b"), ("sigmoid(a - b)*slope", "sigmoid(b - a)*slope")),
    "minimum": (
        ("a", "b"),
        (
            "where(a < b, slope, where(b < a, 0, slope/2))",
            "where(b < a, slope, where(a < b, 0, slope/2))",
        ),
    ),
    "maximum": (
        ("a", "b"),
        (
            "where(a > b, slope, where(b > a, 0, slope/2))",
            "where(b > a, slope, where(a > b, 0, slope/2))",
        ),
    ),
    "clip": (
        ("e", "low", "high"),
        (
            "where(e < low, 0, where(e > high, 0, slope))",
            "where(e < low, slope, 0)",
            "where(e > high, slope, 0)",
        ),
    ),
    "where": (("condition", "a", "b"), None),
    "softcap": (
        ("e", "cap"),
        (
            f"{_BEND}*slope",
            f"(tanh(maximum(e, -1e18)/cap) - maximum(e, -1e18)/cap*{_BEND})*slope",
        ),
    ),
    "mercator": (("q", "t"), ("(1 - q**t)/(1 - q)*slope", "0")),
}
ELEMENTWISE = {name: arguments for name, (arguments, _) in _FUNCTIONS.items()}
SLOPES = {name: slopes for name, (_, slopes) in _FUNCTIONS.items() if slopes is not None}
