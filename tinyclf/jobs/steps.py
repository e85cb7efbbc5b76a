"""A run, or an architecture with random weights, becomes a job of single steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.device.footprint.regions import RegionUse, linked_regions
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import job_program
from tinyclf.device.run.step import PlannedStep
from tinyclf.device.run.steps import write_steps
from tinyclf.device.targets.elf import read_elf
from tinyclf.device.targets.project import ELF, build
from tinyclf.device.targets.target import l1_option, require_tools
from tinyclf.jobs.request import Request, check_request, load_for
from tinyclf.recipe.update_options import options_text
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import (
    build_model,
    calibrate_batchnorm,
    fold_batchnorm,
    freeze,
    head_layer,
)

MOST_STEPS = 2**63 - 1
DEFAULT_SAMPLES = 4
NUM_CALIBRATION_IMAGES = 16


# Model (BatchNorm not folded), what is trained, images (N, C, H, W), labels (N,), the command that asks for it.
_Given = tuple[nn.Module, Variant, NDArray[np.float32], NDArray[np.int64], str]


def linked_memory(request: Request, step: PlannedStep) -> tuple[RegionUse, ...]:
    """Emit and build what `request` asks for in a folder of its own; return what the linker placed in each region.

    `step` is what was planned for it, to be emitted.

    Raises:
        DoesNotFit: the target's memory is too small.
        ToolFailed: a tool is missing, or the build failed.
    """
    require_tools(request.target)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        job = make_job(request)
        write_steps(job_program(job, step), job, request.target, project, num_cores=step.around.num_cores)
        build(project, request.target)
        return linked_regions(request.target, read_elf(project / ELF))


def default_project(request: Request) -> Path:
    """Return the folder that a project is written to when the user names none."""
    what = (
        request.from_run.name if request.from_run else request.arch or (request.variant or Variant("LP")).default_arch
    )
    variant = "" if request.variant is None else "-" + request.variant.slug
    return Path("deployed") / f"{request.target.name}-{what.replace(':', '.')}{variant}"


def make_job(request: Request) -> Job:
    """Build the model, fold its BatchNorm, and take the samples; where no number is asked for, the most there may be.

    Raises:
        BadInput: options that do not go together, or a run or dataset that cannot be read.
        Unsupported: the run was trained on several labels per image.
    """
    _check(request)
    if request.from_run:
        model, variant, images, labels, command = _from_run(request, request.from_run)
    else:
        model, variant, images, labels, command = _random(request)
    rule = _rule(request, variant)
    folded = fold_batchnorm(model)
    num_classes = head_layer(folded).weight.shape[0]
    recompute = " --recompute" if request.recompute else ""
    return Job(
        model=folded,
        samples=images,
        labels=np.eye(num_classes, dtype=np.float32)[labels],
        num_steps=request.num_steps,
        rule=rule,
        command=f"{command} --steps {request.num_steps}",
        options=f"{options_text(rule)} --seed {request.seed}{recompute}{l1_option(request.target)}",
        recompute=request.recompute,
        fewer_will_do=request.num_samples is None,
    )


def _rule(request: Request, variant: Variant) -> UpdateRule:
    """Return how the request's weights are updated.

    Raises:
        BadInput: see `UpdateOptions.rule`.
    """
    num = request.num_steps
    return request.rule(reaches_everything=variant.reaches_everything, num_samples=num, asked=f"--steps {num}")


def _check(request: Request) -> None:
    if not 1 <= request.num_steps <= MOST_STEPS:
        raise BadInput("--steps must be in 1 .. 2^63 - 1")
    check_request(request)
    _rule(request, request.variant or Variant("LP"))
    if request.data and not request.from_run:
        raise BadInput("--data needs --from RUN: a net with random weights is deployed on random samples")


def _from_run(request: Request, run: Path) -> _Given:
    """Return the run's model and the first samples of its training split, shuffled by the seed."""
    loaded = load_for(run, request)
    training = loaded.training
    num = request.num_samples or min(_usual_samples(request), len(training))
    images, labels = loaded.take(training, num, option="--samples", seed=request.seed)
    command = f"tinyclf deploy --target {request.target.name} --from {run.name} {loaded.variant.options}"
    return loaded.model, loaded.variant, images, labels, command


def _random(request: Request) -> _Given:
    """Return a net with random weights whose activations are in a natural range, random images and labels."""
    variant = request.variant or Variant("LP")
    arch, size, num_classes = request.arch or variant.default_arch, request.size or 128, request.num_classes or 2
    model = build_model(arch, num_classes=num_classes, size=size, seed=request.seed, small_input=request.small_input)
    freeze(model, variant)
    rng = np.random.default_rng(request.seed)
    calibrate_batchnorm(model, torch.from_numpy(_random_images(rng, NUM_CALIBRATION_IMAGES, size)))
    images = _random_images(rng, request.num_samples or _usual_samples(request), size)
    labels = rng.integers(0, num_classes, len(images))
    command = (
        f"tinyclf deploy --target {request.target.name} {variant.options} --arch {arch} --size {size} "
        f"--classes {num_classes}{' --small-input' * request.small_input}"
    )
    return model, variant, images, labels, command


def _random_images(rng: np.random.Generator, num: int, size: int) -> NDArray[np.float32]:
    return rng.standard_normal((num, 3, size, size)).astype(np.float32)


def _usual_samples(request: Request) -> int:
    """Return how many samples there are where the user says nothing, if so many fit."""
    return min(request.num_steps, DEFAULT_SAMPLES)
