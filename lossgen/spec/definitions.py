"""Words that stand for a formula: what numpy and torch call something, in the language's own words.

    leaky_relu(x[y])   →   where(x[y] > 0, x[y], 0.01*x[y])

A word is one line of ``DEFINITIONS``: its call, its formula and, where that is not all real
numbers, the domain of its arguments.  The parser writes the formula in place of the call, so that
no later stage knows the word; ``over=others`` goes to the reductions inside.  A formula must be as
accurate in float32 as its arguments allow (no difference of nearly equal terms), must not have an
infinite derivative in a branch that ``where`` leaves out, and has torch's derivative at a kink.
What no such formula can say is an operation of its own (``lossgen.ir.ops``).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DEFINED", "DEFINITIONS", "Definition"]


@dataclass(frozen=True)
class Definition:
    """A word: its arguments in order, numbers for those that may be left out, and its formula.

    ``domain`` is an interval of the first argument, for the tests and for docs/language.md.
    """

    name: str
    arguments: tuple[str, ...]
    defaults: Mapping[str, str]
    formula: str
    domain: str

    @property
    def call(self) -> str:
        """As the table has it: ``elu(e, alpha=1)``."""
        given = [f"{a}={self.defaults[a]}" if a in self.defaults else a for a in self.arguments]
        return f"{self.name}({', '.join(given)})"

    @property
    def required(self) -> int:
        return len(self.arguments) - len(self.defaults)

    @property
    def calls(self) -> set[str]:
        """The functions that the formula calls."""
        return {
            node.func.id
            for node in ast.walk(tree(self.formula))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }


_REAL = "(-inf, inf)"
_POSITIVE = "(0, inf)"
#: sqrt((1 - e)/(1 + e)) would divide by 0 at -1
_ACOS = (
    "where(e < 0, pi, 0)"
    " + where(e < 0, -2, 2)*atan(sqrt(1 - e)*sqrt(1 + e)/where(e < 0, 1 - e, 1 + e))"
)

#: in which the offset of the row is no part of an equation; neither value nor slope depends on it
_APART = "(e - stop_gradient(max(e)))"

#: call, formula, domain of the first argument
DEFINITIONS: tuple[tuple[str, str, str], ...] = (
    # powers and logarithms
    ("square(e)", "e**2", _REAL),
    ("reciprocal(e)", "1/e", _POSITIVE),
    ("rsqrt(e)", "1/sqrt(e)", _POSITIVE),
    ("pow(a, b)", "a**b", _POSITIVE),
    ("power(a, b)", "a**b", _POSITIVE),
    ("hypot(a, b)", "sqrt(a**2 + b**2)", _REAL),
    ("ln(e)", "log(e)", _POSITIVE),
    ("log2(e)", "log(e)/log(2)", _POSITIVE),
    ("log10(e)", "log(e)/log(10)", _POSITIVE),
    ("exp2(e)", "2**e", _REAL),
    ("logit(e)", "log(e) - log(1 - e)", "(0, 1)"),
    ("xlogy(a, b)", "a*log(b)", _POSITIVE),
    ("xlog1py(a, b)", "a*log1p(b)", _POSITIVE),
    ("entr(e)", "-e*log(e)", _POSITIVE),
    ("ndtr(e)", "erfc(-e/sqrt(2))/2", _REAL),
    # of the gamma function
    ("gammaln(e)", "lgamma(e)", _POSITIVE),
    ("loggamma(e)", "lgamma(e)", _POSITIVE),
    ("psi(e)", "digamma(e)", _POSITIVE),
    ("trigamma(e)", "polygamma(1, e)", _POSITIVE),
    # circular and hyperbolic
    ("arctan(e)", "atan(e)", _REAL),
    ("tan(e)", "sin(e)/cos(e)", "(-1.57, 1.57)"),
    ("asin(e)", "2*atan(e/(1 + sqrt(1 - e)*sqrt(1 + e)))", "(-1, 1)"),
    ("arcsin(e)", "2*atan(e/(1 + sqrt(1 - e)*sqrt(1 + e)))", "(-1, 1)"),
    ("acos(e)", _ACOS, "(-1, 1)"),
    ("arccos(e)", _ACOS, "(-1, 1)"),
    ("arcsinh(e)", "asinh(e)", _REAL),
    ("arccosh(e)", "acosh(e)", "(1, inf)"),
    ("log_cosh(e)", "logcosh(e)", _REAL),
    ("sech(e)", "exp(-logcosh(e))", _REAL),
    ("atanh(e)", "(log1p(e) - log1p(-e))/2", "(-1, 1)"),
    ("arctanh(e)", "(log1p(e) - log1p(-e))/2", "(-1, 1)"),
    # other names
    ("absolute(e)", "abs(e)", _REAL),
    ("fabs(e)", "abs(e)", _REAL),
    ("negative(e)", "-e", _REAL),
    ("neg(e)", "-e", _REAL),
    ("sgn(e)", "sign(e)", _REAL),
    ("expit(e)", "sigmoid(e)", _REAL),
    ("logsigmoid(e)", "log_sigmoid(e)", _REAL),
    ("clamp(e, low, high)", "clip(e, low, high)", _REAL),
    # activations
    ("silu(e)", "e*sigmoid(e)", _REAL),
    ("swish(e)", "e*sigmoid(e)", _REAL),
    ("gelu(e)", "e*erfc(-e/sqrt(2))/2", _REAL),
    ("mish(e)", "maximum(e, -1000)*tanh(softplus(e))", _REAL),
    (
        "softsign(e)",
        "where(abs(e) < 1, e/(1 + abs(e)), sign(e)*(1 - 1/where(e < 0, 1 - e, 1 + e)))",
        _REAL,
    ),
    ("leaky_relu(e, slope=0.01)", "where(e > 0, e, slope*e)", _REAL),
    ("elu(e, alpha=1)", "where(e > 0, e, alpha*expm1(where(e > 0, 0, e)))", _REAL),
    (
        "selu(e)",
        "1.0507009873554805*where(e > 0, e, 1.6732632423543772*expm1(where(e > 0, 0, e)))",
        _REAL,
    ),
    ("celu(e, alpha=1)", "where(e > 0, e, alpha*expm1(where(e > 0, 0, e)/alpha))", _REAL),
    ("relu6(e)", "where(e < 6, relu(e), 6)", _REAL),
    ("hardtanh(e, low=-1, high=1)", "where(e > low, where(e < high, e, high), low)", _REAL),
    ("hardsigmoid(e)", "where(e > -3, where(e < 3, e/6 + 0.5, 1), 0)", _REAL),
    # over the classes
    ("min(e)", "-max(-e)", _REAL),
    ("amin(e)", "-max(-e)", _REAL),
    ("amax(e)", "max(e)", _REAL),
    ("argmin(e)", "argmax(-e)", _REAL),
    ("average(e)", "mean(e)", _REAL),
    ("var(e)", "mean(abs(e - mean(e))**2)", _REAL),
    ("std(e)", "sqrt(mean(abs(e - mean(e))**2))", _REAL),
    ("lse(e)", "logsumexp(e)", _REAL),
    ("logsoftmax(e)", "log_softmax(e)", _REAL),
    ("sparsemax(e)", f"relu({_APART} - root(t, sum(relu({_APART} - t)) - 1, -1, 0))", _REAL),
    (
        "entmax15(e)",
        f"relu({_APART}/2 - root(t, sum(relu({_APART}/2 - t)**2) - 1, -1, 0))**2",
        _REAL,
    ),
)


def _definition(call: str, formula: str, domain: str) -> Definition:
    name, _, rest = call.rstrip(")").partition("(")
    entries = [entry.partition("=") for entry in rest.split(", ")]
    return Definition(
        name=name,
        arguments=tuple(argument for argument, _, _ in entries),
        defaults={argument: number for argument, _, number in entries if number},
        formula=formula,
        domain=domain,
    )


DEFINED: dict[str, Definition] = {
    word.name: word for word in (_definition(*line) for line in DEFINITIONS)
}


def tree(text: str) -> ast.expr:
    """Python's tree of a formula of the table."""
    return ast.parse(text, mode="eval").body
