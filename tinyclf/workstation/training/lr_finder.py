"""The learning-rate finder: raise the rate from step to step, watch the loss, and see where it falls fastest.

After Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), the range test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tinyclf.base.errors import BadInput
from tinyclf.base.files import write_text, write_whole
from tinyclf.workstation.data import Position
from tinyclf.workstation.nets.build import set_train_mode
from tinyclf.workstation.runs.config import TrainConfig
from tinyclf.workstation.training.session import Session, open_session, using_threads

LOWEST, HIGHEST = 1e-5, 10.0
NUM_STEPS = 100
SMOOTHING = 0.9  # of the running mean of the loss
TOO_HIGH = 4.0  # times the lowest loss: the end of the test


@dataclass(frozen=True)
class RangeTest:
    """Rates, the smoothed loss at each, and the rate where it fell fastest: one to use as the highest of a schedule."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_rate(config: TrainConfig) -> RangeTest:
    """Train a few steps at rising rates; nothing is kept of them.

    Raises:
        BadInput: as `train`; or the loss never fell.
    """
    session = open_session(config)
    if session.fabric.world_size > 1:
        raise BadInput("--find-lr runs in one process: leave out --devices")
    with torch.random.fork_rng(devices=[]), using_threads(session.run.threads):
        rates, losses = _raise_rate(session)
    return RangeTest(tuple(rates), tuple(losses), _steepest(rates, losses))


def _raise_rate(session: Session) -> tuple[list[float], list[float]]:
    """Return the rates tried, and the running mean of the loss before each step."""
    set_train_mode(session.model, bn=session.run.train.bn)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step, (inputs, labels) in zip(range(NUM_STEPS), _endless(session), strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
        for group in session.optimizer.param_groups:
            group["lr"] = rate
        session.optimizer.zero_grad()
        loss = session.loss(session.net(inputs.to(session.fabric.device)), labels.to(session.fabric.device))
        session.fabric.backward(loss)
        session.optimizer.step()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss.item()
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > TOO_HIGH * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
    return rates, losses


def _endless(session: Session) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    epoch = 1
    while True:
        for _, inputs, labels in session.loader.batches(Position(epoch)):
            yield inputs, labels
        epoch += 1


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the loss falls fastest per factor of the rate, before its minimum."""
    lowest = int(np.argmin(losses)) if losses else 0
    if lowest < 3:
        raise BadInput("the loss does not fall at any learning rate: is the data what the net expects?")
    slopes = np.gradient(np.array(losses[: lowest + 1]), np.log(rates[: lowest + 1]))
    return rates[int(np.argmin(slopes))]


def write_range_test(folder: Path, test: RangeTest) -> None:
    """Write lr_finder.csv and lr_finder.png into `folder`."""
    from matplotlib.figure import Figure

    lines = [f"{rate:.6g},{loss:.6g}" for rate, loss in zip(test.rates, test.losses, strict=True)]
    write_text(folder / "lr_finder.csv", "\n".join(["lr,loss", *lines]) + "\n")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(test.rates, test.losses)
    axes.axvline(test.suggestion, color="tab:red", linestyle="--", label=f"falls fastest: {test.suggestion:.2g}")
    low, first = min(test.losses), test.losses[0]
    axes.set(xlabel="learning rate", ylabel="loss, running mean", ylim=(low - 0.1 * first, first + 1.5 * (first - low)))
    axes.grid(alpha=0.3)
    axes.legend()
    write_whole(folder / "lr_finder.png", lambda temporary: figure.savefig(temporary, format="png"))
