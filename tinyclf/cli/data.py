"""Commands for datasets: data build, check, info, show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.program import FILE, FOLDER, main

if TYPE_CHECKING:
    from tinyclf.workstation.data import Source

MOST_NAMES = 5  # of images left out that are listed on the screen


@main.group()
def data() -> None:
    """Build, check and look at datasets.

    \b
    Example:
      tinyclf data build digits --out demo/digits
      tinyclf data check demo/digits
      tinyclf data show demo/digits --out digits.png
    """


class _Sources(click.Group):
    """One command per file in datasets/; its options are those that the file declares, and the common ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from tinyclf.workstation.data import source_names

        return source_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from tinyclf.workstation.data import load_source, source_names

        known = ":" in cmd_name or cmd_name in source_names()
        return _source_command(load_source(cmd_name)) if known else None


@data.command("build", cls=_Sources, subcommand_metavar="SOURCE --out DIR [OPTIONS]...")
def data_build() -> None:
    """Write the images of SOURCE as a dataset folder.

    SOURCE is one of the commands below, or package.module:function for a source of your own. An interrupted build is
    continued with --resume.

    \b
    Example:
      tinyclf data build digits --out demo/digits
      tinyclf data build digits --shifted --size 64 --out demo/shifted
    """


def _source_command(source: Source) -> click.Command:
    """Return the command `data build <source>`."""
    out = click.Option(["--out"], type=FOLDER, required=True, metavar="DIR", help="Dataset folder to write.")
    resume = click.Option(["--resume"], is_flag=True, help="Go on with a build that was interrupted.")
    workers = click.Option(
        ["--num-workers"], type=int, default=1, show_default=True, help="Processes that decode and resize."
    )
    options = [_source_option(name, default, text) for name, (default, text) in source.all_options.items()]
    example = f"\n\n\b\nExample:\n  tinyclf data build {source.name}{_required(source)} --out demo/{source.name}"
    return click.Command(
        source.name,
        params=[out, *options, resume, workers],
        callback=_build(source.name),
        help=source.doc.strip() + example,
        short_help=source.doc.strip().splitlines()[0],
    )


def _required(source: Source) -> str:
    names = [name for name, (default, _) in source.options.items() if isinstance(default, type)]
    return "".join(f" --{name.replace('_', '-')} {name.upper()}" for name in names)


def _source_option(name: str, default: Any, text: str) -> click.Option:
    # The name is given too: an option such as --from has one that click would change.
    declaration = [f"--{name.replace('_', '-')}", name]
    if isinstance(default, bool):
        return click.Option(declaration, is_flag=True, default=default, help=text)
    if isinstance(default, type):
        return click.Option(declaration, type=default, required=True, help=text)
    if isinstance(default, tuple):
        return click.Option(declaration, type=str, multiple=True, default=default, help=text)
    return click.Option(declaration, type=type(default), default=default, show_default=True, help=text)


def _build(source: str) -> Callable[..., None]:
    def callback(out: Path, resume: bool, num_workers: int, **options: Any) -> None:
        from tinyclf.workstation.data import build_dataset

        begin = time.monotonic()

        def on_shard(split: str, num_images: int) -> None:
            click.echo(f"{split:<12} {num_images:>10,} images, {time.monotonic() - begin:,.0f} s", err=True)

        manifest = build_dataset(
            source, out=out, options=options, num_workers=num_workers, resume=resume, on_shard=on_shard
        )
        for name, split in manifest.splits.items():
            click.echo(f"{name:<12} {split.num_images:>8,} images")
            if split.skipped:
                click.echo(f"{name:<12} {len(split.skipped):>8,} left out, they cannot be read:")
                for line in split.skipped[:MOST_NAMES]:
                    click.echo(f"  {line}")
                if len(split.skipped) > MOST_NAMES:
                    click.echo(f"  and {len(split.skipped) - MOST_NAMES:,} more, listed in {out / 'manifest.json'}")
        kind = "labels" if manifest.multi_label else "classes"
        click.echo(f"{out}: {len(manifest.classes)} {kind}, {manifest.size}x{manifest.size} pixels")
        trainable = "validation" in manifest.splits and any(name.startswith("train") for name in manifest.splits)
        if trainable and not manifest.multi_label:
            click.echo(f"next: tinyclf train --variant scratch --data {out}")
        else:
            click.echo(f"next: tinyclf data info {out}")

    return callback


@data.command("check")
@click.argument("folder", type=FOLDER, metavar="DIR")
def data_check(folder: Path) -> None:
    """Verify every byte of the dataset folder DIR; exit with 3 if it is damaged.

    \b
    Example:
      tinyclf data check demo/digits
    """
    from tinyclf.workstation.data import check_dataset

    manifest = check_dataset(folder, on_file=_progress())
    num_images = sum(manifest.num_images(split) for split in manifest.splits)
    click.echo(f"{folder}: {len(manifest.files) + 1} files, {num_images:,} images, all sound")


def _progress() -> Callable[[int, int], None]:
    """Return a function that says on stderr how far a check is: every five seconds, or often on a terminal."""
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < (0.2 if terminal else 5):
            return
        last = now
        text = f"{done / 2**20:,.0f} of {total / 2**20:,.0f} MiB verified"
        click.echo(f"\r{text}" if terminal else text, err=True, nl=not terminal)

    return show


@data.command("info")
@click.argument("folder", type=FOLDER, metavar="DIR")
def data_info(folder: Path) -> None:
    """Show splits, classes, tags and where the dataset folder DIR comes from.

    \b
    Example:
      tinyclf data info demo/digits
    """
    from tinyclf.workstation.data import open_dataset
    from tinyclf.workstation.data.tables import info_lines

    dataset = open_dataset(folder)
    click.echo("\n".join(info_lines(dataset.manifest)))


@data.command("show")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Picture to write, .png.")
@click.option("--split", show_default="the first", help="Split to draw from.")
@click.option("--max", "most", type=int, default=64, show_default=True, help="Largest number of images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of images.")
def data_show(folder: Path, out: Path, split: str | None, most: int, seed: int) -> None:
    """Draw images of the dataset folder DIR with their labels on one sheet.

    \b
    Example:
      tinyclf data show demo/digits --split test --out digits.png
    """
    from tinyclf.workstation.data import open_dataset
    from tinyclf.workstation.data.sheet import write_sheet

    dataset = open_dataset(folder)
    chosen = dataset.split(split or next(iter(dataset.manifest.splits)))
    shown = write_sheet(chosen, out, most=most, seed=seed)
    click.echo(f"{out}: {shown} of {len(chosen):,} images of {chosen.name}")
