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
        "--lr",
        "learning_rate",
        type=float,
        show_default="0.01; for full training and for adam 0.001",
        help="Learning rate.",
    ),
    click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Weight decay."),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True, help="Optimizer."),
    click.option("--momentum", type=float, default=0.0, show_default=True, help="Momentum of sgd."),
    click.option(
        "--batch",
        type=int,
        default=1,
        show_default=True,
        help="Samples per update; their gradients are averaged. Samples at the end that do not fill a batch change no "
        "weight.",
    ),
    click.option(
        "--clip", type=float, default=0.0, show_default=True, help="Clip the norm of the gradient to this; 0: no limit."
    ),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        default="constant",
        show_default=True,
        help="Learning-rate schedule.",
    ),
    click.option("--loss", type=_Dashed(LOSSES), default="cross-entropy", show_default=True, help="Loss function."),
)
_FINER = (
    click.option(
        "--betas",
        type=(float, float),
        default=None,
        metavar="BETA1 BETA2",
        show_default=f"{_USUAL.beta1} {_USUAL.beta2}",
        help="Adam's betas.",
    ),
    click.option("--epsilon", type=float, show_default=str(_USUAL.epsilon), help="Adam's epsilon."),
    click.option(
        "--gamma",
        type=float,
        show_default=str(_USUAL.gamma),
        help="Factor of the learning rate at each milestone of --schedule step.",
    ),
    click.option(
        "--milestones",
        callback=_numbers,
        metavar="SHARE,...",
        show_default=",".join(str(m) for m in _USUAL.milestones),
        help="When --schedule step lowers the learning rate, as shares of the run.",
    ),
    click.option(
        "--warmup",
        type=int,
        default=0,
        show_default=True,
        metavar="UPDATES",
        help="Updates at the start in which the learning rate rises linearly.",
    ),
)
