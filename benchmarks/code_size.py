"""The bound of code and constants of each target: builds a set of nets and prints the [code] tables of target.toml.

Run by `python -m benchmarks.code_size [TARGET ...]` when kernels, templates or ports have changed; it takes some ten
minutes, and tests/device/footprint/test_regions.py tells when. Tables are counted (device/footprint/tables.py); of the
rest the bound is the plane that no net is above and that exceeds what is linked by the least ratio. With TRAINLIB_HOME
set to a checkout of PULP-TrainLib also that of programs with its kernels.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from tinyclf.device import targets
from tinyclf.device.emit.program import Program, TrainingRun
from tinyclf.device.emit.project import emit
from tinyclf.device.emit.upstream import find_upstream
from tinyclf.device.footprint.regions import DEPTHWISE_BODIES, linked_regions
from tinyclf.device.footprint.tables import plain_bytes, tile_bodies, tile_bytes
from tinyclf.device.memory.plan import Placed
from tinyclf.device.memory.samples import Streamed
from tinyclf.device.memory.sums import summed
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program
from tinyclf.device.run.step import target_tiles
from tinyclf.device.targets.elf import Elf, read_elf
from tinyclf.device.targets.target import Target, find_targets, with_l1
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

ARCHITECTURES = ("mobilenet_wd4", "fdmobilenet_wd4", "dscnn", "mobilenetv2_wd4", "resnet8")
VARIANTS = (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full"), Variant("full", bias_only=True))
PLAIN = UpdateRule(0.01)
RULES = (
    UpdateRule(0.01, momentum=0.9),
    UpdateRule(0.01, optimizer="adam", batch=4, schedule="cosine", num_updates=9, clip=1.0),
    UpdateRule(0.01, clip=1.0, schedule="step", num_updates=9),
)
MOST_CODE = 100_000  # bytes
Array = NDArray[np.float64]
MARGIN = 256  # bytes for the alignment between sections, which depends on the net
OLD = 1_000_000_000  # seconds: 2001


def make_job(arch: str, variant: Variant, *, size: int, recompute: bool = False, rule: UpdateRule = PLAIN) -> Job:
    """Return a job whose values do not matter."""
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    samples, labels = np.zeros((1, 3, size, size), np.float32), np.eye(2, dtype=np.float32)[:1]
    return Job(fold_batchnorm(model), samples, labels, rule.batch, rule, "benchmarks", recompute=recompute)


def fits(program: Program, target: Target) -> bool:
    """Tell whether a program will fit, before the bound of its code is known."""
    need = summed(program.graph, program.plan).total + (0 if program.samples is None else program.samples.nbytes)
    return target.memory_bytes is None or need + MOST_CODE <= target.memory_bytes


def link(program: Program, target: Target, projects: Path, *, num_cores: int | None = None) -> Elf:
    """Build a program where the last one with the same kernels and flags was built: only what is its own is new."""
    library = "tiles" if program.tiles else "plain"
    project = projects / f"{target.name}-{num_cores or target.num_cores}-{library}"
    files = emit(program, target=target, num_cores=num_cores or target.num_cores, command="benchmarks")
    for name, content in files.items():
        file, is_own = project / name, name.startswith("src/")
        if is_own or not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if is_own and file.suffix == ".h":  # only what is in src/ includes it, and that is new
            os.utime(file, (OLD, OLD))
    targets.build(project, target)
    return read_elf(project / targets.ELF)


def measure(target: Target, program: Program, projects: Path) -> int:
    """Build a program; return the bytes of its code and constants without tables."""
    parts = dict(linked_regions(target, link(program, target, projects))[0].parts)
    tables = tile_bytes if program.tiles else plain_bytes
    is_run = program.training is not None
    return (parts["code"] or 0) + (parts["constants"] or 0) - tables(program.graph, program.plan, is_run=is_run)


def training_run(program: Program, target: Target) -> Program:
    """Return `program` as a training run that keeps features in 8 bits, where something is frozen."""
    trained = [call.node for call in program.graph.calls if call.phase.value == "update"]
    is_frozen = not any(program.graph.calls[0].node in node for node in trained)
    samples = Streamed(1, "int8" if is_frozen else "off").of_step(program.graph)
    run = TrainingRun(number=1, seed=1, num_epochs=1, checkpoint_every=1, weights_header=bytes(16), samples=samples)
    tiles = target_tiles(Placed(program.graph, program.plan), target) if program.tiles else None
    return replace(program, samples=None, labels=None, traced=frozenset(), training=run, tiles=tiles)


def features(program: Program) -> list[int]:
    """Return what the bound depends on: 1 and the kernels, or 1, the bodies of tiles and the depthwise ones."""
    if not program.tiles:
        return [1, len({call.kernel for call in program.graph.calls})]
    bodies = tile_bodies(program.graph, program.plan, is_run=program.training is not None)
    return [1, len(bodies), sum(body.startswith(DEPTHWISE_BODIES) for body in bodies)]


def fit(programs: Sequence[Program], target: Target, projects: Path) -> tuple[list[int], float]:
    """Return the coefficients of the bound by `features`, and how many times what is linked it is at most."""
    a = np.array([features(p) for p in programs], dtype=float)
    code = np.array([measure(target, p, projects) for p in programs], dtype=float)
    count = tile_bytes if programs[0].tiles else plain_bytes
    tables = np.array([count(p.graph, p.plan, is_run=False) for p in programs], dtype=float)
    num, n = a.shape
    # Variables: the coefficients, and the ratio to be made small.
    above = np.hstack([-a, np.zeros((num, 1))]), -code
    below = np.hstack([a, -(code + tables)[:, None]]), -tables
    found = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.vstack([above[0], below[0]]),
        b_ub=np.r_[above[1], below[1]],
        bounds=[(0, None)] * n + [(1, None)],
    )
    values = [int(np.ceil(x)) for x in found.x[:n]]
    values[0] += MARGIN
    return values, float(max((a @ values + tables) / (code + tables)))


def extra(target: Target, programs: Sequence[Program], values: Sequence[int], projects: Path) -> int:
    """Return the most that code and constants exceed what `values` say of `features`."""
    return max(measure(target, p, projects) - int(np.dot(features(p), values)) for p in programs) + MARGIN


def upstream_base(target: Target, kernel: int, jobs: Sequence[Job], home: str, projects: Path) -> int:
    """Return the base of the bound of programs that are linked with a checkout of upstream's.

    `kernel` is what the bound without counts for each; most of the base is code for what a few kernels might be asked
    to do.
    """
    upstream = find_upstream(home)
    programs = [p for job in jobs if fits(p := make_program(job, target, upstream=upstream), target)]
    return max(measure(target, p, projects) - kernel * features(p)[1] for p in programs) + MARGIN


def main() -> None:
    """Measure every target that has a bound, or those that are named."""
    jobs = [make_job(arch, variant, size=32) for arch in ARCHITECTURES for variant in VARIANTS]
    jobs += [make_job(arch, VARIANTS[1], size=96) for arch in ARCHITECTURES]
    jobs += [make_job(arch, VARIANTS[3], size=32, recompute=True) for arch in ARCHITECTURES[:3]]
    for target in find_targets().values():
        if target.code is None or (sys.argv[1:] and target.name not in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            print_bound(target, jobs, Path(folder))


def print_bound(target: Target, jobs: Sequence[Job], projects: Path) -> None:
    """Print the tables of a target."""
    plain = with_l1(target, "off")
    tiled = target if target.l1_bytes is not None else with_l1(target, "64KiB")
    rules, runs, runs_with_rule = [], [], []
    lines = {}
    with_rules = [make_job("dscnn", VARIANTS[2], size=32, rule=rule) for rule in RULES]
    run_with_rule = make_job("mobilenetv2_wd4", VARIANTS[0], size=32, rule=RULES[1])
    for kind, each in (("plain", plain), ("tiles", tiled)):
        programs = [p for job in jobs if fits(p := make_program(job, each), each)]
        values, worst = fit(programs, each, projects / kind)
        print(f"# {target.name}, {kind}: at most {worst:.3f} times what is linked", flush=True)
        rules.append(extra(each, [make_program(job, each) for job in with_rules], values, projects / kind))
        plain_runs = [training_run(programs[i], each) for i in (0, 3, 10)]
        runs.append(extra(each, plain_runs, values, projects / kind / "runs"))
        with_rule = training_run(make_program(run_with_rule, each), each)
        runs_with_rule.append(extra(each, [with_rule], values, projects / kind / "runs"))
        lines[kind] = values
    rule, run = max(rules), max(*runs, max(runs_with_rule) - max(rules))
    base, kernel = lines["plain"]
    print(f"[code]\nbase = {base}\ntraining_run = {run}\nrule = {rule}\nkernel = {kernel}\n")
    if target.takes_upstream and (home := os.environ.get("TRAINLIB_HOME")):
        own = upstream_base(plain, kernel, [job for job in jobs if job.rule.is_plain], home, projects / "upstream")
        print(f"[code.upstream] # where it differs in programs with upstream's kernels\nbase = {own}\n", flush=True)
    base, body, depthwise = lines["tiles"]
    print(
        f"[code.tiles] # the same of programs on tiles\nbase = {base}\nbody = {body}\ndepthwise = {depthwise}\n",
        flush=True,
    )


if __name__ == "__main__":
    main()
