"""Graph -> MemoryPlan: parameters and state in rows, everything else in one arena."""

from __future__ import annotations

from collections.abc import Iterable

from tinyclf.device.graph.dtypes import aligned
from tinyclf.device.graph.ir import PERSISTENT, Graph, Role, Tensor
from tinyclf.device.memory.check import check_plan
from tinyclf.device.memory.placement import Placement, lifetimes, max_live, peak_of, place
from tinyclf.device.memory.plan import MemoryPlan, Placed


def plan_memory(graph: Graph) -> MemoryPlan:
    """Place every tensor of `graph` in one arena, greedily, parameters and state behind each other; then check it."""
    spans = lifetimes(graph)
    return plan_at(graph, place(spans, max_live(spans)))


def plan_at(graph: Graph, placements: tuple[Placement, ...]) -> MemoryPlan:
    """Return the plan of `graph` whose arena is laid out as `placements` say; checked."""
    # Frozen ones last, and before these what is frozen in part: each kind is one block. Frozen ones may lie elsewhere.
    in_order = sorted(graph.tensors_of(Role.PARAMETER), key=lambda t: t.trained_channels is not None)
    trained, trained_bytes = _in_a_row(t for t in in_order if t.trained)
    frozen, frozen_bytes = _in_a_row(t for t in in_order if not t.trained)
    parameters = trained + tuple((name, trained_bytes + offset) for name, offset in frozen)
    parameter_bytes = trained_bytes + frozen_bytes
    state, state_bytes = _in_a_row(graph.tensors_of(*PERSISTENT))
    arena_bytes = aligned(peak_of(placements))
    bound = max_live(lifetimes(graph))
    plan = MemoryPlan(placements, parameters, arena_bytes, parameter_bytes, bound, state, state_bytes)
    check_plan(graph, plan)
    return plan


def placed(graph: Graph) -> Placed:
    """Return `graph` with the places of its tensors."""
    return Placed(graph, plan_memory(graph))


def _in_a_row(tensors: Iterable[Tensor]) -> tuple[tuple[tuple[str, int], ...], int]:
    """Place tensors behind each other; return the offset of each by name, and the bytes of all."""
    offsets, end = [], 0
    for tensor in tensors:
        start = aligned(end, tensor.dtype.alignment)
        offsets.append((tensor.name, start))
        end = start + tensor.num_bytes
    return tuple(offsets), aligned(end)
