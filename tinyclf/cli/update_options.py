"""Options that say how weights are updated, shared by deploy and memory: the fields of UpdateOptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from tinyclf.rules import LOSSES, OPTIMIZERS, SCHEDULES, UpdateRule

F = TypeVar("F", bound=Callable[..., Any])

_USUAL = UpdateRule(1.0)


class _Dashed(click.Choice):  # type: ignore[type-arg]  # not generic in click below 8.2
    """A choice among names, with "-" for "_" on the command line."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__([name.replace("_", "-") for name in names])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx).replace("-", "_")


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Read numbers that are separated by commas."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is not a list of numbers as in 0.5,0.75.") from None


def update_options(command: F) -> F:
    """Add an option for each field of UpdateOptions.

    Those whose defaults suit most runs are None without them, so that the rule's own hold.
    """
    for option in reversed((*_MAIN, *_FINER)):
        command = option(command)
    return command


_MAIN = (
    click.option(
        "--lr", "learning_rate", type=float, help="Learning rate. Default: 0.01; for full training and for adam 0.001."
    ),
    click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Weight decay."),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True, help="Optimizer."),
    click.option("--momentum", type=float, default=0.0, show_default=True, help="Momentum, for sgd."),
    click.option(
        "--batch",
        type=int,
        default=1,
        show_default=True,
        help="Samples per update, of the mean of their gradients. Samples left at the end change no weight.",
    ),
    click.option(
        "--clip", type=float, default=0.0, show_default=True, help="Largest norm of the gradient; 0: no limit."
    ),
    click.option(
        "--schedule", type=click.Choice(SCHEDULES), default="constant", show_default=True, help="Of the rate."
    ),
    click.option("--loss", type=_Dashed(LOSSES), default="cross-entropy", show_default=True, help="What is minimised."),
)
_FINER = (
    click.option(
        "--betas",
        type=(float, float),
        default=None,
        metavar="BETA1 BETA2",
        help=f"Of adam. Default: {_USUAL.beta1} {_USUAL.beta2}.",
    ),
    click.option("--epsilon", type=float, help=f"Of adam. Default: {_USUAL.epsilon}."),
    click.option(
        "--gamma",
        type=float,
        help=f"Factor of the rate at each milestone of --schedule step. Default: {_USUAL.gamma}.",
    ),
    click.option(
        "--milestones",
        callback=_numbers,
        metavar="SHARE,...",
        help="Where --schedule step falls, as shares of the run. "
        f"Default: {','.join(str(m) for m in _USUAL.milestones)}.",
    ),
    click.option(
        "--warmup",
        type=int,
        default=0,
        show_default=True,
        metavar="UPDATES",
        help="In the first so many updates the rate rises linearly.",
    ),
)
