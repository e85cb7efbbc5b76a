"""The command train: configuration from a file, options and KEY=VALUE; progress; stopping and going on."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.options import selection_options
from tinyclf.cli.program import FILE, FOLDER, PATH, main
from tinyclf.recipe.variant import VARIANTS

if TYPE_CHECKING:
    from torch import nn

    from tinyclf.workstation.runs.config import TrainConfig
    from tinyclf.workstation.runs.directory import EpochRow, RunConfig
    from tinyclf.workstation.training.loop import Observer, Progress


@main.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--config", "file", type=FILE, metavar="FILE", help="Read options from a YAML file; those on the command line win."
)
@click.option("--print-config", is_flag=True, help="Print the whole configuration as YAML and exit.")
@click.option("--resume", "resumed", type=FOLDER, metavar="RUN", help="Go on with the run in this directory.")
@click.option("--find-lr", is_flag=True, help="Try rising learning rates, draw the loss over them and exit.")
@click.option("--out", type=FOLDER, metavar="DIR", show_default="the next number in runs/", help="Run directory.")
@click.option(
    "--variant",
    type=click.Choice(VARIANTS, case_sensitive=False),
    metavar=f"[{'|'.join(VARIANTS)}]",
    show_default="scratch",
    help="What is trained: everything (scratch, full), the head (LP), the linear layer of an FD-MobileNet (FD), the "
    "last K blocks and the head (FT), or the layers that --layers names. All but scratch start from trained weights.",
)
@click.option("--k", type=int, show_default="2", help="Number of trained blocks, for FT.")
@selection_options
@click.option(
    "--arch", metavar="NAME", show_default="mobilenet_wd4", help="Architecture, as tinyclf models lists them."
)
@click.option(
    "--small-input/--large-input",
    default=None,
    help="Keep the resolution up to the first block, for images of 32x32 pixels.",
)
@click.option("--data", type=FOLDER, metavar="DIR", help="Dataset folder.")
@click.option("--size", type=int, show_default="the dataset's", help="Width and height of the net's input in pixels.")
@click.option("--from", "from_run", type=PATH, metavar="RUN", help="Start from the best weights of this run.")
@click.option("--weights", type=FILE, metavar="FILE", help="Start from this .safetensors or .pth file.")
@click.option("--epochs", type=int, show_default="by variant", help="Number of epochs.")
@click.option("--batch-size", type=int, show_default="32", help="Images per step and process.")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), show_default="sgd", help="Optimizer.")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "exponential", "step", "constant"]),
    show_default="cosine, which falls to 0",
    help="Learning-rate schedule, after a warm-up.",
)
@click.option("--lr", type=float, show_default="by variant", help="Highest learning rate.")
@click.option("--weight-decay", type=float, show_default="by variant", help="Weight decay.")
@click.option(
    "--bn",
    type=click.Choice(["frozen", "train", "folded"]),
    show_default="frozen",
    help="BatchNorm of frozen layers: keep its statistics, let them adapt, or fold it into the convolutions, as on the "
    "device.",
)
@click.option(
    "--keep-features",
    type=click.Choice(["auto", "on", "off"]),
    show_default="auto, where that is exact",
    help="Keep frozen features instead of computing them in every epoch.",
)
@click.option("--seed", type=int, show_default="0", help="Seed of random weights, order and augmentation.")
@click.option(
    "--augment",
    metavar="KINDS",
    show_default="none",
    help="Change training images at random: any of flip, crop, rotate, shift, brightness, contrast, erase, with or "
    "without an amount, as in flip,crop=0.3:0.9,shift=4.",
)
@click.option(
    "--sampler",
    type=click.Choice(["shuffled", "balanced", "sequential"]),
    show_default="shuffled",
    help="Order of images; balanced draws each class equally often.",
)
@click.option(
    "--window",
    type=int,
    metavar="MIB",
    help="Memory for images that are read ahead, where the dataset is larger than memory.",
)
@click.option(
    "--threads", type=int, show_default="one or all, whichever a short trial finds faster", help="Threads of a process."
)
@click.option("--devices", metavar="N", show_default="all GPUs, or one process", help="Devices, or processes on a CPU.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "64", "32", "bf16", "16"]),
    show_default="auto, mixed on a GPU",
    help="Floating-point precision.",
)
@click.option("--tensorboard/--no-tensorboard", default=None, help="Write logs for TensorBoard.")
def train(
    overrides: tuple[str, ...],
    file: Path | None,
    print_config: bool,
    resumed: Path | None,
    find_lr: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Train a model and write a run directory.

    Every option, and many more, can be given as KEY=VALUE or in a YAML file: --print-config shows all, with their
    meaning. Stopped by Ctrl-C or SIGTERM it saves its state and ends with exit code 130; --resume goes on as if
    it had not been stopped.

    \b
    Example:
      tinyclf train --variant scratch --data demo/digits --out demo/clean
      tinyclf train --variant FT --k 2 --from demo/clean --data demo/shifted --augment flip,shift=4
      tinyclf train --variant FT --k 1 --bias-only --from demo/clean --data demo/shifted
      tinyclf train --config run.yaml lr=0.02 ema=0.999 patience=5
      tinyclf train --resume runs/001-FT-mobilenet_wd4
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("layers", "bias_only", "train_channels"):
        if not given[name]:
            del given[name]
    if "layers" in given:
        given.setdefault("variant", "layers")
    if resumed:
        _refuse_with_resume([*overrides, *given, *(["config"] if file else []), *(["out"] if out else [])])
        _go_on(resumed)
        return
    from tinyclf.workstation.runs.config import config_from, resolve, to_yaml

    config = config_from(file=file, overrides=overrides, options=given)
    if print_config:
        click.echo(to_yaml(_inherited(config) if config.from_run else resolve(config), with_meanings=True), nl=False)
    elif find_lr:
        _find_rate(config, out)
    else:
        _train(config, out)


def _inherited(config: TrainConfig) -> TrainConfig:
    from tinyclf.workstation.training.session import inherit

    return inherit(config)


def _refuse_with_resume(given: list[str]) -> None:
    from tinyclf.base.errors import BadInput

    if given:
        raise BadInput(f"--resume goes on with the run's own configuration: leave out {given[0]}")


def _train(config: TrainConfig, out: Path | None) -> None:
    from tinyclf.workstation.training.loop import train as run_training

    with _observed() as observer, _stopping() as should_stop:
        run_dir = run_training(config, out=out, observer=observer, should_stop=should_stop)
    _say_end(run_dir)


def _go_on(run_dir: Path) -> None:
    from tinyclf.workstation.training.loop import resume

    with _observed() as observer, _stopping() as should_stop:
        resume(run_dir, observer=observer, should_stop=should_stop)
    _say_end(run_dir)


def _say_end(run_dir: Path) -> None:
    from tinyclf.workstation.runs.directory import best_of, read_rows
    from tinyclf.workstation.training.parallel import is_first_process

    if not is_first_process():
        return
    best = best_of(read_rows(run_dir))
    if best:
        click.echo(f"best: epoch {best.epoch}, validation accuracy {best.val_accuracy:.1%}")
    click.echo(f"run directory: {run_dir}")
    click.echo(f"next: tinyclf eval {run_dir} --split test")


def _find_rate(config: TrainConfig, out: Path | None) -> None:
    from tinyclf.workstation.runs.config import resolve
    from tinyclf.workstation.runs.directory import create_run_dir
    from tinyclf.workstation.training.lr_finder import find_rate, write_range_test

    test = find_rate(config)
    folder = create_run_dir(out, variant="find-lr", arch=resolve(config).arch or "")
    write_range_test(folder, test)
    click.echo(f"the loss falls fastest at a learning rate of {test.suggestion:.2g}: --lr {test.suggestion:.2g}")
    click.echo(f"wrote {folder / 'lr_finder.png'} and {folder / 'lr_finder.csv'}")


# --- progress ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _observed() -> Iterator[Observer]:
    """Yield an observer that prints a line per epoch, and on a terminal shows a bar within it."""
    from tqdm import tqdm

    from tinyclf.workstation.runs.config import TrainConfig
    from tinyclf.workstation.training.loop import Observer, epoch_line

    bar: tqdm[Any] = tqdm(total=0, leave=False, disable=not sys.stderr.isatty(), unit="step", dynamic_ncols=True)
    num_epochs: list[int] = []

    def on_start(run: RunConfig, model: nn.Module) -> None:
        assert isinstance(run.train, TrainConfig)
        num_epochs.append(run.train.epochs or 0)
        for line in _start_lines(run, model):
            bar.write(line, file=sys.stdout)

    def on_step(progress: Progress) -> None:
        if bar.disable:
            return
        if progress.batch == 1 or bar.total != progress.num_batches:
            bar.reset(total=progress.num_batches)
            bar.set_description(f"epoch {progress.epoch}/{progress.num_epochs}", refresh=False)
        bar.n = progress.batch
        bar.set_postfix_str(f"loss {progress.loss:.4f}, {progress.images_per_s:,.0f} images/s", refresh=False)
        bar.refresh() if progress.batch == progress.num_batches else bar.update(0)

    def on_epoch(row: EpochRow, seconds: float, images_per_s: float) -> None:
        line = epoch_line(row, num_epochs=num_epochs[0], seconds=seconds, images_per_s=images_per_s)
        bar.write(line, file=sys.stdout)

    with bar:
        yield Observer(on_start, lambda note: bar.write(note, file=sys.stdout), on_step, on_epoch)


def _start_lines(run: RunConfig, model: nn.Module) -> list[str]:
    from tinyclf.workstation.nets.build import num_parameters

    trained, total = num_parameters(model, trained=True), num_parameters(model)
    processes = f"; processes: {run.world}" if run.world > 1 else ""
    return [
        f"{run.variant.label} of {run.arch}: {trained:,} of {total:,} parameters are trained",
        f"start: {run.start}; threads: {run.threads}{processes}",
    ]


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C or SIGTERM came; a second Ctrl-C ends at once, without saving."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
