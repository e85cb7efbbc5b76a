"""Whether a change of the toolchain changed what it emits: writes a matrix of C projects, and compares two of them.

Run by `python -m benchmarks.emission write DIR` before and after the change, on one machine and with the same
TRAINLIB_HOME, which is named in projects; then by `python -m benchmarks.emission compare BEFORE AFTER`. Projects are
neither built nor run. Only the command line of tinyclf is used, so that what lies behind it may change in any way.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import click
import torch
from click.testing import CliRunner

from tinyclf.cli import main as tinyclf_main

FOLDER = click.Path(path_type=Path, file_okay=False)

# --- cases --------------------------------------------------------------------------------------------------------

TARGETS = ("host", "qemu", "pulp")
SWITCHED_TILES = {"host": ("tiles", "--l1 64KiB"), "qemu": ("tiles", "--l1 64KiB"), "pulp": ("plain", "--l1 off")}
VARIANTS = {
    "LP": "--variant LP --steps 3",
    "FT": "--variant FT --k 2 --steps 2",
    "full": "--variant full --steps 1",
}
STEPS = {
    **VARIANTS,
    "layers": "--layers output --layers features.stage5.* --steps 1",
    "bias-only": "--variant FT --k 2 --bias-only --steps 1",
    "channels": "--variant FT --k 2 --train-channels features.*=0.25 --steps 1",
    "momentum": "--variant LP --steps 4 --momentum 0.9 --weight-decay 0.001 --schedule step --gamma 0.5 "
    "--milestones 0.25,0.5",
    "adam": "--arch dscnn --variant FT --k 1 --steps 8 --optimizer adam --betas 0.8 0.99 --epsilon 1e-7 --batch 2 "
    "--clip 1 --schedule cosine --warmup 1",
    "fdmobilenet": "--variant FD --classes 3 --loss mse --steps 1",
    "mobilenetv2": "--arch mobilenetv2_wd4 --variant FT --k 2 --steps 1",
    "resnet8": "--arch resnet8 --variant full --steps 1",
    "dscnn": "--arch dscnn --variant full --steps 1",
}
RECOMPUTED = {
    "host": "--arch dscnn --variant full --recompute --steps 1",
    "qemu": "--arch dscnn --variant full --recompute --steps 1",
    "pulp": "--variant full --size 96 --recompute --steps 1",  # does not fit without
}
ONLY_PULP = {
    "one-core": "--variant LP --cores 1 --steps 1",
    "small-l1": "--arch dscnn --variant full --l1 32KiB --tiles model --steps 1",
}
# Training runs: the net that is trained on, and the options.
RUNS = {
    "LP-int8": ("mobilenet_wd4", "--variant LP --cache int8 --checkpoint-every 4"),
    "FT-fp32": ("mobilenet_wd4", "--variant FT --k 2 --cache fp32 --momentum 0.9 --train-channels *=0.5"),
    "full-adam": ("dscnn", "--variant full --optimizer adam --batch 4 --schedule cosine --clip 1"),
    "full-recompute": ("dscnn", "--variant full --recompute"),
}
SWITCHED_RUN = ("mobilenet_wd4", "--variant FT --k 1 --cache int8 --batch 2 --seed 7")
UPSTREAM_RUN = ("mobilenet_wd4", "--variant FT --k 1 --cache fp32")


@dataclass(frozen=True)
class Case:
    """A project: the options of `tinyclf deploy` that it is emitted with.

    `arch`: it is a training run that starts from a small run of this architecture, else it has random weights.
    """

    name: str
    options: str
    arch: str | None = None
    is_upstream: bool = False


def cases() -> list[Case]:
    """Return all cases: every kind of step and of training run on every target, with tiles and without."""
    found = [case for target in TARGETS for case in _target_cases(target)]
    found += [_step("pulp", name, options) for name, options in ONLY_PULP.items()]
    upstream = {**VARIANTS, "resnet8": STEPS["resnet8"]}
    found += [_step("pulp", f"upstream-{name}", options, is_upstream=True) for name, options in upstream.items()]
    found.append(_run("pulp", "upstream-run", *UPSTREAM_RUN, is_upstream=True))
    return found


def _target_cases(target: str) -> Iterator[Case]:
    for name, options in {**STEPS, "recompute": RECOMPUTED[target]}.items():
        yield _step(target, name, options)
    for name, (arch, options) in RUNS.items():
        yield _run(target, f"run-{name}", arch, options)
    switch, l1 = SWITCHED_TILES[target]
    for name, options in {**VARIANTS, "resnet8": STEPS["resnet8"]}.items():
        yield _step(target, f"{switch}-{name}", f"{options} {l1}")
    arch, options = SWITCHED_RUN
    yield _run(target, f"{switch}-run", arch, f"{options} {l1}")


def _step(target: str, name: str, options: str, *, is_upstream: bool = False) -> Case:
    size = "" if "--size" in options else " --size 32"
    return Case(f"{target}-{name}", f"--target {target} {options}{size}", is_upstream=is_upstream)


def _run(target: str, name: str, arch: str, options: str, *, is_upstream: bool = False) -> Case:
    options = f"--target {target} {options} --epochs 2 --samples 8 --test-samples 4"
    return Case(f"{target}-{name}", options, arch=arch, is_upstream=is_upstream)


# --- writing ------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A command of tinyclf ended with an error; the message is what it printed."""


