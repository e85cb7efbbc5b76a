"""Training runs on the device: what deploy does with --epochs, and the command import-weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyclf.cli.program import FILE, FOLDER, PATH, main

if TYPE_CHECKING:
    from tinyclf.device.emit.upstream import Upstream
    from tinyclf.device.run.run_report import TrainingReport
    from tinyclf.jobs.request import TrainingRequest

SHOWN_STEPS = 10  # of the losses, spread over the run


def deploy_training(
    request: TrainingRequest,
    project: Path,
    *,
    cores: int | None,
    run_it: bool,
    resume: bool,
    upstream: Upstream | None,
) -> None:
    """Emit a training run, and with `run_it` build, run and compare it."""
    from math import isfinite

    from tinyclf.base.errors import BadInput, CheckFailed
    from tinyclf.cli.deploy_kernels import show_slow_calls
    from tinyclf.cli.deploy_upstream import show_linkage
    from tinyclf.device.memory.samples import kept_features
    from tinyclf.device.run.training import emit_training, execute_training
    from tinyclf.jobs.training import make_training_job

    _refuse_steps()
    if resume and not run_it:
        raise BadInput("--resume goes on with a run: add --execute")
    job = make_training_job(request)
    program = emit_training(job, request.target, project, num_cores=cores, resume=resume, upstream=upstream)
    num_train, num_test = len(job.samples.train_labels), len(job.samples.test_labels)
    click.echo(
        f"{project}: C project for {request.target.name}, {job.num_epochs} epochs on {num_train:,} samples, "
        f"{num_test:,} test samples, {job.rule.optimizer}, learning rate {job.rule.learning_rate:g}"
    )
    show_linkage(program)
    show_slow_calls(program)
    features = kept_features(program.source)
    if features:
        num = len(features.tensors)
        what = "1 tensor" if num == 1 else f"{num} tensors"
        click.echo(f"frozen features: {what} of each sample kept ({job.cache}), {features.num_bytes:,} bytes in all")
    if job.rule.batch > 1:
        click.echo(_batch_line(job.num_steps, job.rule.batch))
    if not run_it:
        click.echo(f"next: make -C {project} run")
        return
    click.echo("building and running it ...")
    variables = [f"NUM_CORES={cores}"] if cores else []
    report = execute_training(
        job, program, request.target, project, *variables, on_end=lambda: click.echo("the same run in PyTorch ...")
    )
    click.echo("\n".join(report_lines(report)))
    click.echo(f"every figure: {project / 'report.json'}; weights: {project / 'weights.bin'}")
    if not report.passed:
        if not all(isfinite(loss) for pair in report.losses for loss in pair):
            raise CheckFailed("the loss overflowed: try a smaller --lr")
        failed = [c.name for c in report.checks if c.verdict.value == "FAIL"]
        raise CheckFailed(f"{len(failed)} of {len(report.checks)} comparisons with PyTorch fail, first: {failed[0]}")
    click.echo(f"next: tinyclf import-weights {request.from_run} {project / 'weights.bin'}")


def _batch_line(num_steps: int, batch: int) -> str:
    """Say how many updates a run has, and what is left over."""
    num, rest = divmod(num_steps, batch)
    left = f"; the last {rest} samples of the run do not fill a batch and change no weight" if rest else ""
    return f"{num:,} updates, each of {batch} samples, across the ends of epochs{left}"


def _refuse_steps() -> None:
    from click.core import ParameterSource

    from tinyclf.base.errors import BadInput

    if click.get_current_context().get_parameter_source("num_steps") is ParameterSource.COMMANDLINE:
        raise BadInput("--steps and --epochs both say how long to train: give one of them")


def report_lines(report: TrainingReport) -> list[str]:
    """Return a training run's report for people."""
    lines = []
    if report.resumed_after is not None:
        lines.append(f"went on from a checkpoint after step {report.resumed_after:,}")
    num = len(report.losses)
    shown = sorted({round(i * (num - 1) / (SHOWN_STEPS - 1)) for i in range(SHOWN_STEPS)})
    lines += ["", f"{'step':>6}  {'loss here':>12}  {'PyTorch':>12}" + ("        cycles" if report.cycles else "")]
    for step in shown:
        here, pytorch = report.losses[step]
        cycles = f"  {report.cycles[step]:>12,}" if report.cycles else ""
        lines.append(f"{step:>6}  {here:>12.6g}  {pytorch:>12.6g}{cycles}")
    if report.cycles:
        lines.append(f"cycles per step, on average: {sum(report.cycles) / num:,.0f}")
        if report.features and report.num_epochs > 1:
            first, later = report.cycles[: report.num_train], report.cycles[report.num_train :]
            lines.append(
                f"  in the first epoch {sum(first) / len(first):,.0f}, in later ones {sum(later) / len(later):,.0f}"
            )
    if report.num_test:
        lines += ["", f"accuracy on {report.num_test:,} test samples:         here   PyTorch"]
        for when, pair in (("before", report.right_before), ("after", report.right_after)):
            here, pytorch = (right / report.num_test for right in pair)
            lines.append(f"  {when:<36} {here:8.2%}  {pytorch:8.2%}")
    width = max(len(c.name) for c in report.checks)
    lines += ["", f"{'largest difference from PyTorch':<{width}}    error    bound"]
    lines += [f"{c.name:<{width}}  {c.error:>7.1e}  {c.bound:>7g}  {c.verdict.value}" for c in report.checks]
    for source in dict.fromkeys(c.bound_from for c in report.checks):
        names = [c.name for c in report.checks if c.bound_from == source]
        of = f" ({', '.join(names)})" if len(names) < len(report.checks) else ""
        lines.append(f"bounds: {source}{of}")
    if any(c.verdict.value == "drift" for c in report.checks):
        lines.append("drift: PyTorch's own run in float32 leaves its run in float64 too; rounding is amplified")
    return lines


@main.command("import-weights")
@click.argument("run", type=PATH)
@click.argument("file", type=FILE)
@click.option(
    "--out", type=FOLDER, metavar="DIR", show_default="the next number in runs/", help="Run directory to write."
)
def import_weights(run: Path, file: Path, out: Path | None) -> None:
    """Make a run directory from RUN and FILE, the weights.bin of a training run on the device.

    RUN is the run that was deployed; FILE holds only what was trained. All commands take the new run, and train --from
    goes on where the device stopped. BatchNorm is folded into the convolutions, as on the device.

    \b
    Example:
      tinyclf import-weights demo/clean deployed/host-clean-FT-K1/weights.bin --out demo/from-device
    """
    from tinyclf.jobs.training import import_weights as make_run

    run_dir, accuracy = make_run(run, file, out)
    click.echo(f"validation accuracy {accuracy:.1%}")
    click.echo(f"run directory: {run_dir}")
    click.echo(f"next: tinyclf eval {run_dir} --split test")
