"""Commands of the workstation half: train, eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.program import FOLDER, main
from tinyclf.variants import VARIANTS

if TYPE_CHECKING:
    from torch import nn

    from tinyclf.runs import EpochRow, RunConfig


@main.command()
@click.option(
    "--variant",
    type=click.Choice(VARIANTS, case_sensitive=False),
    default="scratch",
    show_default=True,
    metavar=f"[{'|'.join(VARIANTS)}]",
    help="What is trained: scratch and full everything, LP the linear layer, FD the linear layer of an "
    "FD-MobileNet, FT the last K blocks and the linear layer. All but scratch start from trained weights.",
)
@click.option("--k", type=int, default=2, show_default=True, help="Number of unfrozen blocks, for FT.")
@click.option("--arch", metavar="NAME", help="mobilenet_ or fdmobilenet_ with w1, w3d4, wd2 or wd4.")
@click.option("--data", "folder", type=FOLDER, required=True, metavar="DIR", help="Dataset folder.")
@click.option("--from", "from_run", type=FOLDER, metavar="RUN", help="Start from the best weights of this run.")
@click.option("--weights", type=FOLDER, metavar="FILE", help="Start from this .safetensors or .pth file.")
@click.option("--epochs", type=int, help="Default: by variant.")
@click.option("--batch-size", type=int, help="Default: 32.")
@click.option(
    "--lr", type=float, help="Highest learning rate: rises to it, falls to 0 along a cosine. Default: by variant."
)
@click.option("--weight-decay", type=float, help="Default: by variant.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights and the order of images.")
@click.option(
    "--augment",
    default="",
    metavar="KINDS",
    help="Change training images at random: any of flip, crop, rotate, shift, brightness, contrast, erase, with or "
    "without an amount, as in flip,shift=4. Default: none.",
)
@click.option(
    "--sampler",
    type=click.Choice(["shuffled", "balanced", "sequential"]),
    default="shuffled",
    show_default=True,
    help="Order of images; balanced draws each class equally often.",
)
@click.option("--window", type=int, metavar="MIB", help="Memory for images of a dataset that is larger than memory.")
@click.option("--threads", type=int, help="Default: whatever a short trial finds faster, one or all.")
@click.option("--out", type=FOLDER, metavar="DIR", help="Run directory. Default: the next number in runs/.")
def train(variant: str, k: int, folder: Path, out: Path | None, **options: Any) -> None:
    """Train a model and write a run directory.

    \b
    Example:
      tinyclf train --variant scratch --data demo/digits --out demo/clean
      tinyclf train --variant FT --k 2 --from demo/clean --data demo/shifted --augment flip,shift=4
    """
    from tinyclf.train import configure
    from tinyclf.train import train as run_training
    from tinyclf.variants import Variant

    config = configure(variant=Variant(variant, k=k), data=folder, **options)
    rows: list[EpochRow] = []

    def on_epoch(row: EpochRow) -> None:
        rows.append(row)
        click.echo(_epoch_line(row, epochs=config.epochs))

    run_dir = run_training(config, out=out, on_start=_print_start, on_epoch=on_epoch)
    best = max(rows, key=lambda row: (row.val_accuracy, -row.val_loss))
    click.echo(f"best: epoch {best.epoch}, validation accuracy {best.val_accuracy:.1%}")
    click.echo(f"run directory: {run_dir}")
    click.echo(f"next: tinyclf eval {run_dir} --split test")


def _print_start(config: RunConfig, model: nn.Module) -> None:
    from tinyclf.models import num_parameters

    trained, total = num_parameters(model, trained=True), num_parameters(model)
    click.echo(f"{config.variant.label} of {config.arch}: {trained:,} of {total:,} parameters are trained")
    click.echo(f"start: {config.start}; threads: {config.threads}")


def _epoch_line(row: EpochRow, *, epochs: int) -> str:
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  lr {row.lr:.2e}  "
        f"train loss {row.train_loss:.4f} accuracy {row.train_accuracy:6.1%}  "
        f"validation loss {row.val_loss:.4f} accuracy {row.val_accuracy:6.1%}  "
        f"{row.seconds:.1f} s, {row.images_per_s:,.0f} images/s"
    )


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
