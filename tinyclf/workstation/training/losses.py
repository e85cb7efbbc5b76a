"""What training minimises: cross entropy, BCE for several labels, or a loss of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tinyclf.base.errors import BadInput
from tinyclf.base.plugins import load_object
from tinyclf.workstation.runs.config import TrainConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (n, C), labels (n,) int64, or (n, C) of 0 and 1) -> the mean over the n images, a scalar."""


def plain_loss(*, multi_label: bool) -> Loss:
    """Return the loss that models are compared by: without weights and smoothing."""
    return _bce() if multi_label else _cross_entropy()


def make_loss(config: TrainConfig, labels: NDArray[np.int64], *, num_classes: int, multi_label: bool) -> Loss:
    """Return the loss that `config` asks for; `labels` are those of the training split.

    Raises:
        BadInput: options that do not go together, or a function that cannot be imported.
    """
    weights = _class_weights(config.class_weights, labels, num_classes=num_classes, multi_label=multi_label)
    if ":" in config.loss:
        if weights is not None or config.label_smoothing:
            raise BadInput(f"loss {config.loss}: class_weights and label_smoothing are for the built-in losses")
        found = load_object(config.loss, what="loss")
        return found() if isinstance(found, type) else found  # type: ignore[no-any-return]
    fitting = "bce" if multi_label else "cross_entropy"
    if config.loss not in ("auto", fitting):
        several = "several labels" if multi_label else "one label"
        raise BadInput(
            f"loss {config.loss}: the images have {several} each: choose auto, {fitting}, or package.module:name"
        )
    build = _bce if multi_label else _cross_entropy
    return build(weights, config.label_smoothing)


def _cross_entropy(weights: torch.Tensor | None = None, smoothing: float = 0.0) -> Loss:
    """With weights: the sum of w[label] * loss over n, not over the sum of weights; so that parts of a batch add up."""

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weight = None if weights is None else weights.to(logits.device)
        each = functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing, reduction="none")
        return each.mean()

    return loss


def _bce(weights: torch.Tensor | None = None, smoothing: float = 0.0) -> Loss:
    """Mean over images and labels; `weights` multiply the loss where a label is 1; smoothing pulls targets to 0.5."""

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weight = None if weights is None else weights.to(logits.device)
        targets = labels.to(logits.dtype) * (1 - smoothing) + 0.5 * smoothing
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)

    return loss


def _class_weights(text: str, labels: NDArray[np.int64], *, num_classes: int, multi_label: bool) -> torch.Tensor | None:
    if not text:
        return None
    if text == "balanced":
        return torch.from_numpy(_balanced(labels, num_classes, multi_label=multi_label))
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != num_classes or not all(0 <= w < math.inf for w in weights) or not any(weights):
        raise BadInput(
            f"class_weights {text}: give balanced, or {num_classes} numbers of 0 or more, separated by commas"
        )
    return torch.tensor(weights)


def _balanced(labels: NDArray[np.int64], num_classes: int, *, multi_label: bool) -> NDArray[np.float32]:
    """Weigh classes inversely to their number of images (the mean over the split is 1); of labels, 1 against 0."""
    if multi_label:
        positive = labels.sum(axis=0)
        weights = np.where(positive > 0, (len(labels) - positive) / np.maximum(positive, 1), 1.0)
    else:
        counts = np.bincount(labels, minlength=num_classes)
        weights = np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)
    return weights.astype(np.float32)
