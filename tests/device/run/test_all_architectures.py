"""Every architecture of `tinyclf models` deploys: LP, FT K=1 and full, a training step each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tinyclf.base.errors import DoesNotFit
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program, require_fit
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import find_target
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

SIZE, SEED = 32, 20261130
VARIANTS = (Variant("LP"), Variant("FT", 1), Variant("full"))
# One of each family that has layers of its own; the others, and more of these, when long tests are asked for.
USUAL = {
    ("mobilenetv3_small_w7d20", "full"),
    ("shufflenetv2_wd2", "full"),
    ("squeezenet_v1_1", "FT"),
    ("mnasnet_small", "FT"),
    ("efficientnet_b0", "LP"),
    ("regnety002", "FT"),
}
USUAL_ON_PULP = {("resnet8", "LP"), ("mobilenet_w1", "LP")}


def _cases(usual: set[tuple[str, str]]) -> pytest.MarkDecorator:
    """Run a test for every architecture and variant: those of `usual` always, the others where long tests run."""
    cases = [(arch, variant) for arch in ARCHITECTURES for variant in VARIANTS]
    params = [
        pytest.param(arch, v, id=f"{arch}-{v.name}", marks=() if (arch, v.name) in usual else pytest.mark.long)
        for arch, v in cases
    ]
    return pytest.mark.parametrize(("arch", "variant"), params)


def _job(arch: str, variant: Variant) -> Job:
    torch.manual_seed(SEED)
    model = build_model(arch, num_classes=2, size=SIZE, small_input=True)
    freeze(model, variant)
    rng = np.random.default_rng(SEED)
    return Job(
        model=fold_batchnorm(model),
        samples=rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32),
        labels=np.eye(2, dtype=np.float32)[:1],
        num_steps=1,
        rule=UpdateRule(0.001),
        command="tinyclf deploy",
    )


@pytest.mark.target("host")
@_cases(USUAL)
def test_every_architecture_trains_on_the_host(arch: str, variant: Variant, tmp_path: Path) -> None:
    job, target = _job(arch, variant), find_target("host")
    program = emit_project(job, target, tmp_path / "p")
    report = execute(job, program, target, tmp_path / "p")
    assert report.passed, [c for c in report.comparisons if not c.passed][:5]


@_cases(USUAL_ON_PULP)
def test_every_architecture_fits_pulp_or_says_what_it_needs(arch: str, variant: Variant) -> None:
    """What it needs is more than there is, to the byte."""
    target, refusal = find_target("pulp"), ""
    try:
        program = make_program(_job(arch, variant), target)
        require_fit(program, target)
    except DoesNotFit as error:
        refusal = str(error)
    if refusal:
        needed, there = (int(n.replace(",", "")) for n in re.findall(r"(?:needs|has) ([\d,]+)", refusal))
        assert needed > there > 0
    else:
        assert program.plan.parameter_bytes + program.plan.arena_bytes <= target.memory_bytes
    assert bool(refusal) == (arch == "mobilenet_w1") or (arch, variant.name) not in USUAL_ON_PULP
