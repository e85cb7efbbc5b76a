"""Every kernel of every layer against PyTorch, on every target, on one core and on all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit.targets import COSTS, on_targets
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
from tinyclf.device.graph.ir import BlobOf, Call, Graph, Node, Phase, Role, Tensor, check, gradient_name
from tinyclf.device.graph.kernels import BW, KERNELS, find
from tinyclf.device.lowering.layers import LAYERS, Lowered
from tinyclf.device.memory.placement import Placement
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.reference.steps import relative_error
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.costs import Costs
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.choose import Choice, Work, choose
from tinyclf.device.tiles.plan import STATE_BYTES, Op, TilePlan
from tinyclf.device.tiles.planner import plan_tiles
from tinyclf.recipe.channels import trained_channels

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

TOLERANCE = BOUNDS[FLOAT32].layer
SEED = 20261120
GAP_BYTES = 64  # untouched words around every tensor: a kernel that writes beside its output is found
SCALE = 4.0  # of inputs: some lie above 6
L1_BYTES = 8 * 1024  # for the tiles of a layer
NUM_STEPS = 2  # a kernel that adds to its output instead of overwriting it is found


def _all_cases():
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


def _in_place(lowered: Lowered, calls: tuple[Call, ...], zero: Tensor) -> tuple[list[Node], list[Call]]:
    """Let the output take the memory of the first input, and their gradients too; both are copies, made by adding 0.

    Of a layer that keeps its input only the gradients share their memory.
    """
    x, y = lowered.inputs[0].name, lowered.output.name
    gradient = gradient_name(x) if lowered.backward_input else None
    values = {BlobOf(x): BlobOf(x if lowered.keeps_input else y, gradient), BlobOf(y): BlobOf(y, gradient)}
    names = {gradient_name(y): gradient_name(x)} | ({} if lowered.keeps_input else {x: y})
    nodes = [
        replace(node, attributes=tuple((n, values.get(v, v)) for n, v in node.attributes)) for node in lowered.nodes
    ]
    before = []
    for source, copy in names.items() if lowered.backward_input else [(x, y)]:
        blobs = (("first", BlobOf(source)), ("second", BlobOf(zero.name)), ("output", BlobOf(copy)))
        nodes.append(Node(f"{copy}.copy", "add", blobs))
        before.append(Call("tcl_add_fp32_cl", f"{copy}.copy", Phase.FORWARD, (source, zero.name), (copy,)))

    def renamed(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    return nodes, [*before, *(replace(c, reads=renamed(c.reads), writes=renamed(c.writes)) for c in calls)]


def _cases_graph(*, combined: bool):
    """Return one graph of all cases side by side, its values, and the results that PyTorch gives, in double."""
    rng = np.random.default_rng(SEED)
    tensors: dict[str, Tensor] = {}
    nodes, calls, values, expected, labels = [], [], {}, {}, {}
    for number, (layer, case) in enumerate(_all_cases()):
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
        own_nodes, own_calls = lowered.nodes, (*lowered.forward, *backward)
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
        results |= {gradient_name(name): p.grad[:num] for name, p in own.items() if p.requires_grad}
        expected |= {name: value.detach().numpy() for name, value in results.items()}
        labels |= {name: f"{case.label}: {name}" for name in results}
    # The arena as a whole is reported after the last call.
    arena = Tensor("arena", (1,), Role.SCRATCH)
    calls[-1] = replace(calls[-1], writes=(*calls[-1].writes, arena.name))
    graph = Graph((*tensors.values(), arena), tuple(nodes), tuple(calls))
    check(graph)
    return graph, values, expected, labels


def _with_gaps(graph: Graph) -> tuple[Graph, MemoryPlan]:
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


def _tiles(graph: Graph, plan: MemoryPlan, traced: frozenset[str]) -> TilePlan:
    """Cut each call into tiles as small as may be, all but the report of the arena, which is no output of theirs."""
    calls = tuple(replace(c, writes=tuple(name for name in c.writes if name != "arena")) for c in graph.calls)
    sizes = (*range(128, 1024, 128), *range(1024, L1_BYTES, 512))

    def smallest(work: Work, num_bytes: int, costs: Costs, _tuned: Choice | None) -> Op | None:
        return next(filter(None, (choose(work, size, costs) for size in sizes if size <= num_bytes)), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyclf.device.tiles.planner.choose", smallest)
        tiles = plan_tiles(
            replace(graph, calls=calls), plan, costs=COSTS, l1_bytes=L1_BYTES + STATE_BYTES, traced=traced - {"arena"}
        )
    assert {op.body for op in tiles.ops if op.num_tiles > 1} == {op.body for op in tiles.ops if op.body}
    return tiles


def _run(target: Target, project: Path, *, combined: bool, variables: tuple[str, ...] = (), tiled: bool = False):
    graph, values, expected, labels = _cases_graph(combined=combined)
    graph, plan = _with_gaps(graph)
    traced = frozenset(name for call in graph.calls for name in call.writes)
    program = Program(graph, plan, values, None, None, NUM_STEPS, traced)
    if tiled:
        program = replace(program, tiles=_tiles(graph, plan, traced))
    write_project(emit(program, target=target, num_cores=target.num_cores, command="tests"), project)
    targets.build(project, target, *variables)
    return plan, expected, labels, targets.run(project, *variables)


@on_targets()
@pytest.mark.parametrize("cores", ["one", "all"])
@pytest.mark.parametrize("combined", [False, True], ids=["apart", "combined"])
def test_kernels_match_pytorch(target: Target, cores: str, combined: bool, tmp_path: Path) -> None:
    variables = ("NUM_CORES=1",) if cores == "one" else ()
    _check_results(*_run(target, tmp_path / "cases", combined=combined, variables=variables))


@on_targets()
def test_tiles_match_pytorch(target: Target, tmp_path: Path) -> None:
    variables = {
        "host": ("SANITIZE=address,undefined", "NUM_CORES=3"),
        "qemu": ("NUM_CORES=1",),  # its cores turn round at every barrier, of which there are very many
    }.get(target.name, ("CHECKS=1",))
    _check_results(*_run(target, tmp_path / "cases", combined=False, variables=variables, tiled=True))


def _check_results(plan: MemoryPlan, expected, labels, results: targets.Results) -> None:
    assert len(results.steps) == NUM_STEPS
    for step in results.steps:
        errors = {labels[name]: relative_error(step[name], value) for name, value in expected.items()}
        too_large = {label: error for label, error in errors.items() if not error <= TOLERANCE}
        assert not too_large, f"seed {SEED}: {too_large}"
        untouched = np.ones(plan.arena_bytes // 4, dtype=bool)
        for p in plan.placements:
            if p.tensor.name != "arena":
                untouched[p.offset // 4 : p.end // 4] = False
        assert not step["arena"][untouched].any(), "a kernel wrote beside its output"


@pytest.mark.target("host")
def test_number_of_cores_does_not_change_a_bit(tmp_path: Path) -> None:
    host = targets.find_target("host")
    runs = [
        _run(host, tmp_path / str(cores), combined=False, variables=(f"NUM_CORES={cores}",))[3] for cores in (1, 3, 8)
    ]
    for other in runs[1:]:
        for name, value in runs[0].steps[0].items():
            np.testing.assert_array_equal(other.steps[0][name], value, err_msg=name)


@pytest.mark.target("host")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels_run_clean_under_sanitizers(sanitizer: str, tmp_path: Path) -> None:
    host = targets.find_target("host")
    _run(host, tmp_path / "cases", combined=False, variables=(f"SANITIZE={sanitizer}",))


def test_every_layer_has_cases_for_every_direction() -> None:
    for layer in LAYERS:
        cases = list(layer.cases())
        assert cases, f"{layer.__name__} has no cases"
        for case in cases:
            inputs = [Tensor(f"in{i}", shape, Role.INPUT) for i, shape in enumerate(case.input_shapes)]
            lowered = layer.lower("x", case.module, *inputs)
            with torch.no_grad():
                shape = case.module(*(torch.zeros(1, *shape) for shape in case.input_shapes)).shape[1:]
            assert tuple(shape) == lowered.output.shape, case.label
            assert {c.phase for c in lowered.forward} == {Phase.FORWARD}
            assert {c.phase for c in (*lowered.backward_input, *lowered.backward_parameters)} <= {Phase.BACKWARD}
            assert lowered.backward_input or case.num_inputs == 2  # a sum passes its gradient on as it is
            assert bool(lowered.backward_parameters) == any(p.requires_grad for p in case.module.parameters())
