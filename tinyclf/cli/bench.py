"""The command bench: size, MACs, latency, accuracy and training memory of runs as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.program import FILE, PATH, main

if TYPE_CHECKING:
    from tinyclf.workstation.results.benchmark import Row
    from tinyclf.workstation.runs.directory import RunConfig


MEMORY_OF = (("LP", 0), ("FT", 1), ("FT", 2), ("full", 0))  # variants, with K, whose memory the benchmark shows
RUNS = Path("runs")


# --- bench ------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("runs", type=PATH, nargs=-1, metavar="[RUN]...")
@click.option("--all", "all_runs", is_flag=True, help="Compare all run directories in runs/.")
@click.option("--split", default="test", show_default=True, help="Split of each run's dataset.")
@click.option("--out", type=FILE, metavar="FILE", help="Write a report (Markdown).")
@click.option("--update", type=FILE, metavar="FILE", help="Replace the table in this file.")
def bench(runs: tuple[Path, ...], all_runs: bool, split: str, out: Path | None, update: Path | None) -> None:
    """Compare runs: size, work, latency on one CPU thread, quality, and memory of training on the device.

    Prints a Markdown table. With --update it replaces what stands between a line <!-- bench --> and a line
    <!-- /bench --> of FILE.
    Where a run cannot be measured the others are, no file is written, and the exit code is 1.

    \b
    Example:
      tinyclf bench demo/clean demo/adapted
      tinyclf bench --all --split validation --out report.md
      tinyclf bench --all --update README.md
    """
    if bool(runs) == all_runs:
        raise click.UsageError("Name runs, or give --all.")
    from tinyclf.base.errors import BadInput
    from tinyclf.base.files import write_text
    from tinyclf.workstation.results.benchmark import between_marks, check_marks, find_runs, to_markdown

    text = check_marks(update) if update else ""
    if all_runs:
        finished, unfinished = find_runs(RUNS)
        runs = tuple(finished)
        for path in unfinished:
            click.echo(f"{path}: passed over, it has no weights yet", err=True)
    rows = _measured(runs, split)
    if rows:
        click.echo(to_markdown(rows, split=split), nl=False)
    if len(rows) < len(runs):
        raise BadInput(f"{len(runs) - len(rows)} of {len(runs)} runs could not be measured: no file was written")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, f"# Benchmark\n\n{to_markdown(rows, split=split)}")
    if update:
        write_text(update, between_marks(text, to_markdown(rows, split=split)))
    for file in filter(None, (out, update)):
        click.echo(f"wrote {file}", err=True)


def _measured(runs: tuple[Path, ...], split: str) -> list[Row]:
    """Measure one run after the other; say on stderr which one cannot be, and why."""
    from tinyclf.base.errors import TinyclfError
    from tinyclf.workstation.results.benchmark import measure_run

    rows = []
    for path in runs:
        try:
            rows.append(measure_run(path, split=split, memory=_training_memory))
        except TinyclfError as error:
            click.echo(f"{path}: {error}", err=True)
    return rows


def _training_memory(run: RunConfig) -> Mapping[str, int | None]:
    """Return the bytes of a training step on the device, per variant; None where the net cannot be lowered."""
    from tinyclf.base.errors import Unsupported
    from tinyclf.jobs.memory import MemoryRequest, memory_of
    from tinyclf.recipe.variant import Variant

    needs: dict[str, int | None] = {}
    for name, k in MEMORY_OF:
        variant = Variant(name, k=k)
        needs[variant.label] = None
        if run.multi_label:
            continue  # the device's loss is cross entropy
        try:
            net = MemoryRequest(variant, run.arch, run.size, run.num_classes, run.train.small_input)
            needs[variant.label] = memory_of(net).sums.total
        except Unsupported:
            pass
    return needs
