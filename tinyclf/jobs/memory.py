"""A net, by its architecture or from a run, becomes a statement of the memory that its training needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from tinyclf.device.footprint.fitting import Setting, fitted
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.macs import num_macs as num_step_macs
from tinyclf.device.lowering.lower import PLAIN, training_graph
from tinyclf.device.memory.kept_features import feature_memory
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.report import MemoryReport, report
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import (
    build_model,
    fold_batchnorm,
    freeze,
    num_parameters,
)


@dataclass(frozen=True)
class Need:
    """What one training step of a net needs: its graph, where everything lies, and the sums.

    `num_parameters` are PyTorch's, with BatchNorm; `num_folded` are those that are deployed. `plain` is the step
    without recomputation: `graph` itself, unless activations are recomputed, at `recomputed_macs`. `setting` has the
    bytes of the features that are kept.
    """

    arch: str
    graph: Graph
    plan: MemoryPlan
    report: MemoryReport
    num_parameters: int
    num_folded: int
    plain: Graph
    setting: Setting

    @property
    def macs(self) -> int:
        """Count the multiply-accumulates of the step without recomputation."""
        return num_step_macs(self.plain)

    @property
    def recomputed_macs(self) -> int:
        """Count those that recomputation adds."""
        return num_step_macs(self.graph) - self.macs


def memory_of(
    variant: Variant,
    *,
    arch: str | None,
    size: int,
    num_classes: int,
    small_input: bool = False,
    rule: UpdateRule | None = None,
    recompute: bool = False,
    setting: Setting | None = None,
    cache: str = "off",
) -> Need:
    """Plan the memory of a training step of `arch` (None: the variant's default); no data or training is needed.

    `rule`: how weights are updated; None: by plain SGD. With `recompute`, activations are recomputed as far as it takes
    to fit the target of `setting`; without a target, or on one without limits, for the fewest bytes. `cache` other than
    "off": as in a training run, which streams the samples of `setting` and keeps features of them.

    Raises:
        DoesNotFit: not even the most recomputation fits.
        BadInput: see `feature_memory`.
    """
    setting = setting or Setting()
    arch = arch or variant.default_arch
    model = build_model(arch, num_classes=num_classes, size=size, small_input=small_input)
    freeze(model, variant)
    folded = fold_batchnorm(model)
    plain, plan, sums = _plan(folded, (3, size, size), rule)
    kept = feature_memory(plain, kind=cache, num_samples=setting.num_samples or 0)
    if kept:
        setting = setting.keeping(kept)
    graph = fitted(plain, setting) if recompute else plain
    if graph is not plain:
        plan = plan_memory(graph)
        naive = {name: value for name, value in sums.to_dict().items() if name.startswith("naive_")}
        sums = replace(report(graph, plan), **naive)  # of the plain step
    return Need(arch, graph, plan, sums, num_parameters(model), num_parameters(folded), plain, setting)


def _plan(
    folded: nn.Module, input_shape: tuple[int, int, int], rule: UpdateRule | None = None
) -> tuple[Graph, MemoryPlan, MemoryReport]:
    """Plan a training step; no byte of it depends on the learning rate."""
    graph = training_graph(folded, input_shape=input_shape, rule=rule or PLAIN)
    plan = plan_memory(graph)
    return graph, plan, report(graph, plan)
