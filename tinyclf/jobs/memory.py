"""A net, by its architecture, becomes a statement of the memory that its training needs."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclf.device.footprint.fitting import Surroundings
from tinyclf.device.lowering.lower import PLAIN
from tinyclf.device.memory.sums import MemorySums, summed
from tinyclf.device.run.step import ANYWHERE, PlannedStep, Traces, plan_step
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze, num_parameters


@dataclass(frozen=True)
class MemoryRequest:
    """The training step that a user asks about; `arch` None: the variant's default, `size` in pixels.

    `recompute`: activations are recomputed as far as it takes to fit the target of `around`; without a target, or on
    one without limits, for the fewest bytes. Samples that are streamed are those of a training run.
    """

    variant: Variant
    arch: str | None = None
    size: int = 128
    num_classes: int = 2
    small_input: bool = False
    rule: UpdateRule = PLAIN
    around: Surroundings = ANYWHERE
    recompute: bool = False

    @property
    def net(self) -> str:
        """Return the architecture."""
        return self.arch or self.variant.default_arch


@dataclass(frozen=True)
class TrainingMemory:
    """What one training step of a net needs: the step, with where everything lies, and the sums.

    `num_parameters` are PyTorch's, with BatchNorm; `num_folded` are those that are deployed.
    """

    step: PlannedStep
    sums: MemorySums
    num_parameters: int
    num_folded: int


def memory_of(request: MemoryRequest, *, traces: Traces | None = None) -> TrainingMemory:
    """Plan the memory of a training step; no data or training is needed. `traces`: see `plan_step`.

    Raises:
        DoesNotFit: not even the most recomputation fits.
        BadInput: see `feature_memory`.
    """
    r = request
    model = build_model(r.net, num_classes=r.num_classes, size=r.size, small_input=r.small_input)
    freeze(model, r.variant)
    folded = fold_batchnorm(model)
    step = plan_step(
        folded, image=(3, r.size, r.size), rule=r.rule, around=r.around, recompute=r.recompute, traces=traces
    )
    sums = summed(step.graph, step.plan, plain=step.plain)
    return TrainingMemory(step, sums, num_parameters(model), num_parameters(folded))
