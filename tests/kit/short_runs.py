"""Runs of an epoch on a few noisy squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyclf.workstation.data import Item, write_dataset
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.training.loop import train


def noisy_squares(out: Path, *, size: int, multi_label: bool = False) -> Path:
    """Write 24 + 8 + 8 noisy squares: two classes, dark or bright; or the labels bright and red."""
    rng = np.random.default_rng(0)

    def item(split: str, i: int) -> Item:
        bright, red = i % 2, i // 2 % 2
        image = rng.integers(120 * bright, 120 * bright + 100, (size, size, 3))
        image[..., 0] += 35 * red
        return Item(split, image.astype(np.uint8), (bright, red) if multi_label else bright)

    items = [item(split, i) for split, num in (("train", 24), ("validation", 8), ("test", 8)) for i in range(num)]
    names = ["bright", "red"] if multi_label else ["dark", "bright"]
    write_dataset(items, out=out, classes=names, source="test", size=size, multi_label=multi_label)
    return out


def train_briefly(folder: Path, *, stored: int = 32, multi_label: bool = False, **options: Any) -> Path:
    data = noisy_squares(folder / "data", size=stored, multi_label=multi_label)
    given = {"data": data, "arch": "dscnn", "epochs": 1, "threads": 1, "batch_size": 8, **options}
    return train(config_from(options=given), out=folder / "run")
