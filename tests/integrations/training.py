"""A few steps of transformers' Trainer on a tiny model: what the curves are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from tests.integrations.models import CLASSES

STEPS, ACCUMULATED = 20, 3


class Uneven(Dataset):
    """Sequences whose lengths, and how many of their tokens count, differ."""

    def __init__(self, size: int = 2 * STEPS * ACCUMULATED) -> None:
        draw = torch.Generator().manual_seed(0)
        self.rows = []
        for _ in range(size):
            length = int(torch.randint(4, 15, (), generator=draw))
            prompt = int(torch.randint(0, length - 2, (), generator=draw))
            tokens = torch.randint(3, CLASSES, (length,), generator=draw).tolist()
            self.rows.append((tokens, [-100] * prompt + tokens[prompt:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]:
        return self.rows[i]


def collate(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    length = max(len(tokens) for tokens, _ in rows)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for tokens, labels in rows:
        rest = length - len(tokens)
        columns["input_ids"].append(tokens + [0] * rest)
        columns["labels"].append(labels + [-100] * rest)
        columns["attention_mask"].append([1] * len(tokens) + [0] * rest)
    return {name: torch.tensor(column) for name, column in columns.items()}


def trainer(model: Any, folder: Path, more: Any = None, **options: Any) -> Any:
    """``more``: arguments of Trainer; ``options``: of TrainingArguments."""
    from transformers import Trainer, TrainingArguments

    settings = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": ACCUMULATED,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**{**settings, **options}),
        train_dataset=Uneven(),
        data_collator=collate,
        **(more or {}),
    )


def curve(found: Any, **how: Any) -> list[float]:
    """The loss of every step."""
    found.train(**how)
    return [entry["loss"] for entry in found.state.log_history if "loss" in entry]
