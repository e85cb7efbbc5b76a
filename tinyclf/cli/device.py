"""Commands of the device half: memory, deploy, doctor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyclf.cli.program import FOLDER, main
from tinyclf.rules import LOSSES, OPTIMIZERS, SCHEDULES, UpdateRule
from tinyclf.variants import VARIANTS

if TYPE_CHECKING:
    from tinyclf.deploy import Report
    from tinyclf.memory import MemoryReport

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in click below 8.2

F = TypeVar("F", bound=Callable[..., Any])


class _TargetName(_ParamType):
    """A folder of deployers/; they are looked up when an option is read, not when the program starts."""

    name = "target"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        from tinyclf.targets import find_targets

        return f"[{'|'.join(find_targets())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from tinyclf.targets import Target, find_targets

        if isinstance(value, Target):
            return value
        if value not in find_targets():
            self.fail(f"'{value}' is not one of {', '.join(find_targets())}.", param, ctx)
        return find_targets()[value]


class _Dashed(click.Choice):  # type: ignore[type-arg]  # not generic in click below 8.2
    """A choice among names, with "-" for "_" on the command line."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__([name.replace("_", "-") for name in names])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx).replace("-", "_")


def _rule_options(command: F) -> F:
    """Add the options of an update that decide what is kept in memory from step to step."""
    for option in (
        click.option(
            "--batch",
            type=int,
            default=1,
            show_default=True,
            help="Samples per update, of the mean of their gradients.",
        ),
        click.option("--momentum", type=float, default=0.0, show_default=True, help="Momentum, for sgd."),
        click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True, help="Optimizer."),
    ):
        command = option(command)
    return command


def _variant_option(default: str | None) -> Callable[[F], F]:
    return click.option(
        "--variant",
        type=click.Choice(VARIANTS, case_sensitive=False),
        default=default,
        show_default=default is not None,
        metavar=f"[{'|'.join(VARIANTS)}]",
        help="What is trained on the device." + ("" if default else " Default: what the run trained, or LP."),
    )


# --- memory -------------------------------------------------------------------------------------------------------


@main.command()
@_variant_option("LP")
@click.option("--k", type=int, default=2, show_default=True, help="Number of unfrozen blocks, for FT.")
@click.option("--arch", metavar="NAME", help="Architecture. Default: mobilenet_wd4, for FD fdmobilenet_wd4.")
@click.option("--size", type=int, default=128, show_default=True, help="Width and height of the image in pixels.")
@click.option("--classes", "num_classes", type=int, default=2, show_default=True, help="Number of classes.")
@_rule_options
@click.option("--csv", "csv_file", type=FOLDER, metavar="FILE", help="Write the lifetime of every tensor as CSV.")
@click.option("--plot", "plot_file", type=FOLDER, metavar="FILE", help="Draw the lifetimes (PNG, PDF or SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def memory(
    variant: str,
    k: int,
    arch: str | None,
    size: int,
    num_classes: int,
    optimizer: str,
    momentum: float,
    batch: int,
    csv_file: Path | None,
    plot_file: Path | None,
    as_json: bool,
) -> None:
    """Say how many bytes one training step needs on the device, before any data or training.

    \b
    Example:
      tinyclf memory --variant FT --k 2
      tinyclf memory --variant FT --k 2 --optimizer adam --batch 8
      tinyclf memory --variant LP --arch fdmobilenet_wd4 --size 96 --plot memory.png
    """
    from tinyclf.files import write_text
    from tinyclf.jobs import memory_of
    from tinyclf.memory import lifetimes_csv, write_plot
    from tinyclf.variants import Variant

    what = Variant(variant, k=k)
    rule = UpdateRule(0.01, optimizer=optimizer, momentum=momentum, batch=batch)
    need = memory_of(what, arch=arch, size=size, num_classes=num_classes, rule=rule)
    title = f"{need.arch} {what.label}, {size}x{size}, {num_classes} classes"
    if csv_file:
        write_text(csv_file, lifetimes_csv(need.graph, need.plan))
    if plot_file:
        write_plot(plot_file, need.graph, need.plan, title=title)
    if as_json:
        counts = {"parameters": need.num_parameters, "parameters_folded": need.num_folded}
        options = {"arch": need.arch, "variant": what.label, "size": size, "classes": num_classes}
        click.echo(json.dumps({**options, **counts, "bytes": need.report.to_dict()}, indent=1))
        return
    click.echo(f"{title}: one training step on one sample, float32")
    click.echo("\n".join(_memory_lines(need.report)))
    click.echo(
        f"\nThe net has {need.num_parameters:,} parameters, {need.num_folded:,} once BatchNorm is folded into biases."
    )
    for file in filter(None, (csv_file, plot_file)):
        click.echo(f"wrote {file}")


