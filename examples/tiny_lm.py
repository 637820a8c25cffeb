"""A small language model on the text of Python's documentation, with and without its logits.

A causal transformer over words is trained three times from the same start on the same batches: with
torch's cross-entropy of logits that exist, with ``linear_cross_entropy_loss``, which makes them a
chunk of rows at a time, and with ``linear_gce_loss`` in the same way.  The first two are the same
function, so their curves must lie on each other; the table says how far apart they are, and by how
much the memory of the process (its high-water mark) grew during the training.

    python examples/tiny_lm.py [--steps 40] [--tokens 2048]
"""

from __future__ import annotations

import multiprocessing
import pydoc_data.topics
import re
import resource
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from report import figure, parser, progress, session
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from lossgen.losses import linear_cross_entropy_loss, linear_gce_loss

LENGTH, WIDTH, HEADS, LAYERS = 128, 128, 4, 2
METHODS = ("F.cross_entropy", "linear_cross_entropy", "linear_gce, q = 0.3")


@cache
def text() -> tuple[Tensor, int]:
    """The documentation's words as numbers [T], and how many different ones there are."""
    words = re.findall(r"\w+|[^\w\s]|\n", "\n".join(pydoc_data.topics.topics.values()))
    rank = {word: k for k, (word, _) in enumerate(Counter(words).most_common())}
    return torch.tensor([rank[word] for word in words]), len(rank)


class Model(nn.Module):
    """Tokens [B, S] -> hidden states [B, S, WIDTH]; ``head`` [V, WIDTH] is the last layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(classes, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), False)
        self.head = nn.Parameter(torch.randn(classes, WIDTH) / WIDTH)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.places.weight
        found: Tensor = self.body(hidden, mask=self.mask, is_causal=True)
        return found


def loss_of(method: str, hidden: Tensor, head: Tensor, tokens: Tensor) -> Tensor:
    """Each position is judged by the next word."""
    if method == METHODS[0]:
        logits = F.linear(hidden[:, :-1], head)
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    if method == METHODS[1]:
        return linear_cross_entropy_loss(hidden, head, tokens, shift=1)
    return linear_gce_loss(hidden, head, tokens, q=0.3, shift=1)


@dataclass
class Run:
    """Of one training: cross-entropy on held-out text after each step [steps], and bytes."""

    losses: Tensor
    memory: int


def train(method: str, steps: int, batch: int) -> Run:
    """In a process of its own, so that the high-water mark is this training's."""
    words, classes = text()
    torch.manual_seed(0)
    model = Model(classes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    rows = words[: len(words) // LENGTH * LENGTH].view(-1, LENGTH)
    held, rows = rows[:4], rows[4:]
    draws = torch.Generator().manual_seed(1)
    found = torch.zeros(steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(steps):
        tokens = rows[torch.randint(0, len(rows), (batch,), generator=draws)]
        optimiser.zero_grad()
        loss_of(method, model(tokens), model.head, tokens).backward()
        optimiser.step()
        with torch.no_grad():
            found[step] = loss_of(METHODS[0], model(held), model.head, held)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Run(found, 1024 * (after - before))


def shown(runs: dict[str, Run], tokens: int) -> Table:
    first = runs[METHODS[0]].losses
    view = Table(title=f"{tokens} tokens a step, {text()[1]} words, {len(first)} steps")
    for k, column in enumerate(("loss", "held-out CE", "largest relative distance", "memory")):
        view.add_column(column, justify="right" if k else "left")
    for name, run in runs.items():
        apart = f"{float((run.losses / first - 1).abs().max()):.1e}" if name == METHODS[1] else ""
        view.add_row(name, f"{run.losses[-1]:.3f}", apart, f"+{run.memory / 2**20:.0f} MB")
    return view


def plot(runs: dict[str, Run], path: Path) -> None:
    title = "A small causal transformer on Python's documentation"
    with figure(path, title, "step", "held-out cross-entropy") as axes:
        steps = range(1, 1 + len(next(iter(runs.values())).losses))
        for (name, run), style in zip(runs.items(), ("-", "--", "-"), strict=True):
            axes.plot(steps, run.losses, style, label=name, linewidth=1.8)
        axes.legend(frameon=False)


def main() -> None:
    options_of = parser(__doc__, "tiny_lm.png")
    options_of.add_argument("--steps", type=int, default=40)
    options_of.add_argument("--tokens", type=int, default=2048)
    options = options_of.parse_args()
    batch = max(1, options.tokens // LENGTH)
    fresh = multiprocessing.get_context("spawn")
    runs = {}
    with session(options.plot) as console, progress(console, "trainings") as bar:
        task = bar.add_task("one process each", total=len(METHODS))
        for name in METHODS:
            with fresh.Pool(1) as pool:
                runs[name] = pool.apply(train, (name, options.steps, batch))
            bar.advance(task)
    console.print(shown(runs, batch * LENGTH))
    plot(runs, options.plot)


if __name__ == "__main__":
    main()
