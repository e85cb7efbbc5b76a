"""Commands that use trained runs: predict, export, bench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.program import FILE, FOLDER, PATH, main

if TYPE_CHECKING:
    from tinyclf.benchmark import Row
    from tinyclf.classifiers import Classifier
    from tinyclf.runs import RunConfig

MEMORY_OF = (("LP", 0), ("FT", 1), ("FT", 2), ("full", 0))  # variants, with K, whose memory the benchmark shows
RUNS = Path("runs")


# --- predict ----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("--run", type=PATH, metavar="RUN", help="Run directory, or a checkpoint of one.")
@click.option("--onnx", type=FILE, metavar="FILE", help="A file that tinyclf export wrote, in place of --run.")
@click.option("--max", "most", type=int, metavar="N", help="Take only the first N images.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
@click.option("--out", type=FILE, metavar="FILE", help="Write the table, CSV or JSON to this file.")
@click.option("--sheet", type=FILE, metavar="FILE", help="Draw the images with their predictions, .png.")
def predict(
    paths: tuple[Path, ...],
    run: Path | None,
    onnx: Path | None,
    most: int | None,
    form: str,
    out: Path | None,
    sheet: Path | None,
) -> None:
    """Classify image files: each PATH is an image, or a folder that is searched for images.

    Images are prepared as the run's training images were; nothing else but the run or the ONNX file is needed. Those
    that cannot be read are named on stderr, and the exit code is then 1. CSV and JSON have all probabilities and
    logits.

    \b
    Example:
      tinyclf predict --run demo/clean photograph.jpg
      tinyclf predict --run demo/clean photographs --format csv --out predictions.csv --sheet predictions.png
      tinyclf predict --onnx demo/clean/model.onnx photographs --max 100 --format json
    """
    from tinyclf.errors import BadInput
    from tinyclf.files import write_text
    from tinyclf.predictions import FORMATS, check_sheet_name, find_images, predict_files, write_prediction_sheet

    if most is not None and most < 1:
        raise BadInput(f"--max {most}: must be 1 or more")
    if sheet:
        check_sheet_name(sheet)
    classifier = _classifier(run, onnx)
    files = find_images(paths)[:most]
    failed: list[Path] = []

    def on_failure(file: Path, why: str) -> None:
        failed.append(file)
        click.echo(f"{click.format_filename(file)}: cannot be read: {why}", err=True)

    predictions = list(predict_files(classifier, files, on_failure=on_failure))
    text = FORMATS[form](predictions, classifier)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    else:
        click.echo(text, nl=False)
    if sheet and predictions:
        num = write_prediction_sheet(predictions, classifier, sheet)
        click.echo(f"wrote {sheet}: {num:,} of {len(predictions):,} images", err=True)
    if failed:
        raise BadInput(f"{len(failed):,} of {len(files):,} images cannot be read, the others are done")


def _classifier(run: Path | None, onnx: Path | None) -> Classifier:
    from tinyclf.classifiers import OnnxClassifier, TorchClassifier

    if run and not onnx:
        return TorchClassifier.open(run)
    if onnx and not run:
        return OnnxClassifier.open(onnx)
    raise click.UsageError("Give either --run RUN or --onnx FILE.")


# --- export -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("run", type=PATH)
@click.option(
    "--format", "form", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True, help="File format."
)
@click.option("--fp16", is_flag=True, help="Weights and arithmetic in half precision; input and output stay float32.")
@click.option("--int8", is_flag=True, help="Quantise weights and activations; ONNX only.")
@click.option(
    "--with-preprocessing", is_flag=True, help="Include the preprocessing: the input is pixels, uint8 RGB; ONNX only."
)
@click.option(
    "--out", type=FILE, metavar="FILE", show_default="model.onnx, model-fp16.onnx, ... in RUN", help="File to write."
)
@click.option("--data", type=FOLDER, metavar="DIR", show_default="the run's own", help="Dataset to check on.")
@click.option(
    "--calibration",
    type=int,
    default=200,
    show_default=True,
    metavar="N",
    help="Training images that calibrate --int8.",
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def export(
    run: Path,
    form: str,
    fp16: bool,
    int8: bool,
    with_preprocessing: bool,
    out: Path | None,
    data: Path | None,
    calibration: int,
    force: bool,
) -> None:
    """Write the best model of RUN, a run directory or a checkpoint, as one file, and compare it with PyTorch.

    ONNX has BatchNorm folded, any batch size, and classes and preprocessing in its metadata; fp32 logits that differ
    by more than 1e-4 are an error. --int8 says what accuracy it costs. --format torch writes .safetensors that every
    --from, --run and RUN of tinyclf takes.

    \b
    Example:
      tinyclf export demo/clean
      tinyclf export demo/clean --with-preprocessing --out digits.onnx
      tinyclf export demo/clean --int8 --calibration 400
      tinyclf export demo/clean --format torch --fp16
    """
    if fp16 and int8:
        raise click.UsageError("--fp16 and --int8: a file holds one of them, export twice.")
    if form == "torch" and (int8 or with_preprocessing):
        raise click.UsageError("--int8 and --with-preprocessing need --format onnx.")
    from tinyclf.export import export_onnx, export_torch

    precision = "fp16" if fp16 else "int8" if int8 else "fp32"
    if form == "torch":
        exported = export_torch(run, out=out, precision=precision, data=data, force=force)
    else:
        exported = export_onnx(
            run,
            out=out,
            precision=precision,
            preprocessing_inside=with_preprocessing,
            data=data,
            num_calibration=calibration,
            force=force,
        )
    click.echo("\n".join(exported.to_lines()))


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
    from tinyclf.benchmark import between_marks, check_marks, find_runs, to_markdown
    from tinyclf.errors import BadInput
    from tinyclf.files import write_text

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
    from tinyclf.benchmark import measure_run
    from tinyclf.errors import TinyclfError

    rows = []
    for path in runs:
        try:
            rows.append(measure_run(path, split=split, memory=_training_memory))
        except TinyclfError as error:
            click.echo(f"{path}: {error}", err=True)
    return rows


def _training_memory(run: RunConfig) -> Mapping[str, int | None]:
    """Return the bytes of a training step on the device, per variant; None where the net cannot be lowered."""
    from tinyclf.errors import Unsupported
    from tinyclf.jobs import memory_of
    from tinyclf.variants import Variant

    needs: dict[str, int | None] = {}
    for name, k in MEMORY_OF:
        variant = Variant(name, k=k)
        needs[variant.label] = None
        if run.multi_label:
            continue  # the device's loss is cross entropy
        try:
            need = memory_of(
                variant,
                arch=run.arch,
                size=run.size,
                num_classes=run.num_classes,
                small_input=run.train.small_input,
            )
            needs[variant.label] = need.report.total
        except Unsupported:
            pass
    return needs
