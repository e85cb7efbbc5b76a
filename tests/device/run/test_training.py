"""Training runs on the device: the same as PyTorch's on every target, cut anywhere and resumed, weights handed back."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import time
import zlib
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.cli.test_cli import run as cli
from tests.kit.targets import on_targets
from tinyclf.base.errors import BadInput, DoesNotFit, ToolFailed
from tinyclf.device import targets
from tinyclf.device.graph.dtypes import FLOAT32, RUN_BOUNDS, RunBounds
from tinyclf.device.reference.steps import relative_error
from tinyclf.device.run.files import DeviceLog, Samples, SamplesFile, read_weights, shuffled
from tinyclf.device.run.job import TrainingJob
from tinyclf.device.run.run_report import Check, TrainingReport, _checks, is_drift, reference
from tinyclf.device.run.step_report import Comparison
from tinyclf.device.run.training import (
    emit_training,
    execute_training,
    make_training_program,
    require_file,
    run_program,
)
from tinyclf.device.run.verdicts import Verdict, judge
from tinyclf.device.targets.elf import read_elf
from tinyclf.device.targets.target import Target, find_target
from tinyclf.jobs.training import import_weights, load_device_weights
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, fold_batchnorm, freeze
from tinyclf.workstation.runs.directory import read_run

SLOTS = ("slot0.bin", "slot1.bin")


PLAIN = UpdateRule(0.05, weight_decay=1e-3)


def _job(
    *,
    num_train: int = 6,
    num_epochs: int = 3,
    checkpoint_every: int = 2,
    num_test: int = 5,
    rule: UpdateRule = PLAIN,
    cache: str = "off",
) -> TrainingJob:
    """Return a run of a net of two layers on images of 6x5, the first one frozen."""
    rng = np.random.default_rng(5)
    torch.manual_seed(5)
    model = nn.Sequential(
        OrderedDict(first=nn.Conv2d(2, 4, 3), relu=nn.ReLU(), conv=nn.Conv2d(4, 8, 1), flat=nn.Flatten())
    )
    model.append(nn.Linear(8 * 4 * 3, 3))
    model.first.requires_grad_(False)

    def images(num: int) -> np.ndarray:
        return rng.standard_normal((num, 2, 6, 5)).astype(np.float32)

    return TrainingJob(
        model=model,
        variant=Variant("FT", k=1),
        samples=Samples(
            images(num_train), rng.integers(0, 3, num_train), images(num_test), rng.integers(0, 3, num_test)
        ),
        num_classes=3,
        num_epochs=num_epochs,
        checkpoint_every=checkpoint_every,
        rule=rule,
        seed=9,
        source=1,
        command="tests",
        cache=cache,
    )


def _built(job: TrainingJob, target: Target, project: Path, *variables: str) -> Path:
    emit_training(job, target, project)
    targets.build(project, target, *variables)
    return project


def _weights(project: Path) -> bytes:
    return (project / "build" / "weights.bin").read_bytes()


def _anew(project: Path) -> None:
    """Empty the storage, as make restart does."""
    for name in (*SLOTS, "features.bin", "log.bin", "weights.bin"):
        (project / "build" / name).write_bytes(b"")


# --- against PyTorch --------------------------------------------------------------------------------------------------


@on_targets()
def test_a_run_is_pytorchs(target: Target, tmp_path: Path) -> None:
    job = _job()
    program = emit_training(job, target, tmp_path / "p")
    report = execute_training(job, program, target, tmp_path / "p")
    assert {c.verdict for c in report.checks} <= {Verdict.EXACT, Verdict.WITHIN_BOUND}, report.checks
    assert [c.name for c in report.checks][1:5] == ["conv.weight", "conv.bias", "4.weight", "4.bias"]
    assert report.right_before[0] == report.right_before[1]
    assert len(report.losses) == 18
    assert max(abs(a - b) for a, b in report.losses) < 1e-5, "float32 over 18 steps of a small net"
    assert report.losses[0][1] != pytest.approx(report.losses[-1][1], rel=0.05), "nothing was learnt"
    assert (report.cycles is not None) == target.counts_cycles
    saved = json.loads((tmp_path / "p" / "report.json").read_text())
    assert saved["checks"][0]["verdict"] == "within bound"
    assert saved["checks"][0]["bound"] == 1e-3
    assert saved["accuracy"]["before"]["target"] == report.right_before[0] / 5
    assert (tmp_path / "p" / "weights.bin").read_bytes() == _weights(tmp_path / "p")


@on_targets("host")
def test_the_order_of_the_reference_is_the_devices(target: Target, tmp_path: Path) -> None:
    job = _job(num_train=7, num_epochs=2, checkpoint_every=0)
    program = emit_training(job, target, tmp_path / "p")
    report = execute_training(job, program, target, tmp_path / "p")
    assert report.passed
    assert not np.array_equal(shuffled(7, seed=9, epoch=0), shuffled(7, seed=9, epoch=1))
    other = reference(replace(job, seed=10)).losses
    assert max(abs(a - b) for (a, _), b in zip(report.losses, other, strict=True)) > 0.01
    assert all((tmp_path / "p" / "build" / name).stat().st_size == 0 for name in SLOTS)  # no checkpoints asked for


# --- every rule -------------------------------------------------------------------------------------------------------

RULES = {
    "momentum": UpdateRule(0.02, momentum=0.9, weight_decay=1e-3),
    "adam": UpdateRule(0.003, optimizer="adam", weight_decay=1e-3),
    "adamw": UpdateRule(0.003, optimizer="adamw", weight_decay=0.1),
    "adam, other betas": UpdateRule(0.003, optimizer="adam", beta1=0.5, beta2=0.9, epsilon=1e-3, warmup=5),
    "batch 4": UpdateRule(0.05, batch=4, weight_decay=1e-3),
    "batch 7": UpdateRule(0.05, batch=7, momentum=0.5),
    "clip": UpdateRule(0.05, clip=0.5, weight_decay=1e-3),
    "cosine": UpdateRule(0.05, schedule="cosine", num_updates=18),
    "step": UpdateRule(0.05, schedule="step", num_updates=18, gamma=0.3, milestones=(0.2, 0.6)),
    "mse": UpdateRule(0.02, loss="mse"),
    "all": UpdateRule(0.003, optimizer="adam", batch=4, clip=0.2, schedule="cosine", num_updates=4, weight_decay=0.01),
}


def _passes(job: TrainingJob, target: Target, project: Path) -> TrainingReport:
    """Emit, build and run `job`; nothing may drift, and the run must have learnt and left the plain rule's weights."""
    program = emit_training(job, target, project)
    report = execute_training(job, program, target, project)
    assert {c.verdict for c in report.checks} <= {Verdict.EXACT, Verdict.WITHIN_BOUND}, report.checks
    assert max(abs(a - b) for a, b in report.losses) < 1e-4, "float32 over 18 steps of a small net"
    _, weights = read_weights(project / "build" / "weights.bin")
    plain = reference(replace(job, rule=PLAIN)).weights
    assert all(np.abs(weights[name] - value).max() > 1e-4 for name, value in plain.items()), "no other rule's weights"
    return report


