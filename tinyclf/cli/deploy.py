"""The command deploy: emits a C project that trains; with --execute builds and runs it and compares it with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.program import FOLDER, PATH, main
from tinyclf.device.memory.kept_features import CACHES

if TYPE_CHECKING:
    from tinyclf.device.run.step_report import Report

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in click below 8.2
from tinyclf.cli.options import (
    TargetName,
    cores_option,
    l1_option,
    small_input_option,
    tiles_option,
    update_options,
    variant_options,
)

# --- deploy -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--target", type=TargetName(), required=True, help="Where the program is to run.")
@click.option("--from", "from_run", type=PATH, metavar="RUN", help="Deploy the best weights of this run.")
@variant_options("what the run trained, or LP")
@click.option(
    "--arch",
    metavar="NAME",
    show_default="mobilenet_wd4; for FD fdmobilenet_wd4",
    help="Architecture, where there is no --from.",
)
@click.option(
    "--size", type=int, show_default="128", help="Width and height of the image in pixels, where there is no --from."
)
@click.option(
    "--classes", "num_classes", type=int, show_default="2", help="Number of classes, where there is no --from."
)
@small_input_option
@click.option("--data", type=FOLDER, metavar="DIR", show_default="the run's own", help="Dataset to take samples from.")
@click.option("--steps", "num_steps", type=int, default=10, show_default=True, help="Training steps, one sample each.")
@click.option(
    "--samples",
    "num_samples",
    type=int,
    show_default="as many as fit, up to 4; with --epochs all",
    help="Samples that are linked into the program and taken in turn; with --epochs the training samples, which are "
    "read from a file.",
)
@update_options
@click.option("--epochs", "num_epochs", type=int, help="Do a training run of so many epochs, in place of --steps.")
@click.option(
    "--test-samples", "num_test", type=int, show_default="all", help="With --epochs: samples of the test split."
)
@click.option(
    "--checkpoint-every",
    type=int,
    default=0,
    show_default=True,
    metavar="STEPS",
    help="With --epochs: write a checkpoint every so many steps, from which an interrupted run goes on; 0: none.",
)
@click.option(
    "--cache",
    type=click.Choice(CACHES),
    default="off",
    show_default=True,
    help="With --epochs: keep the frozen features of each sample in memory instead of computing them in every epoch, "
    "exactly (fp32) or quantised (int8).",
)
@click.option("--resume", is_flag=True, help="With --epochs and --execute: go on with the interrupted run in --out.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the order of samples; without --from, also of random weights and samples.",
)
@cores_option
@click.option(
    "--recompute",
    is_flag=True,
    help="Recompute activations in the backward pass as far as the target's memory needs it.",
)
@l1_option
@tiles_option
@click.option("--out", type=FOLDER, metavar="DIR", show_default="deployed/TARGET-NAME-VARIANT", help="Project folder.")
@click.option("--execute", "run_it", is_flag=True, help="Build it, run it, and compare every step with PyTorch.")
@click.option(
    "--profile",
    "profiled",
    is_flag=True,
    help="With --execute, on a cycle-accurate target: show cycles, MACs and DMA transfers of each operation of a step, "
    "as a table, profile.json and profile.png. Measuring adds some cycles to each tile; gradients are not reported.",
)
def deploy(
    variant: str | None,
    k: int,
    layers: tuple[str, ...],
    bias_only: bool,
    train_channels: tuple[str, ...],
    cores: int | None,
    out: Path | None,
    run_it: bool,
    profiled: bool,
    l1: str | None,
    tiles: Path | None,
    num_epochs: int | None,
    num_test: int | None,
    checkpoint_every: int,
    cache: str,
    resume: bool,
    **options: Any,
) -> None:
    """Emit a C project that trains on the device; with --execute build, run and verify it.

    Without --from RUN, a net with random weights is deployed on random samples. With --epochs the program does a whole
    training run: it evaluates on test samples, trains, evaluates again, and hands back weights.bin, which tinyclf eval
    --device-weights and tinyclf import-weights take.

    With TRAINLIB_HOME set to a checkout of PULP-TrainLib, projects for pulp use its kernels where they are right and
    ours elsewhere; deploy prints which. Projects for pulp also build with the PULP SDK, by their Makefile.sdk.

    \b
    Example:
      tinyclf deploy --target pulp --variant FT --k 2 --size 64 --steps 2 --execute
      tinyclf deploy --target pulp --variant LP --size 96 --steps 1 --execute --profile
      tinyclf deploy --target host --from demo/clean --variant LP --data demo/shifted --execute
      tinyclf deploy --target host --optimizer adam --batch 4 --steps 40 --schedule cosine --execute
      tinyclf deploy --target host --from demo/clean --data demo/shifted --epochs 3 --execute

    The exit code is 3 if a step differs from PyTorch by more than 1e-4; with --epochs, if a loss does by more than
    0.001, the accuracy by more than 0.5 points, or a weight by more than 0.001 of the largest, and PyTorch's own run in
    float32 does not differ by a tenth as much.
    """
    from dataclasses import replace
    from math import isfinite

    from tinyclf.base.errors import BadInput, CheckFailed
    from tinyclf.cli.deploy_kernels import show_slow_calls
    from tinyclf.cli.deploy_profile import check_profile, show_profile
    from tinyclf.cli.deploy_training import deploy_training
    from tinyclf.cli.deploy_upstream import chosen_upstream, show_linkage
    from tinyclf.device.footprint.regions import linked_regions
    from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
    from tinyclf.device.memory.samples import num_linked
    from tinyclf.device.run.profiling import STALLS
    from tinyclf.device.run.steps import emit_project, execute
    from tinyclf.device.targets.elf import read_elf
    from tinyclf.device.targets.project import ELF
    from tinyclf.device.targets.target import require_cores, require_tools, with_l1, with_tiles
    from tinyclf.jobs.request import Request, TrainingRequest
    from tinyclf.jobs.steps import default_project, make_job
    from tinyclf.recipe.variant import chosen_variant

    what = chosen_variant(variant, k=k, layers=layers, bias_only=bias_only, train_channels=train_channels)
    target = with_tiles(with_l1(options.pop("target"), l1) if l1 else options.pop("target"), tiles)
    request = Request(target=target, variant=what, **options)
    require_cores(target, cores)
    if profiled:
        check_profile(target, run_it=run_it, is_training_run=num_epochs is not None)
    if run_it:
        require_tools(target)
    upstream = chosen_upstream(target)
    if num_epochs is not None:
        training = TrainingRequest(
            **vars(request), num_epochs=num_epochs, num_test=num_test, checkpoint_every=checkpoint_every, cache=cache
        )
        project = out or default_project(request)
        deploy_training(training, project, cores=cores, run_it=run_it, resume=resume, upstream=upstream)
        return
    if num_test is not None or checkpoint_every or resume or cache != "off":
        raise BadInput(
            "--test-samples, --checkpoint-every, --cache and --resume belong to a training run: add --epochs"
        )
    job = replace(make_job(request), gradients=not profiled)  # storing them takes cycles that training does not
    project = out or default_project(request)
    program = emit_project(job, target, project, num_cores=cores, upstream=upstream)
    click.echo(f"{project}: C project for {target.name}, {job.num_steps} steps on {num_linked(program.source)} samples")
    show_linkage(program)
    if not profiled:
        show_slow_calls(program)
    if not run_it:
        click.echo(f"next: make -C {project} run")
        return
    click.echo("building and running it ...")
    variables = [*([f"NUM_CORES={cores}"] if cores else []), *([STALLS] if profiled else [])]
    report = execute(job, program, target, project, *variables)
    click.echo("\n".join(_report_lines(report)))
    if profiled:
        show_profile(program, target, project, num_cores=report.num_cores)
    for region in linked_regions(target, read_elf(project / ELF)):
        of = f" of {region.num_bytes:,}" if region.num_bytes else ""
        click.echo(f"linked into {region.name}: {region.total:,}{of} bytes ({region.summary})")
    click.echo(f"every figure: {project / 'report.json'}")
    if not report.passed:
        num = sum(not c.passed for c in report.comparisons)
        if not all(isfinite(loss) for pair in report.losses for loss in pair):
            raise CheckFailed("the loss overflowed: try a smaller --lr")
        bound = BOUNDS[FLOAT32].step
        raise CheckFailed(f"{num} of {len(report.comparisons)} values differ from PyTorch by more than {bound:g}")


def _report_lines(report: Report) -> list[str]:
    lines = ["", f"{'step':>4}  {'loss here':>12}  {'PyTorch':>12}" + ("        cycles" if report.cycles else "")]
    for step, (here, pytorch) in enumerate(report.losses):
        cycles = f"  {report.cycles[step]:>12,}" if report.cycles else ""
        lines.append(f"{step:>4}  {here:>12.6g}  {pytorch:>12.6g}{cycles}")
    worst = report.worst()
    width = max(len(c.name) for c in worst)
    lines += [
        "",
        *(f"bound {bound:g}: {source}" for bound, source in dict.fromkeys((c.bound, c.bound_from) for c in worst)),
        f"{'worst of all steps, max|a-e| / max|e|':<{width}}   one step  whole run",
    ]
    lines += [f"{c.name:<{width}}  {c.error:>9.1e}  {c.run_error:>9.1e}  {c.verdict.value}" for c in worst]
    passed, num = sum(c.passed for c in report.comparisons), len(report.comparisons)
    cores = "1 core" if report.num_cores == 1 else f"{report.num_cores} cores"
    lines += ["", f"{report.target}, {cores}: {passed} of {num} values pass"]
    if report.num_ties:
        lines.append(f"{report.num_ties} ReLU inputs lie within rounding of zero and were resolved as on the target")
    if report.passed and report.drifted:
        lines.append("every step is right; over the run rounding adds up to more (large logits or rates amplify it)")
    return lines
