"""The planner: lifetimes, the bound, the independent checker, and what the report says."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from tests.kit.random_nets import RandomNet
from tests.kit.steps import training_graph
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT
from tinyclf.device.graph.ir import Call, Graph, Node, Phase, Role, Tensor
from tinyclf.device.memory.check import check_plan
from tinyclf.device.memory.placement import lifetimes, max_live
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.sums import summed
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import blocks, build_model, fold_batchnorm, freeze, num_parameters

SEED = 20261125


def _graph(arch: str = "mobilenet_wd4", *, variant: Variant, size: int = 128, num_classes: int = 2) -> Graph:
    model = build_model(arch, num_classes=num_classes, size=size)
    freeze(model, variant)
    return training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=UpdateRule(0.1))


def _variants(arch: str) -> list[Variant]:
    num_blocks = len(blocks(build_model(arch, num_classes=2, size=32)))
    return [Variant("LP"), *(Variant("FT", k) for k in range(num_blocks + 1)), Variant("full")]


@pytest.mark.parametrize("size", [32, 96, 128])
@pytest.mark.parametrize("arch", ["mobilenet_wd4", "fdmobilenet_wd4", "dscnn"])
def test_peak_is_within_two_percent_of_the_bound(arch: str, size: int) -> None:
    for variant in _variants(arch):
        graph = _graph(arch, variant=variant, size=size)
        plan = plan_memory(graph)  # runs the checker
        assert plan.peak <= 1.02 * plan.max_live, variant.label
        assert plan.peak <= plan.arena_bytes < plan.peak + BLOCK_ALIGNMENT


@pytest.mark.parametrize(
    ("arch", "size"), [("mobilenetv2_wd4", 96), ("resnet8", 32), ("dscnn", 32), ("resnet18_wd4", 64)]
)
def test_peak_of_nets_with_sums_is_within_two_percent_of_the_bound(arch: str, size: int) -> None:
    for variant in (Variant("LP"), Variant("FT", 1), Variant("FT", 3), Variant("full")):
        plan = plan_memory(_graph(arch, variant=variant, size=size))
        assert plan.peak <= 1.02 * plan.max_live, variant.label


@pytest.mark.parametrize(
    ("arch", "size", "variant"),
    [
        ("mnasnet_b1", 64, Variant("FT", 2)),
        ("mnasnet_b1", 96, Variant("full")),
        ("mobilenetv2b_wd4", 96, Variant("FT", 4)),
        ("mobilenetv2_wd2", 96, Variant("full")),
        ("mobilenet_wd2", 96, Variant("full")),
        ("mobilenet_w3d4", 128, Variant("FT", 5)),
        ("fdmobilenet_wd2", 96, Variant("FT", 6)),
        ("resnet18_wd2", 64, Variant("FT", 2)),
        ("mobilenetv2_wd4", 96, Variant("full", bias_only=True)),
        ("mobilenet_wd4", 96, Variant("full", channels=(("features.*", 0.3),))),
    ],
    ids=str,
)
def test_peak_of_other_families_widths_and_selections_is_within_two_percent(
    arch: str, size: int, variant: Variant
) -> None:
    for rule in (UpdateRule(0.1), UpdateRule(0.1, clip=1.0)):
        with torch.device("meta"):
            model = build_model(arch, num_classes=2, size=size)
        freeze(model, variant)
        plan = plan_memory(training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=rule))
        assert plan.peak <= 1.02 * plan.max_live, rule


@pytest.mark.parametrize("seed", range(SEED, SEED + 40))
def test_peak_of_random_nets_is_within_two_percent(seed: int) -> None:
    # The tensors of these nets are small, so the bound counts whole multiples of the alignment for all of them but
    # the highest one.
    net = RandomNet(seed)
    plan = plan_memory(training_graph(net, input_shape=net.input_shape, rule=UpdateRule(0.1)))
    bound = 0
    for call in range(max(p.stop for p in plan.placements)):
        sizes = [p.tensor.num_bytes for p in plan.placements if p.first <= call < p.stop]
        if sizes:
            padding = [-size % BLOCK_ALIGNMENT for size in sizes]
            bound = max(bound, sum(sizes) + sum(padding) - max(padding))
    assert plan.max_live <= bound <= plan.peak <= 1.02 * bound


def test_frozen_activations_are_not_kept() -> None:
    # A chain of frozen layers that all have the same size needs two buffers, however long it is.
    def peak(num_layers: int) -> int:
        layers = [torch.nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False) for _ in range(num_layers)]
        model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
        return plan_memory(training_graph(model, input_shape=(4, 8, 8), rule=UpdateRule(0.1))).peak

    assert peak(2) == peak(9)
    assert peak(9) < 3 * 4 * 8 * 8 * 4


def test_linear_probe_needs_no_more_than_inference_and_training_deeper_needs_more() -> None:
    lp, full = (plan_memory(_graph(variant=Variant(name))) for name in ("LP", "full"))
    # The widest moment of MobileNetV1-0.25's forward pass at 128x128: depthwise 8x64x64 in, pointwise 16x64x64 out.
    assert lp.peak == (8 + 16) * 64 * 64 * 4 + 8
    assert full.peak > 4 * lp.peak


def test_parameter_counts_are_the_folded_nets() -> None:
    for arch, expected in (("mobilenet_wd4", 210_850), ("fdmobilenet_wd4", 124_706)):
        graph = _graph(arch, variant=Variant("FT", 2))
        assert sum(t.num_elements for t in graph.tensors_of(Role.PARAMETER)) == expected
        model = build_model(arch, num_classes=2, size=128)
        freeze(model, Variant("FT", 2))
        trained = sum(t.num_elements for t in graph.tensors_of(Role.PARAMETER) if t.trained)
        assert trained == num_parameters(fold_batchnorm(model), trained=True)


def test_report_adds_up() -> None:
    graph = _graph(variant=Variant("FT", 2))
    plan = plan_memory(graph)
    figures = summed(graph, plan)
    assert figures.parameters_frozen + figures.parameters_trained == 210_850 * 4
    at_peak = figures.activations_at_peak + figures.gradients_at_peak + figures.buffers_at_peak
    assert at_peak == figures.max_live == plan.max_live
    assert figures.gradients_most >= 256 * 256 * 4  # the last pointwise weight's gradient
    assert figures.total == plan.parameter_bytes + plan.arena_bytes
    # Input, then one output a layer: 27 convolutions with a ReLU each, the pool and the logits.
    model = build_model("mobilenet_wd4", num_classes=2, size=128)
    kept = [3 * 128 * 128 * 4]
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ReLU | torch.nn.AdaptiveAvgPool2d | torch.nn.Linear):
            module.register_forward_hook(lambda _m, _x, y: kept.append(y.numel() * 4))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 128, 128))
    assert figures.naive_activations == sum(kept) + 4  # and the loss


def _random_graph(seed: int) -> Graph:
    rng = random.Random(seed)
    tensors = [Tensor("input", (rng.randrange(1, 40),), Role.INPUT)]
    calls = []
    for i in range(rng.randrange(1, 25)):
        reads = tuple(t.name for t in rng.sample(tensors, rng.randrange(1, min(4, len(tensors) + 1))))
        tensors.append(Tensor(f"t{i}", (rng.randrange(1, 40),), Role.ACTIVATION))
        calls.append(Call("kernel", "node", Phase.FORWARD, reads, (f"t{i}",)))
    return Graph(tuple(tensors), (Node("node", "args", ()),), tuple(calls), outputs=(tensors[-1].name,))


@pytest.mark.parametrize("seed", range(50))
def test_checker_accepts_plans_of_random_graphs_and_finds_damage(seed: int) -> None:
    graph = _random_graph(seed)
    plan = plan_memory(graph)
    assert plan.max_live <= plan.peak
    assert plan.max_live == max_live(lifetimes(graph))
    # Put one tensor on top of another that lives at the same time: the checker must see it.
    rng = random.Random(seed)
    pairs = [
        (a, b)
        for a in plan.placements
        for b in plan.placements
        if a is not b and a.first < b.stop and b.first < a.stop and a.stop - a.first > 0
    ]
    if not pairs:
        return
    victim, other = rng.choice(pairs)
    moved = tuple(replace(p, offset=other.offset) if p is victim else p for p in plan.placements)
    damaged = replace(plan, placements=moved, arena_bytes=plan.arena_bytes + 4096)
    with pytest.raises(AssertionError, match=r"overwritten"):
        check_plan(graph, damaged)


def test_checker_finds_a_tensor_outside_of_the_arena() -> None:
    graph = _random_graph(1)
    plan = plan_memory(graph)
    with pytest.raises(AssertionError, match=r"behind the arena"):
        check_plan(graph, replace(plan, arena_bytes=plan.arena_bytes - BLOCK_ALIGNMENT))


def test_lifetimes_are_half_open() -> None:
    x, a, b = (Tensor(n, (4,), r) for n, r in (("x", Role.INPUT), ("a", Role.ACTIVATION), ("b", Role.ACTIVATION)))
    calls = (
        Call("k", "n", Phase.FORWARD, ("x",), ("a",)),
        Call("k", "n", Phase.FORWARD, ("a",), ("b",)),
        Call("k", "n", Phase.FORWARD, ("b",), ("b",)),
    )
    graph = Graph((x, a, b), (Node("n", "args", ()),), calls, outputs=("b",))
    assert [(s.tensor.name, s.first, s.stop) for s in lifetimes(graph)] == [("x", 0, 1), ("a", 0, 2), ("b", 1, 3)]
    assert max_live(lifetimes(graph)) == 32
