"""How the device updates weights: optimizer, batch, clipping, learning rate over time, and the loss; plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import inf

from tinyclf.base.errors import BadInput
from tinyclf.recipe.optimizers import OPTIMIZERS, owners

SCHEDULES = ("constant", "step", "cosine")
LOSSES = ("cross_entropy", "mse")

# The C computes in float32: its normal numbers, and what it rounds to 1.
LEAST_FLOAT, MOST_FLOAT, ONE_IN_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127, 1 - 2.0**-25
NUMBERS = ("learning_rate", "weight_decay", "momentum", "beta1", "beta2", "epsilon", "gamma", "clip")
MOST = 2**31 - 1  # of a batch, an int in C, and of the updates in an option


@dataclass(frozen=True)
class UpdateRule:
    """How weights are updated.

    Every `batch` samples are one update: of the mean of their gradients, so that the learning rate does not depend on
    the batch. `clip` is the most that the norm of that mean over all trained parameters may be (0: no limit); a larger
    one is scaled down as `torch.nn.utils.clip_grad_norm_` does. Weight decay is then added to the gradient, as
    `torch.optim.SGD` and `torch.optim.Adam` do. The table of optimizers says which of them has `momentum`, `beta1`,
    `beta2` and `epsilon`.

    `num_updates` is the length of the run, which a schedule other than constant needs: "cosine" falls to 0 over it,
    "step" multiplies the rate by `gamma` at each of the `milestones`, shares of the run. In the first `warmup` updates
    the rate rises linearly under that curve. `loss`: "mse" is the mean over the outputs of (logit - target)^2, as
    `torch.nn.MSELoss`.

    Raises:
        BadInput: a value is out of its range.
    """

    learning_rate: float
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    batch: int = 1
    clip: float = 0.0
    schedule: str = "constant"
    num_updates: int = 0
    gamma: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: int = 0
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        """Check every value."""
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise BadInput(f"unknown {name} '{getattr(self, name)}': choose one of {', '.join(known)}")
        if not 0 < self.learning_rate < inf or not 0 <= self.weight_decay < inf:
            raise BadInput("--lr must be above 0 and --weight-decay not below")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name):g}: give 0 or more, and less than 1")
        if self.momentum and self.optimizer not in owners("momentum"):
            of = " and ".join(owners("momentum"))
            raise BadInput(f"momentum is of {of}, {self.optimizer} has its own: leave out --momentum")
        # The C is float32: an epsilon below its smallest normal number would be 0 there.
        for name, least in (("epsilon", 1e-37), ("gamma", 1e-37)):
            if not least <= getattr(self, name) < inf:
                raise BadInput(f"{name} is {getattr(self, name):g}: give a number above 0")
        if not 0 <= self.clip < inf:
            raise BadInput(f"clip is {self.clip:g}: give the largest norm of the gradient, or 0 for no limit")
        for name in NUMBERS:
            value = getattr(self, name)
            if value and not LEAST_FLOAT <= value <= MOST_FLOAT:
                raise BadInput(f"{name} is {value:g}: the device computes in float32, from 1.18e-38 to 3.4e+38")
        if self.momentum >= ONE_IN_FLOAT:
            raise BadInput(f"momentum is {self.momentum!r}: float32 makes 1 of that, give less")
        self._check_counts()

    def _check_counts(self) -> None:
        if not 1 <= self.batch <= MOST:
            raise BadInput(f"batch is {self.batch}: an update needs at least 1 sample")
        if not 0 <= self.warmup <= MOST:
            raise BadInput(f"warmup is {self.warmup}: give a number of updates, at least 0")
        if self.schedule != "constant" and not 1 <= self.num_updates <= MOST:
            raise BadInput(f"schedule {self.schedule} needs the length of the run: at least 1 update")
        if not all(0 < m < 1 for m in self.milestones):
            raise BadInput("milestones: give shares of the run, between 0 and 1")

    @property
    def updates_at_end(self) -> bool:
        """Tell whether updates wait for all gradients of the step, or of several."""
        return self.batch > 1 or self.clip > 0

    @property
    def is_plain(self) -> bool:
        """Tell whether it is SGD without a state at a constant rate, sample by sample: what upstream's API has."""
        varies = self.schedule != "constant" or self.warmup > 0
        row = OPTIMIZERS[self.optimizer]
        return row.is_descent and not (row.kept(self) or varies or self.updates_at_end)

    @property
    def steps_down(self) -> tuple[int, ...]:
        """Return the updates, counted from 0, from which on the step schedule has another rate."""
        num = self.num_updates
        return tuple(sorted(next(u for u in range(int(m * num), num + 1) if u / num >= m) for m in self.milestones))

    def rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0; behind the end of the run it stays at the end's."""
        rise = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * self._curve(update)

    def _curve(self, update: int) -> float:
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(update, self.num_updates) / self.num_updates))
        if self.schedule == "step":
            return self.gamma ** sum(update >= first for first in self.steps_down)
        return 1.0