def _memory_lines(r: MemoryReport) -> list[str]:
    def row(name: str, *values: int) -> str:
        return f"  {name:<34}" + "".join(f"{value:>14,}" for value in values)

    naive = r.parameters_frozen + r.parameters_trained
    return [
        "",
        f"  {'':<34}{'bytes':>14}{'most at once':>14}",
        row("parameters, frozen", r.parameters_frozen),
        row("parameters, trained", r.parameters_trained),
        row("arena: its peak", r.peak),
        row("  activations and input, at peak", r.activations_at_peak, r.activations_most),
        row("  gradients, at peak", r.gradients_at_peak, r.gradients_most),
        row("  buffers (label), at peak", r.buffers_at_peak, r.buffers_most),
        row("  lower bound of the peak", r.max_live),
        *([row("state of the optimizer", r.optimizer_state)] if r.optimizer_state else []),
        *([row("gradients accumulated over a batch", r.accumulated_gradients)] if r.accumulated_gradients else []),
        row("total, as linked", r.total),
        "",
        "  A naive summary keeps every output and gradient:",
        row("parameters", naive),
        row("activations", r.naive_activations),
        row("gradients", r.naive_gradients),
        row("total", r.naive_total) + f"   {r.naive_total / r.total:.1f} times ours",
    ]


# --- deploy -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--target", type=_TargetName(), required=True, help="Where the C is to run.")
@click.option("--from", "from_run", type=FOLDER, metavar="RUN", help="Deploy the best weights of this run.")
@_variant_option(None)
@click.option("--k", type=int, default=2, show_default=True, help="Number of unfrozen blocks, for FT.")
@click.option("--arch", metavar="NAME", help="Only without --from. Default: mobilenet_wd4, for FD fdmobilenet_wd4.")
@click.option("--size", type=int, help="Only without --from: width and height in pixels. Default: 128.")
@click.option("--classes", "num_classes", type=int, help="Only without --from: number of classes. Default: 2.")
@click.option("--data", type=FOLDER, metavar="DIR", help="Dataset to take samples from. Default: the run's own.")
@click.option("--steps", "num_steps", type=int, default=10, show_default=True, help="Training steps, one sample each.")
@click.option(
    "--samples",
    "num_samples",
    type=int,
    help="Samples to link in, taken in turn. Default: up to 4, as many as fit. With --epochs: training samples that "
    "are streamed. Default: all.",
)
@click.option(
    "--lr", "learning_rate", type=float, help="Learning rate. Default: 0.01; for full training and for adam 0.001."
)
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Weight decay.")
@_rule_options
@click.option("--clip", type=float, default=0.0, show_default=True, help="Largest norm of the gradient; 0: no limit.")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="constant", show_default=True, help="Of the rate.")
@click.option("--loss", type=_Dashed(LOSSES), default="cross-entropy", show_default=True, help="What is minimised.")
@click.option("--epochs", "num_epochs", type=int, help="In place of --steps: a training run over all samples.")
@click.option("--test-samples", "num_test", type=int, help="With --epochs: of the test split. Default: all.")
@click.option(
    "--checkpoint-every",
    type=int,
    default=0,
    show_default=True,
    metavar="STEPS",
    help="With --epochs: write a checkpoint after so many steps, which a run that was cut goes on from. 0: none.",
)
@click.option("--resume", is_flag=True, help="With --epochs and --execute: go on with the run that was cut in --out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples' order, or of all that is random.")
@click.option("--cores", type=int, help="Cores that share the work. Default: all of the target's.")
@click.option("--out", type=FOLDER, metavar="DIR", help="Project folder. Default: deployed/TARGET-NAME-VARIANT.")
@click.option("--execute", "run_it", is_flag=True, help="Build it, run it, and compare every step with PyTorch.")
def deploy(
    variant: str | None,
    k: int,
    cores: int | None,
    out: Path | None,
    run_it: bool,
    num_epochs: int | None,
    num_test: int | None,
    checkpoint_every: int,
    resume: bool,
    **options: Any,
) -> None:
    """Emit a C project that trains on the device; with --execute build, run and verify it.

    Without --from RUN, a net with random weights is deployed on random samples. With --epochs the program does a whole
    training run: it evaluates on test samples, trains, evaluates again, and hands back weights.bin, which tinyclf eval
    --device-weights and tinyclf import-weights take.

    \b
    Example:
      tinyclf deploy --target pulp --variant FT --k 2 --size 64 --steps 2 --execute
      tinyclf deploy --target host --from demo/clean --variant LP --data demo/shifted --execute
      tinyclf deploy --target host --optimizer adam --batch 4 --steps 40 --schedule cosine --execute
      tinyclf deploy --target host --from demo/clean --data demo/shifted --variant FT --k 1 --samples 100 --epochs 3 \
        --execute

    Exit code 3: a step differs from PyTorch by more than 1e-4; with --epochs, a loss by more than 0.001, the accuracy
    by more than 0.5 points, or the weights by more than 0.001 of the largest.
    """
    from math import isfinite

    from tinyclf.cli.device_training import deploy_training
    from tinyclf.deploy import TOLERANCE, emit_project, execute
    from tinyclf.errors import BadInput, CheckFailed
    from tinyclf.jobs import Request, default_project, make_job
    from tinyclf.targets import require_cores, require_tools
    from tinyclf.variants import Variant

    what = Variant(variant, k=k) if variant else None
    request = Request(variant=what, **options)
    target = request.target
    require_cores(target, cores)
    if run_it:
        require_tools(target)
    if num_epochs is not None:
        settings = {"num_epochs": num_epochs, "num_test": num_test, "checkpoint_every": checkpoint_every}
        deploy_training(request, settings, out or default_project(request), cores=cores, run_it=run_it, resume=resume)
        return
    if num_test is not None or checkpoint_every or resume:
        raise BadInput("--test-samples, --checkpoint-every and --resume belong to a training run: add --epochs")
    job = make_job(request)
    project = out or default_project(request)
    program = emit_project(job, target, project, num_cores=cores)
    click.echo(f"{project}: C project for {target.name}, {job.num_steps} steps on {len(job.samples)} samples")
    if not run_it:
        click.echo(f"next: make -C {project} run")
        return
    click.echo("building and running it ...")
    report = execute(job, program, target, project, *([f"NUM_CORES={cores}"] if cores else []))
    click.echo("\n".join(_report_lines(report)))
    click.echo(f"every figure: {project / 'report.json'}")
    if not report.passed:
        num = sum(not c.passed for c in report.comparisons)
        if not all(isfinite(loss) for pair in report.losses for loss in pair):
            raise CheckFailed("the loss overflowed: try a smaller --lr")
        raise CheckFailed(f"{num} of {len(report.comparisons)} values differ from PyTorch by more than {TOLERANCE:g}")


