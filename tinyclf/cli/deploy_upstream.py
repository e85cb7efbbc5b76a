"""What deploy makes of TRAINLIB_HOME, a checkout of upstream's PULP-TrainLib, and what it says of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tinyclf.device.emit.program import Program
    from tinyclf.device.emit.upstream import Upstream
    from tinyclf.device.targets.target import Target


def chosen_upstream(target: Target) -> Upstream | None:
    """Return the checkout that TRAINLIB_HOME names; None where it is not set or, with a line, cannot be used.

    Raises:
        BadInput: it is to be used and is no checkout.
    """
    from tinyclf.device.emit.upstream import find_upstream, warning

    home = os.environ.get("TRAINLIB_HOME")
    if not home:
        return None
    if not target.takes_upstream:
        click.echo(f"TRAINLIB_HOME is ignored: target {target.name} uses our kernels only")
        return None
    upstream = find_upstream(home)
    if warning(upstream):
        click.echo(f"warning: {warning(upstream)}", err=True)
    return upstream


def show_linkage(program: Program) -> None:
    """Print which kernels are upstream's and which are ours, and why."""
    from tinyclf.device.emit.upstream import summary

    if program.linkage is None:
        return
    choices = program.linkage.choices
    num = sum(choice.is_upstream for choice in choices)
    click.echo(f"PULP-TrainLib in {program.linkage.upstream.label}: {num} of {len(choices)} calls are upstream's")
    click.echo("\n".join(f"  {line}" for line in summary(program.linkage)))
