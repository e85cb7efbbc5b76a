"""Commands of the device half: deploy, doctor; and options that they share with memory and tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyclf.cli.program import FOLDER, main
from tinyclf.cli.selection import selection_options
from tinyclf.cli.update_options import update_options
from tinyclf.feature_memory import CACHES
from tinyclf.variants import VARIANTS

if TYPE_CHECKING:
    from tinyclf.deploy import Report

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in click below 8.2

F = TypeVar("F", bound=Callable[..., Any])


class TargetName(_ParamType):
    """A folder of deployers/; they are looked up when an option is read, not when the program starts."""

    name = "target"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the names of all targets, for the help."""
        from tinyclf.targets import find_targets

        return f"[{'|'.join(find_targets())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the target of that name."""
        from tinyclf.targets import Target, find_targets

        if isinstance(value, Target):
            return value
        if value not in find_targets():
            self.fail(f"'{value}' is not one of {', '.join(find_targets())}.", param, ctx)
        return find_targets()[value]


def variant_options(default: str) -> Callable[[F], F]:
    """Add the options that say what is trained; `default` is how help words what holds without them."""
    variant = click.option(
        "--variant",
        type=click.Choice(VARIANTS, case_sensitive=False),
        metavar=f"[{'|'.join(VARIANTS)}]",
        help=f"What is trained on the device. Default: {default}.",
    )
    return lambda command: variant(_k_option(selection_options(command)))


cores_option = click.option("--cores", type=int, help="Cores that share the work. Default: all of the target's.")
l1_option = click.option(
    "--l1",
    metavar="BYTES",
    help="Compute on tiles in so much L1, such as 64KiB, with what else lies there; off: where the tensors lie. "
    "Default: all of the target's L1, if it has one.",
)
tiles_option = click.option(
    "--tiles",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Cut operations into tiles as this table says, which the command tune wrote; model: as the cost model says. "
    "Default: the target's own table. What is not in a table is up to the cost model.",
)
_k_option = click.option("--k", type=int, default=2, show_default=True, help="Number of unfrozen blocks, for FT.")


# --- deploy -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--target", type=TargetName(), required=True, help="Where the C is to run.")
@click.option("--from", "from_run", type=FOLDER, metavar="RUN", help="Deploy the best weights of this run.")
@variant_options("what the run trained, or LP")
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
@update_options
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
@click.option(
    "--cache",
    type=click.Choice(CACHES),
    default="off",
    show_default=True,
    help="With --epochs: keep what the frozen part gives for each sample in memory instead of computing it in every "
    "epoch: exactly, or in 8 bits.",
)
@click.option("--resume", is_flag=True, help="With --epochs and --execute: go on with the run that was cut in --out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples' order, or of all that is random.")
@cores_option
@click.option("--recompute", is_flag=True, help="Compute activations twice where they would not fit the target.")
@l1_option
@tiles_option
@click.option("--out", type=FOLDER, metavar="DIR", help="Project folder. Default: deployed/TARGET-NAME-VARIANT.")
@click.option("--execute", "run_it", is_flag=True, help="Build it, run it, and compare every step with PyTorch.")
@click.option(
    "--profile",
    "profiled",
    is_flag=True,
    help="With --execute, on pulp: show the cycles, MACs and DMA of each operation of a step; a table, profile.json "
    "and profile.png. Measuring takes some cycles for each tile.",
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

    With TRAINLIB_HOME set to a checkout of PULP-TrainLib, target pulp is built with its kernels where they are right,
    and with ours elsewhere; which is printed. The project's Makefile.sdk builds with the PULP SDK.

    \b
    Example:
      tinyclf deploy --target pulp --variant FT --k 2 --size 64 --steps 2 --execute
      tinyclf deploy --target pulp --variant LP --size 96 --steps 1 --execute --profile
      tinyclf deploy --target host --from demo/clean --variant LP --data demo/shifted --execute
      tinyclf deploy --target host --optimizer adam --batch 4 --steps 40 --schedule cosine --execute
      tinyclf deploy --target host --from demo/clean --data demo/shifted --variant FT --k 1 --samples 100 --epochs 3 \
        --execute

    Exit code 3: a step differs from PyTorch by more than 1e-4; with --epochs, a loss by more than 0.001, the accuracy
    by more than 0.5 points, or the weights by more than 0.001 of the largest.
    """
    from math import isfinite

    from tinyclf.cli.device_profile import check_profile, show_profile
    from tinyclf.cli.device_training import deploy_training
    from tinyclf.cli.device_upstream import chosen_upstream, show_linkage
    from tinyclf.deploy import TOLERANCE, emit_project, execute
    from tinyclf.elf import read_elf
    from tinyclf.errors import BadInput, CheckFailed
    from tinyclf.jobs import Request, default_project, make_job
    from tinyclf.regions import linked_regions
    from tinyclf.targets import ELF, require_cores, require_tools, with_l1, with_tiles
    from tinyclf.variants import chosen_variant

    what = chosen_variant(variant, k=k, layers=layers, bias_only=bias_only, train_channels=train_channels)
    target = with_tiles(with_l1(options.pop("target"), l1) if l1 else options.pop("target"), tiles)
    request = Request(target=target, variant=what, **options)
    require_cores(target, cores)
    if profiled:
        check_profile(target, run_it=run_it, is_training_run=num_epochs is not None)
    if run_it:
        require_tools(target)
    upstream = chosen_upstream(target, is_training_run=num_epochs is not None)
    if num_epochs is not None:
        settings = {
            "num_epochs": num_epochs,
            "num_test": num_test,
            "checkpoint_every": checkpoint_every,
            "cache": cache,
        }
        deploy_training(request, settings, out or default_project(request), cores=cores, run_it=run_it, resume=resume)
        return
    if num_test is not None or checkpoint_every or resume or cache != "off":
        raise BadInput(
            "--test-samples, --checkpoint-every, --cache and --resume belong to a training run: add --epochs"
        )
    job = make_job(request)
    project = out or default_project(request)
    program = emit_project(job, target, project, num_cores=cores, upstream=upstream)
    click.echo(f"{project}: C project for {target.name}, {job.num_steps} steps on {len(job.samples)} samples")
    show_linkage(program)
    if not run_it:
        click.echo(f"next: make -C {project} run")
        return
    click.echo("building and running it ...")
    variables = [*([f"NUM_CORES={cores}"] if cores else []), *(["PROFILE=1"] if profiled else [])]
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
