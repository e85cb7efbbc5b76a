"""Fitting a training step into a number of bytes: as it is, or with as little recomputation as will do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyclf.base.errors import DoesNotFit
from tinyclf.device.footprint.regions import predict_regions
from tinyclf.device.graph.ir import Graph, Role
from tinyclf.device.memory.plan import Placed
from tinyclf.device.memory.planner import placed
from tinyclf.device.memory.samples import Linked, ProgramSamples, kept_features, num_linked
from tinyclf.device.memory.segments import SegmentSearch
from tinyclf.device.targets.target import CONSTANTS, STATE, Target


@dataclass(frozen=True)
class Surroundings:
    """Where a step is to run, and the samples that share the memory with it.

    `target` None: code and stacks are not counted. `num_cores` None: as many as the target uses by default.
    """

    target: Target | None = None
    samples: ProgramSamples = Linked()
    num_cores: int | None = None

    @property
    def memory_bytes(self) -> int | None:
        """Return the bytes of the target's region that is written; None: as much as wanted."""
        return self.target.memory_bytes if self.target else None

    @property
    def samples_bytes(self) -> int | None:
        """Return the bytes of the region that linked samples lie in; None: as much as wanted."""
        return self.target.region_of(CONSTANTS).num_bytes if self.target else None


def bytes_needed(step: Placed, around: Surroundings) -> int:
    """Return the bytes that a step needs where its arena lies; without a target, all but code and stacks."""
    graph, plan, samples = step.graph, step.plan, around.samples
    if around.target:
        return _region_bytes(step, around, around.target, STATE)
    features = kept_features(samples)
    sample_bytes = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT, Role.LABEL))
    blocks = plan.parameter_bytes + plan.state_bytes + plan.arena_bytes
    return blocks + num_linked(samples) * sample_bytes + (features.num_bytes if features else 0)


def _region_bytes(step: Placed, around: Surroundings, target: Target, role: str) -> int:
    """Return the bytes that a step needs in the region of a role."""
    regions = predict_regions(target, step.graph, step.plan, samples=around.samples, num_cores=around.num_cores)
    return next(region.total for region in regions if region.name == target.region_of(role).name)


def num_fitting_samples(step: Placed, around: Surroundings) -> int:
    """Return how many linked samples fit the target's memory, which has a limit, beside all else; below 1 if none."""
    most = around.samples_bytes
    assert around.target is not None
    assert most is not None
    none, one = (_region_bytes(step, replace(around, samples=Linked(num)), around.target, CONSTANTS) for num in (0, 1))
    return (most - none) // (one - none)


def recomputed_within(step: Placed, budget: int, around: Surroundings) -> Placed | None:
    """Return the step with the fewest repeated MACs that needs at most `budget` bytes; None if there is none."""
    over = bytes_needed(step, around) - budget
    if over <= 0:
        return step
    search = _search(step.graph, around)
    limit = step.plan.arena_bytes - over
    while graph := search.cheapest(limit):
        found = placed(graph)
        over = bytes_needed(found, around) - budget
        if over <= 0:
            return found
        limit -= over  # repeats need code tables of their own, and the placement may have gaps
    return None


def least_bytes(step: Placed, around: Surroundings) -> int:
    """Return the fewest bytes that a step can do with when it recomputes."""
    return bytes_needed(_least(step, around), around)


def fitted(step: Placed, around: Surroundings) -> Placed:
    """Return the step with as little recomputation as fits the target; on one without limits, with the fewest bytes.

    Raises:
        DoesNotFit: not even the most recomputation fits.
    """
    target, most = around.target, around.memory_bytes
    if target is None or most is None:
        return _least(step, around)
    found = recomputed_within(step, most, around)
    if found is None:
        features = kept_features(around.samples)
        kept = f", of them {features.num_bytes:,} for kept features" if features and features.num_bytes else ""
        fewer = "fewer --samples, no --cache or --cache int8, " if kept else ""
        raise DoesNotFit(
            f"training needs at least {least_bytes(step, around):,} bytes with all recomputation there is{kept}, "
            f"target {target.name} has {most:,}: try {fewer}a smaller --k, a smaller --size or a narrower --arch"
        )
    return found


def _least(step: Placed, around: Surroundings) -> Placed:
    graph = _search(step.graph, around).least()
    return step if graph is step.graph else placed(graph)


def _search(graph: Graph, around: Surroundings) -> SegmentSearch:
    features = kept_features(around.samples)
    return SegmentSearch(graph, num_frozen_calls=features.num_frozen_calls if features else 0)
