"""Recomputed activations: the same values, fewer bytes, known costs; and a checker that sees a wrong repeat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit.steps import training_graph
from tests.kit.targets import on_targets
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.ir import Call, Graph, Phase
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.memory.check import check_plan
from tinyclf.device.memory.placement import lifetimes, max_live
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.recompute import Segment, boundaries, check_recomputed, num_forward_calls, recompute
from tinyclf.device.memory.segments import SegmentSearch
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.target import Target
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, fold_batchnorm, freeze

SEED = 3
FULL = Variant("full")


def _model(arch: str, variant: Variant, size: int) -> torch.nn.Module:
    model = build_model(arch, num_classes=3, size=size, seed=SEED)
    images = np.random.default_rng(SEED).standard_normal((16, 3, size, size)).astype(np.float32)
    calibrate_batchnorm(model, torch.from_numpy(images))
    freeze(model, variant)
    return fold_batchnorm(model)


def _graph(arch: str = "mobilenet_wd4", variant: Variant = FULL, size: int = 32) -> Graph:
    return training_graph(_model(arch, variant, size), input_shape=(3, size, size), rule=UpdateRule(0.01))


def _live(graph: Graph) -> int:
    return max_live(lifetimes(graph))


def test_cuts_never_part_a_layer_from_what_works_on_its_output_in_place() -> None:
    graph = _graph()
    cuts = boundaries(graph)
    assert (cuts[0], cuts[-1]) == (0, num_forward_calls(graph))
    for cut in cuts[1:-1]:
        assert graph.calls[cut].kernel not in ("tcl_bias_fp32_fw_cl", "pulp_relu_fp32_fw_cl")
    assert len(cuts) == 27 + 2 + 1  # convolutions, pool and linear layer, and the end


def test_backward_calls_and_traces_keep_their_names() -> None:
    graph = _graph()
    cuts = boundaries(graph)
    result = recompute(graph, [Segment(cuts[0], cuts[6], (Segment(cuts[0], cuts[3]),)), Segment(cuts[8], cuts[12])])
    plain = graph.calls[num_forward_calls(graph) :]
    repeated = [c for c in result.calls if c.phase is Phase.BACKWARD and c not in plain]
    assert repeated
    assert [c for c in result.calls[num_forward_calls(graph) :] if c not in repeated] == list(plain)
    assert traced_tensors(result) == traced_tensors(graph)
    kernels = [c.kernel for c in result.calls]
    # Three convolutions run a third time (the last of the inner segment is kept), five a second.
    assert kernels.count("pulp_conv2d_fp32_fw_cl") == 3
    assert num_macs(result) > num_macs(graph)


def test_a_repeat_that_reads_an_updated_weight_is_seen() -> None:
    graph = _graph()
    cuts = boundaries(graph)
    result = recompute(graph, [Segment(cuts[2], cuts[5])])
    repeats = [i for i, c in enumerate(result.calls) if c.kernel.endswith("fw_cl") and c.phase is Phase.BACKWARD]
    first, behind = repeats[0], repeats[-1] + 1
    assert repeats == list(range(first, behind))
    (weight,) = (n for n in result.calls[first].reads if n.endswith(".weight"))
    update = replace(graph.calls[-1], reads=(weight, "loss"), writes=(weight,))

    def updated_before(graph: Graph, call: Call) -> Graph:
        at = graph.calls.index(call)
        return replace(graph, calls=(*graph.calls[:at], update, *graph.calls[at:]))

    plain = updated_before(graph, result.calls[behind])
    check_recomputed(plain, updated_before(result, result.calls[behind]))
    with pytest.raises(AssertionError, match="recomputation changes a value"):
        check_recomputed(plain, updated_before(result, result.calls[first]))


def test_a_repeat_that_damages_what_is_kept_is_seen() -> None:
    graph = _graph()
    cuts = boundaries(graph)
    result = recompute(graph, [Segment(cuts[2], cuts[5])])
    repeat = next(i for i, c in enumerate(result.calls) if c.kernel.endswith("fw_cl") and c.phase is Phase.BACKWARD)
    kept = result.calls[repeat].reads[0]
    damage = replace(result.calls[repeat], kernel="tcl_bias_fp32_fw_cl", reads=(kept,), writes=(kept,))
    calls = (*result.calls[:repeat], damage, *result.calls[repeat:])
    with pytest.raises(AssertionError, match="recomputation changes a value"):
        check_recomputed(graph, replace(result, calls=calls))


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("arch", ["mobilenet_wd4", "fdmobilenet_wd4", "dscnn"])
@pytest.mark.parametrize("variant", [Variant("FT", 2), Variant("full")], ids=lambda v: v.label)
def test_fewer_bytes_cost_more_macs_and_are_placed_within_two_percent(arch: str, variant: Variant, size: int) -> None:
    graph = _graph(arch, variant, size)
    search = SegmentSearch(graph)
    least = search.least()
    live, macs = _live(graph), num_macs(graph)
    for part in (0.9, 0.75, 0.6, 0.5, 0.0):
        limit = max(int(part * _live(graph)), _live(least))
        found = search.cheapest(limit)
        assert found is not None
        plan = plan_memory(found)  # runs the checker
        check_plan(found, plan)
        assert plan.max_live <= limit
        assert plan.peak <= 1.02 * plan.max_live, part
        assert num_macs(found) >= macs
        macs = num_macs(found)
    assert search.cheapest(_live(least) // 2) is None
    if variant.trains_everything:
        assert _live(least) < 0.9 * live


def test_a_linear_probe_has_nothing_to_recompute() -> None:
    graph = _graph(variant=Variant("LP"))
    least = SegmentSearch(graph).least()
    assert least.calls == graph.calls


@on_targets("host", "qemu")
@pytest.mark.parametrize("arch", ["mobilenet_wd4", "dscnn"])
def test_gradients_and_weights_are_the_same_bits(target: Target, arch: str, tmp_path: Path) -> None:
    model = _model(arch, Variant("full"), 32)
    sample = np.random.default_rng(SEED).standard_normal((1, 3, 32, 32)).astype(np.float32)
    graph = training_graph(model, input_shape=(3, 32, 32), rule=UpdateRule(0.001))
    runs = []
    for name, step in (("plain", graph), ("recomputed", SegmentSearch(graph).least())):
        program = Program(
            graph=step,
            plan=plan_memory(step),
            values={n: p.detach().numpy() for n, p in model.named_parameters()},
            samples=sample,
            labels=np.eye(3, dtype=np.float32)[:1],
            num_steps=2,
            traced=traced_tensors(step),
        )
        write_project(emit(program, target=target, num_cores=target.num_cores, command="tests"), tmp_path / name)
        targets.build(tmp_path / name, target)
        runs.append((program, targets.run(tmp_path / name)))
    (plain, expected), (recomputed, actual) = runs
    assert recomputed.plan.peak < 0.9 * plain.plan.peak
    assert num_macs(recomputed.graph) > num_macs(plain.graph)
    for before, after in zip(expected.steps, actual.steps, strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert value.tobytes() == after[name].tobytes(), name
