"""A Lightning module whose loss is a formula: digits of which 40 % have a wrong label.

    python examples/lightning_digits.py [--epochs 40]

Needs ``lightning`` beside the packages of the other examples.
"""

from __future__ import annotations

import argparse

import lightning
import torch
from digits import Digits, accuracy, network
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import lossgen


class Classifier(lightning.LightningModule):
    """A network, and the loss that ``lossgen.loss`` makes of a formula."""

    def __init__(self, formula: str, **parameters: float) -> None:
        super().__init__()
        self.model = network(256)
        self.loss = lossgen.loss(formula, **parameters)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        loss: Tensor = self.loss(self.model(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def train(formula: str, epochs: int, **parameters: float) -> float:
    """The accuracy on clean test images, in percent."""
    lightning.seed_everything(0, verbose=False)
    data = Digits(0, 0.4)
    module = Classifier(formula, **parameters)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rows = TensorDataset(data.images, data.labels)
    trainer.fit(module, DataLoader(rows, batch_size=64, shuffle=True))
    return accuracy(module.model.eval(), data.test_images, data.test_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args().epochs
    for formula, parameters in (("-logp[y]", {}), ("(1 - p[y]**q) / q", {"q": 0.7})):
        print(f"{formula:20} {train(formula, epochs, **parameters):.1f} %")


if __name__ == "__main__":
    main()
