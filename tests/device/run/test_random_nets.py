"""Random nets, each from the seed in the test's name, on every target against PyTorch.

TINYCLF_RANDOM_NETS=100 runs a hundred on the host under sanitizers, and a fifth of them on each other target; as many
again with layers, biases and channels selected at random.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.random_nets import SEED, RandomNet, random_job, random_variant
from tests.kit.targets import on_targets
from tinyclf.device.run.job import Job
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target, with_l1
from tinyclf.recipe.channels import partial_parameters
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.workstation.nets.freezing import freeze

NUM_NETS = int(os.environ.get("TINYCLF_RANDOM_NETS", "20"))
SEEDS = range(SEED, SEED + NUM_NETS)
OLD = 1_000_000_000  # seconds: 2001
VARIABLES = {"host": ("SANITIZE=address,undefined", "NUM_CORES=3")}


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the objects that are the same in every project: built once for each target."""
    return tmp_path_factory.mktemp("kernels")


SELECTIONS = range(SEED, SEED + -(-NUM_NETS // 2))
RULES = (
    UpdateRule(0.01, weight_decay=1e-2),
    UpdateRule(0.01, weight_decay=1e-2, momentum=0.9),
    UpdateRule(0.01, weight_decay=1e-2, batch=2, clip=0.1),
)


def _selected(seed: int) -> Job:
    """Return the job of `seed` with other layers, biases and channels trained, and another rule of updates."""
    job = random_job(seed)
    rng = random.Random(seed)
    assert isinstance(job.model, RandomNet)
    freeze(job.model, random_variant(rng, job.model))
    return replace(job, rule=rng.choice(RULES))


def _check(job: Job, seed: int, target: Target, project: Path, kernels: Path) -> None:
    program = emit_project(job, target, project)
    built = kernels / f"{target.name} {target.l1_bytes is None}"
    if built.exists():  # newer than the sources, so that make does not build them again
        shutil.copytree(built, project / "build", copy_function=shutil.copy)
        os.utime(project / "build" / "flags", (OLD, OLD))
    report = execute(job, program, target, project, *VARIABLES.get(target.name, ()))
    if not built.exists():
        shutil.copytree(project / "build", built)
        shutil.rmtree(built / "src")
        (built / "tinyclf.elf").unlink()
    assert report.passed, f"seed {seed}: {[c for c in report.worst() if not c.passed]}\n{job.model}"
    trained = [name for name, p in job.model.named_parameters() if p.requires_grad]
    frozen = {f"{name}, frozen channels" for name in partial_parameters(job.model)}
    assert {f"{name}.grad" for name in trained} | set(trained) | frozen <= {c.name for c in report.comparisons}


@on_targets("host")
@pytest.mark.parametrize("seed", SEEDS)
def test_random_nets_pass_under_sanitizers(target: Target, seed: int, tmp_path: Path, kernels: Path) -> None:
    _check(random_job(seed), seed, target, tmp_path / "project", kernels)


@on_targets("qemu", "pulp")
@pytest.mark.parametrize("seed", SEEDS[: -(-NUM_NETS // 5)])
def test_random_nets_pass_on_chips(target: Target, seed: int, tmp_path: Path, kernels: Path) -> None:
    _check(random_job(seed), seed, target, tmp_path / "project", kernels)


@on_targets("host")
@pytest.mark.parametrize("seed", SELECTIONS)
def test_random_selections_pass_under_sanitizers(target: Target, seed: int, tmp_path: Path, kernels: Path) -> None:
    _check(_selected(seed), seed, target, tmp_path / "project", kernels)


@on_targets("qemu", "pulp")
@pytest.mark.parametrize("seed", SELECTIONS[: -(-NUM_NETS // 10)])
def test_random_selections_pass_on_chips(target: Target, seed: int, tmp_path: Path, kernels: Path) -> None:
    _check(_selected(seed), seed, target, tmp_path / "project", kernels)


@on_targets("host")
@pytest.mark.parametrize("l1", ["32KiB", "64KiB", "128KiB"])
@pytest.mark.parametrize("seed", SELECTIONS[: -(-NUM_NETS // 5)])
def test_random_selections_pass_on_tiles(target: Target, seed: int, l1: str, tmp_path: Path, kernels: Path) -> None:
    _check(_selected(seed), seed, with_l1(target, l1), tmp_path / "project", kernels)


@on_targets("qemu")
@pytest.mark.parametrize("l1", ["32KiB", "128KiB"])
@pytest.mark.parametrize("seed", SELECTIONS[: -(-NUM_NETS // 20)])
def test_random_selections_pass_on_tiles_in_qemu(
    target: Target, seed: int, l1: str, tmp_path: Path, kernels: Path
) -> None:
    _check(_selected(seed), seed, with_l1(target, l1), tmp_path / "project", kernels)