@on_targets("host")
@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_pytorchs(target: Target, name: str, tmp_path: Path) -> None:
    rule = RULES[name]
    report = _passes(_job(rule=rule), target, tmp_path / "p")
    saved = json.loads((tmp_path / "p" / "report.json").read_text())
    assert saved["update_rule"]["batch"] == rule.batch
    assert (saved["updates"], saved["samples_left_over"]) == divmod(len(report.losses), rule.batch)


@on_targets("qemu", "pulp")
def test_all_of_a_rule_on_simulated_chips(target: Target, tmp_path: Path) -> None:
    _passes(_job(rule=RULES["all"]), target, tmp_path / "p")


@on_targets("host")
def test_samples_that_fill_no_batch_change_no_weight(target: Target, tmp_path: Path) -> None:
    job = _job(num_train=6, num_epochs=3, rule=UpdateRule(0.05, batch=12))  # one update, in the midst of an epoch
    program = emit_training(job, target, tmp_path / "p")
    assert execute_training(job, program, target, tmp_path / "p").passed
    once, changed = _weights(tmp_path / "p"), reference(job).weights["4.bias"]
    assert np.abs(changed - job.model[4].bias.detach().numpy()).max() > 1e-3
    emit_training(replace(job, num_epochs=2), target, tmp_path / "p")
    run_program(_built(replace(job, num_epochs=2), target, tmp_path / "p"))
    assert _weights(tmp_path / "p") == once, "the six samples behind the batch changed something"


@on_targets("host")
def test_a_wrong_rate_fails(target: Target, tmp_path: Path) -> None:
    job = _job()
    program = emit_training(job, target, tmp_path / "p")
    report = execute_training(replace(job, rule=replace(PLAIN, learning_rate=0.06)), program, target, tmp_path / "p")
    assert not report.passed
    assert report.checks[0].verdict is Verdict.FAIL
    assert report.checks[0].error > 1e-3


@on_targets("host")
def test_a_run_with_the_largest_seed_is_clean_under_sanitizers(target: Target, tmp_path: Path) -> None:
    job = replace(_job(), seed=2**64 - 1)
    program = emit_training(job, target, tmp_path / "p")
    assert execute_training(job, program, target, tmp_path / "p", "SANITIZE=address,undefined").passed


@on_targets("host")
def test_one_core_gives_the_same_bits(target: Target, tmp_path: Path) -> None:
    weights = []
    for variables in ((), ("NUM_CORES=1",)):
        project = _built(_job(), target, tmp_path / "p", *variables)
        run_program(project, *variables)
        weights.append(_weights(project))
    assert weights[0] == weights[1]


