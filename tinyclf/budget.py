"""Fitting a training step into a number of bytes: as it is, or with as little recomputation as will do."""

from __future__ import annotations

from tinyclf.errors import DoesNotFit
from tinyclf.ir import Graph, Role
from tinyclf.memory import MemoryPlan, plan_memory
from tinyclf.regions import predict_regions
from tinyclf.segments import SegmentSearch
from tinyclf.targets import Target


def bytes_needed(graph: Graph, plan: MemoryPlan, *, target: Target | None, num_samples: int | None) -> int:
    """Return the bytes that a step needs in the target's first region; without a target, all but code and stacks.

    `num_samples` None: they are streamed, by a training run.
    """
    if target:
        return predict_regions(target, graph, plan, num_samples=num_samples)[0].total
    sample_bytes = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT, Role.LABEL))
    return plan.parameter_bytes + plan.state_bytes + plan.arena_bytes + (num_samples or 0) * sample_bytes


def recomputed_within(graph: Graph, budget: int, *, target: Target | None, num_samples: int | None) -> Graph | None:
    """Return the step with the fewest repeated MACs that needs at most `budget` bytes; None if there is none."""
    plan = plan_memory(graph)
    over = bytes_needed(graph, plan, target=target, num_samples=num_samples) - budget
    if over <= 0:
        return graph
    search = SegmentSearch(graph)
    limit = plan.arena_bytes - over
    while found := search.cheapest(limit):
        over = bytes_needed(found, plan_memory(found), target=target, num_samples=num_samples) - budget
        if over <= 0:
            return found
        limit -= over  # repeats need code tables of their own, and the placement may have gaps
    return None


def least_bytes(graph: Graph, *, target: Target | None, num_samples: int | None) -> tuple[int, Graph]:
    """Return the fewest bytes that a step can do with when it recomputes, and that step."""
    least = SegmentSearch(graph).least()
    return bytes_needed(least, plan_memory(least), target=target, num_samples=num_samples), least


def fitted(graph: Graph, *, target: Target | None, num_samples: int | None) -> Graph:
    """Return the step with as little recomputation as fits `target`; on one without limits, with the fewest bytes.

    Raises:
        DoesNotFit: not even the most recomputation fits.
    """
    if target is None or target.memory_bytes is None:
        return SegmentSearch(graph).least()
    found = recomputed_within(graph, target.memory_bytes, target=target, num_samples=num_samples)
    if found is None:
        least, _ = least_bytes(graph, target=target, num_samples=num_samples)
        raise DoesNotFit(
            f"training needs at least {least:,} bytes with all recomputation there is, target {target.name} has "
            f"{target.memory_bytes:,}: try a smaller --k, a smaller --size or a narrower --arch"
        )
    return found
