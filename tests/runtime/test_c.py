"""The C backend: compiled once, shared by processes and threads, and replaced by torch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest
import torch

from lossgen.losses import gce_loss, trades_loss
from lossgen.runtime import c_backend, c_build

needs_compiler = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
TARGET = torch.tensor([0, 1])


@pytest.fixture
def empty_cache(monkeypatch, tmp_path) -> Path:
    """Nothing is compiled or loaded yet, and no warning was given."""
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(c_build, "_LOADED", {})
    monkeypatch.setattr(c_build, "_WARNED", set())
    return tmp_path / "c"


def expected() -> torch.Tensor:
    return gce_loss(LOGITS, TARGET, backend="torch")


@needs_compiler
def test_compiled_once_and_kept(empty_cache, monkeypatch):
    torch.testing.assert_close(gce_loss(LOGITS, TARGET), expected())
    (library,) = empty_cache.glob("*.so")
    assert not [p for p in empty_cache.iterdir() if p.is_dir()]  # nothing half-written is left
    monkeypatch.setattr(c_build, "_LOADED", {})  # as in another process
    monkeypatch.setattr(c_build, "_compile", None)
    torch.testing.assert_close(gce_loss(LOGITS, TARGET), expected())
    assert list(empty_cache.glob("*.so")) == [library]


@needs_compiler
def test_flags_and_arithmetic_tell_libraries_apart(empty_cache, monkeypatch):
    gce_loss(LOGITS, TARGET)
    gce_loss(LOGITS.double(), TARGET)
    gce_loss(LOGITS.bfloat16(), TARGET)  # computed in float: the first library
    assert len(list(empty_cache.glob("*.so"))) == 2
    monkeypatch.setattr(c_build, "_LOADED", {})
    monkeypatch.setattr(c_build, "FLAGS", (*c_build.FLAGS, "-DOTHER"))
    gce_loss(LOGITS, TARGET)
    assert len(list(empty_cache.glob("*.so"))) == 3


@needs_compiler
def test_processes_share_one_compilation(empty_cache, tmp_path):
    log = tmp_path / "log"
    wrapper = tmp_path / "cc"
    real = c_build.find_compiler().command[0]
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo run >> {log}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    code = textwrap.dedent("""
        import torch
        from lossgen.losses import gce_loss
        print(gce_loss(torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])))
    """)
    environment = {**os.environ, "CC": str(wrapper), "LOSSGEN_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    printed = {process.communicate()[0] for process in processes}
    assert printed == {f"{expected()!r}\n"}
    assert log.read_text() == "run\n"


@needs_compiler
def test_threads_share_one_compilation(empty_cache, monkeypatch):
    runs = []
    real = c_build._compile
    monkeypatch.setattr(c_build, "_compile", lambda *a: (runs.append(a), real(*a)))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(gce_loss(LOGITS, TARGET))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert all(torch.equal(value, found[0]) for value in found)


def test_without_a_compiler_torch_takes_over_with_one_warning(empty_cache, monkeypatch):
    monkeypatch.setattr(c_build, "find_compiler", lambda: None)
    message = r"no C compiler was found \(tried \$CC, cc, gcc and clang\)"
    with pytest.warns(RuntimeWarning, match=message):
        torch.testing.assert_close(gce_loss(LOGITS, TARGET), expected())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gce_loss(LOGITS.double(), TARGET)


@needs_compiler
def test_a_failing_compiler_is_reported(empty_cache, monkeypatch):
    monkeypatch.setattr(c_build, "FLAGS", ("--no-such-flag",))
    with pytest.warns(
        RuntimeWarning, match="(?s)C compiler failed:.*no-such-flag.*torch operations"
    ):
        torch.testing.assert_close(gce_loss(LOGITS, TARGET), expected())


@needs_compiler
def test_a_cache_that_cannot_be_written_is_worked_around(empty_cache, monkeypatch):
    empty_cache.write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="compiled again in each process"):
        torch.testing.assert_close(gce_loss(LOGITS, TARGET), expected())


@needs_compiler
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_do_not_depend_on_threads(monkeypatch, rows, threads):
    monkeypatch.setattr(c_backend, "_SMALL", 1)
    generator = torch.Generator().manual_seed(rows)
    x, u = (torch.randn(rows, 50, generator=generator) for _ in range(2))
    y = torch.randint(0, 50, (rows,), generator=generator)

    def run() -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_(), u.clone().requires_grad_()]
        loss = trades_loss(leaves[0], y, leaves[1], backend="c")
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(alone, run(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_as_torch_does(dtype):
    """Every finite number of the type survives the way in, and gradients round to the nearest."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    x = numbers[numbers.isfinite()].reshape(1, -1)
    out = []
    for backend in ("c", "torch"):
        leaf = x.clone().requires_grad_()
        gce_loss(leaf, torch.tensor([5]), backend=backend, reduction="none").sum().backward()
        out.append(leaf.grad)
    assert torch.equal(out[0].isfinite(), out[1].isfinite())
    torch.testing.assert_close(out[0], out[1], rtol=torch.finfo(dtype).eps, atol=0.0)


def test_c_is_for_the_cpu():
    meta = LOGITS.to("meta")
    message = "gce_loss: backend 'c' needs CPU tensors, but logits are on meta"
    with pytest.raises(ValueError, match=message):
        gce_loss(meta, TARGET.to("meta"), backend="c", reduction="none")
