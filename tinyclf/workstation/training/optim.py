"""Optimisers, the course of the learning rate, and the running average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.recipe.channels import partial_parameters
from tinyclf.workstation.runs.config import TrainConfig

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the trained parameters of `model`, with a group of its own for those without decay.

    Raises:
        BadInput: a pattern of `no_decay` that no trained parameter matches.
    """
    assert config.lr is not None
    assert config.weight_decay is not None
    exempt = _without_decay(model, config.no_decay)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if name not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for name, p in trained.items() if name in exempt], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def keep_frozen_channels(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` leave what is frozen of layers trained in part as it is now, to the bit.

    Its gradient is 0 from now on, so that it counts nothing where gradients are clipped. A step still decays it, and
    is undone there.
    """
    parameters = dict(model.named_parameters())
    frozen = [
        (parameters[name], num, parameters[name].detach()[num:].clone())
        for name, num in partial_parameters(model).items()
    ]
    for parameter, num, _ in frozen:
        parameter.register_hook(lambda grad, num=num: _leading_rows(grad, num))  # type: ignore[no-untyped-call]

    def restore(*_: object) -> None:
        with torch.no_grad():
            for parameter, num, kept in frozen:
                parameter[num:].copy_(kept)

    if frozen:
        optimizer.register_step_post_hook(restore)


def _leading_rows(grad: torch.Tensor, num: int) -> torch.Tensor:
    """Return `grad` with zeros behind its first `num` rows."""
    kept = torch.zeros_like(grad)
    kept[:num] = grad[:num]
    return kept


def _without_decay(model: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    """Return the names of the trained parameters that one of `patterns` means: bias, norm, or a glob."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    of_norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    found: set[str] = set()
    for pattern in patterns:
        if pattern == "norm":
            matching = trained & of_norms
        elif pattern == "bias":
            matching = {name for name in trained if name.rpartition(".")[2] == "bias"}
        else:
            matching = {name for name in trained if fnmatchcase(name, pattern)}
            if not matching:
                raise BadInput(
                    f"no_decay: no trained parameter matches '{pattern}': give bias, norm, or a glob of names"
                )
        found |= matching
    return found


def rate_at(config: TrainConfig, done: float) -> float:
    """Return the learning rate when the share `done` (0 .. 1) of all steps is behind.

    It rises linearly during warm-up, under the curve of the schedule: cosine falls to 0; exponential is
    lr * gamma ** done; step multiplies by gamma at each milestone.
    """
    assert config.lr is not None
    rise = min(1.0, done / config.warmup) if config.warmup else 1.0
    return config.lr * rise * _curve(config, done)


def _curve(config: TrainConfig, done: float) -> float:
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "exponential":
        return float(config.gamma**done)
    if config.schedule == "step":
        return float(config.gamma ** sum(done >= milestone for milestone in config.milestones))
    return 1.0


class Average:
    """An exponential moving average of everything in a model that training changes (EMA of the weights).

    After each step: average += (1 - decay) * (value - average), with the decay (1 + steps) / (10 + steps) while that is
    smaller, so that the first steps do not weigh for ever.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._live = {
            name: tensor
            for name, tensor in model.state_dict(keep_vars=True).items()
            if tensor.is_floating_point() and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
        }
        self._mean = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        live = [tensor.detach() for tensor in self._live.values()]
        torch._foreach_lerp_(list(self._mean.values()), live, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            kept = live.detach().clone()
            live.copy_(self._mean[name])
            self._mean[name] = kept

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages, and the number of steps."""
        return {**self._mean, "": torch.tensor(self._steps)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Undo `state_dict`."""
        self._steps = int(state[""])
        for name, mean in self._mean.items():
            mean.copy_(state[name])
