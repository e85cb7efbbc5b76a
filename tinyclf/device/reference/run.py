"""The same training run in PyTorch, in double precision or in single: losses, accuracy and the weights it ends with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.device.reference.quantized import QuantizedFeatures
from tinyclf.device.reference.steps import LOSSES, TorchUpdate, TrainedParts
from tinyclf.recipe.update_rule import UpdateRule

BATCH = 64


@dataclass(frozen=True)
class ReferenceRun:
    """What a run comes to: test images called right before and after, loss of each step, trained parameters.

    `classes_after`: what each test image is called after (M,). `worst_feature`: how far the device's quantised
    features are from what they should be, where there are such.
    """

    right_before: int
    right_after: int
    losses: NDArray[np.float64]
    weights: dict[str, NDArray[np.float64]]
    classes_after: NDArray[np.int64]
    worst_feature: float = 0.0


def training_run(
    model: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    *,
    order: Iterable[int],
    rule: UpdateRule,
    dtype: torch.dtype = torch.float64,
    quantized: Callable[[nn.Module], QuantizedFeatures] | None = None,
) -> ReferenceRun:
    """Train a copy of `model` (BatchNorm folded) as `rule` says, one image a step; evaluate before and after.

    Args:
        model: parameters with `requires_grad` are trained; of layers trained in part the leading channels.
        images: (N, C, H, W).
        labels: (N,), classes.
        test: images (M, C, H, W) and their classes (M,).
        order: indices of `images`, one for each step.
        rule: how the weights are updated. Images at the end that do not fill a batch change nothing.
        dtype: of parameters and arithmetic.
        quantized: makes of the model one whose trained part sees quantised features; only training uses it.
    """
    model = copy.deepcopy(model).to(dtype).eval()
    trained = TrainedParts(model)
    update = TorchUpdate(rule, trained.parts)
    features = quantized(model) if quantized else None
    losses = []
    with _one_thread():
        before = _classes(model, test[0], dtype=dtype)
        for i in order:
            image = torch.from_numpy(images[i : i + 1]).to(dtype)
            logits = (features.logits(i, image) if features else model(image))[0]
            target = torch.zeros_like(logits)
            target[labels[i]] = 1
            loss = LOSSES[rule.loss](logits, target)
            model.zero_grad()
            torch.autograd.backward(loss)
            trained.take_gradients()
            update.take()
            losses.append(loss.item())
        after = _classes(model, test[0], dtype=dtype)
    weights = {name: p.detach().double().numpy() for name, p in trained.parts.items()}
    return ReferenceRun(
        right_before=int((before == test[1]).sum()),
        right_after=int((after == test[1]).sum()),
        losses=np.array(losses),
        weights=weights,
        classes_after=after,
        worst_feature=features.worst if features else 0.0,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one thread: steps of one image are too small to share, and beside a simulator it crawls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _classes(model: nn.Module, images: NDArray[np.float32], *, dtype: torch.dtype) -> NDArray[np.int64]:
    """Return what `model` calls each image (M,)."""
    called = [np.zeros(0, dtype=np.int64)]
    with torch.inference_mode():
        for first in range(0, len(images), BATCH):
            called.append(model(torch.from_numpy(images[first : first + BATCH]).to(dtype)).argmax(1).numpy())
    return np.concatenate(called)
