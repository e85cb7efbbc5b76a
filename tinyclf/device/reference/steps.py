"""The same training steps in PyTorch, in double precision, and how far an array is from its reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.device.lowering.tracing import as_module_calls
from tinyclf.recipe.channels import partial_parameters
from tinyclf.recipe.optimizers import OPTIMIZERS
from tinyclf.recipe.update_rule import UpdateRule

Arrays = Mapping[str, NDArray[Any]]

LOGITS, LOSS = "logits", "loss"  # the names of a step's outputs


class _Kink(nn.Module):
    """A layer whose derivative jumps, and which takes the device's side at the jump.

    An input that rounding may put on either side makes the gradient jump: neither side is wrong. Such a tie, nearer to
    the jump than tie * max|x|, is resolved as the device did; all else as torch does.
    """

    def __init__(self, tie: float) -> None:
        super().__init__()
        self.tie = tie
        self.device: torch.Tensor | None = None  # what the device reported, for the next forward pass
        self.result = torch.zeros(0)  # what `device` should be
        self.num_ties = 0  # that the device resolved in another way than torch

    def _resolve(self, ours: torch.Tensor, theirs: torch.Tensor, is_tie: torch.Tensor) -> torch.Tensor:
        self.num_ties += int((is_tie & (ours != theirs)).sum())
        return torch.where(is_tie, theirs, ours)


Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Pieces:
    """An activation in pieces: which function it is below, between and above some `places` of its input.

    `of`: what the device reports, its "output" or its "input". A place belongs to the flat side, as in the kernels.
    """

    places: tuple[float, ...]
    functions: tuple[Function, ...]
    of: str = "output"

    def number(self, x: torch.Tensor) -> torch.Tensor:
        """Return the number of the piece that each input lies on."""
        return self._number(x, self.places)

    def reported_number(self, values: torch.Tensor) -> torch.Tensor:
        """Return the same by what the device reported."""
        if self.of == "input":
            return self.number(values)
        ends = torch.tensor(self.places, dtype=values.dtype)
        return self._number(values, tuple(f(end).item() for f, end in zip(self.functions[1:], ends, strict=True)))

    @staticmethod
    def _number(values: torch.Tensor, places: tuple[float, ...]) -> torch.Tensor:
        first, *others = places
        return (values > first).int() + sum((values >= place).int() for place in others)


class _Activation(_Kink):
    """An activation in pieces; the device reports its output, or its input."""

    def __init__(self, tie: float, pieces: _Pieces) -> None:
        super().__init__(tie)
        self.pieces = pieces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = self.pieces
        number = pieces.number(x)
        if self.device is not None and self.device.shape == x.shape[1:]:
            margin = self.tie * x.abs().max()
            is_tie = torch.stack([(x - place).abs() <= margin for place in pieces.places]).any(0)
            number = self._resolve(number, pieces.reported_number(self.device[None].to(x.dtype)), is_tie)
        y = pieces.functions[0](x)
        for i, function in enumerate(pieces.functions[1:], start=1):
            y = torch.where(number == i, function(x), y)
        self.result = (x if pieces.of == "input" else y).detach()[0]
        return y


class _MaxPool(_Kink):
    """Maximum pooling of whole windows; the device reports its input, whose first maximum it takes."""

    def __init__(self, tie: float, module: nn.MaxPool2d) -> None:
        super().__init__(tie)
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.result = x.detach()[0]
        seen = x.detach()
        if self.device is not None and self.device.shape == x.shape[1:]:
            seen = self.device[None].to(x.dtype)
        chosen, ours = (self._places(values) for values in (seen, x.detach()))
        flat = x.flatten(2)
        mine, theirs = (flat.gather(2, places.flatten(2)) for places in (ours, chosen))
        is_tie = (mine - theirs).abs() <= self.tie * x.abs().max()
        resolved = self._resolve(ours.flatten(2), chosen.flatten(2), is_tie)
        return flat.gather(2, resolved).view(ours.shape)

    def _places(self, values: torch.Tensor) -> torch.Tensor:
        """Return for each window the place of its first maximum in the plane, row by row."""
        m = self.module
        found = nn.functional.max_pool2d(
            values, m.kernel_size, m.stride, m.padding, ceil_mode=m.ceil_mode, return_indices=True
        )
        places: torch.Tensor = found[1]
        return places


def _constant(value: float) -> Function:
    return lambda x: torch.full_like(x, value)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


_PIECES: dict[type[nn.Module], Callable[[Any], _Pieces]] = {
    nn.ReLU: lambda _: _Pieces((0,), (_constant(0), _identity)),
    nn.ReLU6: lambda _: _Pieces((0, 6), (_constant(0), _identity, _constant(6))),
    nn.LeakyReLU: lambda module: _Pieces((0,), (lambda x: module.negative_slope * x, _identity)),
    nn.Hardsigmoid: lambda _: _Pieces((-3, 3), (_constant(0), lambda x: (x + 3) / 6, _constant(1))),
    nn.Hardswish: lambda _: _Pieces((-3, 3), (_constant(0), lambda x: x * (x + 3) / 6, _identity), of="input"),
}


def _kink(module: nn.Module, tie: float) -> _Kink:
    """Return the layer that stands for `module`."""
    if isinstance(module, nn.MaxPool2d):
        return _MaxPool(tie, module)
    return _Activation(tie, _PIECES[type(module)](module))


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return torch's cross entropy of `logits` (classes) and `target` (classes), probabilities.

    Where a prediction is nearly certain torch's own rounds loss and gradient to noise, even in double precision
    (1 - probability below 1e-16, as trained classifiers reach); summing the other classes apart keeps them.
    """
    largest = int(logits.argmax())
    others = torch.arange(len(logits)) != largest
    z = logits[others] - logits[largest]
    return target.sum() * torch.log1p(z.exp().sum()) - (target[others] * z).sum()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": nn.functional.mse_loss,
}