@on_targets("host")
def test_recomputation_gives_the_same_bits(target: Target, tmp_path: Path) -> None:
    layers = [layer for i in range(6) for layer in (nn.Conv2d(6 if i else 2, 6, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 6 * 5, 3))
    weights, arenas = [], []
    for recompute in (False, True):
        job = replace(_job(), model=model, variant=Variant("full"), recompute=recompute)
        program = emit_training(job, target, tmp_path / "p")
        assert execute_training(job, program, target, tmp_path / "p").passed
        weights.append(_weights(tmp_path / "p"))
        arenas.append(program.plan.arena_bytes)
    assert weights[0] == weights[1]
    assert arenas[1] < arenas[0]


@on_targets("host")
@pytest.mark.parametrize("arch", ["dscnn", "mobilenetv2_wd4"])
def test_recomputation_beside_kept_features_gives_the_same_bits(target: Target, arch: str, tmp_path: Path) -> None:
    model = build_model(arch, num_classes=3, size=32, seed=4)
    rng = np.random.default_rng(4)
    calibrate_batchnorm(model, torch.from_numpy(rng.standard_normal((16, 3, 32, 32)).astype(np.float32)))
    variant = Variant("FT", k=2)
    freeze(model, variant)
    images = rng.standard_normal((4, 3, 32, 32)).astype(np.float32)
    samples = Samples(images[:3], np.array([0, 1, 2]), images[3:], np.array([0]))
    base = replace(_job(num_epochs=2), model=fold_batchnorm(model), variant=variant, samples=samples)
    weights, arenas, calls = [], [], []
    for cache, recompute in (("off", False), ("fp32", True)):
        job = replace(base, cache=cache, recompute=recompute)
        program = emit_training(job, target, tmp_path / "p")
        run_program(_built(job, target, tmp_path / "p"))
        weights.append(_weights(tmp_path / "p"))
        arenas.append(program.plan.arena_bytes)
        calls.append(len(program.graph.calls))
    assert program.training is not None
    assert program.training.features is not None
    assert len(program.graph.calls) > calls[0], "nothing was recomputed"
    assert weights[0] == weights[1]
    assert arenas[1] < arenas[0]


def test_verdicts() -> None:
    assert judge(0.0, bound=1e-3) is Verdict.EXACT
    assert judge(1e-3, bound=1e-3) is Verdict.WITHIN_BOUND
    assert judge(1.1e-3, bound=1e-3) is Verdict.FAIL
    for lost in (float("nan"), float("inf")):
        assert judge(lost, bound=1e-3) is Verdict.FAIL


@pytest.mark.parametrize(
    ("error", "run_error", "verdict"),
    [
        (0.0, 0.0, Verdict.EXACT),
        (0.0, 1e-5, Verdict.WITHIN_BOUND),
        (1e-5, 1e-3, Verdict.DRIFT),
        (1e-5, float("inf"), Verdict.DRIFT),  # the run went elsewhere, this step is right
        (1e-3, 1e-5, Verdict.FAIL),
        (float("inf"), float("inf"), Verdict.FAIL),
        (float("nan"), 0.0, Verdict.FAIL),
    ],
)
def test_verdicts_of_single_steps(error: float, run_error: float, verdict: Verdict) -> None:
    assert Comparison("w", 0, error, run_error, 1e-4, "tests").verdict is verdict


def test_drift_is_what_pytorchs_own_float32_run_does_too() -> None:
    job = _job()
    expected, single = reference(job), reference(job, dtype=torch.float32)
    own = np.abs(single.losses - expected.losses)
    assert 0 < own.max() < 1e-5
    assert not is_drift(np.linspace(0, 0.1, len(own)), single, expected)  # PyTorch's float32 run does not go so far
    assert is_drift(2 * own, single, expected)
    assert not is_drift(np.full(len(own), np.nan), single, expected)


def test_drift_excuses_each_value_so_far_as_float32_errs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUN_BOUNDS, FLOAT32, RunBounds(loss=1e-12, weight=1e-12))
    job = _job(num_test=400)
    expected, single = reference(job), reference(job, dtype=torch.float32)

    def verdicts(factor: float, name: str = "", *, more_right: int = 0) -> dict[str, Check]:
        """Judge a device that errs as float32 does times `factor`; only the value `name` errs so, others twice."""
        factors = {n: factor if n == name else 2.0 for n in ("loss", *expected.weights)}
        losses = expected.losses + factors["loss"] * (single.losses - expected.losses)
        weights = {n: v + factors[n] * (single.weights[n] - v) for n, v in expected.weights.items()}
        right = expected.right_before, expected.right_after - more_right
        log = DeviceLog(*right, losses.astype(np.float64), np.zeros(len(losses), np.uint64))  # type: ignore[arg-type]
        return {c.name: c for c in _checks(job, None, log, weights, expected, None)}  # type: ignore[arg-type]

    drifting = verdicts(9.0, "4.weight")
    assert {c.verdict for c in drifting.values()} == {Verdict.DRIFT, Verdict.EXACT}
    assert drifting["4.weight"].bound_from.startswith("10 times the error of PyTorch's own run in float32")
    own_error = relative_error(single.weights["4.weight"], expected.weights["4.weight"])
    assert drifting["4.weight"].bound == pytest.approx(10 * own_error)
    assert drifting["loss of every step"].bound == pytest.approx(10 * np.abs(single.losses - expected.losses).max())
    too_far = verdicts(11.0, "4.weight")
    assert [n for n, c in too_far.items() if c.verdict is Verdict.FAIL] == ["4.weight"]
    # Both float runs call all test samples alike: so must the device.
    assert (single.classes_after == expected.classes_after).all()
    wrong = verdicts(2.0, more_right=3)
    assert [n for n, c in wrong.items() if c.verdict is Verdict.FAIL] == ["accuracy after, points"]
    losses_alone = verdicts(11.0, "loss")
    assert {c.verdict for n, c in losses_alone.items() if "accuracy" not in n} == {Verdict.FAIL}


# --- features that are kept -------------------------------------------------------------------------------------------


@on_targets()
def test_kept_features_are_the_same_bits(target: Target, tmp_path: Path) -> None:
    weights, logs, cycles = [], [], []
    for cache in ("off", "fp32"):
        job = _job(cache=cache, rule=RULES["all"])
        program = emit_training(job, target, tmp_path / cache)
        report = execute_training(job, program, target, tmp_path / cache)
        assert report.passed
        weights.append(_weights(tmp_path / cache))
        logs.append(_values(tmp_path / cache))
        cycles.append(report.cycles)
    assert weights[0] == weights[1]
    assert np.array_equal(logs[0], logs[1])
    if target.counts_cycles:
        (_, plain), (_, kept) = ((sum(c[:6]), sum(c[6:])) for c in cycles)
        assert kept < plain
    elf = read_elf(tmp_path / "fp32" / targets.ELF)
    assert elf.symbol_bytes["tcl_kept_features"] == 6 * 4 * (1 + 4 * 4 * 3)
    saved = json.loads((tmp_path / "fp32" / "report.json").read_text())["kept_features"]
    assert saved["bytes"] == 6 * 4 * (1 + 4 * 4 * 3)
    assert saved["tensors"] == [{"name": "first.output", "layer": "relu", "num_elements": 48}]


