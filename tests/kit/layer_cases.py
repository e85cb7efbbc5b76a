"""Every case of every layer side by side in one graph, and what PyTorch gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
from tinyclf.device.graph.ir import BlobOf, Call, Graph, Node, Phase, Role, Tensor, check, gradient_name
from tinyclf.device.graph.kernels import BW, KERNELS, find
from tinyclf.device.lowering.layers import LAYERS, Case, Layer, Lowered
from tinyclf.device.memory.placement import Placement
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.planner import plan_memory
from tinyclf.recipe.channels import trained_channels

TOLERANCE = BOUNDS[FLOAT32].layer
SEED = 20261120
GAP_BYTES = 64  # untouched words around every tensor: a kernel that writes beside its output is found
SCALE = 4.0  # of inputs: some lie above 6
NUM_STEPS = 2  # a kernel that adds to its output instead of overwriting it is found

Arrays = dict[str, NDArray[Any]]  # by tensor


def all_cases() -> list[tuple[type[Layer], Case]]:
    return [(layer, case) for layer in LAYERS for case in layer.cases()]


def _combined(lowered: Lowered) -> tuple[Call, ...]:
    """Return the backward pass through the API's function that does both gradients, where there is one."""
    if not all(p.trained and p.trained_channels is None for p in lowered.parameters) or not lowered.parameters:
        return (*lowered.backward_input, *lowered.backward_parameters)
    layer = KERNELS[lowered.backward_input[0].kernel].layer
    if not any((row.layer, row.direction) == (layer, BW) for row in KERNELS.values()):
        return (*lowered.backward_input, *lowered.backward_parameters)
    params, *bias = lowered.backward_parameters
    (inputs,) = lowered.backward_input
    both = replace(
        inputs,
        kernel=find(layer, BW).symbol,
        reads=tuple({*params.reads, *inputs.reads}),
        writes=(*params.writes, *inputs.writes),
    )
    return (both, *bias)


def _in_place(lowered: Lowered, calls: list[Call], zero: Tensor) -> tuple[list[Node], list[Call]]:
    """Let the output take the memory of the first input, and their gradients too; both are copies, made by adding 0.

    Of a layer that keeps its input only the gradients share their memory.
    """
    x, y = lowered.inputs[0].name, lowered.output.name
    gradient = gradient_name(x) if lowered.backward_input else None
    values = {BlobOf(x): BlobOf(x if lowered.keeps_input else y, gradient), BlobOf(y): BlobOf(y, gradient)}
    names = {gradient_name(y): gradient_name(x)} | ({} if lowered.keeps_input else {x: y})
    nodes = [
        replace(
            node, attributes=tuple((n, values.get(v, v) if isinstance(v, BlobOf) else v) for n, v in node.attributes)
        )
        for node in lowered.nodes
    ]
    before = []
    for source, copy in names.items() if lowered.backward_input else [(x, y)]:
        blobs = (("first", BlobOf(source)), ("second", BlobOf(zero.name)), ("output", BlobOf(copy)))
        nodes.append(Node(f"{copy}.copy", "add", blobs))
        before.append(Call("tcl_add_fp32_cl", f"{copy}.copy", Phase.FORWARD, (source, zero.name), (copy,)))

    def renamed(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    return nodes, [*before, *(replace(c, reads=renamed(c.reads), writes=renamed(c.writes)) for c in calls)]


def cases_graph(
    cases: Sequence[tuple[type[Layer], Case]] | None = None, *, combined: bool = False
) -> tuple[Graph, Arrays, Arrays, dict[str, str]]:
    """Return one graph of the cases side by side (default: all), its values, PyTorch's results in double, their labels.

    `combined` takes the function that does both gradients, where there is one.
    """
    rng = np.random.default_rng(SEED)
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    calls: list[Call] = []
    values: Arrays = {}
    expected: Arrays = {}
    labels: dict[str, str] = {}
    for number, (layer, case) in enumerate(all_cases() if cases is None else cases):
        accepting = [k for k in LAYERS if k.accepts(case.module)]
        assert accepting == [layer], f"{case.label} is accepted by {accepting}"
        module = case.module.double()
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32)))
        xs = [Tensor(f"case{number}.input{i}", shape, Role.PARAMETER) for i, shape in enumerate(case.input_shapes)]
        lowered = layer.lower(f"case{number}", module, *xs)
        assert lowered.in_place or not case.in_place
        y_grad = Tensor(gradient_name(lowered.output.name), lowered.output.shape, Role.PARAMETER)
        x_grads = [Tensor(gradient_name(x.name), x.shape, Role.GRADIENT) for x in xs if lowered.backward_input]
        grads = [Tensor(gradient_name(p.name), p.trained_shape, Role.GRADIENT) for p in lowered.trained]
        backward = _combined(lowered) if combined else (*lowered.backward_parameters, *lowered.backward_input)
        own_nodes, own_calls = [*lowered.nodes], [*lowered.forward, *backward]
        if case.in_place:
            zero = Tensor(f"case{number}.zero", case.input_shape, Role.PARAMETER)
            own_nodes, own_calls = _in_place(lowered, own_calls, zero)
            values[zero.name] = np.zeros(zero.shape, np.float32)
            tensors[zero.name] = zero
        for t in (*xs, lowered.output, *lowered.parameters, *grads, *x_grads, y_grad):
            tensors[t.name] = t
        nodes += own_nodes
        calls += own_calls

        x_values = [SCALE * rng.standard_normal(x.shape).astype(np.float32) for x in xs]
        dy = rng.standard_normal(y_grad.shape).astype(np.float32)
        values |= {x.name: x_value for x, x_value in zip(xs, x_values, strict=True)} | {y_grad.name: dy}
        own = {f"case{number}.{name}": p for name, p in module.named_parameters()}
        values |= {name: p.detach().numpy().astype(np.float32) for name, p in own.items()}

        xs_torch = [torch.from_numpy(x_value).double().requires_grad_() for x_value in x_values]
        y = module(*(x[None] for x in xs_torch))
        y.backward(torch.from_numpy(dy).double()[None])
        results = {lowered.output.name: y[0]}
        results |= {x_grad.name: x.grad for x_grad, x in zip(x_grads, xs_torch, strict=False)}
        num = trained_channels(module)
        results |= {gradient_name(name): p.grad[:num] for name, p in own.items() if p.grad is not None}
        expected |= {name: value.detach().numpy() for name, value in results.items()}
        labels |= {name: f"{case.label}: {name}" for name in results}
    # The arena as a whole is reported after the last call.
    arena = Tensor("arena", (1,), Role.SCRATCH)
    calls[-1] = replace(calls[-1], writes=(*calls[-1].writes, arena.name))
    graph = Graph((*tensors.values(), arena), tuple(nodes), tuple(calls))
    check(graph)
    return graph, values, expected, labels


def with_gaps(graph: Graph) -> tuple[Graph, MemoryPlan]:
    """Place every tensor apart from all others, with gaps, and make "arena" the whole."""
    plan = plan_memory(graph)
    placements, end = [], GAP_BYTES
    for p in plan.placements:
        if p.tensor.name != "arena":
            placements.append(Placement(p.tensor, 0, len(graph.calls), end))
            end = -(-(end + p.tensor.num_bytes) // 16) * 16 + GAP_BYTES
    arena = Tensor("arena", (end // 4,), Role.SCRATCH)
    placements.append(Placement(arena, 0, len(graph.calls), 0))
    tensors = tuple(arena if t.name == "arena" else t for t in graph.tensors)
    gapped = replace(plan, placements=tuple(placements), arena_bytes=end)
    return replace(graph, tensors=tensors), gapped
