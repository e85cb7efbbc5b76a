"""Rows of gradients that are cut into blocks, each followed by its update: fewer bytes, the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.kit.steps import training_graph
from tests.kit.targets import on_targets
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.ir import Graph, Role, check
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.lowering import lower
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.rows import _cut, _pairs, cut_rows
from tinyclf.device.run.job import Job
from tinyclf.device.run.project import write_project
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target, find_target
from tinyclf.recipe.channels import set_trained_channels
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

RULES = {
    "plain": UpdateRule(0.05, weight_decay=0.01),
    "momentum": UpdateRule(0.05, momentum=0.9),
    "adam": UpdateRule(0.01, optimizer="adam", weight_decay=0.01),
}


def _net(*, part: bool = False) -> nn.Module:
    """Return a net with each kind of layer whose weight gradient can be cut; `part`: two of them trained in part."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(10, 10, 3, groups=10),
        nn.Conv2d(10, 37, 1),
        nn.ReLU(),
        nn.Conv2d(37, 24, 1, bias=False),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    if part:
        set_trained_channels(model[3], 22)
        set_trained_channels(model[8], 3)
    return model


def _cut_everywhere(graph: Graph) -> Graph:
    """Cut every gradient that can be, also where it saves nothing."""
    for name in [graph.calls[pair.gradient].writes[0] for pair in _pairs(graph)]:
        graph = _cut(graph, next(p for p in _pairs(graph) if name in graph.calls[p.gradient].writes))
    check(graph)
    return graph


@pytest.mark.parametrize(
    ("arch", "variant", "size", "most"),
    [("mobilenetv2_wd4", Variant("FT", 2), 96, 1_220_000), ("mobilenet_wd4", Variant("FT", 1), 32, 900_000)],
)
def test_a_large_gradient_needs_no_buffer_of_its_size(arch: str, variant: Variant, size: int, most: int) -> None:
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    graph = training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=UpdateRule(0.01))
    plan = plan_memory(graph)
    assert plan.arena_bytes + plan.parameter_bytes < most
    waits = training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=UpdateRule(0.01, batch=2))
    clips = training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=UpdateRule(0.01, clip=1.0))
    assert not any(t.part_of for t in (*waits.tensors, *clips.tensors))


def test_where_it_saves_nothing_nothing_is_cut() -> None:
    model = build_model("mobilenet_wd4", num_classes=2, size=128)
    freeze(model, Variant("FT", 2))
    graph = training_graph(fold_batchnorm(model), input_shape=(3, 128, 128), rule=UpdateRule(0.01))
    assert cut_rows(graph).graph is graph
    assert not any(t.part_of for t in graph.tensors)


def _run(graph: Graph, model: nn.Module, target: Target, project: Path) -> list[dict[str, bytes]]:
    rng = np.random.default_rng(1)
    program = Program(
        graph=graph,
        plan=plan_memory(graph),
        values={n: p.detach().numpy() for n, p in model.named_parameters()},
        samples=rng.standard_normal((2, 3, 5, 5)).astype(np.float32),
        labels=np.eye(5, dtype=np.float32)[[1, 3]],
        num_steps=3,
        traced=traced_tensors(graph),
    )
    write_project(emit(program, target=target, num_cores=3, command="tests"), project)
    targets.build(project, target, "SANITIZE=address,undefined" if target.name == "host" else "OPT=-O2")
    steps = []
    for values in targets.run(project).steps:
        whole: dict[str, bytes] = {}
        for tensor in graph.tensors:
            if tensor.name in values:
                name = tensor.part_of or tensor.name
                whole[name] = whole.get(name, b"") + values[tensor.name].tobytes()
        steps.append(whole)
    return steps


@on_targets()
@pytest.mark.parametrize("part", [False, True], ids=["whole", "in part"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_blocks_give_the_same_bits(target: Target, rule: UpdateRule, part: bool, tmp_path: Path) -> None:
    if target.name != "host" and rule is RULES["momentum"]:
        rule = UpdateRule(0.05, momentum=0.9, schedule="cosine", num_updates=3)
    model = _net(part=part)
    graph = lower.training_graph(model, input_shape=(3, 5, 5), rule=rule)
    cut = _cut_everywhere(graph)
    blocks = [t for t in cut.tensors if t.part_of]
    assert len(blocks) > 8
    assert sum(t.num_bytes for t in blocks) == sum(
        t.num_bytes for t in graph.tensors_of(Role.GRADIENT) if t not in cut.tensors
    )
    plain, cut_up = (_run(g, model, target, tmp_path / str(i)) for i, g in enumerate((graph, cut)))
    assert plain == cut_up
    assert len({name for name in plain[0] if name.endswith("weight.grad")}) == 5


def test_the_comparison_with_pytorch_puts_blocks_together(tmp_path: Path) -> None:
    model = build_model("mobilenet_wd4", num_classes=2, size=32)
    freeze(model, Variant("FT", 1))
    samples = np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)
    target = find_target("host")
    job = Job(fold_batchnorm(model), samples, np.eye(2, dtype=np.float32), 2, UpdateRule(0.01), "tests")
    program = emit_project(job, target, tmp_path / "p")
    names = {t.part_of for t in program.graph.tensors if t.part_of}
    assert names
    report = execute(job, program, target, tmp_path / "p")
    assert report.passed
    assert names <= {c.name for c in report.comparisons}
    assert not any(".rows" in c.name for c in report.comparisons)