@on_targets()
def test_features_in_eight_bits_are_pytorchs(target: Target, tmp_path: Path) -> None:
    job = _job(cache="int8")
    program = emit_training(job, target, tmp_path / "p")
    report = execute_training(job, program, target, tmp_path / "p")
    assert {c.verdict for c in report.checks} <= {Verdict.EXACT, Verdict.WITHIN_BOUND}, report.checks
    assert "kept features" in [c.name for c in report.checks]
    assert report.features is not None
    assert report.features.num_bytes == 6 * (4 + 4 + 48)
    exact = reference(replace(job, cache="off")).losses
    apart = [abs(a - b) for (a, _), b in zip(report.losses, exact, strict=True)]
    assert 1e-4 < max(apart) < 0.1, "the quantisation is in the run, and small"
    assert max(abs(a - b) for a, b in report.losses) < 1e-5


@on_targets("host")
@pytest.mark.parametrize("place", ["scale", "code"])
def test_wrong_features_fail(target: Target, place: str, tmp_path: Path) -> None:
    job = _job(cache="int8")
    program = emit_training(job, target, tmp_path / "p")
    source = tmp_path / "p" / "trainlib" / "src" / "plain" / "tcl_cast.c"
    right, wrong = {"scale": ("/ MOST", "/ 126.0f"), "code": ("lrintf(", "truncf(")}[place]
    assert right in source.read_text()
    source.write_text(source.read_text().replace(right, wrong))
    report = execute_training(job, program, target, tmp_path / "p")
    assert [c.name for c in report.checks if c.name == "kept features" and c.verdict is Verdict.FAIL]


class _Branches(nn.Module):
    """Two values cross into the trained part, one of them also read by a frozen layer; the second in another shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.trained = nn.Conv2d(4, 4, 1)
        self.relu, self.output = nn.ReLU(inplace=True), nn.Linear(4 * 30, 3)
        self.a.requires_grad_(False)
        self.b.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.a(x)
        second = self.b(first)
        return self.output(torch.flatten(self.relu(self.trained(second) + first), 1))


@on_targets("host")
@pytest.mark.parametrize("cache", ["fp32", "int8"])
def test_all_that_crosses_is_kept(target: Target, cache: str, tmp_path: Path) -> None:
    job = replace(_job(cache=cache), model=_Branches())
    program = emit_training(job, target, tmp_path / "p")
    report = execute_training(job, program, target, tmp_path / "p", "SANITIZE=address,undefined")
    assert report.features is not None
    assert {t.layer for t in report.features.tensors} == {"a", "b"}
    assert {c.verdict for c in report.checks} <= {Verdict.EXACT, Verdict.WITHIN_BOUND}, report.checks
    emit_training(replace(job, cache="off"), target, tmp_path / "off")
    run_program(_built(replace(job, cache="off"), target, tmp_path / "off"))
    same = _weights(tmp_path / "off") == _weights(tmp_path / "p")
    assert same == (cache == "fp32")


@on_targets("host")
def test_number_of_cores_does_not_change_features(target: Target, tmp_path: Path) -> None:
    kept = []
    for variables in ((), ("NUM_CORES=1",), ("NUM_CORES=3", "SANITIZE=thread")):
        project = _built(_job(cache="int8"), target, tmp_path / "p", *variables)
        run_program(project, *variables)
        kept.append(((project / "build" / "features.bin").read_bytes(), _weights(project)))
    assert kept[0] == kept[1] == kept[2]


def test_features_that_do_not_fit_or_help_are_refused(tmp_path: Path) -> None:
    job = _job(num_train=9000, num_epochs=1, cache="fp32")
    with pytest.raises(
        DoesNotFit, match=r"bytes of L2 .*kept features 1,764,000, .*: try fewer --samples, no --cache"
    ) as refusal:
        emit_training(job, find_target("pulp"), tmp_path / "p")
    assert len(str(refusal.value).splitlines()) == 1
    emit_training(replace(job, cache="int8"), find_target("pulp"), tmp_path / "p")  # 504,000
    job.model.requires_grad_(True)
    with pytest.raises(BadInput, match="the first layer is trained: leave out --cache"):
        make_training_program(job)


@on_targets("host")
def test_samples_of_another_number_are_refused(target: Target, tmp_path: Path) -> None:
    project = _built(_job(cache="int8"), target, tmp_path / "p")
    other = _job(num_train=7)
    SamplesFile(other.samples, num_classes=3).write(project / "data" / "samples.bin")
    _refused(project, "another number of training samples than the program keeps features of")


def test_more_samples_than_a_target_can_read_are_refused() -> None:
    message = (
        r"20,000 training and 2,000 test samples of 3x128x128 make a file of 4,325,552,064 bytes, target qemu reads at "
        r"most 2,147,483,647: 10,922 samples fit, try fewer --samples and --test-samples"
    )
    with pytest.raises(DoesNotFit, match=message):
        require_file(find_target("qemu"), num_train=20_000, num_test=2_000, shape=(3, 128, 128))
    for num_train, fits in ((10_000, True), (10_001, False)):
        with nullcontext() if fits else pytest.raises(DoesNotFit):
            require_file(find_target("pulp"), num_train=num_train, num_test=922, shape=(3, 128, 128))
    require_file(find_target("host"), num_train=20_000, num_test=2_000, shape=(3, 128, 128))


# --- cut and resumed --------------------------------------------------------------------------------------------------

# Stands before pwrite: after so many bytes in all (CUT_AFTER) the process is killed in the midst of a write.
_CUT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/types.h>

ssize_t pwrite(int file, void const *data, size_t num_bytes, off_t offset)
{
    static long left = -1;
    ssize_t (*really)(int, void const *, size_t, off_t);
    *(void **)&really = dlsym(RTLD_NEXT, "pwrite");
    if (left < 0)
        left = atol(getenv("CUT_AFTER"));
    if ((size_t)left < num_bytes) {
        really(file, data, (size_t)left, offset);
        raise(SIGKILL);
    }
    left -= (long)num_bytes;
    return really(file, data, num_bytes, offset);
}
"""


