"""What fits a budget, how much recomputation that takes, and the figures beside which ours stand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.commands import check_refusal, run
from tinyclf.base.errors import BadInput, DoesNotFit
from tinyclf.device.footprint.fitting import Surroundings, least_bytes
from tinyclf.device.footprint.trainlib import upstream_bytes
from tinyclf.device.memory.kept_features import feature_memory
from tinyclf.device.memory.samples import Streamed, kept_features
from tinyclf.device.run.files import Samples
from tinyclf.device.run.job import TrainingJob
from tinyclf.device.run.program import require_fit
from tinyclf.device.run.step import PlannedStep
from tinyclf.device.run.training import make_training_program
from tinyclf.device.targets.target import ROLES, Region, find_target
from tinyclf.jobs.budget import Answer, most_that_fits
from tinyclf.jobs.memory import MemoryRequest, memory_of
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze


# What upstream's own DNN_Size_Checker printed for these lists of layers. resnet8's has Skipnode and Sumnode around the
# first block, and convolutions as the shortcuts of the others.
@pytest.mark.parametrize(
    ("arch", "size", "variant", "expected"),
    [
        ("mobilenet_wd4", 128, Variant("LP"), 3_494_932),
        ("mobilenet_wd4", 128, Variant("FT", 2), 18_946_068),
        ("resnet8", 32, Variant("LP"), 881_940),
        ("resnet8", 32, Variant("FT", 2), 3_896_852),
        ("resnet8", 32, Variant("full"), 4_461_460),
    ],
)
def test_upstreams_own_figures_are_reproduced(arch: str, size: int, variant: Variant, expected: int) -> None:
    assert upstream_bytes(memory_of(MemoryRequest(variant, arch, size)).step.plain) == expected


def test_upstream_trains_a_layer_whole_or_not_at_all() -> None:
    def figure(variant: Variant) -> int:
        return upstream_bytes(memory_of(MemoryRequest(variant, "resnet8", 32)).step.plain)

    assert figure(Variant("full", bias_only=True)) == figure(Variant("full"))
    assert figure(Variant("LP", channels=(("output", 0.5),))) == figure(Variant("LP"))
    # What lies between two trained layers is frozen: its weights count 0, its gradients do not.
    both = figure(Variant("layers", layers=("features.init_block", "output")))
    assert figure(Variant("LP")) < both < figure(Variant("full"))


def _answer(budget: int, **changes: Any) -> Answer:
    given = {"arch": "fdmobilenet_wd4", "size": 96, "num_classes": 2}
    return most_that_fits(MemoryRequest(**{"variant": Variant("LP"), **given, **changes}), budget=budget)


def _step(variant: Variant, *, arch: str = "fdmobilenet_wd4", size: int = 96, **changes: Any) -> PlannedStep:
    return memory_of(MemoryRequest(variant, arch, size, **changes)).step


def _needed(variant: Variant, **net: Any) -> int:
    return _step(variant, **net).num_bytes


def test_the_most_that_fits_does_and_the_next_does_not() -> None:
    budget = 850_000
    answer = _answer(budget)
    assert answer.following is not None
    assert answer.best.num_bytes <= budget < answer.following.num_bytes
    k = int(answer.best.variant.removeprefix("FT K="))
    assert answer.best.num_bytes == _needed(Variant("FT", k))
    assert answer.following.num_bytes == _needed(Variant("FT", k + 1))
    assert answer.with_recomputation is not None
    assert answer.with_recomputation.num_bytes <= budget
    assert answer.with_recomputation.recomputed_macs > 0
    assert {way.variant for way in answer.ways} == {answer.following.variant}
    smaller = next(way for way in answer.ways if way.size < 96)
    assert _needed(Variant("FT", k + 1), size=smaller.size) == smaller.num_bytes <= budget
    assert smaller.size == 80 or _needed(Variant("FT", k + 1), size=smaller.size + 16) > budget


def test_batches_and_recomputation_together() -> None:
    batch = UpdateRule(0.01, batch=2)
    budget = 450_000
    answer = _answer(budget, arch="dscnn", size=32)
    plain, both = answer.with_batch, answer.with_batch_and_recomputation
    assert plain is not None
    assert both is not None
    ks = [int(option.variant.removeprefix("FT K=")) for option in (plain, both)]
    assert ks[0] < ks[1]
    assert plain.num_bytes == _needed(Variant("FT", ks[0]), arch="dscnn", size=32, rule=batch) <= budget
    assert _needed(Variant("FT", ks[0] + 1), arch="dscnn", size=32, rule=batch) > budget
    assert both.num_bytes <= budget < _needed(Variant("FT", ks[1]), arch="dscnn", size=32, rule=batch)
    assert both.recomputed_macs > 0
    asked = _answer(budget, arch="dscnn", size=32, rule=replace(batch, batch=8))
    assert (asked.best, asked.with_recomputation) == (plain, both)
    assert (asked.with_batch, asked.with_batch_and_recomputation) == (None, None)


def test_what_is_narrowed_and_what_an_update_keeps_are_counted() -> None:
    adam = UpdateRule(0.01, optimizer="adam")
    channels = (("features.*", 0.25),)
    answer = _answer(1_000_000, rule=adam, variant=Variant("LP", channels=channels))
    k = int(answer.best.variant.split()[1].removeprefix("K="))
    assert answer.best.variant == f"FT K={k} channels features.*=0.25"
    assert answer.best.num_bytes == _needed(Variant("FT", k, channels=channels), rule=adam)
    biases = _answer(820_000, variant=Variant("LP", bias_only=True))
    assert biases.following is not None
    assert biases.best.variant.endswith(" bias-only")
    assert biases.best.num_bytes <= 820_000 < biases.following.num_bytes
    with pytest.raises(BadInput, match=r"--train-channels nowhere=0.5: matches no trained layer"):
        _answer(1_000_000, variant=Variant("LP", channels=(("nowhere", 0.5),)))


def test_kept_features_are_counted_and_need_something_frozen() -> None:
    around = Surroundings(samples=Streamed(50, "int8"))
    answer = _answer(2**30, arch="dscnn", size=32, around=around)
    assert (answer.best.variant, answer.following) == ("FT K=4", None)
    streamed = _step(Variant("FT", 4), arch="dscnn", size=32, around=Surroundings(samples=Streamed(50)))
    kept = feature_memory(streamed.graph, kind="int8", num_samples=50)
    assert kept is not None
    assert answer.best.num_bytes == streamed.num_bytes + kept.num_bytes
    assert kept.num_bytes > 50 * 64


def test_cores_have_stacks_that_count() -> None:
    qemu = find_target("qemu")
    one, two = (_needed(Variant("LP"), around=Surroundings(qemu, num_cores=num)) for num in (1, 2))
    assert two - one == qemu.regions[0].core_stack_bytes > 0


def test_another_family_is_tried_where_nothing_else_helps() -> None:
    # Parameters and their state are nearly all that this needs, and the family has one net: recomputation and small
    # images change little.
    budget = 20_000_000
    rule = UpdateRule(0.01, optimizer="adam")
    answer = _answer(budget, arch="efficientnet_b0", size=32, rule=rule)
    assert answer.following is not None
    (way,) = answer.ways
    assert not way.arch.startswith("efficientnet")
    k = int(way.variant.removeprefix("FT K="))
    assert way.num_bytes == _needed(Variant("FT", k), arch=way.arch, size=32, rule=rule) <= budget
    with pytest.raises(DoesNotFit, match=r"of efficientnet_b0 at 32x32 needs .*: try --arch (mobilenet|fdmobilenet)"):
        _answer(1_000_000, arch="efficientnet_b0", size=32)


def test_everything_fits_a_large_budget() -> None:
    answer = _answer(2**30)
    assert (answer.best.variant, answer.following, answer.ways) == ("full", None, ())


def test_nothing_fits_a_small_budget_and_the_least_is_named() -> None:
    with pytest.raises(DoesNotFit, match=r"needs at least 793,768 bytes, the budget is 700,000: try --size 64"):
        _answer(700_000)


def test_a_budget_is_kept_with_code_stack_and_sample() -> None:
    pulp = find_target("pulp")
    step = _step(Variant("full"), arch="mobilenet_wd4", around=Surroundings(pulp))
    assert pulp.memory_bytes is not None
    found = step.within(pulp.memory_bytes)
    assert found is not None
    assert found.num_bytes <= pulp.memory_bytes < step.num_bytes
    assert found.recomputed_macs > 0
    assert step.within(pulp.memory_bytes // 2) is None


def test_recomputation_makes_room_for_kept_features() -> None:
    variant = Variant("FT", 4)
    model = build_model("dscnn", num_classes=2, size=32)
    freeze(model, variant)
    images, labels = np.zeros((7, 3, 32, 32), np.float32), np.zeros(7, np.int64)
    job = TrainingJob(
        model=fold_batchnorm(model),
        variant=variant,
        samples=Samples(images, labels, images[:1], labels[:1]),
        num_classes=2,
        num_epochs=2,
        checkpoint_every=0,
        rule=UpdateRule(0.01),
        seed=0,
        source=0,
        command="tests",
        cache="fp32",
        recompute=True,
    )
    step = _step(variant, arch="dscnn", size=32, around=Surroundings(samples=Streamed(7, "fp32")))
    kept = kept_features(step.around.samples)
    assert kept is not None
    least, most = least_bytes(step.placed, step.around), step.num_bytes
    num_bytes = (least + most) // 2
    assert most - kept.num_bytes < num_bytes, "the step fits by itself"
    small = replace(find_target("host"), regions=(Region("memory", None, num_bytes, 0, 0, ROLES),))
    require_fit(make_training_program(job, small), small)


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
    assert [row["variant"] for row in figures["compare"]] == ["LP", "FT K=1", "FT K=2", "full", "full --recompute"]
    plain, recomputed = figures["compare"][-2:]
    assert recomputed["tinyclf"] == figures["bytes"]["total"] < plain["tinyclf"]
    assert (recomputed["naive"], recomputed["pulp_trainlib"]) == (plain["naive"], plain["pulp_trainlib"])
    assert "does not fit pulp L2" in run("memory", "--variant", "full", "--size", 96).stdout


@pytest.mark.parametrize(
    "arch",
    ["mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "mnasnet_b1", "resnet18_wd4", "resnet8", "dscnn"],
)
def test_every_family_is_compared(arch: str) -> None:
    options = ("--arch", arch, "--size", 32, "--layers", "features.*", "--bias-only", "--compare", "--json")
    rows = json.loads(run("memory", *options).stdout)["compare"]
    assert [row["variant"] for row in rows] == ["LP", "FT K=1", "FT K=2", "full", "layers features.* bias-only"]
    assert all(row["naive"] > row["tinyclf"] > 0 for row in rows)
    lp, *more, full, biases = (row["pulp_trainlib"] for row in rows)
    assert lp < min(more) <= max(more) < full
    assert max(more) < biases <= full


def test_the_comparison_counts_the_update_that_is_asked_for() -> None:
    def rows(*options: str) -> dict[str, dict[str, int]]:
        command = ("memory", "--arch", "resnet8", "--size", 32, "--compare", *options)
        assert ("updates by plain SGD" in run(*command).stdout) == bool(options)
        return {row["variant"]: row for row in json.loads(run(*command, "--json").stdout)["compare"]}

    plain, adam = rows(), rows("--optimizer", "adam")
    state = 2 * 4 * (64 * 2 + 2)
    assert adam["LP"]["naive"] - plain["LP"]["naive"] == state
    assert 0 <= adam["LP"]["tinyclf"] - plain["LP"]["tinyclf"] - state < 64  # each is aligned
    assert [row["pulp_trainlib"] for row in adam.values()] == [row["pulp_trainlib"] for row in plain.values()]


def test_what_a_step_needs_depends_on_every_option_that_deploy_has() -> None:
    def figures(*options: object) -> Any:
        given = ("--arch", "dscnn", "--size", 32, "--variant", "FT", "--target", "pulp", "--json")
        result = run("memory", *given, *options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    plain = figures()
    l2, l1 = plain["regions"]["pulp"]
    assert figures("--clip", 1)["bytes"]["gradients_most"] > plain["bytes"]["gradients_most"]
    scheduled = figures("--schedule", "step", "--gamma", 0.5, "--milestones", "0.3", "--warmup", 2)
    assert scheduled["regions"]["pulp"][0]["code_and_constants"] > l2["code_and_constants"]
    assert figures("--cores", 2)["regions"]["pulp"][1]["stack"] == l1["stack"] * 2 // 8
    assert figures("--l1", "32KiB")["regions"]["pulp"][1]["tiles"] == l1["tiles"] - 32 * 1024
    off = figures("--l1", "off", "--recompute")["regions"]["pulp"]
    assert "tiles" not in off[1]
    assert off[0]["code_and_constants"] != l2["code_and_constants"]
    assert figures("--lr", 0.5, "--weight-decay", 0.1, "--loss", "mse")["bytes"] == plain["bytes"]


def test_a_budget_honours_what_shapes_the_step() -> None:
    options = ("--arch", "dscnn", "--size", 32, "--budget", "600KiB", "--json")
    plain = json.loads(run("memory", *options).stdout)
    adam = json.loads(run("memory", *options, "--bias-only", "--optimizer", "adam", "--batch", 4).stdout)
    assert plain["best"]["variant"].startswith("FT K=")
    assert adam["best"]["variant"].endswith("bias-only")
    text = run("memory", *options[:-1], "--batch", 4, "--cache", "fp32", "--samples", 10).stdout
    assert re.search(r"most that fits in batches of 4 +(LP|FT K=\d)", text)
    assert "ReLUs and sums in place" in text


@pytest.mark.target("host")
def test_linked_bytes_on_the_command_line() -> None:
    options = ("--arch", "dscnn", "--size", 32, "--target", "host", "--cores", 3, "--l1", "64KiB", "--build", "--json")
    figures = json.loads(run("memory", *options).stdout)
    (linked,) = figures["linked"]
    assert linked["parameters"] + linked["arena"] == figures["bytes"]["total"]
    assert linked["samples"] == figures["regions"]["host"][0]["samples"] == 3 * 32 * 32 * 4 + 8
    assert linked["code"] > 4096
    assert linked["tiles"] == figures["regions"]["host"][0]["tiles"] == 64 * 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--budget lots", r"'lots' is not a number of bytes"),
        (
            "--budget 1KiB --arch dscnn --size 32",
            r"at 32x32 needs at least [\d,]+ bytes, the budget is 1,024: try",
        ),
        ("--budget 1MiB --variant LP --k 3", r"--budget finds out how much .*: leave out --variant, --k$"),
        ("--budget 1MiB --layers output", r"leave out --layers$"),
        (
            "--budget 1MiB --recompute --build --compare --csv x.csv --plot x.png",
            r"leave out --recompute, --build, --compare, --csv, --plot$",
        ),
        (f"--budget {'9' * 400}", r"'9{20}\.\.\.' is more bytes than there are addresses"),
        ("--build", r"--build needs --target"),
        ("--cores 2", r"--cores says what of a target is used: add --target"),
        ("--l1 32KiB", r"--l1 says what of a target is used: add --target"),
        ("--target pulp --cores 9", r"target pulp runs on 1 to 8 cores"),
        ("--target pulp --l1 128KiB", r"target pulp has 65,536 bytes of L1"),
        ("--gamma 0.5", r"--gamma is of the step schedule"),
        ("--samples -1", r"--samples -1: cannot be negative"),
        ("--target pulp --recompute --variant full --size 224", r"needs at least [\d,]+ bytes with all recomputation"),
    ],
)
def test_errors(arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run("memory", *arguments.split()), code=1, message=message, folder=tmp_path)
