"""Fitting a training step into a number of bytes: as it is, or with as little recomputation as will do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyclf.base.errors import DoesNotFit
from tinyclf.device.footprint.regions import predict_regions
from tinyclf.device.graph.ir import Graph, Role
from tinyclf.device.memory.kept_features import FeatureMemory
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.segments import SegmentSearch
from tinyclf.device.targets.target import Target


@dataclass(frozen=True)
class Setting:
    """Where a step is to run, and what shares the memory with it.

    `target` None: code and stacks are not counted. `num_samples` are linked in; None: they are streamed, by a training
    run, which may keep features of them. `num_cores` None: as many as the target uses by default.
    """

    target: Target | None = None
    num_samples: int | None = 1
    num_cores: int | None = None
    kept_features_bytes: int = 0
    num_frozen_calls: int = 0  # whose results are kept: nothing of them is computed again

    def keeping(self, features: FeatureMemory | None) -> Setting:
        """Return the setting of a training run that keeps `features`; None: it keeps none."""
        num_bytes, num_calls = (features.num_bytes, features.num_frozen_calls) if features else (0, 0)
        return replace(self, num_samples=None, kept_features_bytes=num_bytes, num_frozen_calls=num_calls)


def bytes_needed(graph: Graph, plan: MemoryPlan, setting: Setting) -> int:
    """Return the bytes that a step needs in the target's first region; without a target, all but code and stacks."""
    s = setting
    if s.target:
        return predict_regions(
            s.target,
            graph,
            plan,
            num_samples=s.num_samples,
            num_cores=s.num_cores,
            kept_features_bytes=s.kept_features_bytes,
        )[0].total
    sample_bytes = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT, Role.LABEL))
    blocks = plan.parameter_bytes + plan.state_bytes + plan.arena_bytes
    return blocks + (s.num_samples or 0) * sample_bytes + s.kept_features_bytes


def recomputed_within(graph: Graph, budget: int, setting: Setting) -> Graph | None:
    """Return the step with the fewest repeated MACs that needs at most `budget` bytes; None if there is none."""
    plan = plan_memory(graph)
    over = bytes_needed(graph, plan, setting) - budget
    if over <= 0:
        return graph
    search = _search(graph, setting)
    limit = plan.arena_bytes - over
    while found := search.cheapest(limit):
        over = bytes_needed(found, plan_memory(found), setting) - budget
        if over <= 0:
            return found
        limit -= over  # repeats need code tables of their own, and the placement may have gaps
    return None


def least_bytes(graph: Graph, setting: Setting) -> tuple[int, Graph]:
    """Return the fewest bytes that a step can do with when it recomputes, and that step."""
    least = _search(graph, setting).least()
    return bytes_needed(least, plan_memory(least), setting), least


def fitted(graph: Graph, setting: Setting) -> Graph:
    """Return the step with as little recomputation as fits the target; on one without limits, with the fewest bytes.

    Raises:
        DoesNotFit: not even the most recomputation fits.
    """
    target = setting.target
    if target is None or target.memory_bytes is None:
        return _search(graph, setting).least()
    found = recomputed_within(graph, target.memory_bytes, setting)
    if found is None:
        least, _ = least_bytes(graph, setting)
        kept = f", of them {setting.kept_features_bytes:,} for kept features" if setting.kept_features_bytes else ""
        fewer = "fewer --samples, no --cache or --cache int8, " if kept else ""
        raise DoesNotFit(
            f"training needs at least {least:,} bytes with all recomputation there is{kept}, target {target.name} has "
            f"{target.memory_bytes:,}: try {fewer}a smaller --k, a smaller --size or a narrower --arch"
        )
    return found


def _search(graph: Graph, setting: Setting) -> SegmentSearch:
    return SegmentSearch(graph, num_frozen_calls=setting.num_frozen_calls)
