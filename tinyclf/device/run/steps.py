"""Single steps from end to end: a job becomes a project, which is built, run and compared with PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.files import write_text
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.emit.upstream import Upstream
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
from tinyclf.device.graph.ir import Role, gradient_name
from tinyclf.device.graph.traces import kinks, whole_gradients
from tinyclf.device.memory.samples import num_linked
from tinyclf.device.reference.steps import LOGITS, LOSS, Trajectory, training_steps
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program, require_fit
from tinyclf.device.run.project import write_project
from tinyclf.device.run.step_report import STEP_SOURCE, Comparison, Report, _bounds, _error, _without_frozen_channels
from tinyclf.device.targets.target import Target


def emit_project(
    job: Job, target: Target, out: Path, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Write the C project of `job` for `target` to `out`; with `upstream` it takes what is right from that checkout.

    Raises:
        DoesNotFit: the target's memory is too small.
        Unsupported: a layer cannot be lowered.
        BadInput: `out` holds something else.
    """
    program = make_program(job, target, num_cores=num_cores, upstream=upstream)
    write_steps(program, job, target, out, num_cores=num_cores)
    return program


def write_steps(program: Program, job: Job, target: Target, out: Path, *, num_cores: int | None = None) -> None:
    """Write the C project of a job whose program is known to `out`.

    Raises:
        DoesNotFit, BadInput: see `emit_project`.
    """
    require_fit(program, target, num_cores=num_cores)
    command = f"{job.command} --samples {num_linked(program.source)}{job.options}"
    write_project(emit(program, target=target, num_cores=num_cores or target.num_cores, command=command), out)


def execute(job: Job, program: Program, target: Target, project: Path, *variables: str) -> Report:
    """Build and run an emitted project, and compare what it traced with PyTorch; write report.json into it.

    `variables` go to make, for instance "NUM_CORES=1".

    Raises:
        ToolFailed: a tool is missing, or the build or the run failed.
    """
    targets.build(project, target, *variables)
    targets.check_elf(project, target)
    results = targets.run(project, *variables)
    public = dict(zip(program.graph.outputs, (LOGITS, LOSS), strict=True))
    device = [{public.get(name, name): value for name, value in step.items()} for step in results.steps]
    device = [whole_gradients(program.graph, step) for step in device]
    gradients = {gradient_name(t.name) for t in program.graph.tensors_of(Role.PARAMETER)}
    device, frozen = _without_frozen_channels(program, device)
    single, whole = (_golden(job, program, device, follow=follow) for follow in (True, False))
    comparisons = [
        _comparison(program, name, step, actual, (value, in_run[name]))
        for step, (actual, by_itself, in_run) in enumerate(zip(device, single.steps, whole.steps, strict=True))
        for name, value in by_itself.items()
        if job.gradients or name not in gradients
    ]
    comparisons += frozen
    cores = next((int(v.split("=")[1]) for v in variables if v.startswith("NUM_CORES=")), target.num_cores)
    outcome = Report(
        target=target.name,
        num_cores=cores,
        comparisons=tuple(comparisons),
        losses=tuple((float(a[LOSS][0]), float(e[LOSS][0])) for a, e in zip(device, whole.steps, strict=True)),
        cycles=results.cycles if target.counts_cycles else None,
        num_ties=single.num_ties,
    )
    write_text(project / "report.json", json.dumps(outcome.to_dict(), indent=1) + "\n")
    return outcome


def _comparison(
    program: Program,
    name: str,
    step: int,
    actual: dict[str, NDArray[np.float32]],
    expected: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Comparison:
    """Compare a value with what it is after the step by itself, and in the run."""
    bounds = _bounds(program, name)
    by_itself, in_run = (_error(actual, name, value, bounds=bounds) for value in expected)
    return Comparison(name, step, by_itself, in_run, bounds.step, STEP_SOURCE)


def _golden(job: Job, program: Program, device: list[dict[str, NDArray[np.float32]]], *, follow: bool) -> Trajectory:
    return training_steps(
        job.model,
        job.samples[: num_linked(program.source)],
        job.labels[: num_linked(program.source)],
        num_steps=job.num_steps,
        rule=job.rule,
        kinks=kinks(program.graph),
        device_steps=device,
        tie=BOUNDS[FLOAT32].step,
        follow=follow,
    )
