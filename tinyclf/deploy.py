"""The device flow from end to end: a model becomes a C project; the project is built, run and compared with PyTorch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyclf import golden, targets
from tinyclf.emit import Program, emit
from tinyclf.errors import BadInput, DoesNotFit
from tinyclf.feature_memory import FeatureMemory
from tinyclf.files import write_text
from tinyclf.fitting import Setting, fitted
from tinyclf.golden import Trajectory
from tinyclf.ir import Graph, Role, gradient_name
from tinyclf.lower import training_graph
from tinyclf.memory import MemoryPlan, plan_memory
from tinyclf.regions import RegionUse, predict_regions
from tinyclf.rules import UpdateRule
from tinyclf.targets import Target
from tinyclf.tile_plan import target_tiles
from tinyclf.traces import kinks, traced_tensors, whole_gradients
from tinyclf.upstream import Upstream, link
from tinyclf.verdicts import Verdict, judge

TOLERANCE = 1e-4  # of every gradient, updated weight, logit and loss: float32 against double
LOGIT_SCALE = 1.0  # softmax sees absolute differences of logits: an error counts relative to at least this
LEAST_SCALE = 1e-30  # of all else: nearer to float32's smallest number, 1e-38, products lose their relative precision
STEP_SOURCE = "requirement: float32 against PyTorch's float64, each step from the weights that the device had before it"
FROZEN_SOURCE = "frozen channels keep every bit"


Content = bytes | Callable[[Path], object]  # of a file: its bytes, or what writes them to a path


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
    gradients: bool = True  # are reported; otherwise a step does just what it does within a training run


class Step(Protocol):
    """What a job of single steps and a training run say of a step alike."""

    @property
    def model(self) -> nn.Module:
        """Return the model, BatchNorm folded."""

    @property
    def num_steps(self) -> int:
        """Count steps, one sample each."""

    @property
    def recompute(self) -> bool:
        """Tell whether activations are recomputed."""


@dataclass(frozen=True)
class Comparison:
    """One value of one step against PyTorch; errors are those of `golden.relative_error`.

    `error` is that of the step by itself, from the weights that the device had before it. `run_error` is that of the
    whole run up to here, from the weights that both had at the start: steps may amplify rounding. `bound` is of both,
    and `bound_from` says where it comes from.
    """

    name: str
    step: int
    error: float
    run_error: float
    bound: float
    bound_from: str

    @property
    def passed(self) -> bool:
        """Tell whether the step is right (a NaN is not)."""
        return self.error <= self.bound

    @property
    def drifted(self) -> bool:
        """Tell whether the run has left PyTorch's, though the step may be right."""
        return not self.run_error <= self.bound

    @property
    def verdict(self) -> Verdict:
        """Return what both errors come to."""
        if self.passed and self.drifted:
            return Verdict.DRIFT
        return judge(max(self.error, self.run_error) if self.passed else self.error, bound=self.bound)


@dataclass(frozen=True)
class Report:
    """What a run on a target showed."""

    target: str
    num_cores: int
    comparisons: tuple[Comparison, ...]
    losses: tuple[tuple[float, float], ...]  # per step: on the target, in PyTorch
    cycles: tuple[int, ...] | None  # per step; None where the target is not cycle-accurate
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
            "losses": [{"target": finite(a), "pytorch": finite(b)} for a, b in self.losses],
            "cycles": self.cycles,
            "relu_ties": self.num_ties,
            "errors": [
                {
                    "name": c.name,
                    "step": c.step,
                    "error": finite(c.error),
                    "run_error": finite(c.run_error),
                    "bound": c.bound,
                    "bound_from": c.bound_from,
                    "verdict": c.verdict.value,
                }
                for c in self.comparisons
            ],
        }


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


def write_project(files: Mapping[str, Content], out: Path) -> None:
    """Write a project to the folder `out`; one that an earlier call wrote is replaced, anything else is refused.

    The files are written beside `out` and renamed at the end; an old project is deleted when the new one stands.
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
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
        _put_in_place(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, out: Path) -> None:
    """Rename `fresh` to `out`; what stood there is gone only when that is done."""
    if not out.exists():
        fresh.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    out.rename(old)
    try:
        fresh.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def emit_project(
    job: Job, target: Target, out: Path, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Write the C project of `job` for `target` to `out`; with `upstream` it takes what is right from that checkout.

    Raises:
        DoesNotFit: the target's memory is too small.
        Unsupported: a layer cannot be lowered.
        BadInput: `out` holds something else.
    """
    program = make_program(job, target, num_cores=num_cores, upstream=upstream)
    require_fit(program, target, num_cores=num_cores)
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
    gradients = {gradient_name(t.name) for t in program.graph.tensors_of(Role.PARAMETER)}
    device, frozen = _without_frozen_channels(program, device)
    single, whole = (_golden(job, program, device, follow=follow) for follow in (True, False))
    comparisons = [
        Comparison(name, step, _error(actual, name, value), _error(actual, name, in_run[name]), TOLERANCE, STEP_SOURCE)
        for step, (actual, by_itself, in_run) in enumerate(zip(device, single.steps, whole.steps, strict=True))
        for name, value in by_itself.items()
        if job.gradients or name not in gradients
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
            comparisons.append(Comparison(f"{name}, frozen channels", step, error, error, 0.0, FROZEN_SOURCE))
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
