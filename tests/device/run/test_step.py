"""The flow: each question lowers its net once and places it once, and a program's samples are settled on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import run as cli
from tinyclf.base.errors import BadInput
from tinyclf.device.footprint.fitting import Surroundings
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.memory import placement, planner, rows
from tinyclf.device.memory.samples import Linked, Streamed, kept_features
from tinyclf.device.run import step as flow
from tinyclf.device.run.step import PlannedStep, plan_step
from tinyclf.device.targets.target import find_target
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

NET = ("--arch", "dscnn", "--size", 32)


class _Counts:
    """How often each graph was lowered, each arena searched for its places, and the places made a plan of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lowered: Counter[str] = Counter()
        self.searched: Counter[tuple[Any, ...]] = Counter()
        self.planned: Counter[str] = Counter()
        lower, place, plan_at = flow.training_graph, placement.place, planner.plan_at

        def counted_lower(*args: Any, **options: Any) -> Graph:
            graph = lower(*args, **options)
            self.lowered[repr(graph)] += 1
            return graph

        def counted_place(spans: Any, bound: int) -> Any:
            self.searched[tuple(spans)] += 1
            return place(spans, bound)

        def counted_plan(graph: Graph, placements: Any) -> Any:
            self.planned[repr(graph)] += 1
            return plan_at(graph, placements)

        monkeypatch.setattr(flow, "training_graph", counted_lower)
        for module in (planner, rows):
            monkeypatch.setattr(module, "place", counted_place)
            monkeypatch.setattr(module, "plan_at", counted_plan)

    def check(self, *, nets: int, plans: int) -> None:
        """Assert that so many nets were lowered and so many plans made, and nothing was done twice."""
        assert (len(self.lowered), len(self.planned)) == (nets, plans)
        for counts in (self.lowered, self.searched, self.planned):
            assert set(counts.values()) == {1}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> _Counts:
    return _Counts(monkeypatch)


def _check_command(*arguments: object) -> None:
    result = cli(*arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("target", ["host", "pulp"])
def test_deploy_plans_once(counts: _Counts, target: str, tmp_path: Path) -> None:
    _check_command("deploy", "--target", target, *NET, "--variant", "FT", "--k", 1, "--out", tmp_path / "p")
    counts.check(nets=1, plans=1)


@pytest.mark.target("host")
def test_deploy_with_execution_plans_once(counts: _Counts, tmp_path: Path) -> None:
    _check_command("deploy", "--target", "host", *NET, "--steps", 1, "--out", tmp_path / "p", "--execute")
    counts.check(nets=1, plans=1)


@pytest.mark.target("host")
def test_a_training_run_plans_once(counts: _Counts, digits_run: Path, tmp_path: Path) -> None:
    options = ("--variant", "LP", "--epochs", 1, "--samples", 3, "--test-samples", 2, "--cache", "int8", "--execute")
    _check_command("deploy", "--target", "host", "--from", digits_run, *options, "--out", tmp_path / "p")
    counts.check(nets=1, plans=1)


@pytest.mark.parametrize("target", [(), ("--target", "pulp")])
def test_memory_plans_once(counts: _Counts, target: tuple[str, ...]) -> None:
    _check_command("memory", *NET, "--variant", "FT", "--k", 1, *target)
    counts.check(nets=1, plans=1)


@pytest.mark.target("host")
def test_memory_that_is_built_plans_once(counts: _Counts) -> None:
    _check_command("memory", *NET, "--variant", "FT", "--k", 1, "--target", "host", "--build", "--cores", 2)
    counts.check(nets=1, plans=1)


def test_a_comparison_plans_each_variant_once(counts: _Counts) -> None:
    _check_command("memory", *NET, "--variant", "FT", "--k", 2, "--compare")
    counts.check(nets=4, plans=4)  # FT K=2 is the one that is asked about


def test_recomputation_plans_what_it_tries_once(counts: _Counts) -> None:
    _check_command("memory", *NET, "--variant", "full", "--recompute")
    counts.check(nets=1, plans=2)


def test_a_budget_plans_no_step_twice(counts: _Counts) -> None:
    _check_command("memory", *NET, "--budget", "500KiB")
    for each in (counts.lowered, counts.planned):
        assert set(each.values()) == {1}


# --- samples --------------------------------------------------------------------------------------------------------


def _planned(variant: Variant, **options: Any) -> PlannedStep:
    model = build_model("dscnn", num_classes=2, size=32)
    freeze(model, variant)
    return plan_step(fold_batchnorm(model), image=(3, 32, 32), **options)


@pytest.mark.parametrize(
    ("num_bytes", "samples", "num"),
    [
        (None, Linked(4, is_most=True), 4),  # a target without limits
        (10**7, Linked(4, is_most=True), 4),
        (50_000, Linked(4, is_most=True), 3),  # beside the step, room for three and a half
        (50_000, Linked(4), 4),  # asked for: whether that fits is said later
        (0, Linked(4, is_most=True), 1),
    ],
)
def test_as_many_samples_are_linked_as_fit(num_bytes: int | None, samples: Linked, num: int) -> None:
    host = find_target("host")
    none = _planned(Variant("LP"), around=Surroundings(host, Linked(0))).num_bytes
    sample = 4 * (3 * 32 * 32 + 2)
    if num_bytes == 50_000:
        num_bytes = none + 3 * sample + sample // 2
    target = replace(host, regions=(replace(host.regions[0], num_bytes=num_bytes),))
    step = _planned(Variant("LP"), around=Surroundings(target, samples))
    assert step.around.samples == Linked(num)
    assert step.num_bytes == none + num * sample


def test_stacks_of_several_cores_leave_less_room_for_samples() -> None:
    qemu = find_target("qemu")
    needed = {n: _planned(Variant("LP"), around=Surroundings(qemu, Linked(4), n)).num_bytes for n in (1, 2)}
    assert needed[1] < needed[2]
    small = replace(qemu, regions=(replace(qemu.regions[0], num_bytes=needed[1]),))
    linked = [
        _planned(Variant("LP"), around=Surroundings(small, Linked(4, is_most=True), n)).around.samples for n in (1, 2)
    ]
    assert linked[0] == Linked(4)
    assert linked[1].num < 4


def test_streamed_samples_know_their_features() -> None:
    step = _planned(Variant("LP"), around=Surroundings(samples=Streamed(5, "int8")))
    features = kept_features(step.around.samples)
    assert features is not None
    assert (features.num_samples, features.kind) == (5, "int8")
    assert kept_features(_planned(Variant("LP"), around=Surroundings(samples=Streamed(5))).around.samples) is None
    with pytest.raises(BadInput, match="the first layer is trained"):
        _planned(Variant("full"), around=Surroundings(samples=Streamed(5, "int8")))


def test_tiles_are_cut_only_for_what_is_emitted() -> None:
    pulp = Surroundings(find_target("pulp"))
    assert _planned(Variant("LP"), around=pulp).tiles is None
    traces: Callable[[Graph], frozenset[str]] = traced_tensors
    step = _planned(Variant("LP"), around=pulp, traces=traces)
    assert step.tiles is not None
    assert step.traced == traced_tensors(step.graph)
