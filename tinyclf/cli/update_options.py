"""Options of deploy that shape the optimizer and the course of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tinyclf.rules import UpdateRule

F = TypeVar("F", bound=Callable[..., Any])

_USUAL = UpdateRule(1.0)


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Read numbers that are separated by commas."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is not a list of numbers as in 0.5,0.75.") from None


def finer_update_options(command: F) -> F:
    """Add the options whose defaults suit most runs; without them they are None, so that the rule's own hold."""
    for option in (
        click.option(
            "--warmup",
            type=int,
            default=0,
            show_default=True,
            metavar="UPDATES",
            help="Updates at the start in which the learning rate rises linearly.",
        ),
        click.option(
            "--milestones",
            callback=_numbers,
            metavar="SHARE,...",
            show_default=",".join(str(m) for m in _USUAL.milestones),
            help="When --schedule step lowers the learning rate, as shares of the run.",
        ),
        click.option(
            "--gamma",
            type=float,
            show_default=str(_USUAL.gamma),
            help="Factor of the learning rate at each milestone of --schedule step.",
        ),
        click.option("--epsilon", type=float, show_default=str(_USUAL.epsilon), help="Adam's epsilon."),
        click.option(
            "--betas",
            type=(float, float),
            default=None,
            metavar="BETA1 BETA2",
            show_default=f"{_USUAL.beta1} {_USUAL.beta2}",
            help="Adam's betas.",
        ),
    ):
        command = option(command)
    return command
