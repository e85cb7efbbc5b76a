"""The table of optimizers on the device: what each keeps, its settings, its functions in C, and PyTorch's class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Settings = Any  # an UpdateRule, whose module reads this table


@dataclass(frozen=True)
class State:
    """What is kept of each trained parameter, in its shape; `needs`: a setting, without which nothing is kept."""

    name: str
    needs: str = ""


@dataclass(frozen=True)
class Optimizer:
    """A row: an optimizer.

    Attributes:
        name: what the user calls it; the `layer` of its kernel.
        kernel: the function in C, a body with struct tcl_update_args.
        body: the same on tiles.
        states: what it keeps, at most two: the fields `first` and `second` of the struct.
        settings: fields of the update rule that are its own.
        rate: the usual learning rate of a run.
        fields: returns the fields of struct tcl_rule that are its own.
        torch: the class in torch.optim.
        arguments: returns what that is made with, beside parameters, rate and weight decay.
        is_descent: without states and at a constant rate it is what upstream's API has a function for.
    """

    name: str
    kernel: str
    body: str
    states: tuple[State, ...]
    settings: tuple[str, ...]
    rate: float
    fields: Callable[[Settings], dict[str, float]]
    torch: str
    arguments: Callable[[Settings], dict[str, Any]]
    is_descent: bool = False

    def kept(self, rule: Settings) -> tuple[State, ...]:
        """Return the states that `rule` has a use for."""
        return tuple(state for state in self.states if not state.needs or getattr(rule, state.needs))


def _log(beta: float) -> float:
    """Return the logarithm of `beta`; of 0 one so low that its exponential is 0 in float32."""
    return math.log(beta) if beta else -1e3


def _adam_fields(rule: Settings) -> dict[str, float]:
    rests = {"rest1": 1 - rule.beta1, "rest2": 1 - rule.beta2, "epsilon": rule.epsilon}
    return {**rests, "log_beta1": _log(rule.beta1), "log_beta2": _log(rule.beta2)}


_ROWS = (
    Optimizer(
        "sgd",
        kernel="tcl_sgd_fp32",
        body="tcl_tile_sgd",
        states=(State("momentum", needs="momentum"),),
        settings=("momentum",),
        rate=0.01,
        fields=lambda rule: {"momentum": rule.momentum},
        torch="SGD",
        arguments=lambda rule: {"momentum": rule.momentum},
        is_descent=True,
    ),
    Optimizer(
        "adam",
        kernel="tcl_adam_fp32",
        body="tcl_tile_adam",
        states=(State("mean"), State("mean_square")),
        settings=("beta1", "beta2", "epsilon"),
        rate=0.001,  # torch's; an update moves each weight by about as much
        fields=_adam_fields,
        torch="Adam",
        arguments=lambda rule: {"betas": (rule.beta1, rule.beta2), "eps": rule.epsilon},
    ),
)

OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType({row.name: row for row in _ROWS})


def owners(setting: str) -> tuple[str, ...]:
    """Return the optimizers that have a setting."""
    return tuple(row.name for row in _ROWS if setting in row.settings)