def _report_lines(report: Report) -> list[str]:
    from tinyclf.deploy import TOLERANCE

    lines = ["", f"{'step':>4}  {'loss here':>12}  {'PyTorch':>12}" + ("        cycles" if report.cycles else "")]
    for step, (here, pytorch) in enumerate(report.losses):
        cycles = f"  {report.cycles[step]:>12,}" if report.cycles else ""
        lines.append(f"{step:>4}  {here:>12.6g}  {pytorch:>12.6g}{cycles}")
    worst = report.worst()
    width = max(len(c.name) for c in worst)
    lines += [
        "",
        f"bound: {TOLERANCE:g}, float32 against PyTorch in float64",
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


_PACKAGES = (
    *("torch", "lightning-fabric", "pytorchcv", "numpy", "scikit-learn", "matplotlib", "datasets", "pyarrow"),
    *("safetensors", "onnx", "onnxruntime", "onnxsim", "jinja2", "click"),
)


# --- doctor -------------------------------------------------------------------------------------------------------


@main.command()
def doctor() -> None:
    """Show versions, the tools that were found, and the targets that can run here.

    \b
    Example:
      tinyclf doctor
    """
    import os
    import platform

    from tinyclf import __version__
    from tinyclf.targets import find_targets, find_tool

    click.echo(f"tinyclf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in _PACKAGES:
        click.echo(f"  {package:<16} {_installed_version(package)}")
    click.echo(f"cores: {os.cpu_count()}; threads of torch: {_torch_threads()}")
    for target in find_targets().values():
        missing = target.missing()
        click.echo(f"target {target.name}: {'ready' if not missing else 'cannot run here'}. {target.description}")
        for tool in target.tools:
            found = find_tool(tool)
            click.echo(f"  {tool:<26} {found or 'not found'}")
        for item in missing:
            click.echo(f"  missing: {item}")


def _installed_version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (pip install tinyclf brings it)"


def _torch_threads() -> str:
    try:
        import torch
    except Exception as error:  # a broken installation is what this command is for
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return str(torch.get_num_threads())
