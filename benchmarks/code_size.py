"""The bound of code and constants of each target: builds a set of nets and prints the [code] tables of target.toml.

Run by `python -m benchmarks.code_size` when kernels, templates or ports have changed; tests/test_memory_regions.py
tells when. The bound is the least-squares fit raised until no net is above it. With TRAINLIB_HOME set to a checkout of
PULP-TrainLib also that of programs with its kernels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyclf import targets
from tinyclf.deploy import Job, make_program, write_project
from tinyclf.elf import read_elf
from tinyclf.emit import Program, TrainingRun, emit
from tinyclf.feature_memory import feature_memory
from tinyclf.memory import report
from tinyclf.models import build_model, fold_batchnorm, freeze
from tinyclf.regions import code_bound, linked_regions, tile_features
from tinyclf.rules import UpdateRule
from tinyclf.targets import Target, find_targets, with_l1
from tinyclf.upstream import Upstream, find_upstream
from tinyclf.variants import Variant

ARCHITECTURES = ("mobilenet_wd4", "fdmobilenet_wd4", "dscnn")
VARIANTS = (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full"))
PLAIN = UpdateRule(0.01)
RULES = (
    UpdateRule(0.01, momentum=0.9),
    UpdateRule(0.01, optimizer="adam", batch=4, schedule="cosine", num_updates=9, clip=1.0),
    UpdateRule(0.01, clip=1.0, schedule="step", num_updates=9),
)
WEIGHTS_HEADER_BYTES = 1024
MOST_CODE = 50_000  # bytes
OP, OPERAND, TRACE = 76, 40, 8  # bytes of a row of the tables: struct tcl_op with tcl_call, tcl_operand, tcl_trace
Array = NDArray[np.float64]
MARGIN = 256  # bytes for the alignment between sections, which depends on the net


def make_job(arch: str, variant: Variant, *, size: int, recompute: bool = False, rule: UpdateRule = PLAIN) -> Job:
    """Return a job whose values do not matter."""
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    samples, labels = np.zeros((1, 3, size, size), np.float32), np.eye(2, dtype=np.float32)[:1]
    return Job(fold_batchnorm(model), samples, labels, rule.batch, rule, "benchmarks", recompute=recompute)


def features(program: Program) -> list[int]:
    """Return what the bound depends on: 1, whether there is a rule, kernels, calls, tensors, nodes."""
    graph = program.graph
    num_kernels = len({call.kernel for call in graph.calls})
    return [1, int(graph.reads_rule), num_kernels, len(graph.calls), len(graph.tensors), len(graph.nodes)]


def fits(program: Program, target: Target) -> bool:
    """Tell whether a program will fit, before the bound of its code is known."""
    need = report(program.graph, program.plan).total + (0 if program.samples is None else program.samples.nbytes)
    return target.memory_bytes is None or need + MOST_CODE <= target.memory_bytes


def measure(target: Target, program: Program, files: dict[str, bytes] | None = None) -> int:
    """Build a program; return the bytes of its code and constants. `files`: what the project holds besides."""
    with tempfile.TemporaryDirectory() as folder:
        emitted = emit(program, target=target, num_cores=target.num_cores, command="benchmarks")
        write_project(emitted | (files or {}), Path(folder) / "project")
        targets.build(Path(folder) / "project", target)
        parts = dict(linked_regions(target, read_elf(Path(folder) / "project" / targets.ELF))[0].parts)
    return (parts["code"] or 0) + (parts["constants"] or 0)


def measure_training_run(target: Target, job: Job) -> int:
    """Return the bytes of code and constants that a training run of `job` has more than single steps.

    It keeps features in 8 bits: the tables and the code of that count too.
    """
    program = make_program(job, target)
    header = bytes(WEIGHTS_HEADER_BYTES)
    features = feature_memory(program.graph, kind="int8", num_samples=1)
    run = TrainingRun(run=1, seed=1, num_epochs=1, checkpoint_every=1, weights_header=header, features=features)
    whole = replace(program, samples=None, labels=None, traced=frozenset(), training=run)
    return measure(target, whole) - measure(target, program)


def tile_bound(target: Target, programs: Sequence[Program]) -> str:
    """Return the lines of the bound of programs on tiles: tables have the sizes of their structs, code is fitted."""
    counts = [tile_features(p.graph, p.plan) for p in programs]
    tables = np.array(
        [OP * ops + OPERAND * n + TRACE * len(p.graph.tensors) for (_, ops, n), p in zip(counts, programs, strict=True)]
    )
    b = np.array([measure(target, program) for program in programs]) - tables
    a = np.array([(1, num_bodies) for num_bodies, _, _ in counts], dtype=float)
    body = int(np.ceil(np.linalg.lstsq(a, b, rcond=None)[0][1]))
    base = int((b - body * a[:, 1]).max()) + MARGIN
    worst = max((base + body * a[:, 1] + tables) / (b + tables))
    values = f"base = {base}\nbody = {body}\nop = {OP}\noperand = {OPERAND}\ntensor = {TRACE}"
    return f"# {target.name} on tiles: at most {worst:.3f} times what is linked\n[code.tiles]\n{values}\n"


def fit(a: Array, programs: Sequence[Program], target: Target, names: Sequence[str]) -> tuple[int, str, float]:
    """Return the base, the other lines and the worst ratio of a bound by the features `a`, of which the first is 1."""
    b = np.array([measure(target, program) for program in programs], dtype=float)
    slopes = np.ceil(np.linalg.lstsq(a, b, rcond=None)[0][1:]).clip(0)
    base = int((b - a[:, 1:] @ slopes).max()) + MARGIN
    values = "".join(f"\n{name} = {int(s)}" for name, s in zip(names, slopes, strict=True))
    return base, values, float(max((base + a[:, 1:] @ slopes) / b))


def upstream_bound(target: Target, jobs: Sequence[Job], upstream: Upstream) -> str:
    """Return the lines of the bound of programs that are linked with a checkout of upstream's.

    What they need on top of the bound without is fitted by the number of calls; most of it is code for what a few
    kernels might be asked to do.
    """
    assert target.code is not None
    programs = [p for job in jobs if fits(p := make_program(job, target, upstream=upstream), target)]
    bounds = [code_bound(target, p.graph, p.plan, is_run=False) or 0 for p in programs]
    excess = np.array([measure(target, p) - bound for p, bound in zip(programs, bounds, strict=True)], dtype=float)
    a = np.array([(1, len(p.graph.calls)) for p in programs], dtype=float)
    call = int(np.ceil(max(np.linalg.lstsq(a, excess, rcond=None)[0][1], 0)))
    base = int((excess - call * a[:, 1]).max()) + MARGIN
    head = f"# {target.name} with upstream's kernels"
    return f"{head}\n[code.upstream]\nbase = {target.code.base + base}\ncall = {target.code.call + call}\n"


def main() -> None:
    """Measure every target that has a bound."""
    for target in find_targets().values():
        if target.code is None:
            continue
        plain = with_l1(target, "off")
        jobs = [make_job(a, v, size=size) for a in ARCHITECTURES for v in VARIANTS for size in (32, 96, 128)]
        jobs += [make_job(arch, VARIANTS[-1], size=32, recompute=True) for arch in ARCHITECTURES]
        jobs += [make_job("dscnn", VARIANTS[2], size=32, rule=rule) for rule in RULES]
        programs = [program for job in jobs if fits(program := make_program(job, plain), plain)]
        a = np.array([features(program) for program in programs], dtype=float)
        base, values, worst = fit(a, programs, plain, ("rule", "kernel", "call", "tensor", "node"))
        run = max(measure_training_run(plain, job) for job in (jobs[0], jobs[1], jobs[-1])) + MARGIN
        print(f"# {target.name}: at most {worst:.3f} times what is linked")
        print(f"[code]\nbase = {base}\ntraining_run = {run}{values}\n", flush=True)
        if target.takes_upstream and (home := os.environ.get("TRAINLIB_HOME")):
            nets = [make_job(a, v, size=32) for a in (*ARCHITECTURES, "mobilenetv2_wd4", "resnet8") for v in VARIANTS]
            print(upstream_bound(plain, nets, find_upstream(home)), flush=True)
        tiled = target if target.l1_bytes is not None else with_l1(target, "64KiB")
        programs = [make_program(job, tiled) for job in jobs if job.rule is PLAIN]
        print(tile_bound(tiled, programs), flush=True)


if __name__ == "__main__":
    main()
