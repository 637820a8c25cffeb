"""``lossgen.load`` and ``lossgen.losses``."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

import lossgen
from lossgen import cache, losses, paths
from lossgen.errors import BuildError, LossgenError

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
TARGET = torch.tensor([1, 0])


def cached() -> list[Path]:
    return sorted(cache.cache_dir().rglob("*.py"))


def test_load_by_name_is_the_generated_module():
    name = paths.spec_names()[0]
    module = lossgen.load(name)
    assert Path(module.__file__) == paths.generated_dir() / f"{name}.py"
    assert getattr(losses, name) is module
    assert getattr(losses, f"{name}_loss") is getattr(module, f"{name}_loss")


def test_every_generated_name_is_offered():
    assert paths.spec_names()
    offered = dir(losses)
    for name in paths.spec_names():
        assert {name, lossgen.load(name).LOSS.function} <= set(offered)
    with pytest.raises(AttributeError, match="losses has no 'nothing'"):
        losses.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from lossgen.losses import nothing  # noqa: F401


def test_module_class_can_be_pickled():
    module = lossgen.load(paths.spec_names()[0])
    names = [n for n in module.__all__ if not n.endswith("_loss")]
    assert len(names) == 2  # of logits, and of a linear layer
    for name in names:
        assert type(pickle.loads(pickle.dumps(getattr(module, name)()))) is getattr(losses, name)


def test_load_by_path_is_cached(catalogue, edit, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path / "cache"))
    path = catalogue / "specs" / "first.yaml"
    module = lossgen.load(path)
    p = LOGITS.softmax(-1)[[0, 1], TARGET]
    torch.testing.assert_close(module.first_loss(LOGITS, TARGET), (-(1 - p) * p.log()).mean())
    assert lossgen.load(str(path)) is module
    assert len(cached()) == 1
    edit("first", "default: 1", "default: 0")
    other = lossgen.load(path)
    assert other is not module
    torch.testing.assert_close(other.first_loss(LOGITS, TARGET), -p.log().mean())
    assert len(cached()) == 2
    assert not list(cache.cache_dir().rglob("*.tmp"))


def test_load_of_an_unbuilt_name_compiles(catalogue, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path / "cache"))
    assert lossgen.load("first").first_loss(LOGITS, TARGET) > 0


def test_load_errors(catalogue, edit):
    with pytest.raises(BuildError, match="no spec 'nothing'"):
        lossgen.load("nothing")
    with pytest.raises(LossgenError):
        lossgen.load(edit("first", "logp[y]", "__import__('os')"))


def test_an_import_of_a_module_looks_at_no_loss(monkeypatch):
    """``from lossgen import paths`` first asks the package for ``paths``: the answer read all
    modules of the catalogue, about a third of the time of a ``load``."""
    monkeypatch.setattr("lossgen.losses._index", None)
    monkeypatch.delattr(lossgen, "curves", raising=False)
    with pytest.raises(AttributeError, match=r"lossgen\.curves is not imported"):
        lossgen.curves  # noqa: B018


def test_verbs_are_functions_and_modules(catalogue):
    import lossgen.build
    import lossgen.verify

    assert lossgen.build.Report
    assert callable(lossgen.verify)
    assert lossgen.build("first", check=True).changes
    with pytest.raises(AttributeError, match="lossgen has no 'nothing'"):
        lossgen.nothing  # noqa: B018
    assert set(lossgen.__all__) <= set(dir(lossgen))
