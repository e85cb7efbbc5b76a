"""A training run on the device from end to end: samples to a file, many steps, weights back, and PyTorch's same run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyclf import golden, targets
from tinyclf.deploy import TOLERANCE, require_fit, write_project
from tinyclf.device_files import (
    REFUSALS,
    Samples,
    TrainedTensor,
    WeightsHeader,
    number_of,
    read_features,
    read_log,
    read_weights,
    samples_bytes,
    shuffled,
)
from tinyclf.emit import Program, TrainingRun, emit
from tinyclf.errors import BadInput, ToolFailed
from tinyclf.feature_memory import FeatureMemory, feature_memory
from tinyclf.files import write_text, write_whole
from tinyclf.fitting import Setting, fitted
from tinyclf.ir import Graph, Role
from tinyclf.lower import training_graph
from tinyclf.memory import plan_memory
from tinyclf.quantized_features import DeviceCodes, QuantizedFeatures
from tinyclf.reference_run import ReferenceRun, training_run
from tinyclf.rules import UpdateRule
from tinyclf.targets import Target
from tinyclf.tile_plan import target_tiles
from tinyclf.trained_block import file_offset, trained_segments
from tinyclf.variants import Variant
from tinyclf.verdicts import Verdict, judge

LOSS_BOUND = 1e-3  # of every step's loss, absolute
WEIGHT_BOUND = 1e-3  # of every trained parameter at the end, relative to its largest value
ACCURACY_BOUND = 0.5  # points
DRIFT = (
    10.0  # a run drifts when it is at most so many times as far from PyTorch's in float64 as PyTorch's in float32 is
)
SOURCE = "requirement: a device's float32 against PyTorch's float64 over the whole run"
FEATURE_SOURCE = "that of single steps: kept features against PyTorch's, beyond the rounding to 8 bits"
RUN_TIMEOUT_S = 7 * 24 * 3600


@dataclass(frozen=True)
class TrainingJob:
    """A training run: a model with BatchNorm folded, samples, and how.

    `source` is the number of the run's weights that it starts from, see `device_files.WeightsHeader`.
    """

    model: nn.Module
    variant: Variant
    samples: Samples
    num_classes: int
    num_epochs: int
    checkpoint_every: int
    rule: UpdateRule
    seed: int
    source: int
    command: str
    cache: str = "off"  # what is kept of the frozen part, one of CACHES
    recompute: bool = False  # activations, where they would not fit the target

    @property
    def num_steps(self) -> int:
        """Count steps, one sample each."""
        return self.num_epochs * len(self.samples.train_images)


@dataclass(frozen=True)
class Check:
    """One comparison with PyTorch; `bound_from` says where its bound comes from."""

    name: str
    error: float
    bound: float
    bound_from: str
    verdict: Verdict


@dataclass(frozen=True)
class TrainingReport:
    """What a training run on a target showed; `right_*` count test samples: on the target, in PyTorch."""

    target: str
    num_cores: int
    num_train: int
    num_test: int
    num_epochs: int
    rule: UpdateRule
    features: FeatureMemory | None
    right_before: tuple[int, int]
    right_after: tuple[int, int]
    losses: tuple[tuple[float, float], ...]
    cycles: tuple[int, ...] | None
    resumed_after: int | None  # steps that a checkpoint had behind it
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Tell whether nothing failed; what drifts has not failed."""
        return all(c.verdict is not Verdict.FAIL for c in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; what is not finite is null."""
        num = self.num_test
        pairs = {"before": self.right_before, "after": self.right_after}
        return {
            "target": self.target,
            "num_cores": self.num_cores,
            "train_samples": self.num_train,
            "test_samples": num,
            "epochs": self.num_epochs,
            "update_rule": asdict(self.rule),
            "updates": len(self.losses) // self.rule.batch,
            "samples_left_over": len(self.losses) % self.rule.batch,
            "kept_features": self.features and {**asdict(self.features), "bytes": self.features.num_bytes},
            "passed": self.passed,
            "resumed_after": self.resumed_after,
            "accuracy": {k: {"target": a / num, "pytorch": e / num} for k, (a, e) in pairs.items()} if num else None,
            "checks": [{**vars(c), "error": _finite(c.error), "verdict": c.verdict.value} for c in self.checks],
            "cycles": self.cycles,
            "losses": [{"target": _finite(a), "pytorch": _finite(b)} for a, b in self.losses],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def net_number(model: nn.Module) -> int:
    """Return the number that names a folded net: all its parameters, by name and shape."""
    return number_of(*(f"{name} {tuple(p.shape)}" for name, p in model.named_parameters()))


def _graph(job: TrainingJob) -> Graph:
    _, channels, height, width = job.samples.train_images.shape
    return training_graph(job.model, input_shape=(channels, height, width), rule=job.rule)


def features_of(job: TrainingJob) -> FeatureMemory | None:
    """Return what the run keeps of its samples.

    Raises:
        BadInput, DoesNotFit: see `feature_memory`.
    """
    return feature_memory(_graph(job), kind=job.cache, num_samples=len(job.samples.train_labels))


def make_training_program(job: TrainingJob, target: Target | None = None) -> Program:
    """Lower and plan a training run for `target`, which says how much memory there is, and whether there are tiles.

    Raises:
        DoesNotFit: not even with recomputation, where that is asked for, or a call's smallest tile is larger than L1.
        Unsupported: a layer cannot be lowered.
    """
    graph = _graph(job)
    features = features_of(job)
    if job.recompute:
        kept = features.num_bytes if features else 0
        graph = fitted(graph, Setting(target, num_samples=None, kept_features_bytes=kept))
    values = {name: p.detach().numpy() for name, p in job.model.named_parameters()}
    plan = plan_memory(graph)
    tiles = target_tiles(graph, plan, target)
    program = Program(graph, plan, values, None, None, job.num_steps, frozenset(), tiles=tiles)
    segments = trained_segments(graph, program.plan)
    header = WeightsHeader(
        net=net_number(job.model),
        source=job.source,
        variant=job.variant.name,
        k=job.variant.k,
        tensors=tuple(
            TrainedTensor(t.name, t.trained_shape, file_offset(segments, program.plan.offsets[t.name]))
            for t in graph.tensors_of(Role.PARAMETER)
            if t.trained
        ),
        num_bytes=sum(s.num_bytes for s in segments),
        layers=job.variant.layers,
        bias_only=job.variant.bias_only,
        channels=job.variant.channels,
    )
    start = (part for name, value in sorted(values.items()) for part in (name, value.tobytes()))
    run = TrainingRun(
        run=number_of(repr(graph), repr(program.plan), *start, job.num_epochs, job.seed, repr(features)),
        seed=job.seed,
        num_epochs=job.num_epochs,
        checkpoint_every=job.checkpoint_every,
        weights_header=header.to_bytes(),
        features=features,
    )
    return replace(program, training=run)


def emit_training(
    job: TrainingJob, target: Target, out: Path, *, num_cores: int | None = None, resume: bool = False
) -> Program:
    """Write the C project of `job` for `target` to `out`; with `resume` only check that it is what stands there.

    Raises:
        DoesNotFit: the target's memory is too small.
        Unsupported: a layer cannot be lowered.
        BadInput: `out` holds something else.
    """
    program = make_training_program(job, target)
    require_fit(program, target)
    files = emit(program, target=target, num_cores=num_cores or target.num_cores, command=job.command)
    files["data/samples.bin"] = samples_bytes(job.samples, num_classes=job.num_classes)
    if not resume:
        write_project(files, out)
        return program
    different = [name for name, content in files.items() if not _is_same(out / name, content)]
    if different:
        raise BadInput(f"{out}: holds no run with these options (first difference: {different[0]}): leave out --resume")
    return program


def _is_same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def execute_training(
    job: TrainingJob, target: Target, project: Path, *variables: str, on_end: Callable[[], object] = lambda: None
) -> TrainingReport:
    """Build and run an emitted training run, and compare it with PyTorch's; write report.json and weights.bin into it.

    The program goes on from the newest checkpoint in build/, if there is one. `variables` go to make, for instance
    "NUM_CORES=1". `on_end` is called when the program has ended.

    Raises:
        ToolFailed: a tool is missing, or the build or the run failed.
        BadInput: the program refused a file, by name.
    """
    targets.build(project, target, *variables)
    targets.check_elf(project, target)
    resumed_after = run_program(project, *variables)
    on_end()
    cores = next((int(v.split("=")[1]) for v in variables if v.startswith("NUM_CORES=")), target.num_cores)
    outcome = _compare(job, project, target, num_cores=cores, resumed_after=resumed_after)
    write_text(project / "report.json", json.dumps(outcome.to_dict(), indent=1) + "\n")
    content = (project / "build" / "weights.bin").read_bytes()
    write_whole(project / "weights.bin", lambda temporary: temporary.write_bytes(content))
    return outcome


def run_program(project: Path, *variables: str) -> int | None:
    """Run a built training run to its end; return the steps that the checkpoint had behind it that it went on from.

    Raises:
        ToolFailed: the run failed.
        BadInput: the program refused a file.
    """
    try:
        targets.start(project, *variables, timeout_s=RUN_TIMEOUT_S)
    except ToolFailed as error:
        for record, code, words in targets.read_records(project):
            if record == targets.RECORD_REFUSED:
                reason = REFUSALS.get(code, f"reason {code}").format(index=_two_words(words))
                raise BadInput(f"{project}: {reason}") from error
        raise
    records = targets.read_records(project)
    if not records or records[-1][0] != targets.RECORD_END:
        raise ToolFailed(f"{project}: the run did not complete")
    return next((_two_words(words) for record, _, words in records if record == targets.RECORD_RESUMED), None)


def _two_words(words: Any) -> int:
    return int(words.view("<u8")[0]) if len(words) == 2 else 0


# --- comparison -------------------------------------------------------------------------------------------------------


def _compare(
    job: TrainingJob, project: Path, target: Target, *, num_cores: int, resumed_after: int | None
) -> TrainingReport:
    log = read_log(project / "build" / "log.bin", num_steps=job.num_steps)
    _, weights = read_weights(project / "build" / "weights.bin")
    features = features_of(job)
    codes = _device_codes(features, project) if features and features.kind == "int8" else None
    expected = reference(job, codes=codes)
    error = np.abs(log.losses - expected.losses)
    loss_error = float(error.max()) if np.isfinite(error).all() else math.inf
    excuse = loss_error > LOSS_BOUND and _is_drift(job, error, expected, codes)
    num_test = len(job.samples.test_labels)
    checks = [_check("loss of every step", loss_error, LOSS_BOUND, excuse=excuse)]
    for name, value in expected.weights.items():
        difference = golden.relative_error(weights[name], value)
        checks.append(_check(name, difference, WEIGHT_BOUND, excuse=excuse))
    if codes:
        worst = expected.worst_feature
        checks.append(Check("kept features", worst, TOLERANCE, FEATURE_SOURCE, judge(worst, bound=TOLERANCE)))
    rights = (log.right_before, expected.right_before), (log.right_after, expected.right_after)
    if num_test:
        for when, (actual, wanted), excused in zip(("before", "after"), rights, (False, excuse), strict=True):
            points = 100 * abs(actual - wanted) / num_test
            checks.append(_check(f"accuracy {when}, points", points, ACCURACY_BOUND, excuse=excused))
    return TrainingReport(
        target=target.name,
        num_cores=num_cores,
        num_train=len(job.samples.train_labels),
        num_test=num_test,
        num_epochs=job.num_epochs,
        rule=job.rule,
        features=features,
        right_before=rights[0],
        right_after=rights[1],
        losses=tuple((float(a), float(b)) for a, b in zip(log.losses, expected.losses, strict=True)),
        cycles=tuple(int(c) for c in log.cycles) if target.counts_cycles else None,
        resumed_after=resumed_after,
        checks=tuple(checks),
    )


def _check(name: str, error: float, bound: float, *, excuse: bool) -> Check:
    return Check(name, error, bound, SOURCE, judge(error, bound=bound, excuse=excuse))


Codes = dict[str, DeviceCodes]  # by layer


def _device_codes(features: FeatureMemory, project: Path) -> Codes:
    """Return what the device kept of each tensor that crosses from the frozen part."""
    sizes = [t.num_elements for t in features.tensors]
    kept = read_features(project / "build" / "features.bin", num_samples=features.num_samples, sizes=sizes)
    return {t.layer: DeviceCodes(*values) for t, values in zip(features.tensors, kept, strict=True)}


def reference(job: TrainingJob, *, dtype: torch.dtype = torch.float64, codes: Codes | None = None) -> ReferenceRun:
    """Return PyTorch's run of `job`, in the order in which the device visits the samples.

    `codes`: the features that the device quantised; what rounding may have put on either side is taken from them.
    """
    features = features_of(job)

    def quantized(model: nn.Module) -> QuantizedFeatures:
        assert features is not None
        return QuantizedFeatures(model, first_trained=features.first_trained, device=codes, tie=TOLERANCE)

    s = job.samples
    order = [int(i) for e in range(job.num_epochs) for i in shuffled(len(s.train_labels), seed=job.seed, epoch=e)]
    return training_run(
        job.model,
        s.train_images,
        s.train_labels,
        (s.test_images, s.test_labels),
        order=order,
        rule=job.rule,
        dtype=dtype,
        quantized=quantized if job.cache == "int8" else None,
    )


def _is_drift(job: TrainingJob, error: Any, expected: ReferenceRun, codes: Codes | None = None) -> bool:
    """Tell whether the losses leave PyTorch's no faster than PyTorch's own run in float32 does.

    Compared are the largest errors up to each step: where rounding is amplified both grow alike, however far.
    """
    own = np.abs(reference(job, dtype=torch.float32, codes=codes).losses - expected.losses)
    if not np.isfinite(error).all() or not np.isfinite(own).all():
        return False
    largest, allowed = np.maximum.accumulate(error), DRIFT * np.maximum.accumulate(own)
    return bool((largest <= np.maximum(allowed, LOSS_BOUND)).all())
