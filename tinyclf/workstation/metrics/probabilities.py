"""Probabilities and losses of logits in double precision, without overflow or lost digits however large the logits.

Everything follows from the log odds log(p / (1 - p)): unlike p itself they do not round to the same number where a
model is very sure, so they rank images as the exact probabilities would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput

BLOCK = 1 << 22  # logits that are worked on at once


def check_logits(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], *, num_classes: int) -> None:
    """Check logits (N, C) against labels, (N,) class indices or (N, C) of 0 and 1.

    Raises:
        BadInput: there are no images, or logits are not finite.
    """
    assert logits.shape == (len(labels), num_classes), f"logits {logits.shape}, {len(labels)} labels, {num_classes}"
    assert labels.ndim == 1 or labels.shape == logits.shape, f"labels {labels.shape}, logits {logits.shape}"
    if not len(labels):
        raise BadInput("there are no images to measure")
    assert labels.min() >= 0, "negative labels"
    assert labels.max() < (num_classes if labels.ndim == 1 else 2), "labels that are no class"
    bad = len(labels) - int(np.isfinite(logits).all(axis=1).sum())
    if bad:
        raise BadInput(
            f"the model's output is not a number for {bad:,} of {len(labels):,} images: its training has diverged: "
            "train again with a lower --lr"
        )


def log_odds(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of the softmax of logits (N, C): (N, C). With one class all are infinite."""
    num, num_classes = logits.shape
    if num_classes == 1:
        return np.full((num, 1), np.inf)
    if num_classes == 2:  # exactly, so that equal differences stay ties
        margin = np.subtract(logits[:, 1], logits[:, 0], dtype=np.float64)
        return np.stack([-margin, margin], axis=1)
    result = np.empty((num, num_classes))
    step = max(1, BLOCK // num_classes)
    for first in range(0, num, step):
        result[first : first + step] = _log_odds(logits[first : first + step].astype(np.float64))
    return result


def _log_odds(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log odds of a block with three classes or more."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    below = logits - logits.max(axis=1, keepdims=True)  # at most 0, and 0 at the top
    log_p = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    log_p[rows, top] = -np.inf  # its 1 - p may round to 0: computed from the others below
    result: NDArray[np.float64] = log_p - np.log1p(-np.exp(log_p))
    below[rows, top] = -np.inf
    second = below.max(axis=1)
    result[rows, top] = -(second + np.log(np.exp(below - second[:, None]).sum(axis=1)))
    return result


def sigmoid(odds: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-odds)): the probability that belongs to log odds."""
    small = np.exp(-np.abs(np.asarray(odds, dtype=np.float64)))
    result: NDArray[np.float64] = np.where(odds >= 0, 1.0, small) / (1.0 + small)
    return result


def cross_entropy(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return -log p of each image's class, (N,), from logits (N, C) and class indices (N,)."""
    return surprise(log_odds(logits), labels)


def surprise(odds: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return -log p of each image's class, (N,), from log odds (N, C): log(1 + exp(-odds))."""
    result: NDArray[np.float64] = np.logaddexp(0.0, -odds[np.arange(len(labels)), labels])
    return result


def binary_cross_entropy(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss of each label of each image, (N, L), from logits (N, L) and labels (N, L) of 0 and 1."""
    result: NDArray[np.float64] = np.logaddexp(0.0, np.where(labels == 1, -1.0, 1.0) * logits.astype(np.float64))
    return result
