"""The command export: a run as ONNX, or its weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.program import FILE, FOLDER, PATH, main

if TYPE_CHECKING:
    pass


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
    from tinyclf.workstation.results.export import export_onnx, export_torch

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
