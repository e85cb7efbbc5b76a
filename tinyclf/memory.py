"""Where every byte of a training step lies: the plan, an independent checker of it, and its sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tinyclf.ir import PERSISTENT, Graph, Role, Tensor
from tinyclf.placement import ALIGNMENT, Placement, aligned, lifetimes, max_live, peak_of, place


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
        return peak_of(self.placements)


def plan_memory(graph: Graph) -> MemoryPlan:
    """Place every tensor of `graph` in one arena, greedily, parameters and state behind each other; then check it."""
    spans = lifetimes(graph)
    bound = max_live(spans)
    placements = place(spans, bound)
    # Frozen ones last, and before these what is frozen in part: each kind is one block.
    in_order = sorted(graph.tensors_of(Role.PARAMETER), key=lambda t: (not t.trained, t.trained_channels is not None))
    parameters, parameter_bytes = _in_a_row(in_order)
    state, state_bytes = _in_a_row(graph.tensors_of(*PERSISTENT))
    arena_bytes = aligned(peak_of(placements))
    plan = MemoryPlan(placements, parameters, arena_bytes, parameter_bytes, bound, state, state_bytes)
    check_plan(graph, plan)
    return plan


def _in_a_row(tensors: Iterable[Tensor]) -> tuple[tuple[tuple[str, int], ...], int]:
    """Place tensors behind each other; return the offset of each by name, and the bytes of all."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append((tensor.name, end))
        end = aligned(end + tensor.num_bytes)
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
    optimizer_state: int
    accumulated_gradients: int
    buffers_at_peak: int
    buffers_most: int
    peak: int
    max_live: int
    total: int
    naive_activations: int
    naive_gradients: int
    naive_total: int

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
    PyTorch models do; it leaves out activation gradients, as they do. The optimizer's state is the same for both.
    """
    parameters = graph.tensors_of(Role.PARAMETER)
    trained = sum(t.trained_bytes for t in parameters)
    frozen = sum(t.num_bytes for t in parameters) - trained

    def live(step: int, *roles: Role) -> int:
        alive = (p.tensor for p in plan.placements if p.first <= step < p.stop)
        return sum(t.num_bytes for t in alive if t.role in roles)

    steps = sorted({p.first for p in plan.placements})
    peak_step = max(steps, key=lambda step: live(step, *Role))
    at_peak = {f"{group}_at_peak": live(peak_step, *roles) for group, roles in _GROUPS.items()}
    most = {f"{group}_most": max(live(step, *roles) for step in steps) for group, roles in _GROUPS.items()}
    naive = _naive_activations(graph)
    state = sum(t.num_bytes for t in graph.tensors_of(Role.STATE))
    return MemoryReport(
        parameters_frozen=frozen,
        parameters_trained=trained,
        optimizer_state=state,
        accumulated_gradients=sum(t.num_bytes for t in graph.tensors_of(Role.ACCUMULATED)),
        **at_peak,
        **most,
        peak=plan.peak,
        max_live=plan.max_live,
        total=plan.parameter_bytes + plan.state_bytes + plan.arena_bytes,
        naive_activations=naive,
        naive_gradients=trained,
        naive_total=frozen + trained + state + naive + trained,
    )


def _naive_activations(graph: Graph) -> int:
    """Count the input and one output a layer, also where a layer works in place (a bias is part of its layer)."""
    outputs = {t.name for t in graph.tensors_of(Role.ACTIVATION)}
    total = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT))
    for call in graph.calls:
        if call.kernel != "tcl_bias_fp32_fw_cl":
            total += sum(graph.by_name[name].num_bytes for name in call.writes if name in outputs)
    return total
