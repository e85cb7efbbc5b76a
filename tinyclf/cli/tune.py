"""The command tune: a table of tiles by measurement in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.options import TargetName, small_input_option, tiles_option, variant_options
from tinyclf.cli.program import FILE, main

if TYPE_CHECKING:
    from tinyclf.device.targets.target import Target
    from tinyclf.device.tiles.table import TileTable


@main.command()
@click.option("--target", type=TargetName(), required=True, help="A cycle-accurate target: pulp.")
@variant_options("LP")
@click.option("--arch", metavar="NAME", show_default="mobilenet_wd4; for FD fdmobilenet_wd4", help="Architecture.")
@click.option("--size", type=int, show_default="128", help="Width and height of the image in pixels.")
@click.option("--classes", "num_classes", type=int, show_default="2", help="Number of classes.")
@small_input_option
@click.option(
    "--recompute",
    is_flag=True,
    help="Recompute activations in the backward pass as far as the target's memory needs it.",
)
@click.option(
    "--l1", metavar="BYTES", show_default="all that the target has", help="L1 for tiles and stacks, such as 32KiB."
)
@click.option("--candidates", type=int, default=4, show_default=True, help="Tilings to measure for each operation.")
@tiles_option
@click.option(
    "--out",
    type=FILE,
    default="tiles.json",
    show_default=True,
    metavar="FILE",
    help="Table to write. Without --tiles, new entries are added to those that it already has.",
)
def tune(
    target: Target,
    variant: str | None,
    k: int,
    layers: tuple[str, ...],
    bias_only: bool,
    train_channels: tuple[str, ...],
    arch: str | None,
    size: int | None,
    num_classes: int | None,
    small_input: bool,
    recompute: bool,
    l1: str | None,
    candidates: int,
    tiles: Path | None,
    out: Path,
) -> None:
    """Measure which tiles are fastest for each operation of a training step, and add them to a table.

    The step is built, run and verified against PyTorch once for every candidate, which takes about ten seconds each.
    Entries describe operations, not nets: they are used for every net that has such an operation.

    \b
    Example:
      tinyclf tune --target pulp --arch dscnn --size 32 --candidates 2 --out tiles.json
      tinyclf deploy --target pulp --arch dscnn --size 32 --tiles tiles.json
    """
    from tinyclf.device.run.tuning import check_tunable
    from tinyclf.device.run.tuning import tune as tune_step
    from tinyclf.device.targets.target import with_l1, with_tiles
    from tinyclf.device.tiles.table import write_table
    from tinyclf.jobs.request import Request
    from tinyclf.jobs.steps import make_job
    from tinyclf.recipe.variant import chosen_variant

    target = with_l1(target, l1) if l1 else target
    check_tunable(target, candidates)
    what = chosen_variant(variant, k=k, layers=layers, bias_only=bias_only, train_channels=train_channels)
    target = with_tiles(target, tiles or (out if out.exists() else None))
    table = _table(target)
    request = Request(
        target=target,
        variant=what,
        arch=arch,
        size=size,
        num_classes=num_classes,
        small_input=small_input,
        num_samples=1,
        recompute=recompute,
    )
    tuning = tune_step(make_job(request), target, table=table, num_candidates=candidates, notify=click.echo)
    write_table(out, tuning.table)
    click.echo(f"\n{'before':>10}  {'now':>10}  times  operation")
    for op in tuning.ops:
        click.echo(f"{op.before:>10,}  {op.after:>10,}  {op.count:>5}  {' '.join(op.key.split()[:2])}")
    gain = 100 * (1 - tuning.after / tuning.before)
    click.echo(f"\nthe step took {tuning.before:,} cycles and takes {tuning.after:,} ({gain:.1f}% fewer)")
    click.echo(f"{out}: {len(tuning.table.entries)} entries; next: tinyclf deploy --tiles {out}")


def _table(target: Target) -> TileTable:
    from tinyclf.device.tiles.table import TileTable, read_table

    return read_table(target.tile_table, target=target.name) if target.tile_table else TileTable(target.name, {})