@on_targets("host")
@pytest.mark.parametrize(("name", "cache"), [("plain", "off"), ("all", "off"), ("all", "int8"), ("plain", "fp32")])
def test_twenty_cuts_in_the_midst_of_writes_leave_no_trace(
    target: Target, name: str, cache: str, tmp_path: Path
) -> None:
    seed = 21
    rng = np.random.default_rng(seed)
    job = _job(rule=RULES.get(name, PLAIN), cache=cache)  # with batches of 4: checkpoints lie within them too
    project = _built(job, target, tmp_path / "p")
    run_program(project)
    whole, log = _weights(project), _values(project)
    slot_bytes = (project / "build" / "slot0.bin").stat().st_size
    written = 20 * 24 + 10 * slot_bytes + len(whole)  # log entries, slots and weights of one run
    written += (project / "build" / "features.bin").stat().st_size
    (tmp_path / "cut.c").write_text(_CUT)
    shim = tmp_path / "cut.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, tmp_path / "cut.c", "-ldl"], check=True)
    resumed = 0
    for cut in sorted(int(c) for c in rng.integers(1, written, 20)):
        _anew(project)
        environment = {**os.environ, "LD_PRELOAD": str(shim), "CUT_AFTER": str(cut)}
        done = subprocess.run(["./tinyclf.elf"], cwd=project / "build", env=environment, check=False)
        assert done.returncode == -signal.SIGKILL, f"seed {seed}: byte {cut} of {written} was never written"
        resumed += run_program(project) is not None
        assert _weights(project) == whole, f"seed {seed}: cut after byte {cut}"
        assert np.array_equal(_values(project), log), f"seed {seed}: cut after byte {cut}"
    assert resumed >= 15


# Notes which file, by number of its descriptor, is written to and stored, in turn.
_TRACE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

static void note(char const *what, int file)
{
    char link[32], path[256] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) > 0)
        fprintf(stderr, "%s %s\n", what, path);
}

ssize_t pwrite(int file, void const *data, size_t num_bytes, off_t offset)
{
    ssize_t (*really)(int, void const *, size_t, off_t);
    *(void **)&really = dlsym(RTLD_NEXT, "pwrite");
    note("write", file);
    return really(file, data, num_bytes, offset);
}

