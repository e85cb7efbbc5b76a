"""The same training run in PyTorch, in double precision or in single: losses, accuracy and the weights it ends with."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.golden import cross_entropy

BATCH = 64


@dataclass(frozen=True)
class ReferenceRun:
    """What a run comes to: test images called right before and after, loss of each step, trained parameters."""

    right_before: int
    right_after: int
    losses: NDArray[np.float64]
    weights: dict[str, NDArray[np.float64]]


def training_run(
    model: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    *,
    order: Iterable[int],
    learning_rate: float,
    weight_decay: float,
    dtype: torch.dtype = torch.float64,
) -> ReferenceRun:
    """Train a copy of `model` (BatchNorm folded) by SGD, one image a step; evaluate before and after.

    Args:
        model: parameters with `requires_grad` are trained.
        images: (N, C, H, W).
        labels: (N,), classes.
        test: images (M, C, H, W) and their classes (M,).
        order: indices of `images`, one for each step.
        learning_rate: of SGD.
        weight_decay: of SGD.
        dtype: of parameters and arithmetic.
    """
    model = copy.deepcopy(model).to(dtype).eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=learning_rate, weight_decay=weight_decay)
    losses = []
    with _one_thread():
        before = _num_right(model, *test, dtype=dtype)
        for i in order:
            logits = model(torch.from_numpy(images[i : i + 1]).to(dtype))[0]
            target = torch.zeros_like(logits)
            target[labels[i]] = 1
            loss = cross_entropy(logits, target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        after = _num_right(model, *test, dtype=dtype)
    weights = {name: p.detach().double().numpy() for name, p in trained.items()}
    return ReferenceRun(before, after, np.array(losses), weights)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one thread: steps of one image are too small to share, and beside a simulator it crawls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _num_right(model: nn.Module, images: NDArray[np.float32], labels: NDArray[Any], *, dtype: torch.dtype) -> int:
    num = 0
    with torch.inference_mode():
        for first in range(0, len(images), BATCH):
            part = slice(first, first + BATCH)
            called = model(torch.from_numpy(images[part]).to(dtype)).argmax(1).numpy()
            num += int((called == labels[part]).sum())
    return num
