"""The device flow from end to end: a model becomes a C project; the project is built, run and compared with PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyclf import golden, targets
from tinyclf.emit import Program, emit
from tinyclf.errors import BadInput, DoesNotFit
from tinyclf.files import write_text
from tinyclf.fitting import Setting, fitted
from tinyclf.golden import Trajectory
from tinyclf.ir import Graph
from tinyclf.lower import training_graph
from tinyclf.memory import MemoryPlan, plan_memory
from tinyclf.regions import predict_regions
from tinyclf.rules import UpdateRule
from tinyclf.targets import Target
from tinyclf.tile_plan import target_tiles
from tinyclf.traces import kinks, traced_tensors, whole_gradients
from tinyclf.upstream import Upstream, link
from tinyclf.verdicts import Verdict, judge

TOLERANCE = 1e-4  # of every gradient, updated weight, logit and loss: float32 against double
LOGIT_SCALE = 1.0  # softmax sees absolute differences of logits: an error counts relative to at least this
LEAST_SCALE = 1e-30  # of all else: nearer to float32's smallest number, 1e-38, products lose their relative precision


@dataclass(frozen=True)
class Job:
    """What to deploy: a model with BatchNorm folded, samples (N, C, H, W), one-hot labels (N, classes), and how."""

    model: nn.Module
    samples: NDArray[np.float32]
    labels: NDArray[np.float32]
    num_steps: int  # one sample each
    rule: UpdateRule
    command: str  # how the user asked for it; stands in the emitted headers
    recompute: bool = False  # activations, where they would not fit the target; where all fits, as few bytes as can be


@dataclass(frozen=True)
class Comparison:
    """One value of one step against PyTorch; errors are those of `golden.relative_error`.

    `error` is that of the step by itself, from the weights that the device had before it. `run_error` is that of the
    whole run up to here, from the weights that both had at the start: steps may amplify rounding.
    """

    name: str
    step: int
    error: float
    run_error: float

    @property
    def passed(self) -> bool:
        """Tell whether the step is right (a NaN is not)."""
        return self.error <= TOLERANCE

    @property
    def drifted(self) -> bool:
        """Tell whether the run has left PyTorch's, though the step may be right."""
        return not self.run_error <= TOLERANCE

    @property
    def verdict(self) -> Verdict:
        """Return what both errors come to, with `TOLERANCE` as the bound."""
        if self.passed and self.drifted:
            return Verdict.DRIFT
        return judge(max(self.error, self.run_error) if self.passed else self.error, bound=TOLERANCE)