int fsync(int file)
{
    note("sync", file);
    return 0;
}
"""


@on_targets("host")
def test_a_checkpoint_is_stored_before_the_run_goes_on(target: Target, tmp_path: Path) -> None:
    project = _built(_job(cache="int8"), target, tmp_path / "p", "NUM_CORES=1")
    (tmp_path / "trace.c").write_text(_TRACE)
    shim = tmp_path / "trace.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, tmp_path / "trace.c", "-ldl"], check=True)
    run_program(project, "NUM_CORES=1")
    _anew(project)
    environment = {**os.environ, "LD_PRELOAD": str(shim)}
    done = subprocess.run(
        ["./tinyclf.elf"], cwd=project / "build", env=environment, check=True, capture_output=True, text=True
    )
    dirty: set[str] = set()
    num_slots = 0
    for line in done.stderr.splitlines():
        what, path = line.split(maxsplit=1)
        name = Path(path).name
        if what == "sync":
            dirty.discard(name)
        elif name in SLOTS:
            assert dirty <= {name}, f"{dirty} are not stored when {name} is written"
            num_slots += name not in dirty
            dirty.add(name)
        else:
            assert not dirty & set(SLOTS), f"the run goes on before {dirty} is stored"
            dirty.add(name)
    assert num_slots == 10
    assert dirty == {"log.bin"}  # the second evaluation


@on_targets("host")
def test_a_run_that_is_cut_again_and_again_ends_the_same(target: Target, tmp_path: Path) -> None:
    seed = 22
    rng = np.random.default_rng(seed)
    project = _built(_job(num_train=40, num_epochs=100, checkpoint_every=30), target, tmp_path / "p", "NUM_CORES=1")
    begin = time.monotonic()
    run_program(project, "NUM_CORES=1")
    seconds = time.monotonic() - begin
    whole, log = _weights(project), _values(project)
    _anew(project)
    num_cuts = 0
    while num_cuts < 20:  # about seven in a row, then the run is complete and begins anew
        process = subprocess.Popen(["./tinyclf.elf"], cwd=project / "build")
        time.sleep(seconds * rng.uniform(0, 0.3))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            num_cuts += 1
        else:
            assert _weights(project) == whole, f"seed {seed}"
            _anew(project)
    run_program(project, "NUM_CORES=1")
    assert _weights(project) == whole, f"seed {seed}"
    assert np.array_equal(_values(project), log), f"seed {seed}"


@on_targets("pulp")
@pytest.mark.parametrize(("name", "cache"), [("plain", "off"), ("all", "off"), ("all", "int8")])
def test_three_cuts_in_gvsoc(target: Target, name: str, cache: str, tmp_path: Path) -> None:
    seed = 23
    rng = np.random.default_rng(seed)
    job = _job(num_train=20, num_epochs=3, checkpoint_every=3, rule=RULES.get(name, PLAIN), cache=cache)
    project = _built(job, target, tmp_path / "p")
    run_program(project)
    whole, log = _weights(project), _values(project)
    _anew(project)
    num_cuts = 0
    for step in np.sort(rng.choice(np.arange(4, 50), 3, replace=False)):
        num_cuts += _cut_at(["make", "-C", str(project), "run"], project, int(step))
    assert num_cuts == 3
    assert run_program(project) is not None
    assert _weights(project) == whole, f"seed {seed}"
    assert np.array_equal(_values(project), log), f"seed {seed}"


def _cut_at(command: list[str], project: Path, step: int) -> bool:
    """Run and kill, with all its children, as soon as the log has got to `step`; tell whether it was still running."""
    log = project / "build" / "log.bin"
    process = subprocess.Popen(
        command, cwd=project / "build", start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and (not log.exists() or log.stat().st_size < 24 * (step + 1)):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() != 0 and running


def _values(project: Path) -> np.ndarray:
    """Return what the log says, without the cycles, which depend on caches and clocks."""
    entries = np.fromfile(project / "build" / "log.bin", "<u4").reshape(-1, 6)
    return entries[:, :4]


@on_targets("host")
def test_a_torn_slot_is_passed_over_for_the_other(target: Target, tmp_path: Path) -> None:
    project = _built(_job(), target, tmp_path / "p")
    run_program(project)
    whole = _weights(project)
    slots = [project / "build" / name for name in SLOTS]
    steps = [struct.unpack_from("<QQQ", s.read_bytes(), 24) for s in slots]  # sequence, epoch, step
    newest = max(slots, key=lambda s: steps[slots.index(s)][0])
    older = slots[1 - slots.index(newest)]
    _, epoch, step = steps[slots.index(older)]
    content = bytearray(newest.read_bytes())
    changed = bytearray(content)
    changed[90] ^= 1
    version = content[:4] + b"\xff\xff\xff\xff" + content[8:]
    cut = content[:6] + bytes(len(content) - 6)  # only the first words were written
    for torn in (content[:100], content[:-1], content[:-8] + bytes(8), changed, version, cut):
        saved = newest.read_bytes(), older.read_bytes()
        newest.write_bytes(bytes(torn))
        assert run_program(project) == epoch * 6 + step
        assert _weights(project) == whole
        newest.write_bytes(saved[0])
        older.write_bytes(saved[1])
    for slot in slots:
        slot.write_bytes(b"\xff" * 1000)  # flash that was erased
    assert run_program(project) is None
    assert _weights(project) == whole


# --- refusals ---------------------------------------------------------------------------------------------------------


def _crc_again(content: bytearray, start: int, end: int) -> None:
    content[end : end + 4] = struct.pack("<I", zlib.crc32(content[start:end]))


@on_targets()
def test_broken_files_are_refused_in_one_line(target: Target, tmp_path: Path) -> None:
    project = _built(_job(num_epochs=1), target, tmp_path / "p")
    samples = project / "data" / "samples.bin"
    whole = samples.read_bytes()
    record = 4 * 60 + 8
    damaged = bytearray(whole)
    damaged[64 + 8 * record + 3] ^= 16
    other = bytearray(whole)
    other[8:12] = struct.pack("<I", 3)
    _crc_again(other, 0, 60)
    for content, message in (
        (whole[:-1], "samples.bin is truncated"),
        (bytes(damaged), r"sample 8 of samples.bin is damaged \(wrong CRC\)"),
        (bytes(other), "images or classes of another net"),
    ):
        samples.write_bytes(content)
        _refused(project, message)
        assert _weights(project) == b""
    samples.write_bytes(whole)
    run_program(project)


@on_targets("host")
def test_slots_of_another_run_or_version_are_refused(target: Target, tmp_path: Path) -> None:
    job = _job(num_epochs=1)
    project = _built(job, target, tmp_path / "p")
    run_program(project)
    slot = project / "build" / "slot0.bin"
    whole = slot.read_bytes()
    for place, message in ((8, "of another net, other samples or other settings"), (4, "another version")):
        changed = bytearray(whole)
        changed[place] ^= 3  # 2, the version, becomes 1
        _crc_again(changed, 0, len(changed) - 4)
        slot.write_bytes(changed)
        _refused(project, message)
    # The slots of a run with other samples, as they really are.
    other = _built(_job(num_epochs=1, num_train=7), target, tmp_path / "other")
    for name in SLOTS:
        (other / "build" / name).write_bytes(whole)
    _refused(other, "of another net, other samples or other settings: begin anew with make restart")
    subprocess.run(["make", "-C", other, "restart"], check=True, capture_output=True)
    assert len(_weights(other)) > 0


def _refused(project: Path, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        run_program(project)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.target("host")
def test_a_program_for_another_target_is_refused(tmp_path: Path) -> None:
    host = find_target("host")
    project = _built(_job(), host, tmp_path / "p")
    targets.check_elf(project, host)
    elf = project / "build" / "tinyclf.elf"
    content = elf.read_bytes()
    with pytest.raises(BadInput, match=r"was built for target host, this is target qemu: run make -C .* clean all"):
        targets.check_elf(project, find_target("qemu"))
    elf.write_bytes(content.replace(b"tinyclf target: host", b"tinyclf xxxxxx: host"))
    with pytest.raises(BadInput, match="is not the program of an emitted project"):
        targets.check_elf(project, host)
    elf.unlink()
    with pytest.raises(BadInput, match="does not exist"):
        targets.check_elf(project, host)


@pytest.mark.target("host")
def test_a_failure_that_is_no_refusal_stays_one(tmp_path: Path) -> None:
    project = _built(_job(), find_target("host"), tmp_path / "p")
    (project / "data" / "samples.bin").unlink()
    with pytest.raises(ToolFailed, match=r"port\.c:\d+: check failed"):
        run_program(project)


# --- the command line, and weights that come back ---------------------------------------------------------------------


RULE_OPTIONS = ("--batch", 5, "--momentum", 0.5, "--schedule", "step", "--milestones", "0.6", "--cache", "int8")


@pytest.fixture(scope="module")
def deployed(digits_run: Path, shifted_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the project of a short run on the host, and what the command printed."""
    project = tmp_path_factory.mktemp("deployed") / "p"
    options = ("--variant", "FT", "--k", 1, "--data", shifted_dir, "--samples", 12, "--epochs", 2, "--lr", 0.02)
    more = ("--test-samples", 10, "--checkpoint-every", 5, "--cores", 2, "--out", project, "--execute", *RULE_OPTIONS)
    result = cli("deploy", "--target", "host", "--from", digits_run, *options, *more)
    assert result.exit_code == 0, result.output
    return project, result.stdout


