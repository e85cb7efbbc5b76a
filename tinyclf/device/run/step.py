"""The flow from a net to a training step that fits: lower, cut rows, kept features, fit, place, tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from tinyclf.device.emit.upstream import Linkage, Upstream, link
from tinyclf.device.footprint.fitting import Surroundings, bytes_needed, fitted, num_fitting_samples, recomputed_within
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.lowering.lower import PLAIN, training_graph
from tinyclf.device.memory.plan import MemoryPlan, Placed
from tinyclf.device.memory.planner import placed
from tinyclf.device.memory.rows import cut_rows
from tinyclf.device.memory.samples import Linked, ProgramSamples, Streamed
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.plan import TilePlan
from tinyclf.device.tiles.planner import plan_tiles
from tinyclf.device.tiles.table import read_table
from tinyclf.recipe.update_rule import UpdateRule

ANYWHERE = Surroundings()  # code and stacks not counted, one sample
Traces = Callable[[Graph], frozenset[str]]  # the tensors of a step that are reported


@dataclass(frozen=True)
class PlannedStep:
    """A training step as it will run, with all that was decided of it.

    `plain` is the step without recomputation: that of `placed`, unless activations are recomputed. `around` has the
    samples as they will be. `linkage` None: all kernels are ours. `tiles` None: it computes where the tensors lie, or
    nobody asked.
    """

    plain: Graph
    placed: Placed
    around: Surroundings
    traced: frozenset[str] = frozenset()
    linkage: Linkage | None = None
    tiles: TilePlan | None = None

    @property
    def graph(self) -> Graph:
        """Return the calls of the step."""
        return self.placed.graph

    @property
    def plan(self) -> MemoryPlan:
        """Return where its tensors lie."""
        return self.placed.plan

    @cached_property
    def num_bytes(self) -> int:
        """Count the bytes that it needs, as `bytes_needed` does."""
        return bytes_needed(self.placed, self.around)

    @property
    def macs(self) -> int:
        """Count the multiply-accumulates of the step without recomputation."""
        return num_macs(self.plain)

    @property
    def recomputed_macs(self) -> int:
        """Count those that recomputation adds."""
        return num_macs(self.graph) - self.macs

    def within(self, budget: int) -> PlannedStep | None:
        """Return the step with as little recomputation as needs at most `budget` bytes; None if none is enough."""
        found = recomputed_within(self.placed, budget, self.around)
        return replace(self, placed=found) if found else None


def plan_step(
    net: nn.Module,
    *,
    image: tuple[int, int, int],
    rule: UpdateRule = PLAIN,
    around: Surroundings = ANYWHERE,
    recompute: bool = False,
    upstream: Upstream | None = None,
    traces: Traces | None = None,
) -> PlannedStep:
    """Plan one training step of `net`, BatchNorm folded, on one `image` (C, H, W), whose weights change as `rule` says.

    With `recompute`, activations are recomputed as far as it takes to fit the target; without a target, or on one
    without limits, for the fewest bytes. With `upstream`, that checkout's kernels are called where they are right; they
    compute where the tensors lie. `traces` None: the step is not to be emitted, and needs no tiles.

    Raises:
        Unsupported: a layer cannot be lowered.
        BadInput: nothing is trained, or features are to be kept and nothing is frozen.
        DoesNotFit: not even with recomputation, where that is asked for, or a call's smallest tile is larger than L1.
    """
    if upstream and around.target:
        around = replace(around, target=with_upstream(around.target))
    step = cut_rows(training_graph(net, input_shape=image, rule=rule))
    plain = step.graph
    around = replace(around, samples=_settled(step, around, recompute=recompute))
    if recompute:
        step = fitted(step, around)
    linkage = None
    if upstream:
        graph, linkage = link(step.graph, upstream)
        step = step if graph is step.graph else placed(graph)
    if traces is None:
        return PlannedStep(plain, step, around, linkage=linkage)
    traced = traces(step.graph)
    return PlannedStep(plain, step, around, traced, linkage, target_tiles(step, around.target, traced=traced))


def _settled(step: Placed, around: Surroundings, *, recompute: bool) -> ProgramSamples:
    """Return the samples with the features that are kept of them, or as many as fit where fewer will do."""
    samples = around.samples
    if isinstance(samples, Streamed):
        return samples.of_step(step.graph)
    if not samples.is_most or around.samples_bytes is None:
        return Linked(samples.num)
    # Whoever recomputes is short of bytes; that one sample fits is checked later.
    most = 1 if recompute else max(num_fitting_samples(step, around), 1)
    return Linked(min(samples.num, most))


def with_upstream(target: Target) -> Target:
    """Return `target` for programs with upstream's kernels: they compute where the tensors lie."""
    return replace(target, l1_bytes=None, code=target.upstream_code)


def target_tiles(step: Placed, target: Target | None, *, traced: frozenset[str] = frozenset()) -> TilePlan | None:
    """Return the tile plan of a step on `target`, by its table; None: it computes where the tensors lie.

    Raises:
        DoesNotFit: see `plan_tiles`.
        BadInput: the table is damaged, see `read_table`.
    """
    if target is None or target.tile_bytes is None:
        return None
    table = read_table(target.tile_table, target=target.name) if target.tile_table else None
    return plan_tiles(step.graph, step.plan, l1_bytes=target.tile_bytes, costs=target.costs, traced=traced, table=table)
