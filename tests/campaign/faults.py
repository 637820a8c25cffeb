"""Compilers that fail, hang or lie, and caches cut, edited or opened to others, at random.

A loss, or a spec that is loaded, works all the same, with one warning at most.
"""

from __future__ import annotations

import os
import random
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import lossgen
from lossgen import cache
from lossgen.cli.new import STARTER
from lossgen.losses import gce_loss
from lossgen.runtime import c_build, store
from tests.campaign.outcome import Outcome
from tests.runtime.faults import COMMANDS, COMPILERS, DAMAGES, REFUSED

__all__ = ["case"]

_TEXT = "def value():\n    return 42\n" + "# a long module\n" * 400
_LIMIT = 1.0  # seconds for a compiler that hangs


def case(seed: int, index: int) -> Outcome:
    draw = random.Random(f"{seed} faults {index}")
    kind, run = draw.choice(_KINDS)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = dict(os.environ)
        os.environ["LOSSGEN_CACHE_DIR"] = folder + draw.choice(["", "/c", "/a b/'c", "/\udcff"])
        flags, limits = c_build.FLAGS, (c_build.ANSWER_SECONDS, c_build.COMPILE_SECONDS)
        c_build.FLAGS = tuple("-O0" if f == "-O3" else f for f in flags)
        forget()
        store._WARNED.clear()
        detail = f"case {index} (seed {seed}): {kind}"
        try:
            detail += f", {run(draw, Path(folder))}"
        except Exception as error:
            return Outcome("crash", kind, f"{detail}: {type(error).__name__}: {error}")
        finally:
            os.environ.clear()
            os.environ.update(before)
            c_build.FLAGS = flags
            c_build.ANSWER_SECONDS, c_build.COMPILE_SECONDS = limits
            c_build.search.cache_clear()
    if len(caught) > 1:
        return Outcome("wrong", kind, f"{detail}: {[str(w.message) for w in caught]}")
    return Outcome("right", kind, detail, time.monotonic() - began)


def forget() -> None:
    """As in a new process."""
    c_build._LOADED.clear()
    c_build.search.cache_clear()
    for name in [name for name in sys.modules if name.startswith("lossgen.cache.")]:
        del sys.modules[name]


def _a_loss() -> None:
    logits, target = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(gce_loss(logits, target), gce_loss(logits, target, backend="torch"))


def _compiler(draw: random.Random, folder: Path) -> str:
    os.environ.pop("CC", None)
    c_build.search.cache_clear()
    real = c_build.find_compiler()
    assert real is not None, "no C compiler"
    name = draw.choice([*COMPILERS, *COMMANDS])
    if name in COMPILERS:
        fake = COMPILERS[name]
        os.environ["CC"] = shlex.quote(str(fake.write(folder, real.command[0])))
        if fake.said == "did not end within":
            c_build.ANSWER_SECONDS = c_build.COMPILE_SECONDS = _LIMIT
    else:
        os.environ["CC"] = name
    c_build.search.cache_clear()
    _a_loss()
    return name


def _damage(draw: random.Random, path: Path) -> str:
    name = draw.choice(["at random", *DAMAGES, *REFUSED])
    if name in DAMAGES:
        DAMAGES[name](path)
    elif name in REFUSED:
        REFUSED[name][0](path)
    else:
        content = bytearray(path.read_bytes())
        place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        content[place] ^= bit
        path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        name = f"byte {place} ^ {bit}"
    return name


def _library(draw: random.Random, folder: Path) -> str:
    _a_loss()
    (path,) = c_build.cache_folder().glob("*.so")
    whole = path.read_bytes()
    path.unlink()  # this process has mapped it
    store.write(path, whole[: -store._LENGTH])
    found = _damage(draw, path)
    forget()
    _a_loss()
    return found


def _module(draw: random.Random, folder: Path) -> str:
    spec = folder / "mine.yaml"
    spec.write_text(STARTER.format(name="mine", title="Mine"), encoding="utf-8")
    real, cache._compiled = cache._compiled, lambda *_: _TEXT
    try:
        lossgen.load(spec)
        (path,) = (cache.cache_dir() / "specs").glob("*.py")
        found = _damage(draw, path if draw.random() < 0.7 else path.with_suffix(".code"))
        forget()
        assert lossgen.load(spec).value() == 42
    finally:
        cache._compiled = real
    return found


_KINDS: list[tuple[str, Callable[[random.Random, Path], str]]] = [
    ("compiler", _compiler),
    ("library", _library),
    ("module", _module),
]
