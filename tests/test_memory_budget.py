"""What fits a budget, how much recomputation that takes, and the figures beside which ours stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_cli import check_refusal, run

from tinyclf.budget import bytes_needed, recomputed_within
from tinyclf.errors import DoesNotFit
from tinyclf.fitting import Question, most_that_fits
from tinyclf.jobs import memory_of
from tinyclf.memory import plan_memory
from tinyclf.targets import find_target
from tinyclf.upstream_memory import upstream_bytes
from tinyclf.variants import Variant


@pytest.mark.parametrize(("variant", "expected"), [(Variant("LP"), 3_494_932), (Variant("FT", 2), 18_946_068)])
def test_upstreams_own_figures_are_reproduced(variant: Variant, expected: int) -> None:
    assert upstream_bytes(memory_of(variant, arch="mobilenet_wd4", size=128, num_classes=2).graph) == expected


def _question(budget: int, **changes: object) -> Question:
    given = {"arch": "fdmobilenet_wd4", "size": 96, "num_classes": 2, "target": None, "num_samples": 1}
    return Question(budget=budget, **{**given, **changes})  # type: ignore[arg-type]


def test_the_most_that_fits_does_and_the_next_does_not() -> None:
    def needed(variant: Variant, size: int) -> int:
        need = memory_of(variant, arch="fdmobilenet_wd4", size=size, num_classes=2)
        return bytes_needed(need.graph, need.plan, target=None, num_samples=1)

    budget = 850_000
    answer = most_that_fits(_question(budget))
    assert answer.following is not None
    assert answer.best.num_bytes <= budget < answer.following.num_bytes
    k = int(answer.best.variant.removeprefix("FT K="))
    assert answer.best.num_bytes == needed(Variant("FT", k), 96)
    assert answer.following.num_bytes == needed(Variant("FT", k + 1), 96)
    assert answer.with_recomputation is not None
    assert answer.with_recomputation.num_bytes <= budget
    assert answer.with_recomputation.recomputed_macs > 0
    assert {way.variant for way in answer.ways} == {answer.following.variant}
    smaller = next(way for way in answer.ways if way.size < 96)
    assert needed(Variant("FT", k + 1), smaller.size) == smaller.num_bytes <= budget
    assert smaller.size == 80 or needed(Variant("FT", k + 1), smaller.size + 16) > budget


def test_everything_fits_a_large_budget() -> None:
    answer = most_that_fits(_question(2**30))
    assert (answer.best.variant, answer.following, answer.ways) == ("full", None, ())


def test_nothing_fits_a_small_budget_and_the_least_is_named() -> None:
    with pytest.raises(DoesNotFit, match=r"needs at least 793,768 bytes, the budget is 700,000: try --size 64"):
        most_that_fits(_question(700_000))


def test_a_budget_is_kept_with_code_stack_and_sample() -> None:
    pulp = find_target("pulp")
    graph = memory_of(Variant("full"), arch="mobilenet_wd4", size=96, num_classes=2).graph
    assert pulp.memory_bytes is not None
    found = recomputed_within(graph, pulp.memory_bytes, target=pulp, num_samples=1)
    assert found is not None
    assert bytes_needed(found, plan_memory(found), target=pulp, num_samples=1) <= pulp.memory_bytes
    assert recomputed_within(graph, pulp.memory_bytes // 2, target=pulp, num_samples=1) is None


# --- the command ----------------------------------------------------------------------------------------------------


def test_budget_on_the_command_line() -> None:
    options = ("--arch", "fdmobilenet_wd4", "--size", 96, "--target", "pulp")
    result = run("memory", *options, "--budget", "1MiB")
    assert result.exit_code == 0, result.output
    assert "budget 1,048,576 bytes, all of pulp L2" in result.stdout
    assert re.search(r"most that fits +FT K=\d+ +[\d,]+ bytes", result.stdout)
    figures = json.loads(run("memory", *options, "--budget", "1MiB", "--json").stdout)
    assert f"{figures['best']['num_bytes']:,}" in result.stdout


def test_regions_comparison_and_recomputation_in_table_and_json() -> None:
    options = ("--variant", "full", "--size", 96, "--target", "pulp", "--recompute", "--compare")
    result = run("memory", *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"by target and region +pulp L2 +pulp L1", result.stdout)
    assert re.search(r"stack +1,024 +16,384", result.stdout)
    assert "does not fit" not in result.stdout
    assert re.search(r"Recomputed: [\d,]+ MACs more than the step's 21,971,328 \(\+\d", result.stdout)
    assert re.search(r"LP +2,809,500 +1,968,148 +1,064,608", result.stdout)
    figures = json.loads(run("memory", *options, "--json").stdout)
    assert figures["recomputed_macs"] > 0
    l2, l1 = figures["regions"]["pulp"]
    assert l2["total"] == sum(v for k, v in l2.items() if k not in ("region", "has", "total")) <= l2["has"]
    assert l1["stack"] == 16_384
    assert [row["variant"] for row in figures["compare"]] == ["LP", "FT K=1", "FT K=2", "full"]
    assert "does not fit pulp L2" in run("memory", "--variant", "full", "--size", 96).stdout


@pytest.mark.target("host")
def test_linked_bytes_on_the_command_line() -> None:
    options = ("--arch", "dscnn", "--size", 32, "--target", "host", "--build", "--json")
    figures = json.loads(run("memory", *options).stdout)
    (linked,) = figures["linked"]
    assert linked["parameters"] + linked["arena"] == figures["bytes"]["total"]
    assert linked["samples"] == figures["regions"]["host"][0]["samples"] == 3 * 32 * 32 * 4 + 8
    assert linked["code"] > 4096


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--budget lots", r"'lots' is not a number of bytes"),
        (
            "--budget 1KiB --arch dscnn --size 32",
            r"at 32x32 needs at least [\d,]+ bytes, the budget is 1,024: try",
        ),
        ("--build", r"--build needs --target"),
        ("--samples -1", r"--samples -1: cannot be negative"),
        ("--target pulp --recompute --variant full --size 224", r"needs at least [\d,]+ bytes with all recomputation"),
    ],
)
def test_errors(arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run("memory", *arguments.split()), code=1, message=message, folder=tmp_path)
