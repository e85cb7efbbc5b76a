"""The demo: the main job from data to a verified training step, as a series of the other commands."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from tinyclf.cli.program import FOLDER, main

MARKER = ".tinyclf-demo"  # in a folder that the demo made and may make anew
SIZE, NUM_CLASSES = 32, 10
HOST_STEPS, SIMULATOR_STEPS = 10, 2


@main.command()
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True, metavar="DIR", help="Folder to work in.")
def demo(out: Path) -> None:
    """Train on handwritten digits, adapt to shifted ones, and verify the training step in C.

    Needs no network; a later run starts anew in the same folder.

    \b
    Example:
      tinyclf demo
    """
    start = time.monotonic()
    _prepare(out)
    accuracy = _learn_and_adapt(out)
    _memory()
    verified = _deploy(out)
    _title("Summary")
    click.echo("accuracy on the shifted test digits, in PyTorch:")
    for name, value in accuracy.items():
        click.echo(f"  {name:<44} {value:6.1%}  {100 * (value - accuracy['before adapting']):+6.1f} points")
    click.echo("training steps in C against PyTorch:")
    for line in verified:
        click.echo(f"  {line}")
    click.echo(f"\nDone in {time.monotonic() - start:.0f} s. What to do next:")
    if shutil.which("tinyclf") is None:
        click.echo(f"  . {Path(sys.prefix) / 'bin' / 'activate'}")
    click.echo(f"  less {out}/host/src/network.c   (the training step as emitted; make -C {out}/host run)")
    click.echo("  tinyclf memory --variant FT --k 2 --size 128 --plot memory.png")
    click.echo("  tinyclf deploy --target pulp --variant LP --size 64 --steps 1   (emits only; needs no tools)")
    click.echo("  tinyclf doctor   (which targets can run here, and what brings the others)")
    click.echo("  tinyclf --help")


def _prepare(out: Path) -> None:
    from tinyclf.base.errors import BadInput

    if (out / MARKER).is_file():
        shutil.rmtree(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists and is not the demo's: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _title(text: str) -> None:
    click.echo(f"\n=== {text}")


def _run(*arguments: object) -> None:
    """Show a command and run it; end the program if it fails."""
    words = [str(a) for a in arguments]
    click.echo(f"\n$ tinyclf {shlex.join(words)}")
    status = main.main(words, prog_name="tinyclf", standalone_mode=False)
    if status:
        click.get_current_context().exit(status)


def _accuracy(run: Path, data: Path) -> float:
    """Show the command that evaluates `run` on `data`, and the first line of what it prints."""
    from tinyclf.workstation.results.evaluate import evaluate_run

    click.echo(f"\n$ tinyclf eval {run} --data {data} --split test")
    metrics = evaluate_run(run, split="test", data=data)
    click.echo(metrics.to_lines()[0])
    return metrics.accuracy


def _learn_and_adapt(out: Path) -> dict[str, float]:
    """Train from scratch on the clean digits, adapt to the shifted ones; return accuracies on the shifted test."""
    digits, shifted, clean = out / "digits", out / "shifted", out / "clean"
    _title("Data: 1,797 real handwritten digits, and the same as the device meets them")
    _run("data", "build", "digits", "--out", digits, "--size", SIZE)
    _run("data", "build", "digits", "--out", shifted, "--size", SIZE, "--shifted")
    _title("Train MobileNetV1-0.25 from scratch")
    _run("train", "--variant", "scratch", "--data", digits, "--out", clean)
    _accuracy(clean, digits)
    _title("The device meets digits that are rotated, noisy and inverted")
    accuracy = {"before adapting": _accuracy(clean, shifted)}
    _title("Adapt: the linear layer only (LP), then the last two blocks as well (FT K=2)")
    for name, folder, options in (
        ("after LP (linear layer)", "lp", ("LP",)),
        ("after FT K=2 (last 2 blocks and linear layer)", "ft2", ("FT", "--k", 2)),
    ):
        _run("train", "--variant", *options, "--from", clean, "--data", shifted, "--out", out / folder)
        accuracy[name] = _accuracy(out / folder, shifted)
    return accuracy


def _memory() -> None:
    """Show what each variant needs."""
    from tinyclf.jobs.memory import MemoryRequest, memory_of
    from tinyclf.recipe.variant import Variant

    _title("What a training step needs on the device (bytes)")
    click.echo(f"\n$ tinyclf memory --variant ... --size {SIZE} --classes {NUM_CLASSES}")
    click.echo(f"{'':<10}{'trained':>12}{'frozen':>12}{'arena':>12}{'total':>12}{'naive total':>14}")
    for variant in (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full")):
        r = memory_of(MemoryRequest(variant, size=SIZE, num_classes=NUM_CLASSES)).sums
        figures = (
            f"{r.parameters_trained:>12,}{r.parameters_frozen:>12,}{r.peak:>12,}{r.total:>12,}{r.naive_total:>14,}"
        )
        click.echo(f"{variant.label:<10}{figures}")


def _deploy(out: Path) -> list[str]:
    """Run the adaptation's training step as C on every target that can run here; return a line for each."""
    from tinyclf.device.targets.target import find_targets

    lines = []
    for target in find_targets().values():
        missing = target.missing()
        if missing:
            lines.append(f"{target.name}: not run here, missing {', '.join(missing)}")
            continue
        _title(f"The same adaptation as C on {target.name}: {target.description}")
        steps = HOST_STEPS if target.name == "host" else SIMULATOR_STEPS
        what = ("--from", out / "clean", "--variant", "FT", "--k", 2, "--data", out / "shifted")
        _run("deploy", "--target", target.name, *what, "--steps", steps, "--out", out / target.name, "--execute")
        lines.append(f"{target.name}: {steps} steps, every logit, loss, gradient and weight within tolerance")
    return lines
