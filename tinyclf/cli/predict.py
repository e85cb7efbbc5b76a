"""The command predict: classifies images or folders with the preprocessing of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.program import FILE, PATH, main

if TYPE_CHECKING:
    from tinyclf.workstation.results.classifiers import Classifier


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
    from tinyclf.base.errors import BadInput
    from tinyclf.base.files import write_text
    from tinyclf.workstation.results.predictions import (
        FORMATS,
        check_sheet_name,
        find_images,
        predict_files,
        write_prediction_sheet,
    )

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
    from tinyclf.workstation.results.classifiers import OnnxClassifier, TorchClassifier

    if run and not onnx:
        return TorchClassifier.open(run)
    if onnx and not run:
        return OnnxClassifier.open(onnx)
    raise click.UsageError("Give either --run RUN or --onnx FILE.")
