"""Logits and labels for tests of metrics."""

from __future__ import annotations

import numpy as np


def names(num: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(num))


def random_case(num: int, num_classes: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    logits = rng.normal(size=(num, num_classes)).astype(np.float32)
    logits[np.arange(num), labels] += 1
    return logits, labels


def random_multi(num: int, num_labels: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((num, num_labels)) < rng.uniform(0.1, 0.9, num_labels)).astype(np.int64)
    return (rng.normal(size=labels.shape) + 2 * labels - 1).astype(np.float32), labels


def degenerate(rng: np.random.Generator, *, multi: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return few images, few classes, missing classes, ties and logits of any size."""
    num, num_classes = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    scale = 10.0 ** rng.choice([-30, -3, 0, 3, 30, 38])
    logits = (rng.integers(-2, 3, (num, num_classes)) * scale).astype(np.float32)
    if multi:
        return logits, np.asarray(rng.random((num, num_classes)) < rng.choice([0, 0.5, 1]), dtype=np.int64)
    return logits, rng.integers(0, int(rng.integers(1, num_classes + 1)), num)
