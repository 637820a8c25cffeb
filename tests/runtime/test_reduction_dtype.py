"""The mean's divisor has the precision of the loss: float32 weights summed in float64 calls."""

import torch

from lossgen.losses import cross_entropy_loss


def test_float64_mean_divides_by_a_float64_sum() -> None:
    # Regression: the weights were summed in float32, 1e-8 away from torch's mean.
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1000, 7, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 7, (1000,), generator=generator)
    weight = torch.rand(7, generator=generator) + 0.1
    found = cross_entropy_loss(logits, target, weight=weight)
    wanted = torch.nn.functional.cross_entropy(logits, target, weight=weight.double())
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0)