@pytest.mark.target("host")
def test_deploy_reports_the_run(deployed: tuple[Path, str], digits_run: Path) -> None:
    project, printed = deployed
    assert "2 epochs on 12 samples, 10 test samples" in printed
    assert re.search(r"loss of every step +\d\.\de-\d\d +0\.001  within bound", printed)
    assert re.search(r"before +\d+\.\d\d% +\d+\.\d\d%", printed)
    assert f"next: tinyclf import-weights {digits_run} {project / 'weights.bin'}" in printed
    assert "frozen features: 1 tensor of each sample kept (int8)" in printed
    assert "4 updates, each of 5 samples, across the ends of epochs; the last 4 samples of the run" in printed
    report = json.loads((project / "report.json").read_text())
    assert report["passed"]
    assert len(report["losses"]) == 24
    assert (report["updates"], report["samples_left_over"], report["update_rule"]["milestones"]) == (4, 4, [0.6])
    header = (project / "src" / "network.c").read_text().splitlines()[1]
    assert "--batch 5 --schedule step --milestones 0.6 --seed 0" in header
    assert "--cache int8 --lr 0.02 --weight-decay 0 --momentum 0.5" in header
    assert "static float arena" in (project / "src" / "network.c").read_text()
    assert not (project / "data" / "labels.bin").exists()  # samples are streamed, not linked


# At this rate PyTorch's losses are met within some 1e-6: it is small enough that no step enlarges the rounding of those
# before it, and large enough that the loss falls by a third.
LONG = ("--variant", "FT", "--k", 1, "--epochs", 6, "--samples", 50, "--lr", 0.01, "--checkpoint-every", 0)


@on_targets(long=["pulp"])
def test_300_steps_on_real_digits(target: Target, digits_run: Path, shifted_dir: Path, tmp_path: Path) -> None:
    # Simulation is slow: in GVSoC the frozen part of a sample is computed once, and there are fewer test samples.
    fewer = ("--test-samples", 30, "--cache", "fp32") if target.name == "pulp" else ("--test-samples", 200)
    options = ("--from", digits_run, "--data", shifted_dir, *LONG, *fewer, "--out", tmp_path / "p", "--execute")
    result = cli("deploy", "--target", target.name, *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"before +\d+\.\d\d% +\d+\.\d\d%", result.stdout)
    assert re.search(r"after +\d+\.\d\d% +\d+\.\d\d%", result.stdout)
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert {check["verdict"] for check in report["checks"]} <= {"exact", "within bound"}, report["checks"]
    assert len(report["losses"]) == 300
    assert max(abs(loss["target"] - loss["pytorch"]) for loss in report["losses"]) <= 1e-3
    for moment in ("before", "after"):
        accuracy = report["accuracy"][moment]
        assert abs(accuracy["target"] - accuracy["pytorch"]) <= 0.005, moment
    losses = [loss["pytorch"] for loss in report["losses"]]
    first, last = np.mean(losses[:50]), np.mean(losses[-50:])
    assert last < 0.7 * first, "nothing was learnt"


@pytest.mark.target("host")
def test_deploy_resumes(deployed: tuple[Path, str], digits_run: Path, shifted_dir: Path) -> None:
    project, _ = deployed
    before = _weights(project)
    (project / "build" / "weights.bin").unlink()
    newest = max((project / "build" / s for s in SLOTS), key=lambda s: struct.unpack_from("<Q", s.read_bytes(), 24))
    newest.unlink()  # step 24; what is left is that of step 20
    options = ["--variant", "FT", "--k", 1, "--data", shifted_dir, "--samples", 12, "--epochs", 2, "--lr", 0.02]
    options += RULE_OPTIONS
    options += ["--test-samples", 10, "--checkpoint-every", 5, "--cores", 2, "--out", project, "--execute", "--resume"]
    result = cli("deploy", "--target", "host", "--from", digits_run, *options)
    assert result.exit_code == 0, result.output
    assert "went on from a checkpoint after step 20" in result.stdout
    assert _weights(project) == before
    options[options.index(0.02)] = 0.03
    result = cli("deploy", "--target", "host", "--from", digits_run, *options)
    assert result.exit_code == 1
    assert re.match(r"error: .*holds no run with these options .*: leave out --resume\n$", result.stderr)


