"""Hostile names: a spec must compute the same whatever its parameters and inputs are called.

``check(names)`` raises where it does not; ``NAMES`` are the ones that a person would try, and
``random_names`` draws more.
"""

from __future__ import annotations

import inspect
import keyword
import random
import subprocess
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

from lossgen.compiler import Compiled
from lossgen.emit.render import render_module
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.schedule import schedule
from lossgen.passes.stabilize import stabilize
from lossgen.runtime import c_build
from lossgen.spec.declarations import IDENTIFIER
from lossgen.spec.load import load_text
from lossgen.spec.vocabulary import RESERVED

__all__ = ["NAMES", "allowed", "check", "check_c", "load", "random_names", "spec_of", "uncertified"]

#: a, b: parameters; s: a class input; w: a vocab input; r: a row input
_SPEC = """
name: named
parameters:
  {a}: {{default: 2.5, domain: "[0, inf)", doc: a factor}}
  {b}: {{default: 0.25, domain: "[0, 1]", doc: another}}
inputs:
  {s}: {{kind: class, differentiable: true, doc: logits}}
  {w}: {{kind: vocab, domain: "[0, inf)", doc: weights}}
  {r}: {{kind: row, domain: "[0, inf)", doc: rows}}
transform: -{a}*{w}[y]*{r}*logp[y] - {b}*sum({s}*logp)
normalizer: "{w}[y]*{r}"
"""
PLAIN = ("alpha", "beta", "other", "weights", "rows")

#: Words of the compiler, of C, Python, torch and Triton, and derived names that could meet.
NAMES = [
    ("s0", "P0", "Q0", "R0", "r0"),
    ("logp0", "s1", "logp1", "T0", "c0"),
    ("BD", "BIASED", "BK", "BV", "CAPPED"),
    ("mode", "free", "linux", "unix", "ALIGNED"),
    ("int", "double", "char", "struct", "INFINITY"),
    ("exp_", "y0", "j1", "gamma", "signgam"),
    ("torch", "tl", "dl", "el", "rt"),
    ("nn", "LOSS", "Tensor", "cls", "super"),
    ("t_y", "grad_t", "t", "t_ptr", "stride_t"),
    ("t_hidden", "t_y_y", "t_", "t__weight", "t__bias"),
    ("row", "cols", "base", "inside", "grad_rows"),
    ("training", "forward", "buffers", "register_buffer", "dtype"),
    ("getattr", "float", "range", "dict", "options"),
    ("named_loss", "NamedLoss", "num_warps", "state_dict", "_"),
    ("_q", "u_q", "q", "q_", "q_2"),
    ("I", "N", "complex", "unsigned", "V_"),
]


def allowed(name: str) -> bool:
    """May a parameter or an input be called so?"""
    return bool(IDENTIFIER.fullmatch(name)) and not keyword.iskeyword(name) and name not in RESERVED


def random_names(seed: int, longest: int = 64) -> tuple[str, ...]:
    """Five different names, short ones as often as long ones."""
    draw, found = random.Random(seed), dict.fromkeys(())
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789__"
    while len(found) < 5:
        size = draw.choice((1, 2, 2, 3, draw.randint(1, longest)))
        name = "".join(draw.choice(letters) for _ in range(size))
        if allowed(name):
            found[name] = None
    return tuple(found)


def spec_of(names: tuple[str, ...]) -> str:
    """The spec with these names, as YAML."""
    return _SPEC.format(**dict(zip("abswr", names, strict=True)))


def check(names: tuple[str, ...], backends: tuple[str, ...] = ("c", "torch", "triton")) -> None:
    """Raise unless the loss with these names is the one with plain names, on these backends, as a
    function and as a module, of logits and of a linear layer; and unless its C is C."""
    plain = _results(PLAIN, backends)
    for key, value in _results(names, backends).items():
        torch.testing.assert_close(value, plain[key], rtol=1e-5, atol=1e-6, msg=f"{names}: {key}")


def check_c(module: ModuleType) -> None:
    """Raise unless the C compiler takes the programs, without a warning."""
    compiler, folder = c_build.find_compiler(), Path(c_build.__file__).parent / "c"
    assert compiler is not None
    for variant in module.LOSS.variants:
        command = [*compiler.command, *c_build.FLAGS, "-fsyntax-only", "-Wall", "-Wno-unused"]
        done = subprocess.run(
            [*command, "-Wno-unknown-pragmas", "-I", str(folder), "-x", "c", "-"],
            input=variant.c_source,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or done.stderr:
            raise AssertionError(f"{variant.parameters}, {variant.inputs}:\n{done.stderr}")


_RESULTS: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, torch.Tensor]] = {}


def _results(names: tuple[str, ...], backends: tuple[str, ...]) -> dict[str, torch.Tensor]:
    if names != PLAIN:
        module = load(spec_of(names))
        check_c(module)
        return dict(_computed(module, names, backends))
    if (names, backends) not in _RESULTS:
        _RESULTS[names, backends] = dict(_computed(load(spec_of(names)), names, backends))
    return _RESULTS[names, backends]


def uncertified(text: str) -> Compiled:
    """A spec as ``compile_loss`` compiles it, but for the certificate, which takes longest."""
    spec = load_text(text)
    plans = (schedule(stabilize(differentiate(parse(spec, frozenset(u))))) for u in spec.variants)
    return Compiled(spec, tuple(plans), {}, {})


def load(spec: str) -> ModuleType:
    """The module of a spec, as YAML, without a certificate."""
    text = render_module(uncertified(spec))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"named_{sha256(text.encode()).hexdigest()[:16]}.py"
        path.write_text(text)
        spec = spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        inspect.getsource(module)  # Triton reads it when it compiles
        return module


def _computed(
    module: ModuleType, names: tuple[str, ...], backends: tuple[str, ...]
) -> Iterator[tuple[str, torch.Tensor]]:
    a, b, _, w, r = names
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(3, 5, generator=generator) for _ in range(2))
    hidden, weight = (torch.randn(n, 4, generator=generator) for n in (3, 5))
    weights, rows = torch.rand(5, generator=generator), torch.rand(3, generator=generator)
    y = torch.tensor([1, 0, 4])
    for backend in backends:
        for options in ({}, {a: 1.5, b: 0.5}):
            kept = {**options, w: weights, "backend": backend}
            leaves = [v.clone().requires_grad_() for v in (x, t)]
            loss = module.named_loss(leaves[0], y, leaves[1], **{r: rows}, **kept)
            loss.backward()
            key = f"{backend} {len(options)}"
            yield key, loss.detach()
            yield f"{key} gradients", torch.stack([v.grad for v in leaves])
            called = module.NamedLoss(**kept)
            yield f"{key} module", called(x, y, t, **{r: rows})
            again = module.named_loss(x, y, t, **{r: rows}, **kept)
            torch.testing.assert_close(called(x, y, t, **{r: rows}), again, rtol=0, atol=0)
            linear = module.linear_named_loss(hidden, weight, y, t, **{r: rows}, **kept)
            yield f"{key} linear", linear
            yield (
                f"{key} linear module",
                module.LinearNamedLoss(**kept)(hidden, weight, y, t, **{r: rows}),
            )