@dataclass(frozen=True)
class Report:
    """What a run on a target showed."""

    target: str
    num_cores: int
    comparisons: tuple[Comparison, ...]
    losses: tuple[tuple[float, float], ...]  # per step: on the target, in PyTorch
    cycles: tuple[int, ...] | None  # per step; None where the target's clock is not a chip's
    num_ties: int  # inputs of ReLUs, over all steps, that rounding put on the other side of zero than PyTorch has them

    @property
    def passed(self) -> bool:
        """Tell whether every step is right."""
        return all(c.passed for c in self.comparisons)

    @property
    def drifted(self) -> bool:
        """Tell whether the run as a whole left PyTorch's."""
        return any(c.drifted for c in self.comparisons)

    def worst(self) -> list[Comparison]:
        """Return for each name its largest errors, with the step of the larger `error`, in order of appearance."""
        worst: dict[str, Comparison] = {}
        for c in self.comparisons:
            w = worst.setdefault(c.name, c)
            worst[c.name] = replace(w if w.error >= c.error else c, run_error=max(w.run_error, c.run_error))
        return list(worst.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; an infinite error is null."""

        def finite(error: float) -> float | None:
            return error if np.isfinite(error) else None

        return {
            "target": self.target,
            "num_cores": self.num_cores,
            "passed": self.passed,
            "drifted": self.drifted,
            "tolerance": TOLERANCE,
            "losses": [{"target": finite(a), "pytorch": finite(b)} for a, b in self.losses],
            "cycles": self.cycles,
            "relu_ties": self.num_ties,
            "errors": [
                {
                    "name": c.name,
                    "step": c.step,
                    "error": finite(c.error),
                    "run_error": finite(c.run_error),
                    "verdict": c.verdict.value,
                }
                for c in self.comparisons
            ],
        }


def make_program(job: Job, target: Target | None = None, *, upstream: Upstream | None = None) -> Program:
    """Lower and plan a job for `target`: it says how much memory there is, to recompute activations and for tiles.

    With `upstream`, for that checkout's kernels where they are right, which compute where the tensors lie.

    Raises:
        DoesNotFit: not even with recomputation, or a call's smallest tile is larger than L1.
    """
    _, channels, height, width = job.samples.shape
    graph = training_graph(job.model, input_shape=(channels, height, width), rule=job.rule)
    if job.recompute:
        graph = fitted(graph, Setting(target, num_samples=len(job.samples)))
    linkage = None
    if upstream:
        graph, linkage = link(graph, upstream)
    plan, traced = plan_memory(graph), traced_tensors(graph)
    return Program(
        graph=graph,
        plan=plan,
        values={name: p.detach().numpy() for name, p in job.model.named_parameters()},
        samples=job.samples,
        labels=job.labels,
        num_steps=job.num_steps,
        traced=traced,
        linkage=linkage,
        tiles=None if upstream else target_tiles(graph, plan, target, traced=traced),
    )


def num_fitting_samples(graph: Graph, plan: MemoryPlan, target: Target) -> int:
    """Return how many samples fit a target's memory beside all else; below 1 if none does."""
    assert target.memory_bytes is not None
    none, one = (predict_regions(target, graph, plan, num_samples=n)[0].total for n in (0, 1))
    return (target.memory_bytes - none) // (one - none)


def require_fit(program: Program, target: Target) -> None:
    """Raise DoesNotFit if what a program needs is more than a region of `target` has."""
    num_samples = None if program.training else 0 if program.samples is None else len(program.samples)
    features = program.training.features if program.training else None
    kept = features.num_bytes if features else 0
    for region in predict_regions(
        target, program.graph, program.plan, num_samples=num_samples, kept_features_bytes=kept
    ):
        if region.num_bytes is not None and region.total > region.num_bytes:
            fewer = "fewer --samples, " if features or (num_samples and num_samples > 1) else ""
            less = "no --cache or --cache int8" if features else "--recompute"
            raise DoesNotFit(
                f"training needs {region.total:,} bytes of {region.name} ({region.summary}), target {target.name} has "
                f"{region.num_bytes:,}: try {fewer}{less}, a smaller --k, a smaller --size or a narrower --arch"
            )


def write_project(files: dict[str, bytes], out: Path) -> None:
    """Write a project to the folder `out`; one that an earlier call wrote is replaced, anything else is refused.

    The files are written beside `out` and renamed at the end.
    """
    if out.exists() and not (out / "trace.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists and is not a project that tinyclf wrote: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh.chmod(0o755)
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
            os.replace(out, old)
            shutil.rmtree(old)
        os.replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def emit_project(
    job: Job, target: Target, out: Path, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Write the C project of `job` for `target` to `out`; with `upstream` it takes what is right from that checkout.

    Raises:
        DoesNotFit: the target's memory is too small.
        Unsupported: a layer cannot be lowered.
        BadInput: `out` holds something else.
    """
    program = make_program(job, target, upstream=upstream)
    require_fit(program, target)
    write_project(emit(program, target=target, num_cores=num_cores or target.num_cores, command=job.command), out)
    return program


def execute(job: Job, program: Program, target: Target, project: Path, *variables: str) -> Report:
    """Build and run an emitted project, and compare what it traced with PyTorch; write report.json into it.

    `variables` go to make, for instance "NUM_CORES=1".

    Raises:
        ToolFailed: a tool is missing, or the build or the run failed.
    """
    targets.build(project, target, *variables)
    targets.check_elf(project, target)
    results = targets.run(project, *variables)
    public = dict(zip(program.graph.outputs, (golden.LOGITS, golden.LOSS), strict=True))
    device = [{public.get(name, name): value for name, value in step.items()} for step in results.steps]
    device = [whole_gradients(program.graph, step) for step in device]
    device, frozen = _without_frozen_channels(program, device)
    single, whole = (_golden(job, program, device, follow=follow) for follow in (True, False))
    comparisons = [
        Comparison(name, step, _error(actual, name, value), _error(actual, name, in_run[name]))
        for step, (actual, by_itself, in_run) in enumerate(zip(device, single.steps, whole.steps, strict=True))
        for name, value in by_itself.items()
    ]
    comparisons += frozen
    cores = next((int(v.split("=")[1]) for v in variables if v.startswith("NUM_CORES=")), target.num_cores)
    outcome = Report(
        target=target.name,
        num_cores=cores,
        comparisons=tuple(comparisons),
        losses=tuple(
            (float(a[golden.LOSS][0]), float(e[golden.LOSS][0])) for a, e in zip(device, whole.steps, strict=True)
        ),
        cycles=results.cycles if target.counts_cycles else None,
        num_ties=single.num_ties,
    )
    write_text(project / "report.json", json.dumps(outcome.to_dict(), indent=1) + "\n")
    return outcome


def _without_frozen_channels(
    program: Program, device: list[dict[str, NDArray[np.float32]]]
) -> tuple[list[dict[str, NDArray[np.float32]]], list[Comparison]]:
    """Cut off what is frozen of parameters that are trained in part; there no bit may differ from the start.

    The error of a comparison is so 0 or infinite.
    """
    limits = {t.name: t.trained_channels for t in program.graph.tensors if t.trained_channels is not None}
    comparisons = []
    for step, values in enumerate(device):
        for name in limits.keys() & values.keys():
            kept, before = (np.ascontiguousarray(v[limits[name] :]) for v in (values[name], program.values[name]))
            error = 0.0 if kept.tobytes() == before.astype("<f4").tobytes() else float("inf")
            comparisons.append(Comparison(f"{name}, frozen channels", step, error, error))
    trained = [{name: value[: limits.get(name)] for name, value in values.items()} for values in device]
    order = list(limits)
    comparisons.sort(key=lambda c: (c.step, order.index(c.name.removesuffix(", frozen channels"))))
    return trained, comparisons


def _golden(job: Job, program: Program, device: list[dict[str, NDArray[np.float32]]], *, follow: bool) -> Trajectory:
    return golden.training_steps(
        job.model,
        job.samples,
        job.labels,
        num_steps=job.num_steps,
        rule=job.rule,
        kinks=kinks(program.graph),
        device_steps=device,
        tie=TOLERANCE,
        follow=follow,
    )


def _error(actual: dict[str, NDArray[np.float32]], name: str, expected: NDArray[np.float64]) -> float:
    """Return the error of a value that a step reported; infinite if it did not."""
    if name not in actual:
        return float("inf")
    return golden.relative_error(
        actual[name], expected, least_scale=LOGIT_SCALE if name == golden.LOGITS else LEAST_SCALE
    )
