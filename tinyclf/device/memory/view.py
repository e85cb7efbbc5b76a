"""The lifetimes of a plan's tensors as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclf.base.errors import BadInput
from tinyclf.base.files import write_whole
from tinyclf.device.graph.ir import Graph, Phase, Role
from tinyclf.device.memory.plan import MemoryPlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lifetimes_csv(graph: Graph, plan: MemoryPlan) -> str:
    """Return one line a tensor of the arena: name, role, shape, bytes, offset, first and last call that use it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["tensor", "role", "shape", "bytes", "offset", "first_call", "last_call", "first_kernel", "last_kernel"]
    )
    for p in plan.placements:
        t, last = p.tensor, p.stop - 1
        shape = "x".join(str(n) for n in t.shape)
        kernels = graph.calls[p.first].kernel, graph.calls[last].kernel
        writer.writerow([t.name, t.role.value, shape, t.num_bytes, p.offset, p.first, last, *kernels])
    return out.getvalue()


def plot_lifetimes(graph: Graph, plan: MemoryPlan, *, title: str) -> Figure:
    """Draw the arena over one step: calls from left to right, bytes upwards, a box for each tensor."""
    from matplotlib.figure import Figure  # slow to import, and only pictures need it
    from matplotlib.patches import Patch, Rectangle

    colours = {
        Role.INPUT: "#8da0cb",
        Role.LABEL: "#b3b3b3",
        Role.ACTIVATION: "#66c2a5",
        Role.GRADIENT: "#fc8d62",
        Role.SCRATCH: "#e5c494",
    }
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots()
    for p in plan.placements:
        box = (p.first, p.offset / 1024), p.stop - p.first, p.tensor.num_bytes / 1024
        axes.add_patch(Rectangle(*box, facecolor=colours[p.tensor.role], edgecolor="white", linewidth=0.4))
    backward = next(i for i, call in enumerate(graph.calls) if call.phase is Phase.BACKWARD)
    lines = [
        axes.axhline(plan.max_live / 1024, color="black", linewidth=1, linestyle="--", label="lower bound"),
        axes.axvline(backward, color="black", linewidth=1, linestyle=":", label="backward begins"),
    ]
    axes.set(
        xlim=(0, len(graph.calls)),
        ylim=(0, plan.peak / 1024 * 1.03),
        xlabel="kernel call",
        ylabel="arena (KiB)",
        title=f"{title}: peak {plan.peak / 1024:.1f} KiB, lower bound {plan.max_live / 1024:.1f} KiB",
    )
    used = [role for role in colours if any(p.tensor.role is role for p in plan.placements)]
    boxes = [Patch(color=colours[role], label=role.value) for role in used]
    figure.legend(handles=[*boxes, *lines], loc="outside right upper")
    return figure


def write_plot(path: Path, graph: Graph, plan: MemoryPlan, *, title: str) -> None:
    """Write the picture of `plot_lifetimes` to `path`, whole or not at all; its ending says the format.

    Raises:
        BadInput: the ending is not that of a picture.
    """
    figure = plot_lifetimes(graph, plan, title=title)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise BadInput(f"{path}: unknown kind of picture: end its name in one of {', '.join(sorted(known))}")
    write_whole(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=120))