def tinyclf(*arguments: str | Path, trainlib: str | None = None) -> None:
    """Run a command of tinyclf in this process, with `trainlib` as TRAINLIB_HOME."""
    result = CliRunner().invoke(tinyclf_main, [str(a) for a in arguments], env={"TRAINLIB_HOME": trainlib})
    if result.exit_code:
        unexpected = "" if isinstance(result.exception, SystemExit) else repr(result.exception)
        raise Failed(f"tinyclf {arguments[0]}: exit code {result.exit_code}\n{result.output}{unexpected}".strip())


def trained(arch: str, folder: Path) -> Path:
    """Return a run of one epoch on the digits in `folder`; it is trained where it is not there yet."""
    data, run = folder / "digits", folder / arch
    if not data.exists():
        tinyclf("data", "build", "digits", "--size", "32", "--out", data)
    if not run.exists():
        options = "--variant scratch --epochs 1 --threads 1 --seed 0"
        tinyclf("train", *options.split(), "--arch", arch, "--data", data, "--out", run)
    return run


def emit(case: Case, *, out: Path, runs: Path) -> None:
    """Write the project of a case to the folder `out`."""
    start: list[str | Path] = ["--from", trained(case.arch, runs)] if case.arch else []
    trainlib = os.environ["TRAINLIB_HOME"] if case.is_upstream else None
    tinyclf("deploy", *shlex.split(case.options), *start, "--out", out, trainlib=trainlib)


@click.group()
def main() -> None:
    """Compare what tinyclf emits before and after a change."""


@main.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--only", multiple=True, metavar="GLOB", help="Only the cases of such names. Repeatable.")
def write(folder: Path, only: Sequence[str]) -> None:
    """Write all projects to DIR, each to a folder of its own."""
    asked = [case for case in cases() if not only or any(fnmatchcase(case.name, glob) for glob in only)]
    if not asked:
        raise click.ClickException(f"--only: no case has such a name; there are {', '.join(c.name for c in cases())}")
    if folder.exists() and any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty: choose another")
    chosen = [case for case in asked if not case.is_upstream or os.environ.get("TRAINLIB_HOME")]
    begin = time.perf_counter()
    num_failed = _write_all(chosen, folder)
    click.echo(f"{len(chosen) - num_failed} projects in {time.perf_counter() - begin:.0f} s")
    if len(chosen) < len(asked):
        click.echo(f"left out: {len(asked) - len(chosen)} with PULP-TrainLib, as TRAINLIB_HOME is not set")
    if num_failed:
        raise click.ClickException(f"{num_failed} of {len(chosen)} projects could not be written")


def _write_all(chosen: Sequence[Case], folder: Path) -> int:
    """Write the projects of `chosen`; return how many failed."""
    torch.set_num_threads(1)  # sums may depend on their number
    num_failed = 0
    with tempfile.TemporaryDirectory() as runs:
        for case in chosen:
            begin = time.perf_counter()
            try:
                emit(case, out=folder / case.name, runs=Path(runs))
                click.echo(f"{case.name}: {time.perf_counter() - begin:.1f} s")
            except Failed as error:
                num_failed += 1
                click.echo(f"{case.name}: {error}", err=True)
    return num_failed


# --- comparing ----------------------------------------------------------------------------------------------------

MAY_DIFFER = ("Makefile", "Makefile.*", "*.mk", "README.md")  # names of files that say where others lie
MOST_SHOWN = 100  # characters of a line

