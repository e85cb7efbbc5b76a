"""Where every byte of a training step lies: lifetimes, placement in one arena, an independent checker, the report.

Time is counted in calls. A tensor lives from the call that first writes it to the one that last reads it, half-open:
[first, last + 1). Inputs and labels live from the start, outputs to the end. Parameters, and what is kept from step to
step (optimizer state, accumulated gradients), live always, outside the arena.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclf.errors import BadInput
from tinyclf.files import write_whole
from tinyclf.ir import PERSISTENT, Graph, Phase, Role, Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIGNMENT = 16  # bytes; every tensor starts at a multiple of it


@dataclass(frozen=True)
class Lifetime:
    """When a tensor's bytes are in use: calls [first, stop)."""

    tensor: Tensor
    first: int
    stop: int


@dataclass(frozen=True)
class Placement:
    """A tensor's lifetime and its byte offset in the arena."""

    tensor: Tensor
    first: int
    stop: int
    offset: int

    @property
    def end(self) -> int:
        """Return the offset of the first byte behind the tensor."""
        return self.offset + self.tensor.num_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """The arena's placements, and offsets in two blocks of their own: the parameters (trained first), the state.

    The state is what is kept from step to step beside the parameters. All in bytes.
    """

    placements: tuple[Placement, ...]
    parameter_offsets: tuple[tuple[str, int], ...]
    arena_bytes: int
    parameter_bytes: int
    max_live: int
    state_offsets: tuple[tuple[str, int], ...] = ()
    state_bytes: int = 0

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Return the offset of every tensor, in its own block."""
        return {p.tensor.name: p.offset for p in self.placements} | dict(self.parameter_offsets + self.state_offsets)

    @property
    def peak(self) -> int:
        """Return the last byte of the arena that is used."""
        return _peak(self.placements)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def lifetimes(graph: Graph) -> list[Lifetime]:
    """Return the lifetime of every tensor of the arena, in the graph's order."""
    first: dict[str, int] = {t.name: 0 for t in graph.tensors_of(Role.INPUT, Role.LABEL)}
    stop: dict[str, int] = {}
    for step, call in enumerate(graph.calls):
        for name in call.writes:
            first.setdefault(name, step)
        for name in (*call.reads, *call.writes):
            stop[name] = step + 1
    stop.update({name: len(graph.calls) for name in graph.outputs})
    arena = [t for t in graph.tensors if t.role not in (Role.PARAMETER, *PERSISTENT) and t.name in first]
    return [Lifetime(t, first[t.name], stop.get(t.name, 1)) for t in arena]


def max_live(spans: Iterable[Lifetime]) -> int:
    """Return the most bytes in use at one call: no placement can need less."""
    spans = list(spans)
    steps = {s.first for s in spans}
    return max((sum(s.tensor.num_bytes for s in spans if s.first <= t < s.stop) for t in steps), default=0)


def _place(spans: Iterable[Lifetime]) -> tuple[Placement, ...]:
    """Give each tensor, in the order given, the lowest offset that is free throughout its life."""
    placed: list[Placement] = []
    for span in spans:
        taken = sorted((p for p in placed if p.first < span.stop and span.first < p.stop), key=lambda p: p.offset)
        offset = 0
        for other in taken:
            if offset + span.tensor.num_bytes <= other.offset:
                break
            offset = max(offset, _aligned(other.end))
        placed.append(Placement(span.tensor, span.first, span.stop, offset))
    return tuple(sorted(placed, key=lambda p: (p.first, p.offset)))


# Greedy placement in one fixed order can end a third above the lower bound on a chain of layers: each order below is
# best on some net. The first that reaches the bound wins, else the lowest.
_ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda s: (-s.tensor.num_bytes, s.first - s.stop, s.first),  # largest first
    lambda s: (s.tensor.num_bytes * (s.first - s.stop), s.first),  # largest bytes x time first
    lambda s: (s.first - s.stop, -s.tensor.num_bytes, s.first),  # longest-lived first
)


def _place_best(spans: list[Lifetime], bound: int) -> tuple[Placement, ...]:
    """Place in every order until one reaches the lower bound; return the best."""
    best: tuple[Placement, ...] = ()
    for order in _ORDERS:
        placements = _place(sorted(spans, key=order))
        if not best or _peak(placements) < _peak(best):
            best = placements
        if _peak(best) <= _aligned(bound):
            break
    return best


def _peak(placements: Iterable[Placement]) -> int:
    return max((p.end for p in placements), default=0)


def plan_memory(graph: Graph) -> MemoryPlan:
    """Place every tensor of `graph` in one arena, greedily, parameters and state behind each other; then check it."""
    spans = lifetimes(graph)
    bound = max_live(spans)
    placements = _place_best(spans, bound)
    parameters, parameter_bytes = _in_a_row(sorted(graph.tensors_of(Role.PARAMETER), key=lambda t: not t.trained))
    state, state_bytes = _in_a_row(graph.tensors_of(*PERSISTENT))
    arena_bytes = _aligned(_peak(placements))
    plan = MemoryPlan(placements, parameters, arena_bytes, parameter_bytes, bound, state, state_bytes)
    check_plan(graph, plan)
    return plan


