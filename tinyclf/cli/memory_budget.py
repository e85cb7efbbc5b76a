"""What the command `memory` does with --budget: asks how much can be trained, and prints the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tinyclf.jobs.budget import Answer, Way
    from tinyclf.jobs.memory import MemoryRequest

# What the answer says by itself, and what looks at one step.
_APART = ("variant", "k", "layers", "recompute", "build_it", "compare", "csv_file", "plot_file")


def print_budget(budget: str, request: MemoryRequest, *, as_json: bool) -> None:
    """Print how much of the net can be trained in `budget` bytes.

    Raises:
        BadInput: it is no number of bytes, or options do not belong with it.
        DoesNotFit: not even the linear layer can be trained.
    """
    from tinyclf.base.sizes import parse_bytes
    from tinyclf.device.memory.samples import Streamed
    from tinyclf.device.targets.target import STATE
    from tinyclf.jobs.budget import most_that_fits

    _refuse_options()
    answer = most_that_fits(request, budget=parse_bytes(budget))
    if as_json:
        click.echo(json.dumps(answer.to_dict(), indent=1))
        return
    target, is_streamed = request.around.target, isinstance(request.around.samples, Streamed)
    region = f"all of {target.name} {target.region_of(STATE).name}" if target else ""
    counted = region or "without code and stacks (see --target)"
    click.echo(f"{request.net}, {request.size}x{request.size}, budget {answer.budget:,} bytes, {counted}:")
    click.echo("\n".join(_lines(answer, batch=request.rule.batch, is_cached=is_streamed)))


def _refuse_options() -> None:
    from click.core import ParameterSource

    from tinyclf.base.errors import BadInput

    context = click.get_current_context()
    named = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = [named[name] for name in _APART if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        raise BadInput(f"--budget finds out how much of the net can be trained, and how: leave out {', '.join(given)}")


def _lines(answer: Answer, *, batch: int, is_cached: bool) -> list[str]:
    own = f" in batches of {batch}" if batch > 1 else ""
    ways = (
        (f"most that fits{own}", answer.best),
        ("next, does not fit", answer.following),
        ("with --recompute", answer.with_recomputation),
        ("in batches of any size", answer.with_batch),
        ("in batches, with --recompute", answer.with_batch_and_recomputation),
    )
    lines = [_line(how, way) for how, way in ways if way]
    lines.append("  counted with ReLUs and sums in place, and updates where their gradient is made: the default")
    return [*lines, *_way_lines(answer, is_cached=is_cached)]


def _way_lines(answer: Answer, *, is_cached: bool) -> list[str]:
    """Say how what comes next would fit."""
    if answer.following is None:
        return [f"  everything{' behind a frozen layer' if is_cached else ''} can be trained"]
    if not answer.ways:
        return [f"  nothing that was tried makes {answer.following.variant} fit"]
    lines = [f"  {answer.following.variant} would fit:"]
    for way in answer.ways:
        how = "with --recompute" if way.recomputed_macs else f"with --arch {way.arch} --size {way.size}"
        lines.append(f"    {how:<40}{way.num_bytes:>12,} bytes{way.cost}")
    return lines


def _line(how: str, way: Way) -> str:
    return f"  {how:<32}{way.variant:<10}{way.num_bytes:>12,} bytes{way.cost}"