# Where files of a project may have moved: the first pattern that matches counts.
MOVED = (
    ("port/port.h", ("trainlib/include", "trainlib/src")),  # beside upstream's library, headers lie with sources
    ("port/port_dma.h", ("trainlib/include", "trainlib/src")),
    ("trainlib/src/fast_*.[ch]", ("trainlib/src/fast",)),
    ("trainlib/src/tile_*.c", ("trainlib/src/tiles",)),
    ("trainlib/src/tcl_tile.c", ("trainlib/src/tiles",)),
    ("trainlib/src/*_fp32.c", ("trainlib/src/plain",)),
    ("trainlib/src/tcl_*.c", ("trainlib/src/run",)),
)


@dataclass
class Outcome:
    """What a comparison found; `allowed` counts files that differ and may, by path."""

    num_same: int = 0
    num_moved: int = 0
    allowed: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def places(path: str) -> tuple[str, ...]:
    """Return where a file of a project may lie after the change: where it was, or where it may have moved."""
    folders = next((folders for pattern, folders in MOVED if fnmatchcase(path, pattern)), ())
    return path, *(f"{folder}/{PurePosixPath(path).name}" for folder in folders)


def difference(before: bytes, after: bytes) -> str:
    """Say where two contents first differ: the line, or the byte if they are no text."""
    if b"\0" in before + after:
        pairs = enumerate(zip_longest(before, after))
        first = next(i for i, (a, b) in pairs if a != b)
        return f"byte {first:,}; {len(before):,} bytes before, {len(after):,} after"
    texts = (content.decode(errors="backslashreplace").splitlines(keepends=True) for content in (before, after))
    number, (a, b) = next((i, pair) for i, pair in enumerate(zip_longest(*texts), start=1) if pair[0] != pair[1])
    return f"line {number}: {_shown(a)} became {_shown(b)}"


def _shown(line: str | None) -> str:
    return "the end" if line is None else repr(line[:MOST_SHOWN])


def compare_projects(case: str, before: Path, after: Path, outcome: Outcome) -> None:
    """Compare all files of two projects, and add what is found to `outcome`."""
    left = _files(after)
    for path in sorted(_files(before)):
        place = next((place for place in places(path) if place in left), None)
        if place is None:
            outcome.differences.append(f"{case}: {path}: only in BEFORE")
            continue
        left.remove(place)
        contents = (before / path).read_bytes(), (after / place).read_bytes()
        name = path if place == path else f"{path} -> {place}"
        outcome.num_moved += place != path
        if contents[0] == contents[1]:
            outcome.num_same += 1
        elif any(fnmatchcase(PurePosixPath(path).name, pattern) for pattern in MAY_DIFFER):
            outcome.allowed[path] += 1
        else:
            outcome.differences.append(f"{case}: {name}: {difference(*contents)}")
    outcome.differences += [f"{case}: {path}: only in AFTER" for path in sorted(left)]


def _files(project: Path) -> set[str]:
    return {f.relative_to(project).as_posix() for f in project.rglob("*") if f.is_file()}


@main.command()
@click.argument("before", metavar="BEFORE", type=FOLDER)
@click.argument("after", metavar="AFTER", type=FOLDER)
def compare(before: Path, after: Path) -> None:
    """Compare the projects in BEFORE and AFTER byte by byte; exit code 1: they differ.

    Files of the library may have moved. Makefiles and the README, which say where files lie, may differ; all else may
    not.
    """
    outcome = Outcome()
    names = [{f.name for f in folder.iterdir()} if folder.is_dir() else set() for folder in (before, after)]
    for name in sorted(names[0] & names[1]):
        compare_projects(name, before / name, after / name, outcome)
    for where, only in (("BEFORE", names[0] - names[1]), ("AFTER", names[1] - names[0])):
        outcome.differences += [f"{name}: only in {where}" for name in sorted(only)]
    if not names[0] & names[1]:
        outcome.differences.append("there is no case in both folders")
    _show(outcome, num_cases=len(names[0] & names[1]))
    sys.exit(1 if outcome.differences else 0)


def _show(outcome: Outcome, *, num_cases: int) -> None:
    """Print all differences, then the counts."""
    for line in outcome.differences:
        click.echo(line)
    click.echo(f"{num_cases} cases: {outcome.num_same:,} files are the same, {outcome.num_moved:,} files have moved")
    allowed = ", ".join(f"{num} {path}" for path, num in sorted(outcome.allowed.items()))
    click.echo(f"makefiles and READMEs that differ, as they may: {allowed or 'none'}")
    click.echo(f"differences: {len(outcome.differences):,}")


if __name__ == "__main__":
    main()
