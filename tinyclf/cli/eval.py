"""Commands of the workstation half that use a run: eval."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tinyclf.cli.program import FILE, FOLDER, PATH, main


@main.command("eval")
@click.argument("run", type=PATH)
@click.option("--split", default="test", show_default=True, help="Split of the dataset.")
@click.option("--data", "folder", type=FOLDER, metavar="DIR", show_default="the run's own", help="Dataset folder.")
@click.option(
    "--bootstrap",
    "num_resamples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Add 95 % confidence intervals from N resamples.",
)
@click.option(
    "--device-weights",
    type=FILE,
    metavar="FILE",
    help="Take the weights that a device trained, starting from RUN: the weights.bin of its training run.",
)
@click.option("--plots", type=FOLDER, metavar="DIR", help="Write confusion.png, pr_roc.png and reliability.png there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    run: Path,
    split: str,
    folder: Path | None,
    num_resamples: int | None,
    device_weights: Path | None,
    plots: Path | None,
    as_json: bool,
) -> None:
    """Measure the best model of RUN: a run directory, or a checkpoint of one.

    On Wake Vision's validation and test splits, the fine-grained subsets are shown too.

    \b
    Example:
      tinyclf eval demo/clean --split test
      tinyclf eval demo/clean --data demo/shifted --json
      tinyclf eval demo/clean --bootstrap 1000 --plots demo/plots
      tinyclf eval demo/clean --device-weights deployed/host-clean-FT-K1/weights.bin --data demo/shifted
    """
    from tinyclf.workstation.results.evaluate import assess_run
    from tinyclf.workstation.results.plots import write_plots

    loaded = None
    if device_weights:
        from tinyclf.jobs.training import load_device_weights

        loaded = load_device_weights(run, device_weights)
    found = assess_run(run, split=split, data=folder, num_resamples=num_resamples or 0, loaded=loaded)
    if plots:
        write_plots(plots, found.metrics, found.logits, found.split.labels)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
        return
    click.echo("\n".join(found.to_lines()))
    if plots:
        click.echo(f"\nplots: {plots}")
