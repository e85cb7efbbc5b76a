"""Every kernel of every layer against PyTorch, on every target, on one core and on all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import on_targets

from tinyclf import targets
from tinyclf.deploy import write_project
from tinyclf.emit import Program, emit
from tinyclf.golden import relative_error
from tinyclf.ir import Call, Graph, Phase, Role, Tensor, check, gradient_name
from tinyclf.layers import LAYERS, Lowered
from tinyclf.memory import MemoryPlan, Placement, plan_memory
from tinyclf.targets import Target

TOLERANCE = 1e-5
SEED = 20261120
GAP_BYTES = 64  # untouched words around every tensor: a kernel that writes beside its output is found
NUM_STEPS = 2  # a kernel that adds to its output instead of overwriting it is found


def _all_cases():
    return [(layer, case) for layer in LAYERS for case in layer.cases()]


def _combined(lowered: Lowered) -> tuple[Call, ...]:
    """Return the backward pass through the API's function that does both gradients, where there is one."""
    if not lowered.parameters:
        return lowered.backward_input
    params, *bias = lowered.backward_parameters
    (inputs,) = lowered.backward_input
    both = replace(
        inputs,
        kernel=inputs.kernel.replace("_bw_input_grads_cl", "_bw_cl"),
        reads=tuple({*params.reads, *inputs.reads}),
        writes=(*params.writes, *inputs.writes),
    )
    return (both, *bias)


def _cases_graph(*, combined: bool):
    """Return one graph of all cases side by side, its values, and the results that PyTorch gives, in double."""
    rng = np.random.default_rng(SEED)
    tensors: dict[str, Tensor] = {}
    nodes, calls, values, expected, labels = [], [], {}, {}, {}
    for number, (layer, case) in enumerate(_all_cases()):
        assert next(k for k in LAYERS if k.accepts(case.module)) is layer, f"{case.label} is lowered by another class"
        module = case.module.double()
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32)))
        x = Tensor(f"case{number}.input", case.input_shape, Role.PARAMETER)
        lowered = layer.lower(f"case{number}", module, x)
        y_grad = Tensor(gradient_name(lowered.output.name), lowered.output.shape, Role.PARAMETER)
        x_grad = Tensor(gradient_name(x.name), x.shape, Role.GRADIENT)
        grads = [Tensor(gradient_name(p.name), p.shape, Role.GRADIENT) for p in lowered.parameters]
        for t in (x, lowered.output, *lowered.parameters, *grads, x_grad, y_grad):
            tensors[t.name] = t if t.name != x.name else x
        backward = _combined(lowered) if combined else (*lowered.backward_parameters, *lowered.backward_input)
        nodes += lowered.nodes
        calls += [*lowered.forward, *backward]

        x_value = rng.standard_normal(x.shape).astype(np.float32)
        dy = rng.standard_normal(y_grad.shape).astype(np.float32)
        values |= {x.name: x_value, y_grad.name: dy}
        own = {f"case{number}.{name}": p for name, p in module.named_parameters()}
        values |= {name: p.detach().numpy().astype(np.float32) for name, p in own.items()}

        x_torch = torch.from_numpy(x_value).double().requires_grad_()
        y = module(x_torch[None])
        y.backward(torch.from_numpy(dy).double()[None])
        results = {lowered.output.name: y[0], x_grad.name: x_torch.grad}
        results |= {gradient_name(name): p.grad for name, p in own.items()}
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


def _run(target: Target, project: Path, *, combined: bool, variables: tuple[str, ...] = ()):
    graph, values, expected, labels = _cases_graph(combined=combined)
    graph, plan = _with_gaps(graph)
    traced = frozenset(name for call in graph.calls for name in call.writes)
    program = Program(graph, plan, values, None, None, NUM_STEPS, traced)
    write_project(emit(program, target=target, num_cores=target.num_cores, command="tests"), project)
    targets.build(project, target, *variables)
    return plan, expected, labels, targets.run(project, *variables)


@on_targets()
@pytest.mark.parametrize("cores", ["one", "all"])
@pytest.mark.parametrize("combined", [False, True], ids=["apart", "combined"])
def test_kernels_match_pytorch(target: Target, cores: str, combined: bool, tmp_path: Path) -> None:
    variables = ("NUM_CORES=1",) if cores == "one" else ()
    plan, expected, labels, results = _run(target, tmp_path / "cases", combined=combined, variables=variables)
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
            lowered = layer.lower("x", case.module, Tensor("in", case.input_shape, Role.INPUT))
            with torch.no_grad():
                shape = case.module(torch.zeros(1, *case.input_shape)).shape[1:]
            assert tuple(shape) == lowered.output.shape, case.label
            assert {c.phase for c in lowered.forward} == {Phase.FORWARD}
            assert {c.phase for c in (*lowered.backward_input, *lowered.backward_parameters)} == {Phase.BACKWARD}
