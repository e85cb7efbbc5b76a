"""The same training steps in PyTorch, in double precision, and how far an array is from its reference."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Arrays = Mapping[str, NDArray[Any]]

LOGITS, LOSS = "logits", "loss"  # the names of a step's outputs


class _ReLU(nn.Module):
    """ReLU that takes the device's side at the kink.

    An input that rounding may put on either side of zero makes the gradient jump: neither side is wrong. Such a tie,
    |x| <= tie * max|x|, is resolved as the device did (`output`, its result, positive or not); all else as torch does.
    """

    def __init__(self, tie: float) -> None:
        super().__init__()
        self.tie = tie
        self.output: torch.Tensor | None = None  # the device's, for the next forward pass
        self.result = torch.zeros(0)
        self.num_ties = 0  # that the device resolved in another way than torch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passes = x > 0
        if self.output is not None and self.output.shape == x.shape[1:]:
            is_tie = x.abs() <= self.tie * x.abs().max()
            resolved = torch.where(is_tie, self.output[None] > 0, passes)
            self.num_ties += int((resolved != passes).sum())
            passes = resolved
        y = x * passes
        self.result = y.detach()[0]
        return y


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return torch's cross entropy of `logits` (classes) and `target` (classes), probabilities.

    Where a prediction is nearly certain torch's own rounds loss and gradient to noise, even in double precision
    (1 - probability below 1e-16, as trained classifiers reach); summing the other classes apart keeps them.
    """
    largest = int(logits.argmax())
    others = torch.arange(len(logits)) != largest
    z = logits[others] - logits[largest]
    return target.sum() * torch.log1p(z.exp().sum()) - (target[others] * z).sum()


def _set(parameters: Mapping[str, nn.Parameter], values: Arrays) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.array(values[name])))


@dataclass(frozen=True)
class Trajectory:
    """The values of each training step by name, and how many ReLU inputs were ties that the device resolved."""

    steps: tuple[dict[str, NDArray[np.float64]], ...]
    num_ties: int


def training_steps(
    model: nn.Module,
    samples: NDArray[np.float32],
    labels: NDArray[np.float32],
    *,
    num_steps: int,
    learning_rate: float,
    weight_decay: float,
    relu_names: Mapping[str, str] | None = None,
    device_steps: Sequence[Arrays] = (),
    tie: float = 0.0,
    follow: bool = False,
) -> Trajectory:
    """Train a copy of `model` (BatchNorm folded) on one sample a step, as the device does, in double precision.

    Args:
        model: parameters with `requires_grad` are trained.
        samples: (N, C, H, W), taken in turn.
        labels: (N, classes), probabilities.
        num_steps: SGD steps with cross entropy.
        learning_rate: of SGD.
        weight_decay: of SGD.
        relu_names: for ReLU modules that gradients pass, the name to give the output.
        device_steps: what the device reported, by those names; ties at a ReLU's kink are resolved as it did.
        tie: how near to zero, relative to the layer's largest input, a ReLU's input may be to count as a tie.
        follow: start each step from the weights that the device reported after the step before, and its backward pass
            from the device's logits. Each step is then judged by itself; otherwise the whole run is, in which the
            steps may amplify rounding.

    Returns:
        for each step the "logits", the "loss" (1), the outputs of `relu_names`, each trained parameter's gradient as
        "<parameter>.grad" and its value after the update. Double precision makes a difference the device's rounding,
        not this function's.
    """
    model = copy.deepcopy(model).double().eval()
    relus = {name: _ReLU(tie) for name in relu_names or {}}
    for name, relu in relus.items():
        model.set_submodule(name, relu)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=learning_rate, weight_decay=weight_decay)
    steps = []
    for step in range(num_steps):
        if follow and step > 0:
            _set(trained, device_steps[step - 1])
        for name, relu in relus.items():
            output = device_steps[step].get(relu_names[name]) if relu_names and step < len(device_steps) else None
            relu.output = None if output is None else torch.from_numpy(np.array(output))
        i = step % len(samples)
        logits = model(torch.from_numpy(samples[i : i + 1]).double())[0]
        seen = logits
        if follow and LOGITS in device_steps[step]:
            # Rounding of large logits moves exp() far: loss and gradients are judged from the device's logits.
            seen = logits + (torch.from_numpy(np.array(device_steps[step][LOGITS])) - logits.detach())
        loss = cross_entropy(seen, torch.from_numpy(labels[i]).double())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        values = {LOGITS: logits.detach().numpy(), LOSS: loss.detach().numpy().reshape(1)}
        values |= {name: relus[relu].result.numpy() for relu, name in (relu_names or {}).items()}
        for name, parameter in trained.items():
            assert parameter.grad is not None
            values[f"{name}.grad"] = parameter.grad.numpy().copy()
        optimizer.step()
        values |= {name: parameter.detach().numpy().copy() for name, parameter in trained.items()}
        steps.append(values)
    return Trajectory(tuple(steps), sum(relu.num_ties for relu in relus.values()))


def relative_error(actual: NDArray[Any], expected: NDArray[Any], *, least_scale: float = 0.0) -> float:
    """Return max|actual - expected| / max(max|expected|, least_scale).

    Infinite for a NaN, another shape, or a difference from nothing but zeros.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    difference = float(np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0))
    scale = max(float(np.max(np.abs(expected), initial=0.0)), least_scale)
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale
