"""Every kind of update against PyTorch's optimizers: kernels alone, whole runs on every target, and their memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.kit.paths import LIBRARY
from tests.kit.steps import training_graph
from tests.kit.targets import on_targets
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, aligned
from tinyclf.device.graph.ir import PERSISTENT, Graph, Phase, Role, Tensor, check, gradient_name
from tinyclf.device.lowering.layers import Lowered
from tinyclf.device.lowering.updates import NUM_NORM_BLOCKS, Updates
from tinyclf.device.memory.check import check_plan
from tinyclf.device.memory.placement import Placement
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.sums import summed
from tinyclf.device.reference.steps import TorchUpdate, relative_error, training_steps
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program
from tinyclf.device.run.project import write_project
from tinyclf.device.run.step_report import Report
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target, with_l1
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, fold_batchnorm

SEED = 11
GAP_BYTES = 64  # untouched words around every tensor: a kernel that writes beside its output is found

RULES = {
    "momentum": UpdateRule(0.01, momentum=0.9, weight_decay=1e-3),
    "adam": UpdateRule(0.001, optimizer="adam", weight_decay=1e-3),
    "adamw": UpdateRule(0.003, optimizer="adamw", weight_decay=0.1),
    "batch 4": UpdateRule(0.05, batch=4, weight_decay=1e-3),
    "batch 7": UpdateRule(0.05, batch=7, momentum=0.9),
    "clip": UpdateRule(0.05, clip=0.5, weight_decay=1e-3),
    "clip, batch 4": UpdateRule(0.05, clip=0.5, batch=4, momentum=0.5),
    "cosine": UpdateRule(0.05, schedule="cosine", num_updates=10, warmup=3),
    "step": UpdateRule(0.05, schedule="step", num_updates=10, milestones=(0.2, 0.5), gamma=0.3),
    "mse": UpdateRule(0.05, loss="mse", momentum=0.9),
    "all": UpdateRule(0.002, optimizer="adam", batch=4, clip=0.1, schedule="cosine", num_updates=10, weight_decay=0.01),
}


def _net() -> nn.Module:
    """Return a small net with every kind of trained layer; its weights are in a natural range."""
    torch.manual_seed(SEED)
    layers = OrderedDict(
        conv=nn.Conv2d(3, 6, 3, stride=2, padding=1),
        relu1=nn.ReLU(),
        depthwise=nn.Conv2d(6, 6, 3, padding=1, groups=6),
        relu2=nn.ReLU(),
        pointwise=nn.Conv2d(6, 10, 1),
        relu3=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        output=nn.Linear(10, 3),
    )
    return nn.Sequential(layers)


def _job(rule: UpdateRule, *, num_updates: int, model: nn.Module | None = None, size: int = 9) -> Job:
    rng = np.random.default_rng(SEED)
    num_samples = 5  # unlike any batch: batches differ
    return Job(
        model=model or _net(),
        samples=rng.standard_normal((num_samples, 3, size, size)).astype(np.float32),
        labels=np.eye(3, dtype=np.float32)[rng.integers(0, 3, num_samples)],
        num_steps=rule.batch * num_updates,
        rule=rule,
        command="tests",
    )


def _execute(job: Job, target: Target, project: Path, *variables: str) -> Report:
    done = execute(job, emit_project(job, target, project), target, project, *variables)
    failed = [c for c in done.comparisons if not c.passed or c.drifted]
    assert not failed, failed[:5]
    trained = {name for name, p in job.model.named_parameters() if p.requires_grad}
    updates = [c.step for c in done.comparisons if c.name == "output.bias"]
    assert updates == list(range(job.rule.batch - 1, job.num_steps, job.rule.batch))
    last = [c for c in done.comparisons if c.name in trained and c.step == job.num_steps - 1]
    assert {c.name for c in last} == trained
    assert max(c.run_error for c in last) <= 1e-5, last
    return done


@on_targets("host")
@pytest.mark.parametrize("name", RULES)
def test_ten_updates(target: Target, name: str, tmp_path: Path) -> None:
    job = _job(RULES[name], num_updates=10)
    _execute(job, target, tmp_path / "p")
    # The rule matters: plain SGD at the same rate ends elsewhere.
    plain = UpdateRule(job.rule.learning_rate)
    ends = [
        training_steps(job.model, job.samples, job.labels, num_steps=job.num_steps, rule=rule).steps[-1]
        for rule in (job.rule, plain)
    ]
    assert relative_error(ends[0]["output.weight"], ends[1]["output.weight"]) > 1e-3


@on_targets("qemu", "pulp")
@pytest.mark.parametrize("name", RULES)
def test_two_updates(target: Target, name: str, tmp_path: Path) -> None:
    _execute(_job(RULES[name], num_updates=2), target, tmp_path / "p")


def _execute_on_small_tiles(name: str, target: Target, project: Path, *variables: str) -> None:
    """Run two updates on so few bytes that parameters are cut."""
    job, target = _job(RULES[name], num_updates=2), with_l1(target, "5KiB")
    program = make_program(job, target)
    assert program.tiles is not None
    updates = ("tcl_tile_sgd", "tcl_tile_adam", "tcl_tile_adamw", "tcl_tile_accumulate")
    assert any(op.body in updates for op in program.tiles.ops)
    _execute(job, target, project, *variables)


@on_targets("host")
@pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "batch 4", "clip, batch 4", "all"])
def test_two_updates_on_small_tiles_under_sanitizers(target: Target, name: str, tmp_path: Path) -> None:
    _execute_on_small_tiles(name, target, tmp_path / "p", "SANITIZE=address,undefined", "NUM_CORES=3")


@on_targets("qemu")
@pytest.mark.parametrize("name", ["momentum", "all"])
def test_two_updates_on_small_tiles(target: Target, name: str, tmp_path: Path) -> None:
    _execute_on_small_tiles(name, target, tmp_path / "p")


@on_targets("host")
@pytest.mark.parametrize(("name", "l1"), [("momentum", "32KiB"), ("all", "64KiB"), ("all", "128KiB")])
def test_updates_of_dscnn_on_tiles(target: Target, name: str, l1: str, tmp_path: Path) -> None:
    _execute(_dscnn_job(name, num_updates=2), with_l1(target, l1), tmp_path / "p")


@on_targets("host")
def test_updates_on_tiles_do_not_race(target: Target, tmp_path: Path) -> None:
    job = _dscnn_job("all", num_updates=1)
    _execute(job, with_l1(target, "32KiB"), tmp_path / "p", "SANITIZE=thread", "NUM_CORES=4")


@on_targets("host")
@pytest.mark.parametrize("name", ["momentum", "all"])
def test_ten_updates_of_dscnn(target: Target, name: str, tmp_path: Path) -> None:
    _execute(_dscnn_job(name, num_updates=10), target, tmp_path / "p")


def _dscnn_job(name: str, *, num_updates: int) -> Job:
    model = build_model("dscnn", num_classes=3, size=32, seed=SEED)
    images = np.random.default_rng(SEED).standard_normal((16, 3, 32, 32)).astype(np.float32)
    calibrate_batchnorm(model, torch.from_numpy(images))
    return _job(RULES[name], num_updates=num_updates, model=fold_batchnorm(model), size=32)


@on_targets("host")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_updates_run_clean_under_sanitizers(target: Target, sanitizer: str, tmp_path: Path) -> None:
    _execute(_job(RULES["all"], num_updates=2), target, tmp_path / "p", f"SANITIZE={sanitizer}")


@pytest.mark.target("host")
@pytest.mark.parametrize(("name", "change"), [("momentum", {"momentum": 0.8}), ("clip", {"clip": 0.4})])
def test_another_rule_is_found(name: str, change: dict[str, float], tmp_path: Path) -> None:
    host = targets.find_target("host")
    job = _job(RULES[name], num_updates=2)
    program = emit_project(job, host, tmp_path / "p")
    done = execute(replace(job, rule=replace(job.rule, **change)), program, host, tmp_path / "p")
    wrong = {c.name for c in done.comparisons if not c.passed}
    assert "output.weight" in wrong
    assert not any(name.endswith(".grad") for name in wrong if name)


def test_the_reference_averages_a_batch_as_torch_does() -> None:
    job = _job(UpdateRule(0.05, batch=5, momentum=0.9, clip=0.1), num_updates=2)
    steps = training_steps(job.model, job.samples, job.labels, num_steps=10, rule=job.rule).steps
    model = _net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in (4, 9):
        x, y = torch.from_numpy(job.samples).double(), torch.from_numpy(job.labels).double()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1
        optimizer.step()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(steps[step][name], p.detach(), rtol=1e-9, atol=1e-12)
    assert not set(dict(model.named_parameters())) & set(steps[3])


# --- kernels alone ------------------------------------------------------------------------------------------------

SIZES = [1, 5, NUM_NORM_BLOCKS + 1, 8 * 64 * NUM_NORM_BLOCKS + 7]


def _kernels_program(rule: UpdateRule, num_steps: int) -> tuple[Program, dict[str, np.ndarray]]:
    """Return the updates of parameters with fixed gradients, gaps around all, and masks of the gaps by block."""
    rng = np.random.default_rng(SEED)
    parameters = tuple(Tensor(f"p{n}", (n,), Role.PARAMETER, trained=True) for n in SIZES)
    gradients = [Tensor(gradient_name(p.name), p.shape, Role.PARAMETER) for p in parameters]
    updates = Updates(rule)
    nothing = Tensor("nothing", (1,), Role.INPUT)
    calls = [
        *updates.after(Lowered("layer", (), nothing, parameters[:2], (), (), ())),
        *updates.after(Lowered("other", (), nothing, parameters[2:], (), (), ())),
        *updates.at_end(),
    ]
    tensors = [*parameters, *gradients, *updates.tensors.values()]
    values = {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in (*parameters, *gradients)}
    graph = Graph(tuple(tensors), tuple(updates.nodes.values()), tuple(calls), rule=rule)
    check(graph)
    plan = plan_memory(graph)

    def gapped(offsets):
        spread, end = [], GAP_BYTES
        for name, _ in offsets:
            spread.append((name, end))
            end = aligned(end + graph.by_name[name].num_bytes) + GAP_BYTES
        return spread, end

    (places, num_bytes), (state_places, state_bytes) = gapped(plan.parameter_offsets), gapped(plan.state_offsets)
    arena_places, arena_bytes = gapped([(p.tensor.name, 0) for p in plan.placements])
    blocks = [
        Tensor("all parameters", (num_bytes // 4,), Role.PARAMETER),
        Tensor("all state", (state_bytes // 4,), Role.STATE),
        Tensor("all of the arena", (arena_bytes // 4,), Role.SCRATCH),
    ]
    masks = {}
    for block, spread in zip(blocks, (places, state_places, arena_places), strict=True):
        masks[block.name] = np.ones(block.shape, dtype=bool)
        for name, offset in spread:
            masks[block.name][offset // 4 : offset // 4 + graph.by_name[name].num_elements] = False
    values["all parameters"] = np.zeros(num_bytes // 4, np.float32)
    calls[-1] = replace(calls[-1], writes=(*calls[-1].writes, *(b.name for b in blocks)))
    whole_arena = [("all of the arena", 0), *arena_places]
    tensors = [*blocks, *tensors]
    graph = replace(graph, tensors=tuple(tensors), calls=tuple(calls))
    plan = replace(
        plan,
        placements=tuple(Placement(graph.by_name[name], 0, len(calls), offset) for name, offset in whole_arena),
        arena_bytes=arena_bytes,
        parameter_offsets=(("all parameters", 0), *places),
        parameter_bytes=num_bytes,
        state_offsets=(("all state", 0), *state_places),
        state_bytes=state_bytes,
    )
    traced = frozenset({*(p.name for p in parameters), *(b.name for b in blocks)})
    return Program(graph, plan, values, None, None, num_steps, traced), masks


def _expected(program: Program) -> list[dict[str, np.ndarray]]:
    """Return the parameters after each update, by torch's optimizers in double precision."""
    rule = program.graph.rule
    assert rule is not None
    parameters = {f"p{n}": nn.Parameter(torch.from_numpy(program.values[f"p{n}"]).double()) for n in SIZES}
    update = TorchUpdate(rule, parameters)
    results = []
    for _ in range(program.num_steps):
        for name, p in parameters.items():
            p.grad = torch.from_numpy(program.values[gradient_name(name)]).double()
        if update.take():
            results.append({name: p.detach().numpy().copy() for name, p in parameters.items()})
    return results


def _run(rule: UpdateRule, target: Target, project: Path, *variables: str):
    program, masks = _kernels_program(rule, num_steps=3 * rule.batch)
    write_project(emit(program, target=target, num_cores=target.num_cores, command="tests"), project)
    targets.build(project, target, *variables)
    return program, masks, targets.run(project, *variables)


@on_targets()
@pytest.mark.parametrize("cores", ["one", "all"])
@pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "clip, batch 4", "all", "step"])
def test_kernels_match_torch_and_write_nothing_else(target: Target, name: str, cores: str, tmp_path: Path) -> None:
    variables = ("NUM_CORES=1",) if cores == "one" else ()
    program, masks, results = _run(RULES[name], target, tmp_path / "p", *variables)
    steps = [step for step in results.steps if step]
    expected = _expected(program)
    assert len(steps) == len(expected) == 3
    for step, values in zip(steps, expected, strict=True):
        for parameter, value in values.items():
            assert relative_error(step[parameter], value) <= 1e-6, parameter
        for block, gaps in masks.items():
            assert gaps.any()
            assert not step[block][gaps].any(), f"a kernel wrote beside its output in {block}"


@pytest.mark.target("host")
@pytest.mark.parametrize("name", ["clip, batch 4", "all"])
def test_number_of_cores_does_not_change_a_bit(name: str, tmp_path: Path) -> None:
    host = targets.find_target("host")
    runs = [_run(RULES[name], host, tmp_path / str(n), f"NUM_CORES={n}")[2].steps for n in (1, 3, 8)]
    for other in runs[1:]:
        for step, first in zip(other, runs[0], strict=True):
            for tensor, value in first.items():
                np.testing.assert_array_equal(step[tensor], value, err_msg=tensor)


def test_weights_without_a_gradient_decay_by_adamw_alone() -> None:
    """Of no gradient Adam makes one from the decay, of full size: AdamW only shrinks the weights."""
    weights = {}
    for optimizer in ("adam", "adamw"):
        parameter = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
        update = TorchUpdate(UpdateRule(0.01, optimizer=optimizer, weight_decay=0.5), {"w": parameter})
        parameter.grad = torch.zeros_like(parameter)
        assert update.take()
        weights[optimizer] = parameter.detach().numpy()
    np.testing.assert_allclose(weights["adam"], 2 - 0.01, rtol=1e-6)
    np.testing.assert_allclose(weights["adamw"], 2 * (1 - 0.01 * 0.5), rtol=1e-12)


def test_the_number_of_blocks_is_that_of_the_kernel() -> None:
    header = LIBRARY / "include" / "tcl_update_fp32.h"
    assert f"TCL_NORM_BLOCKS = {NUM_NORM_BLOCKS}" in header.read_text()


# --- memory -------------------------------------------------------------------------------------------------------


def _graph(rule: UpdateRule) -> Graph:
    return training_graph(_net(), input_shape=(3, 9, 9), rule=rule)


def test_each_rule_costs_only_what_it_needs() -> None:
    def figures(rule: UpdateRule):
        graph = _graph(rule)
        return summed(graph, plan_memory(graph))

    plain = figures(UpdateRule(0.1))
    trained = plain.parameters_trained
    assert trained == sum(p.numel() for p in _net().parameters()) * 4
    assert (plain.optimizer_state, plain.accumulated_gradients) == (0, 0)
    for name, states, sums in (
        ("momentum", 1, 0),
        ("adam", 2, 0),
        ("adamw", 2, 0),
        ("batch 4", 0, 1),
        ("batch 7", 1, 1),
        ("clip", 0, 0),
    ):
        found = figures(RULES[name])
        assert (found.optimizer_state, found.accumulated_gradients) == (states * trained, sums * trained), name
        assert found.total >= plain.total + (states + sums) * trained
        if name != "clip":
            assert found.peak == plain.peak, f"{name}: gradients are kept longer than needed"
    assert figures(RULES["clip"]).gradients_most >= trained  # their norm needs all of them at once
    assert figures(RULES["cosine"]).total == plain.total
    assert figures(UpdateRule(0.1, loss="mse")).total == plain.total


def test_plain_descent_needs_nothing_new() -> None:
    kernels = {c.kernel for c in _graph(UpdateRule(0.1)).calls}
    assert "pulp_gradient_descent_fp32" in kernels
    assert not {k for k in kernels if k.startswith(("tcl_sgd", "tcl_adam", "tcl_acc", "tcl_clip"))}
    job = _job(UpdateRule(0.1), num_updates=1)
    files = emit(make_program(job), target=targets.find_target("host"), num_cores=1, command="tests")
    assert b"rule" not in files["src/network.c"]
    assert b"tcl_state" not in files["src/network.c"]


@pytest.mark.parametrize("name", RULES)
def test_updates_come_after_the_last_use_of_the_old_weights(name: str) -> None:
    graph = _graph(RULES[name])
    for t in graph.tensors_of(Role.PARAMETER):
        updates = [i for i, c in enumerate(graph.calls) if t.name in c.writes]
        uses = [i for i, c in enumerate(graph.calls) if t.name in c.reads and i not in updates]
        assert len(updates) == 1
        assert max(uses) < updates[0], t.name
    within = graph.calls[: graph.num_calls_within_batch]
    if RULES[name].batch > 1:
        assert {c.phase for c in graph.calls[len(within) :]} == {Phase.UPDATE}
    else:
        assert within == graph.calls


def test_check_finds_an_update_in_the_midst_of_a_batch() -> None:
    graph = _graph(RULES["batch 4"])
    with pytest.raises(AssertionError, match="an update call stands before the end of the batch"):
        check(replace(graph, calls=(*graph.calls[-1:], *graph.calls[:-1])))


def test_checker_finds_damage_to_the_state() -> None:
    graph = _graph(RULES["all"])
    plan = plan_memory(graph)
    assert len(plan.state_offsets) == len(graph.tensors_of(*PERSISTENT)) == 3 * 8
    (first, _), (second, _), *rest = plan.state_offsets
    with pytest.raises(AssertionError, match="two tensors of the state overlap"):
        check_plan(graph, replace(plan, state_offsets=((first, 0), (second, 0), *rest)))
    with pytest.raises(AssertionError, match="the tensors of the state end behind their block"):
        check_plan(graph, replace(plan, state_bytes=plan.state_bytes - 2 * BLOCK_ALIGNMENT))


@on_targets()
def test_linked_state_is_as_large_as_the_plan_says(target: Target, tmp_path: Path) -> None:
    import subprocess

    program = emit_project(_job(RULES["all"], num_updates=1), target, tmp_path / "p")
    targets.build(tmp_path / "p", target)
    nm = "nm" if target.name == "host" else "riscv64-unknown-elf-nm"
    elf = tmp_path / "p" / "build" / "tinyclf.elf"
    listing = subprocess.run([nm, "-S", elf], capture_output=True, text=True, check=True).stdout
    (size,) = [int(line.split()[1], 16) for line in listing.splitlines() if line.endswith(" tcl_state")]
    assert size == program.plan.state_bytes > 0
