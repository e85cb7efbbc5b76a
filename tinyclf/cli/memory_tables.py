"""The tables that the command `memory` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclf.device.footprint.regions import RegionUse
    from tinyclf.jobs.memory import TrainingMemory


def _row(name: str, *values: int | None) -> str:
    return f"  {name:<34}" + "".join(f"{'?' if value is None else format(value, ','):>14}" for value in values)


def memory_lines(needed: TrainingMemory) -> list[str]:
    """Return what a step needs, whatever the target, and what a naive summary says."""
    r, step = needed.sums, needed.step
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
        *([_row("state of the optimizer", r.optimizer_state)] if r.optimizer_state else []),
        _row("total", r.naive_total) + f"   {r.naive_total / r.total:.1f} times ours",
    ]
    if step.recomputed_macs:
        share = step.recomputed_macs / step.macs
        lines.append(f"\n  Recomputed: {step.recomputed_macs:,} MACs more than the step's {step.macs:,} ({share:+.1%})")
    return lines


def region_lines(regions: dict[str, tuple[RegionUse, ...]]) -> list[str]:
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


def linked_lines(linked: tuple[RegionUse, ...]) -> list[str]:
    """Return a line for each region as the linker filled it."""
    return [f"\n  as linked, {region.name}: {region.total:,} ({region.summary})" for region in linked]


def compare_lines(rows: list[dict[str, Any]], *, is_plain: bool) -> list[str]:
    """Return one row a variant; `is_plain`: its weights are updated as PULP-TrainLib does it."""
    if not rows:
        return []
    title = f"  {'total by variant':<34}{'naive':>14}{'PULP-TrainLib':>14}{'tinyclf':>14}"
    figures = [_row(row["variant"], row["naive"], row["pulp_trainlib"], row["tinyclf"]) for row in rows]
    note = "  PULP-TrainLib updates by plain SGD after every sample: its figure is of that"
    return ["", title, *figures, *([] if is_plain else [note])]
