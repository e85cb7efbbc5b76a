"""What a training step needs, summed up by what the bytes are for."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclf.device.graph.ir import Graph, Role
from tinyclf.device.graph.kernels import KERNELS
from tinyclf.device.memory.plan import MemoryPlan


@dataclass(frozen=True)
class MemorySums:
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


def summed(graph: Graph, plan: MemoryPlan, *, plain: Graph | None = None) -> MemorySums:
    """Sum up `plan`; beside it what a naive summary says: every layer's output and every gradient kept to the end.

    Naive counts a ReLU's output apart from its input and the gradient of every trained parameter, as summaries of
    PyTorch models do; it leaves out activation gradients, as they do. The optimizer's state is the same for both.
    It is that of `plain`, where `graph` is that step with activations recomputed.
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
    naive = _naive_activations(plain or graph)
    state = sum(t.num_bytes for t in graph.tensors_of(Role.STATE))
    return MemorySums(
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
        if KERNELS[call.kernel].layer != "bias":
            total += sum(graph.by_name[name].num_bytes for name in call.writes if name in outputs)
    return total
