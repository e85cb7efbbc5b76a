"""Fitting a training step into a number of bytes: as it is, or with as little recomputation as will do."""

from __future__ import annotations

from tinyclf.errors import DoesNotFit
from tinyclf.feature_memory import FeatureMemory
from tinyclf.ir import Graph, Role
from tinyclf.memory import MemoryPlan, plan_memory
from tinyclf.regions import predict_regions
from tinyclf.segments import SegmentSearch
from tinyclf.targets import Target


def bytes_needed(
    graph: Graph,
    plan: MemoryPlan,
    *,
    target: Target | None,
    num_samples: int | None,
    features: FeatureMemory | None = None,
    num_cores: int | None = None,
) -> int:
    """Return the bytes that a step needs in the target's first region; without a target, all but code and stacks.

    `num_samples` None: they are streamed, by a training run, which may keep `features` of them.
    """
    kept = features.num_bytes if features else 0
    if target:
        return predict_regions(
            target, graph, plan, num_samples=num_samples, num_cores=num_cores, kept_features_bytes=kept
        )[0].total
    sample_bytes = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT, Role.LABEL))
    return plan.parameter_bytes + plan.state_bytes + plan.arena_bytes + (num_samples or 0) * sample_bytes + kept


def recomputed_within(
    graph: Graph,
    budget: int,
    *,
    target: Target | None,
    num_samples: int | None,
    features: FeatureMemory | None = None,
    num_cores: int | None = None,
) -> Graph | None:
    """Return the step with the fewest repeated MACs that needs at most `budget` bytes; None if there is none.

    Calls whose results are kept as `features` are not repeated: later epochs leave them out.
    """

    def excess(graph: Graph, plan: MemoryPlan) -> int:
        needed = bytes_needed(
            graph, plan, target=target, num_samples=num_samples, features=features, num_cores=num_cores
        )
        return needed - budget

    plan = plan_memory(graph)
    over = excess(graph, plan)
    if over <= 0:
        return graph
    search = _search(graph, features)
    limit = plan.arena_bytes - over
    while found := search.cheapest(limit):
        over = excess(found, plan_memory(found))
        if over <= 0:
            return found
        limit -= over  # repeats need code tables of their own, and the placement may have gaps
    return None


def least_bytes(
    graph: Graph,
    *,
    target: Target | None,
    num_samples: int | None,
    features: FeatureMemory | None = None,
    num_cores: int | None = None,
) -> tuple[int, Graph]:
    """Return the fewest bytes that a step can do with when it recomputes, and that step."""
    least = _search(graph, features).least()
    plan = plan_memory(least)
    return bytes_needed(
        least, plan, target=target, num_samples=num_samples, features=features, num_cores=num_cores
    ), least


def fitted(
    graph: Graph,
    *,
    target: Target | None,
    num_samples: int | None,
    features: FeatureMemory | None = None,
    num_cores: int | None = None,
) -> Graph:
    """Return the step with as little recomputation as fits `target`; on one without limits, with the fewest bytes.

    With `features` kept, no call is repeated whose results they hold, and their bytes count too.

    Raises:
        DoesNotFit: not even the most recomputation fits.
    """
    if target is None or target.memory_bytes is None:
        return _search(graph, features).least()
    found = recomputed_within(
        graph, target.memory_bytes, target=target, num_samples=num_samples, features=features, num_cores=num_cores
    )
    if found is None:
        least, _ = least_bytes(graph, target=target, num_samples=num_samples, features=features, num_cores=num_cores)
        kept = f", of them {features.num_bytes:,} for kept features" if features else ""
        fewer = "fewer --samples, no --cache or --cache int8, " if features else ""
        raise DoesNotFit(
            f"training needs at least {least:,} bytes with all recomputation there is{kept}, target {target.name} has "
            f"{target.memory_bytes:,}: try {fewer}a smaller --k, a smaller --size or a narrower --arch"
        )
    return found


def _search(graph: Graph, features: FeatureMemory | None) -> SegmentSearch:
    return SegmentSearch(graph, num_frozen_calls=features.num_frozen_calls if features else 0)
