"""The same training steps in PyTorch, in double precision, and the comparison of two sets of named arrays."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

Arrays = Mapping[str, NDArray[Any]]


def training_steps(
    model: nn.Module,
    samples: NDArray[np.float32],
    labels: NDArray[np.float32],
    *,
    num_steps: int,
    learning_rate: float,
    weight_decay: float,
    output_names: tuple[str, str],
) -> list[dict[str, NDArray[np.float64]]]:
    """Train a copy of `model` (BatchNorm folded) on one sample a step, as the device does.

    Args:
        model: parameters with `requires_grad` are trained.
        samples: (N, C, H, W), taken in turn.
        labels: (N, classes), probabilities.
        num_steps: SGD steps with cross entropy.
        learning_rate: of SGD.
        weight_decay: of SGD.
        output_names: the names to give logits and loss.

    Returns:
        for each step the logits, the loss (1), each trained parameter's gradient as "<parameter>.grad" and its value
        after the update. The reference is double precision, so that a difference is the device's rounding, not ours.
    """
    model = copy.deepcopy(model).double().eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=learning_rate, weight_decay=weight_decay)
    steps = []
    for step in range(num_steps):
        i = step % len(samples)
        logits = model(torch.from_numpy(samples[i : i + 1]).double())
        loss = functional.cross_entropy(logits, torch.from_numpy(labels[i : i + 1]).double())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        values = {output_names[0]: logits[0].detach().numpy(), output_names[1]: loss.detach().numpy().reshape(1)}
        for name, parameter in trained.items():
            assert parameter.grad is not None
            values[f"{name}.grad"] = parameter.grad.numpy().copy()
        optimizer.step()
        values |= {name: parameter.detach().numpy().copy() for name, parameter in trained.items()}
        steps.append(values)
    return steps


@dataclass(frozen=True)
class Comparison:
    """One array against its reference: `error` is max|actual - expected| / max|expected|."""

    name: str
    step: int
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Tell whether the error is within the tolerance (a NaN is not)."""
        return self.error <= self.tolerance


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return max|actual - expected| / max|expected|; infinite for a NaN, another shape, or a wrong zero."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    difference = float(np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0))
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale


def compare(actual: Arrays, expected: Arrays, *, tolerance: float, step: int = 0) -> list[Comparison]:
    """Compare every array of `expected` with the one of the same name; a missing one has an infinite error."""
    nothing = np.full((0,), np.nan)
    return [
        Comparison(name, step, relative_error(actual.get(name, nothing), value), tolerance)
        for name, value in expected.items()
    ]
