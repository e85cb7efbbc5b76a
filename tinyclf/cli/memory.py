"""The command `memory`: what a training step needs on the device, region by region, and what fits a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.device import TargetName, rule_options, variant_options
from tinyclf.cli.program import FILE, main
from tinyclf.feature_memory import CACHES
from tinyclf.rules import UpdateRule

if TYPE_CHECKING:
    from tinyclf.fitting import Answer
    from tinyclf.jobs import Need
    from tinyclf.regions import RegionUse
    from tinyclf.targets import Target
    from tinyclf.variants import Variant


@main.command()
@variant_options("LP")
@click.option("--arch", metavar="NAME", show_default="mobilenet_wd4; for FD fdmobilenet_wd4", help="Architecture.")
@click.option("--size", type=int, default=128, show_default=True, help="Width and height of the image in pixels.")
@click.option("--classes", "num_classes", type=int, default=2, show_default=True, help="Number of classes.")
@rule_options
@click.option("--target", type=TargetName(), show_default="all targets", help="Target whose memory regions are shown.")
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
    "--budget", metavar="BYTES", help="Say how much training fits this much memory, such as 512KiB, 1.5MiB or 400KB."
)
@click.option("--compare", is_flag=True, help="Compare variants with a naive sum and with PULP-TrainLib's formula.")
@click.option("--csv", "csv_file", type=FILE, metavar="FILE", help="Write the lifetime of every tensor as CSV.")
@click.option("--plot", "plot_file", type=FILE, metavar="FILE", help="Draw the lifetimes (PNG, PDF or SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def memory(
    variant: str | None,
    k: int,
    layers: tuple[str, ...],
    bias_only: bool,
    train_channels: tuple[str, ...],
    optimizer: str,
    momentum: float,
    batch: int,
    cache: str,
    budget: str | None,
    compare: bool,
    build_it: bool,
    csv_file: Path | None,
    plot_file: Path | None,
    as_json: bool,
    **net: Any,
) -> None:
    """Say how many bytes one training step needs on the device, before any data or training.

    \b
    Example:
      tinyclf memory --variant FT --k 2
      tinyclf memory --layers 'features.stage5.*' --layers output --train-channels 'features.*=0.25'
      tinyclf memory --variant FT --k 2 --optimizer adam --batch 8
      tinyclf memory --variant FT --k 1 --cache int8 --samples 200
      tinyclf memory --variant full --size 96 --target pulp --recompute
      tinyclf memory --size 96 --target pulp --budget 1.5MiB
      tinyclf memory --variant LP --arch fdmobilenet_wd4 --size 96 --plot memory.png
    """
    from tinyclf.errors import BadInput
    from tinyclf.files import write_text
    from tinyclf.jobs import memory_of
    from tinyclf.lifetimes_view import lifetimes_csv, write_plot
    from tinyclf.variants import chosen_variant

    name = variant or (None if layers else "LP")
    what = chosen_variant(name, k=k, layers=layers, bias_only=bias_only, train_channels=train_channels)
    assert what is not None, "there is a default"
    net["rule"] = UpdateRule(0.01, optimizer=optimizer, momentum=momentum, batch=batch)
    if net["num_samples"] < 0:
        raise BadInput(f"--samples {net['num_samples']}: cannot be negative")
    if budget is not None:
        _print_budget(budget, what, net, as_json=as_json)
        return
    if build_it and net["target"] is None:
        raise BadInput("--build needs --target")
    if build_it and cache != "off":
        raise BadInput("--build links single steps: leave out --cache, or see what deploy --epochs --execute says")
    need = memory_of(what, **net)
    title = f"{need.arch} {what.label}, {net['size']}x{net['size']}, {net['num_classes']} classes"
    regions = _regions(need, net["target"], net["num_samples"], cache)
    linked = _linked(what, net) if build_it else ()
    rows = _compared(need.arch, net) if compare else []
    if csv_file:
        write_text(csv_file, lifetimes_csv(need.graph, need.plan))
    if plot_file:
        write_plot(plot_file, need.graph, need.plan, title=title)
    if as_json:
        click.echo(json.dumps(_json(need, what, net, regions, linked, rows), indent=1))
        return
    click.echo(f"{title}: one training step on one sample, float32")
    click.echo(
        "\n".join([*_memory_lines(need), *_region_lines(regions), *_linked_lines(linked), *_compare_lines(rows)])
    )
    click.echo(
        f"\nThe net has {need.num_parameters:,} parameters, {need.num_folded:,} once BatchNorm is folded into biases."
    )
    for file in filter(None, (csv_file, plot_file)):
        click.echo(f"wrote {file}")


def _regions(need: Need, target: Target | None, num_samples: int, cache: str) -> dict[str, tuple[RegionUse, ...]]:
    """Return what each target holds; with `cache` in a training run, which streams its samples."""
    from tinyclf.feature_memory import feature_memory
    from tinyclf.regions import predict_regions
    from tinyclf.targets import find_targets

    chosen = [target] if target else list(find_targets().values())
    kept = feature_memory(need.graph, kind=cache, num_samples=num_samples)
    linked, kept_bytes = (None, kept.num_bytes) if kept else (num_samples, 0)
    return {
        t.name: predict_regions(t, need.graph, need.plan, num_samples=linked, kept_features_bytes=kept_bytes)
        for t in chosen
    }


def _linked(what: Variant, net: dict[str, Any]) -> tuple[RegionUse, ...]:
    from tinyclf.errors import BadInput
    from tinyclf.jobs import linked_memory
    from tinyclf.starts import Request

    if net["num_samples"] < 1:
        raise BadInput("--build needs at least one sample")
    return linked_memory(
        Request(
            target=net["target"],
            variant=what,
            arch=net["arch"],
            size=net["size"],
            num_classes=net["num_classes"],
            from_run=None,
            data=None,
            num_steps=net["rule"].batch,
            num_samples=net["num_samples"],
            learning_rate=None,
            weight_decay=0.0,
            seed=0,
            optimizer=net["rule"].optimizer,
            momentum=net["rule"].momentum,
            batch=net["rule"].batch,
            recompute=net["recompute"],
        )
    )


def _compared(arch: str, net: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each of some variants a naive sum, upstream's figure and ours, as they are without recomputation."""
    from tinyclf.jobs import memory_of
    from tinyclf.upstream_memory import upstream_bytes
    from tinyclf.variants import Variant

    rows = []
    for variant in (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full")):
        need = memory_of(variant, arch=arch, size=net["size"], num_classes=net["num_classes"])
        figures = {"naive": need.report.naive_total, "pulp_trainlib": upstream_bytes(need.graph)}
        rows.append({"variant": variant.label, **figures, "tinyclf": need.report.total})
    return rows


def _json(
    need: Need,
    what: Variant,
    net: dict[str, Any],
    regions: dict[str, tuple[RegionUse, ...]],
    linked: tuple[RegionUse, ...],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "arch": need.arch,
        "variant": what.label,
        "size": net["size"],
        "classes": net["num_classes"],
        "samples": net["num_samples"],
        "parameters": need.num_parameters,
        "parameters_folded": need.num_folded,
        "macs": need.macs,
        "recomputed_macs": need.recomputed_macs,
        "bytes": need.report.to_dict(),
        "regions": {name: [region.to_dict() for region in uses] for name, uses in regions.items()},
    }
    if linked:
        figures["linked"] = [region.to_dict() for region in linked]
    if rows:
        figures["compare"] = rows
    return figures


# --- tables ---------------------------------------------------------------------------------------------------------


def _row(name: str, *values: int | None) -> str:
    return f"  {name:<34}" + "".join(f"{'?' if value is None else format(value, ','):>14}" for value in values)


def _memory_lines(need: Need) -> list[str]:
    r = need.report
    lines = [
        "",
        f"  {'':<34}{'bytes':>14}{'most at once':>14}",
        _row("parameters, frozen", r.parameters_frozen),
        _row("parameters, trained", r.parameters_trained),
        _row("arena: its peak", r.peak),
        _row("  activations and input, at peak", r.activations_at_peak, r.activations_most),
        _row("  gradients, at peak", r.gradients_at_peak, r.gradients_most),
        _row("  buffers (label), at peak", r.buffers_at_peak, r.buffers_most),
        _row("  lower bound of the peak", r.max_live),
        *([_row("state of the optimizer", r.optimizer_state)] if r.optimizer_state else []),
        *([_row("gradients accumulated over a batch", r.accumulated_gradients)] if r.accumulated_gradients else []),
        _row("total of these", r.total),
        "",
        "  A naive summary keeps every output and gradient:",
        _row("parameters", r.parameters_frozen + r.parameters_trained),
        _row("activations", r.naive_activations),
        _row("gradients", r.naive_gradients),
        _row("total", r.naive_total) + f"   {r.naive_total / r.total:.1f} times ours",
    ]
    if need.recomputed_macs:
        share = need.recomputed_macs / need.macs
        lines.append(f"\n  Recomputed: {need.recomputed_macs:,} MACs more than the step's {need.macs:,} ({share:+.1%})")
    return lines


def _region_lines(regions: dict[str, tuple[RegionUse, ...]]) -> list[str]:
    """Return one column a region."""
    columns = [(name, region) for name, uses in regions.items() for region in uses]
    names = list(dict.fromkeys(part for _, region in columns for part, _ in region.parts))
    title = "".join(f"{f'{name} {region.name}':>14}" for name, region in columns)
    lines = ["", f"  {'by target and region':<34}{title}"]
    for part in names:
        cells = [dict(region.parts).get(part, 0) for _, region in columns]
        if any(cell != 0 for cell in cells):
            lines.append(_row(f"{part}, at most" if part.startswith("code") else part, *cells))
    lines.append(_row("total", *(region.total for _, region in columns)))
    lines.append(_row("of", *(region.num_bytes for _, region in columns)).replace("?", "-"))
    for name, region in columns:
        if region.num_bytes is not None and region.total > region.num_bytes:
            lines.append(f"  does not fit {name} {region.name}: {region.total - region.num_bytes:,} bytes too many")
    if any(size is None for _, region in columns for _, size in region.parts):
        lines.append("  ?: known once it is built (--build)")
    return lines


def _linked_lines(linked: tuple[RegionUse, ...]) -> list[str]:
    return [f"\n  as linked, {region.name}: {region.total:,} ({region.summary})" for region in linked]


def _compare_lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    title = f"  {'total by variant':<34}{'naive':>14}{'PULP-TrainLib':>14}{'tinyclf':>14}"
    return ["", title, *(_row(row["variant"], row["naive"], row["pulp_trainlib"], row["tinyclf"]) for row in rows)]


# --- budget ---------------------------------------------------------------------------------------------------------


def _print_budget(budget: str, what: Variant, net: dict[str, Any], *, as_json: bool) -> None:
    from tinyclf.fitting import Question, most_that_fits
    from tinyclf.sizes import parse_bytes

    target = net["target"]
    question = Question(
        arch=net["arch"] or what.default_arch,
        size=net["size"],
        num_classes=net["num_classes"],
        budget=parse_bytes(budget),
        target=target,
        num_samples=net["num_samples"],
        rule=net["rule"],
    )
    answer = most_that_fits(question)
    if as_json:
        click.echo(json.dumps(answer.to_dict(), indent=1))
        return
    counted = f"all of {target.name} {target.regions[0].name}" if target else "without code and stacks (see --target)"
    click.echo(f"{question.arch}, {question.size}x{question.size}, budget {answer.budget:,} bytes, {counted}:")
    click.echo("\n".join(_budget_lines(answer)))


def _budget_lines(answer: Answer) -> list[str]:
    best, following = answer.best, answer.following
    lines = [f"  most that fits     {best.variant:<8}{best.num_bytes:>12,} bytes"]
    if answer.with_batch is not None:
        lines.append(
            f"  in batches         {answer.with_batch.variant:<8}{answer.with_batch.num_bytes:>12,} bytes, of any size"
        )
    if following is None:
        return [*lines, "  everything can be trained"]
    lines.append(f"  next, does not fit {following.variant:<8}{following.num_bytes:>12,} bytes")
    if (most := answer.with_recomputation) is not None:
        lines.append(f"  with --recompute   {most.variant:<8}{most.num_bytes:>12,} bytes{most.cost}")
    lines.append(
        f"  {following.variant} would fit:"
        if answer.ways
        else f"  nothing that was tried makes {following.variant} fit"
    )
    for way in answer.ways:
        how = "with --recompute" if way.recomputed_macs else f"with --arch {way.arch} --size {way.size}"
        lines.append(f"    {how:<40}{way.num_bytes:>12,} bytes{way.cost}")
    return lines
