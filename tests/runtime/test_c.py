"""The C backend: compiled once, shared by processes and threads, and replaced by torch."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import lossgen
from lossgen import paths
from lossgen.losses import brier_loss, focal_loss, gce_loss, jsd_beta_loss, trades_loss
from lossgen.runtime import c_build, operators, store
from lossgen.runtime import threads as c_threads
from tests.campaign.names import check_c

needs_compiler = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
TARGET = torch.tensor([0, 1])


@pytest.fixture
def empty_cache(monkeypatch, tmp_path) -> Path:
    """Nothing is compiled or loaded yet, and no warning was given."""
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(c_build, "_LOADED", {})
    monkeypatch.setattr(store, "_WARNED", set())
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


def slow_compiler(folder: Path) -> tuple[Path, Path]:
    """A compiler whose output is garbage for a while, and the log of what it was asked to do."""
    wrapper, log = folder / "cc", folder / "log"
    real = c_build.find_compiler().command[0]
    wrapper.write_text(f"""#!/bin/sh
[ "$1" = --version ] && exec {real} "$@"
echo run >> {log}
out= previous=
for argument; do [ "$previous" = -o ] && out=$argument; previous=$argument; done
printf 'half a library' > "$out"
sleep 1
exec {real} "$@"
""")
    wrapper.chmod(0o755)
    return wrapper, log


@needs_compiler
def test_processes_share_one_compilation_and_never_see_half_of_it(empty_cache, tmp_path):
    wrapper, log = slow_compiler(tmp_path)
    code = textwrap.dedent("""
        import torch
        from lossgen.losses import gce_loss
        print(gce_loss(torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])))
    """)
    environment = {**os.environ, "CC": str(wrapper), "LOSSGEN_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    printed = {process.communicate()[0] for process in processes}
    assert printed == {f"{expected()!r}\n"}
    assert log.read_text() == "run\n"


@needs_compiler
def test_threads_share_one_compilation(empty_cache, monkeypatch):
    runs = []
    real = c_build._compile
    monkeypatch.setattr(c_build, "_compile", lambda *a: (runs.append(a), real(*a))[1])
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
    monkeypatch.setattr(c_build, "search", lambda: "no C compiler was found")
    message = "no C compiler was found; losses on the CPU run in torch operations"
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


def works_with_one_warning(match: str) -> None:
    """Two losses, each called twice, give what torch gives; one warning says what is missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for loss in (gce_loss, focal_loss, gce_loss, focal_loss):
            gold = loss(LOGITS, TARGET, backend="torch")
            torch.testing.assert_close(loss(LOGITS, TARGET), gold)
    (said,) = {str(w.message) for w in caught}
    assert match in said
    assert len(caught) == 1


@needs_compiler
def test_a_cache_that_cannot_be_made_is_worked_around(empty_cache):
    empty_cache.write_text("a file where the folder should be")
    works_with_one_warning("compiled again in each process")


@needs_compiler
@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("mkdir", errno.EROFS),
        ("open", errno.EACCES),
        ("write_text", errno.ENOSPC),
        ("replace", errno.ENOSPC),
    ],
)
def test_a_folder_that_is_full_or_read_only_is_worked_around(
    empty_cache, monkeypatch, step, number
):
    """Whichever step it stops: nothing is left in the cache, and the losses are compiled."""
    owner = os if step in ("open", "replace") else Path
    real = getattr(owner, step)

    def refused(path, *args, **options):
        where = Path(args[0]) if step == "replace" else Path(path)
        making = step != "open" or args[0] & os.O_CREAT
        if making and empty_cache in [where, *where.parents]:
            raise OSError(number, os.strerror(number), str(where))
        return real(path, *args, **options)

    if step != "mkdir":
        empty_cache.mkdir()
    monkeypatch.setattr(owner, step, refused)
    works_with_one_warning(f"{empty_cache}: {os.strerror(number)}; C code is compiled again")
    assert not list(empty_cache.glob("*.so*"))


