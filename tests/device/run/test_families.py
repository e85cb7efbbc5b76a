"""Every family of architectures trains: ten steps on the host at 128 pixels, two in GVSoC as a narrow twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit.narrow import narrowed
from tests.kit.targets import on_targets
from tinyclf.device.run.job import Job
from tinyclf.device.run.step_report import Report
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, fold_batchnorm, freeze

SEED = 20261201
# The smallest net of each family, and by how much its channels are divided so that a step of it fits pulp.
TWINS = {
    "mobilenet_wd4": 1,
    "fdmobilenet_wd4": 1,
    "mobilenetv2_wd4": 2,
    "mobilenetv2b_wd4": 2,
    "mobilenetv3_small_w7d20": 2,
    "mobilenetv3_large_w7d20": 3,
    "shufflenetv2_wd2": 2,
    "squeezenet_v1_1": 2,
    "mnasnet_small": 2,
    "efficientnet_b0": 8,
    "regnetx002": 4,
    "regnety002": 4,
    "resnet8": 4,
    "dscnn": 4,
}
# Those with layers of their own run always at 128 pixels, the others where long tests run.
USUAL = {"mobilenetv3_small_w7d20", "shufflenetv2_wd2", "squeezenet_v1_1", "regnety002"}


def _job(arch: str, *, size: int, num_steps: int, divisor: int = 1) -> Job:
    """Return a job that trains the last two blocks, with random weights in a natural range, images and labels."""
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    model = build_model(arch, num_classes=2, size=size)
    if divisor > 1:
        narrowed(model, divisor)
    calibrate_batchnorm(model, torch.from_numpy(rng.standard_normal((16, 3, size, size)).astype(np.float32)))
    freeze(model, Variant("FT", 2))
    return Job(
        model=fold_batchnorm(model),
        samples=rng.standard_normal((2, 3, size, size)).astype(np.float32),
        labels=np.eye(2, dtype=np.float32),
        num_steps=num_steps,
        rule=UpdateRule(0.01, weight_decay=1e-3),
        command="tests",
    )


def _execute(job: Job, target: Target, project: Path) -> Report:
    report = execute(job, emit_project(job, target, project), target, project)
    failed = [str(c) for c in report.comparisons if not c.passed or c.drifted]
    assert not failed, failed[:10]
    assert report.num_ties <= 10, "so many inputs of ReLUs cannot lie within rounding of zero"
    first, last = report.losses[0][1], report.losses[-2][1]  # the same sample
    assert job.num_steps == 2 or first != pytest.approx(last, rel=1e-3), "nothing was learnt"
    return report


def test_every_family_has_a_twin() -> None:
    assert {ARCHITECTURES[arch].family for arch in TWINS} == {row.family for row in ARCHITECTURES.values()}


@on_targets("host")
@pytest.mark.parametrize("arch", [pytest.param(a, marks=() if a in USUAL else pytest.mark.long) for a in TWINS])
def test_ten_steps_at_128(target: Target, arch: str, tmp_path: Path) -> None:
    _execute(_job(arch, size=128, num_steps=10), target, tmp_path / "p")


@on_targets("pulp")
@pytest.mark.parametrize("arch", TWINS)
def test_two_steps_of_a_narrow_twin_in_gvsoc(target: Target, arch: str, tmp_path: Path) -> None:
    report = _execute(_job(arch, size=64, num_steps=2, divisor=TWINS[arch]), target, tmp_path / "p")
    assert report.cycles is not None
