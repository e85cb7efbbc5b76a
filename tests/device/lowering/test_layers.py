"""Every kernel of every layer against PyTorch, on every target, on one core and on all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit.layer_cases import (
    NUM_STEPS,
    SEED,
    TOLERANCE,
    Arrays,
    cases_graph,
    with_gaps,
)
from tests.kit.targets import COSTS, on_targets
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.ir import Graph, Phase, Role, Tensor
from tinyclf.device.lowering.layers import LAYERS
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.reference.steps import relative_error
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.costs import Costs
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.choose import Choice, Work, choose
from tinyclf.device.tiles.plan import STATE_BYTES, Op, TilePlan
from tinyclf.device.tiles.planner import plan_tiles

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

L1_BYTES = 8 * 1024  # for the tiles of a layer


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


def _run(
    target: Target, project: Path, *, combined: bool, variables: tuple[str, ...] = (), tiled: bool = False
) -> tuple[MemoryPlan, Arrays, dict[str, str], targets.Results]:
    graph, values, expected, labels = cases_graph(combined=combined)
    graph, plan = with_gaps(graph)
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


def _check_results(plan: MemoryPlan, expected: Arrays, labels: dict[str, str], results: targets.Results) -> None:
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