@needs_compiler
def test_a_compiler_without_room_for_its_output_is_reported(empty_cache, monkeypatch, tmp_path):
    wrapper = tmp_path / "cc"
    wrapper.write_text(
        "#!/bin/sh\necho 'row.so: final close failed: No space left on device' >&2\nexit 1"
    )
    wrapper.chmod(0o755)
    compiler = c_build.CCompiler([str(wrapper)], "1")
    monkeypatch.setattr(c_build, "search", lambda: compiler)
    works_with_one_warning("No space left on device\n; losses on the CPU run in torch operations")


@needs_compiler
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("started", [False, True])
def test_results_do_not_depend_on_threads(monkeypatch, rows, threads, started):
    """Those of torch's OpenMP, and those that are started where it has none."""
    for name in ("_SMALL", "_SMALL_ALONE"):
        monkeypatch.setattr(c_threads, name, 1)
    if started:
        monkeypatch.setattr(c_threads, "team", lambda: None)
    for loss in operators._LOSSES.values():
        monkeypatch.setattr(loss.plans, "kept", {})
        monkeypatch.setattr(loss.plans, "recent", None)
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
@pytest.mark.parametrize("classes", [5, 31, 32, 70, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_masks_and_nan_go_through_the_flags(classes, dtype):
    """-inf and NaN anywhere in a row, in vectors and in the classes beside them: a mask has
    gradient 0 and changes nothing, a NaN is in its own row alone."""
    generator = torch.Generator().manual_seed(classes)
    plain = torch.randn(4, classes, generator=generator, dtype=torch.float64).to(dtype)
    target = torch.zeros(4, dtype=torch.long)
    places = sorted({1, 2, classes // 2, classes - 1})
    for j in places:
        masked, broken = plain.clone(), plain.clone()
        masked[:, j], broken[1, j] = -torch.inf, torch.nan
        without = torch.cat([plain[:, :j], plain[:, j + 1 :]], 1)
        for run in (
            lambda x: gce_loss(x, target, reduction="none"),
            lambda x: brier_loss(x, target),
            lambda x: trades_loss(x, target, x.detach(), reduction="none"),
            lambda x: jsd_beta_loss(x, x.detach().roll(1, 0), reduction="none"),
        ):
            loss, grad = with_gradient(run, masked)
            close, close_grad = with_gradient(run, without)
            torch.testing.assert_close(loss, close, rtol=1e-4, atol=1e-6)
            assert grad[:, j].count_nonzero() == 0
            beside = torch.cat([grad[:, :j], grad[:, j + 1 :]], 1)
            torch.testing.assert_close(beside, close_grad, rtol=1e-2, atol=1e-3)
        loss, grad = with_gradient(lambda x: gce_loss(x, target, reduction="none"), broken)
        assert loss.isnan().tolist() == [False, True, False, False]
        assert grad.isnan().any(1).tolist() == [False, True, False, False]


def with_gradient(run, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x.clone().requires_grad_()
    loss = run(leaf)
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), grad


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
    with FakeTensorMode():
        logits = torch.empty(3, 5, device="cuda")
        with pytest.raises(ValueError, match="'c' needs CPU tensors, but logits are on cuda:0"):
            gce_loss(logits, logits.new_zeros(3, dtype=torch.long), backend="c")


def test_where_there_is_no_data_no_backend_runs():
    meta = LOGITS.to("meta")
    loss = gce_loss(meta, TARGET.to("meta"), backend="c", reduction="none")
    assert loss.is_meta
    assert loss.shape == TARGET.shape


@pytest.mark.parametrize("name", paths.spec_names())
def test_every_program_is_c(name: str) -> None:
    """Programs of six losses declared a name twice, and fell back to torch with a warning: their
    gradients need a row value that is called as one of their coefficients."""
    check_c(lossgen.load(name))
