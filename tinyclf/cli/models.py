"""The command that lists architectures: models."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tinyclf.cli.options import small_input_option
from tinyclf.cli.program import main

if TYPE_CHECKING:
    from tinyclf.jobs.networks import NetworkFacts

REASON_WIDTH = 48  # characters of an obstacle that the table shows
HEADER = "parameters       MACs  fp32 size  fp16 size  blocks  weights  deploy"


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--size", type=int, default=128, show_default=True, help="Width and height of the image in pixels.")
@click.option("--classes", "num_classes", type=int, default=2, show_default=True, help="Number of classes.")
@small_input_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every reason in full.")
def models(names: tuple[str, ...], size: int, num_classes: int, small_input: bool, as_json: bool) -> None:
    """List architectures: parameters, MACs, size, blocks, and whether they can be deployed.

    NAME is an architecture, a pattern such as "mobilenet*", or package.module:function of your own, called with
    num_classes=N and in_size=(SIZE, SIZE); it returns an nn.Module with a child named output, its head. Default:
    all architectures.

    \b
    Example:
      tinyclf models
      tinyclf models --size 96 --classes 10 "mobilenet_*" dscnn
      tinyclf models --size 32 --small-input --json resnet8
    """
    from tinyclf.jobs.networks import network_facts
    from tinyclf.workstation.nets.architectures import select_architectures

    selected = select_architectures(names)
    facts = (
        network_facts(name, size=size, num_classes=num_classes, small_input=small_input) for name in selected
    )  # one by one: all of them take some seconds
    if as_json:
        click.echo(json.dumps([{**asdict(row), "deployable": not row.obstacle} for row in facts], indent=1))
        return
    width = max(map(len, selected))
    for i, row in enumerate(facts):
        if i == 0:
            click.echo(f"{'name':<{width}}  {HEADER}")
        click.echo(_line(row, width=width))
    stem = ", small input" if small_input else ""
    click.echo(f"\n{size}x{size} pixels, {num_classes} classes{stem}. MACs: convolutions and linear layers, one image.")
    click.echo("weights: pytorchcv publishes some. deploy: C can be emitted that trains it, with LP at least.")


def _line(row: NetworkFacts, *, width: int) -> str:
    published = "yes" if row.published else "no"
    deployable = f"no: {_shortened(row.obstacle)}" if row.obstacle else "yes"
    return (
        f"{row.name:<{width}}  {row.num_parameters:>10,}  {_macs(row.num_macs):>9}  {_bytes(row.fp32_bytes):>9}  "
        f"{_bytes(row.fp16_bytes):>9}  {row.num_blocks:>6}  {published:<7}  {deployable}"
    )


def _macs(num: int) -> str:
    return f"{num / 1e6:,.2f} M" if num < 10e6 else f"{num / 1e6:,.1f} M"


def _bytes(num: int) -> str:
    return f"{num / 2**10:,.0f} KiB" if num < 2**20 else f"{num / 2**20:,.1f} MiB"


def _shortened(obstacle: str) -> str:
    """Return the reason in `obstacle`, which names the layer first, in REASON_WIDTH characters."""
    reason = obstacle.rpartition(" cannot be lowered: ")[2]
    reason = re.sub(r"<built-in (?:function|method) (\w+)[^>]*>", r"\1", reason)
    return reason if len(reason) <= REASON_WIDTH else reason[: REASON_WIDTH - 3].rstrip() + "..."
