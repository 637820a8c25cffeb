"""A generated loss in Lightning: curves, mixed precision, and the example."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lossgen import paths
from lossgen.losses import cross_entropy_loss

lightning = pytest.importorskip("lightning")


class Module(lightning.LightningModule):
    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Linear(8, 12)
        self.loss, self.seen = loss, []

    def training_step(self, batch, _):
        x, y = batch
        loss = self.loss(self.model(x), y, ignore_index=-100)
        self.seen.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def curve(loss, folder, **options):
    torch.manual_seed(1)
    target = torch.randint(0, 12, (120,))
    target[torch.rand(120) < 0.3] = -100
    data = DataLoader(TensorDataset(torch.randn(120, 8), target), batch_size=6)
    module = Module(loss)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        accumulate_grad_batches=2,
        **options,
    )
    trainer.fit(module, data)
    return torch.tensor(module.seen)


@pytest.mark.parametrize(("precision", "bound"), [("32-true", 1e-5), ("bf16-mixed", 2e-3)])
def test_the_curve_is_that_of_torchs_loss(precision, bound, tmp_path):
    run = partial(curve, folder=tmp_path, precision=precision)
    found, expected = run(cross_entropy_loss), run(F.cross_entropy)
    assert len(found) == 20
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


def test_the_example(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(paths.PACKAGE.parent / "examples"))
    example = importlib.import_module("lightning_digits")
    assert example.train("(1 - p[y]**q) / q", 3, q=0.7) > 50
