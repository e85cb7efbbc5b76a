"""A job of single steps becomes a program for a target; what a program needs of its memory, and whether that fits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from tinyclf.base.errors import DoesNotFit
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.upstream import Upstream
from tinyclf.device.footprint.fitting import Surroundings
from tinyclf.device.footprint.regions import RegionUse, predict_regions
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.memory.samples import Linked, kept_features, num_linked
from tinyclf.device.run.job import Job
from tinyclf.device.run.step import PlannedStep, plan_step, with_upstream
from tinyclf.device.targets.target import Target


def make_program(
    job: Job, target: Target | None = None, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Plan the step of a job for `target`, and put the job's weights and samples beside it: as many as will be linked.

    Raises:
        DoesNotFit, Unsupported, BadInput: see `plan_step`.
    """
    num, channels, height, width = job.samples.shape
    step = plan_step(
        job.model,
        image=(channels, height, width),
        rule=job.rule,
        around=Surroundings(target, Linked(num, is_most=job.fewer_will_do), num_cores),
        recompute=job.recompute,
        upstream=upstream,
        traces=partial(traced_tensors, gradients=job.gradients),
    )
    return job_program(job, step)


def job_program(job: Job, step: PlannedStep) -> Program:
    """Return the program of a job whose step is planned."""
    num = num_linked(step.around.samples)
    program = program_of(step, job.model, num_steps=job.num_steps)
    return replace(program, samples=job.samples[:num], labels=job.labels[:num])


def program_of(step: PlannedStep, model: nn.Module, *, num_steps: int) -> Program:
    """Return the program that does a step of `model` so many times; it has no samples yet."""
    values = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return Program(
        step.graph, step.plan, values, None, None, num_steps, step.traced, linkage=step.linkage, tiles=step.tiles
    )


def program_regions(program: Program, target: Target, *, num_cores: int | None = None) -> tuple[RegionUse, ...]:
    """Return what each region of `target` will hold of a program as it is emitted: with its tiles, if it has any."""
    where = with_upstream(target) if program.linkage else target if program.tiles else replace(target, l1_bytes=None)
    return predict_regions(where, program.graph, program.plan, samples=program.source, num_cores=num_cores)


def require_fit(program: Program, target: Target, *, num_cores: int | None = None) -> None:
    """Raise DoesNotFit if what a program needs is more than a region of `target` has."""
    features = kept_features(program.source)
    for region in program_regions(program, target, num_cores=num_cores):
        if region.num_bytes is not None and region.total > region.num_bytes:
            fewer = "fewer --samples, " if features or num_linked(program.source) > 1 else ""
            less = "no --cache or --cache int8" if features else "--recompute"
            raise DoesNotFit(
                f"training needs {region.total:,} bytes of {region.name} ({region.summary}), target {target.name} has "
                f"{region.num_bytes:,}: try {fewer}{less}, a smaller --k, a smaller --size or a narrower --arch"
            )