def _in_a_row(tensors: Iterable[Tensor]) -> tuple[tuple[tuple[str, int], ...], int]:
    """Place tensors behind each other; return the offset of each by name, and the bytes of all."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append((tensor.name, end))
        end = _aligned(end + tensor.num_bytes)
    return tuple(offsets), end


def check_plan(graph: Graph, plan: MemoryPlan) -> None:
    """Assert that `plan` keeps every value of `graph` until its last use.

    Knows nothing of the planner: it runs the step on a model of the memory in which each byte range remembers who wrote
    it last, and looks at every read whether the bytes are still the reader's.
    """
    owner: dict[str, tuple[int, int]] = {}  # tensor -> bytes that still hold its value

    def write(name: str) -> None:
        start = plan.offsets[name]
        stop = start + graph.by_name[name].num_bytes
        assert start >= 0, f"{name} starts before the arena"
        assert stop <= plan.arena_bytes, f"{name} ends behind the arena"
        assert start % ALIGNMENT == 0, f"{name} is not aligned"
        for other in [o for o, (a, b) in owner.items() if a < stop and start < b]:
            del owner[other]
        owner[name] = (start, stop)

    def read(name: str, reader: str) -> None:
        assert name in owner, f"{reader} reads {name}, whose bytes were overwritten"

    in_arena = {t.name for t in graph.tensors if t.role not in (Role.PARAMETER, *PERSISTENT)}
    for tensor in graph.tensors_of(Role.INPUT, Role.LABEL):
        write(tensor.name)
        # Samples are loaded before the first call: all of them must hold together.
    for tensor in graph.tensors_of(Role.INPUT, Role.LABEL):
        read(tensor.name, "the first call")
    for call in graph.calls:
        reader = f"{call.kernel} of {call.node}"
        for name in set(call.reads) & in_arena:
            read(name, reader)
        for name in call.writes:
            if name in in_arena:
                write(name)
        for name in (set(call.reads) | set(call.writes)) & in_arena:
            read(name, reader)  # a call's operands must not overlap: kernels read while they write
    for name in graph.outputs:
        read(name, "the end of the step")
    _check_row(plan, graph.tensors_of(Role.PARAMETER), plan.parameter_bytes, what="parameters")
    _check_row(plan, graph.tensors_of(*PERSISTENT), plan.state_bytes, what="tensors of the state")


def _check_row(plan: MemoryPlan, tensors: Iterable[Tensor], block_bytes: int, *, what: str) -> None:
    end = 0
    for offset, num_bytes in sorted((plan.offsets[t.name], t.num_bytes) for t in tensors):
        assert offset >= end, f"two {what} overlap"
        assert offset % ALIGNMENT == 0, f"one of the {what} is not aligned"
        end = offset + num_bytes
    assert end <= block_bytes, f"the {what} end behind their block"


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of one training step on one sample, with what is kept from step to step.

    Activations (with the input), gradients and buffers share the arena over time: `*_at_peak` are theirs at the moment
    when most bytes are live, `*_most` the most that each needs at any moment.
    """

    parameters_frozen: int
    parameters_trained: int
    activations_at_peak: int
    activations_most: int
    gradients_at_peak: int
    gradients_most: int
    buffers_at_peak: int
    buffers_most: int
    peak: int
    max_live: int
    total: int
    naive_activations: int
    naive_gradients: int
    naive_total: int
    optimizer_state: int = 0
    accumulated_gradients: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the figures by name."""
        return dict(vars(self))


_GROUPS = {
    "activations": (Role.INPUT, Role.ACTIVATION),
    "gradients": (Role.GRADIENT,),
    "buffers": (Role.LABEL, Role.SCRATCH),
}


def report(graph: Graph, plan: MemoryPlan) -> MemoryReport:
    """Sum up `plan`; beside it what a naive summary says: every layer's output and every gradient kept to the end.

    Naive counts a ReLU's output apart from its input and the gradient of every trained parameter, as summaries of
    PyTorch models do; it leaves out activation gradients, as they do.
    """
    parameters = graph.tensors_of(Role.PARAMETER)
    trained = sum(t.num_bytes for t in parameters if t.trained)
    frozen = sum(t.num_bytes for t in parameters if not t.trained)

    def live(step: int, *roles: Role) -> int:
        alive = (p.tensor for p in plan.placements if p.first <= step < p.stop)
        return sum(t.num_bytes for t in alive if t.role in roles)

    steps = sorted({p.first for p in plan.placements})
    peak_step = max(steps, key=lambda step: live(step, *Role))
    at_peak = {f"{group}_at_peak": live(peak_step, *roles) for group, roles in _GROUPS.items()}
    most = {f"{group}_most": max(live(step, *roles) for step in steps) for group, roles in _GROUPS.items()}
    naive = _naive_activations(graph)
    return MemoryReport(
        parameters_frozen=frozen,
        parameters_trained=trained,
        **at_peak,
        **most,
        peak=plan.peak,
        max_live=plan.max_live,
        total=plan.parameter_bytes + plan.state_bytes + plan.arena_bytes,
        naive_activations=naive,
        naive_gradients=trained,
        naive_total=frozen + trained + naive + trained,
        optimizer_state=sum(t.num_bytes for t in graph.tensors_of(Role.STATE)),
        accumulated_gradients=sum(t.num_bytes for t in graph.tensors_of(Role.ACCUMULATED)),
    )


def _naive_activations(graph: Graph) -> int:
    """Count the input and one output a layer, also where a layer works in place (a bias is part of its layer)."""
    outputs = {t.name for t in graph.tensors_of(Role.ACTIVATION)}
    total = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT))
    for call in graph.calls:
        if call.kernel != "tcl_bias_fp32_fw_cl":
            total += sum(graph.by_name[name].num_bytes for name in call.writes if name in outputs)
    return total


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
