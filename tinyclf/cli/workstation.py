"""Commands of the workstation half that use a run: eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.program import FOLDER, main

if TYPE_CHECKING:
    pass


@main.command("eval")
@click.argument("run", type=FOLDER)
@click.option("--split", default="test", show_default=True, help="Split of the dataset.")
@click.option("--data", "folder", type=FOLDER, metavar="DIR", help="Dataset folder. Default: the run's own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(run: Path, split: str, folder: Path | None, as_json: bool) -> None:
    """Measure the best model of the run directory RUN.

    \b
    Example:
      tinyclf eval demo/clean --split test
      tinyclf eval demo/clean --data demo/shifted --json
    """
    from tinyclf.evaluate import evaluate_run

    metrics = evaluate_run(run, split=split, data=folder)
    click.echo(json.dumps(metrics.to_dict(), indent=1) if as_json else "\n".join(metrics.to_lines()))
