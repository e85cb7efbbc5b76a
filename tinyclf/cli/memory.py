"""The command `memory`: what a training step needs on the device, region by region, and what fits a budget."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.memory_budget import print_budget
from tinyclf.cli.memory_request import memory_request
from tinyclf.cli.memory_tables import compare_lines, linked_lines, memory_lines, region_lines
from tinyclf.cli.options import (
    TargetName,
    cores_option,
    l1_option,
    small_input_option,
    update_options,
    variant_options,
)
from tinyclf.cli.program import FILE, main
from tinyclf.device.memory.kept_features import CACHES
from tinyclf.recipe.update_options import UpdateOptions

if TYPE_CHECKING:
    from tinyclf.device.footprint.regions import RegionUse
    from tinyclf.device.run.step import PlannedStep
    from tinyclf.jobs.memory import MemoryRequest, TrainingMemory


@main.command()
@variant_options("LP")
@click.option("--arch", metavar="NAME", show_default="mobilenet_wd4; for FD fdmobilenet_wd4", help="Architecture.")
@click.option("--size", type=int, default=128, show_default=True, help="Width and height of the image in pixels.")
@click.option("--classes", "num_classes", type=int, default=2, show_default=True, help="Number of classes.")
@small_input_option
@update_options
@click.option("--target", type=TargetName(), show_default="all targets", help="Target whose memory regions are shown.")
@cores_option
@l1_option
@click.option(
    "--samples", "num_samples", type=int, default=1, show_default=True, help="Samples that are linked into the program."
)
@click.option(
    "--cache",
    type=click.Choice(CACHES),
    default="off",
    show_default=True,
    help="For a training run: keep the frozen features of each of the --samples, which are then read from a file.",
)
@click.option(
    "--recompute",
    is_flag=True,
    help="Recompute activations in the backward pass as far as the memory of --target needs it.",
)
@click.option(
    "--build", "build_it", is_flag=True, help="Build the program for --target and show what the linker placed."
)
@click.option(
    "--budget",
    metavar="BYTES",
    help="In place of --variant and --layers: say how much training fits this much memory, such as 512KiB, 1.5MiB or "
    "400KB, and what would let more of it fit.",
)
@click.option("--compare", is_flag=True, help="Compare variants with a naive sum and with PULP-TrainLib's formula.")
@click.option("--csv", "csv_file", type=FILE, metavar="FILE", help="Write the lifetime of every tensor as CSV.")
@click.option("--plot", "plot_file", type=FILE, metavar="FILE", help="Draw the lifetimes (PNG, PDF or SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def memory(
    budget: str | None,
    compare: bool,
    build_it: bool,
    csv_file: Path | None,
    plot_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how many bytes one training step needs on the device, before any data or training.

    ReLUs and sums work in place on what is before them, and what a layer is done with is not kept.

    \b
    Example:
      tinyclf memory --variant FT --k 2
      tinyclf memory --layers 'features.stage5.*' --layers output --train-channels 'features.*=0.25'
      tinyclf memory --variant FT --k 2 --optimizer adam --batch 8 --clip 1
      tinyclf memory --variant FT --k 1 --cache int8 --samples 200
      tinyclf memory --variant full --size 96 --target pulp --recompute
      tinyclf memory --size 96 --target pulp --budget 1.5MiB
      tinyclf memory --size 96 --target pulp --budget 1MiB --bias-only --optimizer adam
      tinyclf memory --variant LP --arch fdmobilenet_wd4 --size 96 --plot memory.png
    """
    update = UpdateOptions(**{f.name: options.pop(f.name) for f in fields(UpdateOptions)})
    what = {name: options.pop(name) for name in ("variant", "k", "layers", "bias_only", "train_channels")}
    request = memory_request(update=update, what=what, **options)
    if budget is not None:
        print_budget(budget, request, as_json=as_json)
        return
    needed, linked, rows = _answers(request, update, build_it=build_it, compare=compare)
    regions = _regions(needed.step)
    net = f"{request.net}, small input," if request.small_input else request.net
    title = f"{net} {request.variant.label}, {request.size}x{request.size}, {request.num_classes} classes"
    files = _write_files(needed.step, title, csv_file=csv_file, plot_file=plot_file)
    if as_json:
        click.echo(json.dumps(_json(request, needed, regions, linked, rows), indent=1))
        return
    click.echo(f"{title}: one training step on one sample, float32")
    tables = [memory_lines(needed), region_lines(regions), linked_lines(linked)]
    tables.append(compare_lines(rows, is_plain=request.rule.is_plain))
    click.echo("\n".join(line for lines in tables for line in lines))
    click.echo(
        f"\nThe net has {needed.num_parameters:,} parameters, {needed.num_folded:,} once BatchNorm is folded into "
        "biases."
    )
    for file in files:
        click.echo(f"wrote {file}")


