"""lossgen: a compiler for loss functions.

A loss is a formula in a YAML file; lossgen differentiates it, makes it accurate in float32,
fuses it into Triton kernels and proves the result against autograd and mpmath::

    import lossgen
    from lossgen.losses import gce_loss, GCELoss   # of the catalogue
    mine = lossgen.load("mine.yaml")               # a module: mine.mine_loss(logits, target)
    loss = lossgen.loss("-(1 - p[y])**gamma * logp[y]", gamma=2.0)   # without a file

``import lossgen`` is cheap: torch, SymPy and the compiler are imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

from lossgen.unknown import did_you_mean, tell

if TYPE_CHECKING:
    from lossgen.build import build
    from lossgen.cache import load
    from lossgen.compiler import compile_loss
    from lossgen.curves import compare
    from lossgen.derivation import explain
    from lossgen.draw import plot
    from lossgen.errors import LossgenError
    from lossgen.inline import loss
    from lossgen.integrations import hf, timm, trl
    from lossgen.integrations.causal_lm import patch, unpatch
    from lossgen.runtime.entries import Entries
    from lossgen.runtime.memory import empty_cache, set_cache_limit
    from lossgen.runtime.shards import ClassShards, mean_count
    from lossgen.spec.model import LossSpec
    from lossgen.verify import verify

__all__ = [
    "ClassShards",
    "Entries",
    "LossSpec",
    "LossgenError",
    "__version__",
    "build",
    "compare",
    "compile_loss",
    "empty_cache",
    "explain",
    "hf",
    "load",
    "loss",
    "mean_count",
    "patch",
    "plot",
    "set_cache_limit",
    "timm",
    "trl",
    "unpatch",
    "verify",
]

__version__ = "0.1.0"

# `build` and `verify` are also modules of those names, which are callable; `hf`, `timm` and
# `trl` are modules.
_HOMES = {
    "ClassShards": "lossgen.runtime.shards",
    "Entries": "lossgen.runtime.entries",
    "LossSpec": "lossgen.spec.model",
    "LossgenError": "lossgen.errors",
    "build": "lossgen.build",
    "compare": "lossgen.curves",
    "compile_loss": "lossgen.compiler",
    "empty_cache": "lossgen.runtime.memory",
    "explain": "lossgen.derivation",
    "hf": "lossgen.integrations.hf",
    "load": "lossgen.cache",
    "loss": "lossgen.inline",
    "mean_count": "lossgen.runtime.shards",
    "patch": "lossgen.integrations.causal_lm",
    "plot": "lossgen.draw",
    "set_cache_limit": "lossgen.runtime.memory",
    "timm": "lossgen.integrations.timm",
    "trl": "lossgen.integrations.trl",
    "unpatch": "lossgen.integrations.causal_lm",
    "verify": "lossgen.verify",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        # An import asks for a module before there is one: to look for it among the losses takes
        # longer than all else that a ``load`` does.
        if not name.startswith("_") and PathFinder.find_spec(f"{__name__}.{name}", __path__):
            raise AttributeError(f"{__name__}.{name} is not imported")
        raise AttributeError(_unknown(name))
    module = import_module(home)
    if home in (f"{__name__}.{name}", f"{__name__}.integrations.{name}"):
        return module
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _unknown(name: str) -> str:
    """What is wrong with a name that is none of the package."""
    if not name.startswith("_") and name in dir(import_module(f"{__name__}.losses")):
        return f"{__name__} has no {name!r}: it is in {__name__}.losses"
    told = f"dir({__name__}) lists what it has, the losses are in {__name__}.losses"
    return f"{__name__} has no {name!r}: {did_you_mean(name, _HOMES, told)}"


tell(__name__, _unknown)
