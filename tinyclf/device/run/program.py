"""A job becomes a program that fits a target: lowered, planned, cut into tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tinyclf.base.errors import DoesNotFit
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.upstream import Upstream, link
from tinyclf.device.footprint.fitting import Setting, fitted
from tinyclf.device.footprint.regions import RegionUse, predict_regions
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.lowering.lower import training_graph
from tinyclf.device.memory.kept_features import FeatureMemory
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.run.job import Job, Step
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.planner import target_tiles


def make_program(
    job: Job, target: Target | None = None, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Lower and plan a job for `target`: it says how much memory there is, to recompute activations and for tiles.

    With `upstream`, for that checkout's kernels where they are right, which compute where the tensors lie.

    Raises:
        DoesNotFit: not even with recomputation, or a call's smallest tile is larger than L1.
    """
    _, channels, height, width = job.samples.shape
    program = plan_program(
        training_graph(job.model, input_shape=(channels, height, width), rule=job.rule),
        job,
        target=target,
        num_cores=num_cores,
        num_samples=len(job.samples),
        upstream=upstream,
        traces=partial(traced_tensors, gradients=job.gradients),
    )
    return replace(program, samples=job.samples, labels=job.labels)


def plan_program(
    graph: Graph,
    job: Step,
    *,
    target: Target | None,
    num_cores: int | None,
    num_samples: int | None,
    features: FeatureMemory | None = None,
    upstream: Upstream | None = None,
    traces: Callable[[Graph], frozenset[str]] = lambda graph: frozenset(),
) -> Program:
    """Return the program of a job's step: with activations recomputed if the job says so, planned and cut into tiles.

    `num_samples` None: they are streamed, and `features` of them may be kept. `traces` says what is
    reported. The program has no samples yet.

    Raises:
        DoesNotFit: see `make_program`.
    """
    if upstream and target:
        target = _with_upstream(target)
    if job.recompute:
        setting = Setting(target, num_samples, num_cores)
        graph = fitted(graph, setting if num_samples is not None else setting.keeping(features))
    linkage = None
    if upstream:
        graph, linkage = link(graph, upstream)
    plan, traced = plan_memory(graph), traces(graph)
    values = {name: p.detach().numpy() for name, p in job.model.named_parameters()}
    tiles = target_tiles(graph, plan, target, traced=traced)
    return Program(graph, plan, values, None, None, job.num_steps, traced, linkage=linkage, tiles=tiles)


def _with_upstream(target: Target) -> Target:
    """Return `target` for programs with upstream's kernels: they compute where the tensors lie."""
    return replace(target, l1_bytes=None, code=target.upstream_code)


def num_fitting_samples(graph: Graph, plan: MemoryPlan, target: Target) -> int:
    """Return how many samples fit a target's memory beside all else; below 1 if none does."""
    assert target.memory_bytes is not None
    none, one = (predict_regions(target, graph, plan, num_samples=n)[0].total for n in (0, 1))
    return (target.memory_bytes - none) // (one - none)


def program_regions(program: Program, target: Target, *, num_cores: int | None = None) -> tuple[RegionUse, ...]:
    """Return what each region of `target` will hold of a program as it is emitted: with its tiles, if it has any."""
    features = program.training.features if program.training else None
    where = _with_upstream(target) if program.linkage else target if program.tiles else replace(target, l1_bytes=None)
    return predict_regions(
        where,
        program.graph,
        program.plan,
        num_samples=None if program.training else 0 if program.samples is None else len(program.samples),
        num_cores=num_cores,
        kept_features_bytes=features.num_bytes if features else 0,
    )


def require_fit(program: Program, target: Target, *, num_cores: int | None = None) -> None:
    """Raise DoesNotFit if what a program needs is more than a region of `target` has."""
    features = program.training.features if program.training else None
    num_samples = 0 if program.samples is None else len(program.samples)
    for region in program_regions(program, target, num_cores=num_cores):
        if region.num_bytes is not None and region.total > region.num_bytes:
            fewer = "fewer --samples, " if features or num_samples > 1 else ""
            less = "no --cache or --cache int8" if features else "--recompute"
            raise DoesNotFit(
                f"training needs {region.total:,} bytes of {region.name} ({region.summary}), target {target.name} has "
                f"{region.num_bytes:,}: try {fewer}{less}, a smaller --k, a smaller --size or a narrower --arch"
            )