@pytest.mark.target("host")
def test_device_weights_are_what_eval_and_training_take(
    deployed: tuple[Path, str], digits_run: Path, shifted_dir: Path, tmp_path: Path
) -> None:
    project, _ = deployed
    file = project / "weights.bin"
    header, values = read_weights(file)
    model, config = load_device_weights(digits_run, file)
    parameters = dict(model.named_parameters())
    assert {t.name for t in header.tensors} == {n for n, p in parameters.items() if p.requires_grad}
    for name, value in values.items():
        np.testing.assert_array_equal(parameters[name].detach().numpy(), value)
    assert (config.train.bn, config.variant.label) == ("folded", "FT K=1")
    plain, trained = (
        json.loads(cli("eval", digits_run, "--data", shifted_dir, "--json", *more).stdout)
        for more in ((), ("--device-weights", file))
    )
    assert plain["accuracy"] != trained["accuracy"]
    run_dir, _ = import_weights(digits_run, file, tmp_path / "run")
    assert json.loads(cli("eval", run_dir, "--data", shifted_dir, "--json").stdout) == trained
    assert read_run(run_dir).train.bn == "folded"
    options = ("--variant", "FT", "--k", 1, "--data", shifted_dir, "--epochs", 1, "--threads", 1)
    result = cli("train", "--from", run_dir, *options, "--out", tmp_path / "on")
    assert result.exit_code == 0, result.output
    again = cli("deploy", "--target", "host", "--from", run_dir, "--out", tmp_path / "p", "--epochs", 1)
    assert again.exit_code == 0, again.output


@pytest.mark.target("host")
def test_weights_of_another_net_or_run_are_refused(
    deployed: tuple[Path, str], digits_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    file = deployed[0] / "weights.bin"
    common = ("train", "--data", digits_dir, "--epochs", 1, "--threads", 1)
    for name, options, message in (
        ("arch", ("--arch", "fdmobilenet_wd4"), "weights of another net"),
        ("seed", ("--seed", 3), "on top of other weights"),
    ):
        assert cli(*common, *options, "--out", tmp_path / name).exit_code == 0
        result = cli("import-weights", tmp_path / name, file, "--out", tmp_path / "new")
        assert result.exit_code == 1
        assert re.match(rf"error: .*{message}.*name the run that was deployed\n$", result.stderr)
        assert not (tmp_path / "new").exists()
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-5])
    result = cli("eval", digits_run, "--device-weights", tmp_path / "cut")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "is cut" in result.stderr


@pytest.mark.target("host")
def test_a_failed_comparison_exits_with_3_and_drift_with_0(
    digits_run: Path, shifted_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUN_BOUNDS, FLOAT32, replace(RUN_BOUNDS[FLOAT32], loss=1e-12))
    options = ("--variant", "LP", "--data", shifted_dir, "--samples", 3, "--epochs", 1, "--test-samples", 0)
    command = ("deploy", "--target", "host", "--from", digits_run, *options, "--out", tmp_path / "p", "--execute")
    monkeypatch.setattr("tinyclf.device.run.run_report.DRIFT", 0.0)
    result = cli(*command)
    assert result.exit_code == 3
    assert re.match(r"error: 1 of 3 comparisons with PyTorch fail, first: loss of every step\n$", result.stderr)
    monkeypatch.setattr("tinyclf.device.run.run_report.DRIFT", 1e6)
    result = cli(*command)
    assert result.exit_code == 0, result.output
    assert re.search(r"loss of every step .* drift\n", result.stdout)
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert report["passed"]
    assert report["checks"][0]["verdict"] == "drift"
    assert report["checks"][0]["bound_from"] != report["checks"][1]["bound_from"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 1", "--epochs needs --from RUN"),
        (
            "--epochs 2 --samples 3 --from {run} --batch 7",
            "2 epochs of 3 samples are fewer than the 7 samples of a batch",
        ),
        ("--epochs 1 --from {run} --batch -1", "batch is -1: an update needs at least 1 sample"),
        ("--epochs 1 --from {run} --optimizer adam --momentum 0.9", "momentum is of sgd, adam has its own"),
        ("--epochs 1 --from {run} --betas 0.9 0.99", "--betas is of adam and adamw: add --optimizer adam"),
        ("--epochs 1 --from {run} --optimizer adam --betas 0.9 1", "beta2 is 1: give 0 or more, and less than 1"),
        ("--epochs 1 --from {run} --gamma 0.5", "--gamma is of the step schedule: add --schedule step"),
        ("--epochs 1 --from {run} --schedule step --milestones 0.5,2", "milestones: give shares of the run"),
        ("--epochs 1 --from {run} --warmup -1", "warmup is -1"),
        ("--epochs 0 --from {run}", "--epochs must be in 1 .."),
        ("--epochs 1 --samples 0 --from {run}", "--samples must be at least 1"),
        ("--epochs 2147483648 --from {run}", "--epochs must be in 1 .."),
        ("--epochs 1 --checkpoint-every 18446744073709551616 --from {run}", "--checkpoint-every must be at most"),
        ("--samples 99999 --from {run}", r"--samples 99999: the train split has"),
        ("--epochs 1 --samples 99999 --from {run}", r"--samples 99999: the train split has"),
        ("--epochs 1 --test-samples 99999 --from {run}", r"--test-samples 99999: the test split has"),
        ("--epochs 1 --test-samples -1 --from {run}", "--test-samples and --checkpoint-every must be at least 0"),
        ("--epochs 1 --lr nan --from {run}", "--lr must be above 0"),
        ("--epochs 1 --seed -1 --from {run}", "--seed must be in"),
        ("--epochs 1 --from {run} --size 32", "--from RUN already says architecture"),
        ("--epochs 1 --steps 5 --from {run}", "--steps and --epochs both say"),
        ("--epochs 1 --resume --from {run}", "--resume goes on with a run: add --execute"),
        ("--epochs 1 --samples 2 --resume --execute --from {run} --out nothing", "nothing: holds no run with these"),
        ("--cache int8", "belong to a training run: add --epochs"),
        ("--epochs 1 --samples 3 --variant full --cache int8 --from {run}", "the first layer is trained: leave out"),
        ("--test-samples 3", "belong to a training run: add --epochs"),
    ],
)
def test_bad_options(
    arguments: str, message: str, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("deploy", "--target", "host", *arguments.format(run=digits_run).split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(message, result.stderr), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