class TrainedParts:
    """What is trained of a model: parameters, or the leading rows of one that is trained in part.

    `parts` are leaves of their own, by the parameters' names, which share the memory of the model's: an optimizer of
    them changes the model, and knows nothing of what is frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        limits = partial_parameters(model)
        self._whole = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parts = {
            name: nn.Parameter(p.detach()[: limits[name]]) if name in limits else p for name, p in self._whole.items()
        }

    def take_gradients(self) -> None:
        """Give each part its part of the gradient that the model's parameter has, and of that no other."""
        for name, part in self.parts.items():
            grad = self._whole[name].grad
            if grad is not None:
                part.grad = grad[: len(part)] if part is not self._whole[name] else grad


def _set(parameters: Mapping[str, nn.Parameter], values: Arrays) -> None:
    """Set the parameters to the values that a step reported; in the midst of a batch it reports none."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in values:
                parameter.copy_(torch.from_numpy(np.array(values[name])))


def _optimizer(rule: UpdateRule, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    row = OPTIMIZERS[rule.optimizer]
    make: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, row.torch)
    return make(parameters, lr=rule.learning_rate, weight_decay=rule.weight_decay, **row.arguments(rule))


class TorchUpdate:
    """The updates of a run by torch's own optimizers, fed with the gradient of one sample after the other."""

    def __init__(self, rule: UpdateRule, trained: Mapping[str, nn.Parameter]) -> None:
        self._rule = rule
        self._parameters = list(trained.values())
        self._optimizer = _optimizer(rule, self._parameters)
        self._sums = [torch.zeros_like(p) for p in self._parameters]
        self._num_samples = 0

    def take(self) -> bool:
        """Take in the parameters' `grad`; update them if that completes a batch, and tell whether it did."""
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            assert parameter.grad is not None
            total += parameter.grad
        self._num_samples += 1
        if self._num_samples % self._rule.batch:
            return False
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            parameter.grad = total / self._rule.batch
            total.zero_()
        if self._rule.clip:
            nn.utils.clip_grad_norm_(self._parameters, self._rule.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rule.rate(self._num_samples // self._rule.batch - 1)
        self._optimizer.step()
        return True


@dataclass(frozen=True)
class Trajectory:
    """The values of each training step by name, and how many ties the device resolved in another way than torch."""

    steps: tuple[dict[str, NDArray[np.float64]], ...]
    num_ties: int


def training_steps(
    model: nn.Module,
    samples: NDArray[np.float32],
    labels: NDArray[np.float32],
    *,
    num_steps: int,
    rule: UpdateRule,
    kinks: Mapping[str, str] | None = None,
    device_steps: Sequence[Arrays] = (),
    tie: float = 0.0,
    follow: bool = False,
) -> Trajectory:
    """Train a copy of `model` (BatchNorm folded) on one sample a step, as the device does, in double precision.

    Args:
        model: parameters with `requires_grad` are trained; of layers trained in part the leading channels.
        samples: (N, C, H, W), taken in turn.
        labels: (N, classes), probabilities.
        num_steps: one sample each.
        rule: how the weights are updated.
        kinks: for layers that gradients pass and whose derivative jumps (such as ReLU and maximum pooling; names as in
            `as_module_calls`), the name to give what tells on which side they were: their output or their input.
        device_steps: what the device reported, by those names; ties at a jump are resolved as it did.
        tie: how near to the jump, relative to the layer's largest input, an input may be to count as a tie.
        follow: start each step from the weights that the device reported after the step before, and its backward pass
            from the device's logits. Each step is then judged by itself; otherwise the whole run is, in which the
            steps may amplify rounding.

    Returns:
        for each step the "logits", the "loss" (1), the values of `kinks`, each trained parameter's gradient as
        "<parameter>.grad", that of this sample alone, and in steps that complete a batch its value after the update.
        Of a parameter that is trained in part both are those of its leading rows. Double precision makes a difference
        the device's rounding, not this function's.
    """
    model = as_module_calls(copy.deepcopy(model).double().eval())
    names = kinks or {}
    layers = {name: _kink(model.get_submodule(name), tie) for name in names}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    trained = TrainedParts(model)
    update = TorchUpdate(rule, trained.parts)
    steps = []
    for step in range(num_steps):
        if follow and step > 0:
            _set(trained.parts, device_steps[step - 1])
        for name, layer in layers.items():
            seen_there = device_steps[step].get(names[name]) if step < len(device_steps) else None
            layer.device = None if seen_there is None else torch.from_numpy(np.array(seen_there))
        i = step % len(samples)
        logits = model(torch.from_numpy(samples[i : i + 1]).double())[0]
        seen = logits
        if follow and LOGITS in device_steps[step]:
            # Rounding of large logits moves exp() far: loss and gradients are judged from the device's logits.
            seen = logits + (torch.from_numpy(np.array(device_steps[step][LOGITS])) - logits.detach())
        loss = LOSSES[rule.loss](seen, torch.from_numpy(labels[i]).double())
        model.zero_grad()
        torch.autograd.backward(loss)
        trained.take_gradients()
        values = {LOGITS: logits.detach().numpy(), LOSS: loss.detach().numpy().reshape(1)}
        values |= {name: layers[layer].result.numpy() for layer, name in names.items()}
        for name, parameter in trained.parts.items():
            assert parameter.grad is not None
            values[f"{name}.grad"] = parameter.grad.numpy().copy()
        if update.take():
            values |= {name: parameter.detach().numpy().copy() for name, parameter in trained.parts.items()}
        steps.append(values)
    return Trajectory(tuple(steps), sum(layer.num_ties for layer in layers.values()))


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