def _answers(
    request: MemoryRequest, update: UpdateOptions, *, build_it: bool, compare: bool
) -> tuple[TrainingMemory, tuple[RegionUse, ...], list[dict[str, Any]]]:
    """Return what the step needs, what the linker placed if it is to be built, and the rows of the comparison."""
    from tinyclf.base.errors import BadInput
    from tinyclf.device.graph.traces import traced_tensors
    from tinyclf.device.memory.samples import Streamed
    from tinyclf.jobs.memory import memory_of

    if build_it and request.around.target is None:
        raise BadInput("--build needs --target")
    if build_it and isinstance(request.around.samples, Streamed):
        raise BadInput("--build links single steps: leave out --cache, or see what deploy --epochs --execute says")
    if build_it and request.around.samples.num < 1:
        raise BadInput("--build needs at least one sample")
    needed = memory_of(request, traces=traced_tensors if build_it else None)
    linked = _linked(request, update, needed.step) if build_it else ()
    return needed, linked, _compared(request, needed) if compare else []


def _regions(step: PlannedStep) -> dict[str, tuple[RegionUse, ...]]:
    """Return what each target holds, or the one that is asked about; a training run streams its samples."""
    from tinyclf.device.footprint.regions import predict_regions
    from tinyclf.device.targets.target import find_targets

    around = step.around
    targets = [around.target] if around.target else find_targets().values()
    return {
        target.name: predict_regions(target, step.graph, step.plan, samples=around.samples, num_cores=around.num_cores)
        for target in targets
    }


def _linked(request: MemoryRequest, update: UpdateOptions, step: PlannedStep) -> tuple[RegionUse, ...]:
    from tinyclf.jobs.request import Request
    from tinyclf.jobs.steps import linked_memory

    assert request.around.target is not None, "this was checked"
    deployed = Request(
        target=request.around.target,
        variant=request.variant,
        arch=request.arch,
        size=request.size,
        num_classes=request.num_classes,
        small_input=request.small_input,
        num_steps=update.batch,
        num_samples=request.around.samples.num,
        recompute=request.recompute,
        **vars(update),
    )
    return linked_memory(deployed, step)


def _compared(request: MemoryRequest, needed: TrainingMemory) -> list[dict[str, Any]]:
    """Return for some variants, and the one that is asked about, a naive sum, upstream's figure and ours.

    All are with the update that is asked for, but upstream's, which has SGD on single samples only. Recomputation is
    in the last row alone.
    """
    from dataclasses import replace

    from tinyclf.base.errors import BadInput
    from tinyclf.device.run.step import ANYWHERE
    from tinyclf.jobs.memory import memory_of
    from tinyclf.recipe.variant import Variant

    own = f"{request.variant.label}{' --recompute' if needed.step.recomputed_macs else ''}"
    found: dict[str, TrainingMemory] = {}
    for variant in (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full")):
        plain = replace(request, variant=variant, arch=request.net, around=ANYWHERE, recompute=False)
        try:
            found[variant.label] = needed if variant.label == own else memory_of(plain)
        except BadInput:  # a net of fewer blocks
            continue
    found.setdefault(own, needed)
    return [{"variant": label, **_figures(each)} for label, each in found.items()]


def _figures(needed: TrainingMemory) -> dict[str, int]:
    from tinyclf.device.footprint.trainlib import upstream_bytes

    return {
        "naive": needed.sums.naive_total,
        "pulp_trainlib": upstream_bytes(needed.step.plain),
        "tinyclf": needed.sums.total,
    }


def _write_files(step: PlannedStep, title: str, *, csv_file: Path | None, plot_file: Path | None) -> list[Path]:
    """Write the lifetimes to the files that are named; return these."""
    from tinyclf.base.files import write_text
    from tinyclf.device.memory.view import lifetimes_csv, write_plot

    if csv_file:
        write_text(csv_file, lifetimes_csv(step.graph, step.plan))
    if plot_file:
        write_plot(plot_file, step.graph, step.plan, title=title)
    return [file for file in (csv_file, plot_file) if file]


def _json(
    request: MemoryRequest,
    needed: TrainingMemory,
    regions: dict[str, tuple[RegionUse, ...]],
    linked: tuple[RegionUse, ...],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "arch": request.net,
        "variant": request.variant.label,
        "size": request.size,
        "classes": request.num_classes,
        "small_input": request.small_input,
        "samples": request.around.samples.num,
        "parameters": needed.num_parameters,
        "parameters_folded": needed.num_folded,
        "macs": needed.step.macs,
        "recomputed_macs": needed.step.recomputed_macs,
        "bytes": needed.sums.to_dict(),
        "regions": {name: [region.to_dict() for region in uses] for name, uses in regions.items()},
    }
    if linked:
        figures["linked"] = [region.to_dict() for region in linked]
    if rows:
        figures["compare"] = rows
    return figures
