"""The command tune: a table of tiles by measurement in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.device import TargetName, tiles_option, variant_options
from tinyclf.cli.program import main

if TYPE_CHECKING:
    from tinyclf.targets import Target
    from tinyclf.tile_table import TileTable


@main.command()
@click.option("--target", type=TargetName(), required=True, help="Whose tiles: pulp, the one with a chip's clock.")
@variant_options("LP")
@click.option("--arch", metavar="NAME", help="Default: mobilenet_wd4, for FD fdmobilenet_wd4.")
@click.option("--size", type=int, help="Width and height in pixels. Default: 128.")
@click.option("--classes", "num_classes", type=int, help="Number of classes. Default: 2.")
@click.option("--recompute", is_flag=True, help="Compute activations twice where they would not fit the target.")
@click.option("--l1", metavar="BYTES", help="Tiles for so much L1, such as 32KiB. Default: all of the target's.")
@click.option("--candidates", type=int, default=4, show_default=True, help="Tilings of each operation to run.")
@tiles_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="tiles.json",
    show_default=True,
    metavar="FILE",
    help="Table to write. Without --tiles one that is there is added to.",
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
    recompute: bool,
    l1: str | None,
    candidates: int,
    tiles: Path | None,
    out: Path,
) -> None:
    """Measure which tiles are fastest for each operation of a training step, and add them to a table.

    The step is built and run once for every candidate, each time verified against PyTorch; each run takes some ten
    seconds. Entries are by what an operation is, so that they hold for every net that has it.

    \b
    Example:
      tinyclf tune --target pulp --arch dscnn --size 32 --candidates 2 --out tiles.json
      tinyclf deploy --target pulp --arch dscnn --size 32 --tiles tiles.json
    """
    from tinyclf.jobs import Request, make_job
    from tinyclf.targets import with_l1, with_tiles
    from tinyclf.tile_table import write_table
    from tinyclf.tuning import check_tunable
    from tinyclf.tuning import tune as tune_step
    from tinyclf.variants import chosen_variant

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
    from tinyclf.tile_table import TileTable, read_table

    return read_table(target.tile_table, target=target.name) if target.tile_table else TileTable(target.name, {})
