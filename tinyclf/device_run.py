"""A training run on the device from end to end: samples to a file, many steps, weights back, and PyTorch's same run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf import golden, targets
from tinyclf.deploy import TOLERANCE, plan_program, require_fit, write_project
from tinyclf.device_files import (
    REFUSALS,
    DeviceLog,
    Samples,
    SamplesFile,
    TrainedTensor,
    WeightsHeader,
    number_of,
    read_features,
    read_log,
    read_weights,
    sample_bytes,
    samples_file_bytes,
    shuffled,
)
from tinyclf.emit import Program, TrainingRun, emit
from tinyclf.errors import BadInput, DoesNotFit, ToolFailed
from tinyclf.feature_memory import FeatureMemory, feature_memory
from tinyclf.files import write_text, write_whole
from tinyclf.ir import Graph, Role
from tinyclf.lower import training_graph
from tinyclf.quantized_features import DeviceCodes, QuantizedFeatures
from tinyclf.reference_run import ReferenceRun, training_run
from tinyclf.rules import UpdateRule
from tinyclf.targets import Target
from tinyclf.trained_block import file_offset, trained_segments
from tinyclf.training_report import Check, TrainingReport
from tinyclf.upstream import Upstream
from tinyclf.variants import Variant
from tinyclf.verdicts import Verdict, judge

LOSS_BOUND = 1e-3  # of every step's loss, absolute
WEIGHT_BOUND = 1e-3  # of every trained parameter at the end, relative to its largest value
ACCURACY_BOUND = 0.5  # points
DRIFT = 10.0  # what drifts is at most so many times as far from PyTorch's in float64 as PyTorch's in float32 is
DRIFT_SOURCE = (
    f"{DRIFT:g} times the error of PyTorch's own run in float32 for this value (losses: up to each step; accuracy: the "
    "share of test samples that it calls otherwise), as the losses drift"
)
SOURCE = "requirement: a device's float32 against PyTorch's float64 over the whole run"
FEATURE_SOURCE = "that of single steps: kept features against PyTorch's, beyond the rounding to 8 bits"
SAMPLES = "data/samples.bin"  # of an emitted project
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

    @cached_property
    def graph(self) -> Graph:
        """Return one step, without recomputation.

        Raises:
            Unsupported: a layer cannot be lowered.
        """
        _, channels, height, width = self.samples.train_images.shape
        return training_graph(self.model, input_shape=(channels, height, width), rule=self.rule)

    @cached_property
    def features(self) -> FeatureMemory | None:
        """Return what the run keeps of its samples.

        Raises:
            BadInput, DoesNotFit: see `feature_memory`.
        """
        return feature_memory(self.graph, kind=self.cache, num_samples=len(self.samples.train_labels))


def net_number(model: nn.Module) -> int:
    """Return the number that names a folded net: all its parameters, by name and shape."""
    return number_of(*(f"{name} {tuple(p.shape)}" for name, p in model.named_parameters()))


def make_training_program(
    job: TrainingJob, target: Target | None = None, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Lower and plan a training run for `target`, which says how much memory there is, and whether there are tiles.

    With `upstream`, for that checkout's kernels where they are right, which compute where the tensors lie.

    Raises:
        DoesNotFit: not even with recomputation, where that is asked for, or a call's smallest tile is larger than L1.
        Unsupported: a layer cannot be lowered.
    """
    features = job.features
    program = plan_program(
        job.graph,
        job,
        target=target,
        num_cores=num_cores,
        num_samples=None,
        features=features,
        upstream=upstream,
    )
    graph, values = program.graph, program.values
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


def require_file(target: Target, *, num_train: int, num_test: int, shape: Sequence[int]) -> None:
    """Raise DoesNotFit if a file of so many samples (C, H, W) is larger than programs of `target` can read."""
    num_bytes = samples_file_bytes(num_train + num_test, shape)
    if target.file_bytes is not None and num_bytes > target.file_bytes:
        most = (target.file_bytes - samples_file_bytes(0, shape)) // sample_bytes(shape)
        raise DoesNotFit(
            f"{num_train:,} training and {num_test:,} test samples of {'x'.join(map(str, shape))} make a file of "
            f"{num_bytes:,} bytes, target {target.name} reads at most {target.file_bytes:,}: {most:,} samples fit, "
            "try fewer --samples and --test-samples"
        )


def emit_training(
    job: TrainingJob,
    target: Target,
    out: Path,
    *,
    num_cores: int | None = None,
    resume: bool = False,
    upstream: Upstream | None = None,
) -> Program:
    """Write the C project of `job` for `target` to `out`; with `resume` only check that it is what stands there.

    With `upstream` it takes what is right from that checkout.

    Raises:
        DoesNotFit: the target's memory is too small.
        Unsupported: a layer cannot be lowered.
        BadInput: `out` holds something else.
    """
    program = make_training_program(job, target, num_cores=num_cores, upstream=upstream)
    require_fit(program, target, num_cores=num_cores)
    samples = SamplesFile(job.samples, num_classes=job.num_classes)
    require_file(
        target,
        num_train=len(job.samples.train_labels),
        num_test=len(job.samples.test_labels),
        shape=job.samples.train_images.shape[1:],
    )
    files = emit(program, target=target, num_cores=num_cores or target.num_cores, command=job.command)
    if not resume:
        write_project({**files, SAMPLES: samples.write}, out)
        return program
    different = [name for name, content in files.items() if not _is_same(out / name, content)]
    if not different and not samples.is_in(out / SAMPLES):
        different = [SAMPLES]
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
    features = job.features
    codes = _device_codes(features, project) if features and features.kind == "int8" else None
    expected = reference(job, codes=codes)
    checks = _checks(job, log, weights, expected, codes)
    if codes:
        worst = expected.worst_feature
        checks.append(Check("kept features", worst, TOLERANCE, FEATURE_SOURCE, judge(worst, bound=TOLERANCE)))
    return TrainingReport(
        target=target.name,
        num_cores=num_cores,
        num_train=len(job.samples.train_labels),
        num_test=len(job.samples.test_labels),
        num_epochs=job.num_epochs,
        rule=job.rule,
        features=features,
        right_before=(log.right_before, expected.right_before),
        right_after=(log.right_after, expected.right_after),
        losses=tuple((float(a), float(b)) for a, b in zip(log.losses, expected.losses, strict=True)),
        cycles=tuple(int(c) for c in log.cycles) if target.counts_cycles else None,
        resumed_after=resumed_after,
        checks=tuple(checks),
    )


def _checks(
    job: TrainingJob,
    log: DeviceLog,
    weights: Mapping[str, NDArray[np.float32]],
    expected: ReferenceRun,
    codes: Codes | None,
) -> list[Check]:
    """Judge losses, trained parameters and accuracies.

    Where the losses drift, what else is beyond its requirement may be `DRIFT` times as far from PyTorch's run in
    float64 as PyTorch's own run in float32 is.
    """
    error = np.abs(log.losses - expected.losses)
    loss_error = float(error.max()) if np.isfinite(error).all() else math.inf
    own = reference(job, dtype=torch.float32, codes=codes) if LOSS_BOUND < loss_error < math.inf else None
    drift = own if own and is_drift(error, own, expected) else None

    def check(name: str, error: float, bound: float, own_error: float | None) -> Check:
        if error <= bound or own_error is None:
            return Check(name, error, bound, SOURCE, judge(error, bound=bound))
        return _drifting(name, error, max(bound, DRIFT * own_error))

    own_loss = float(np.abs(drift.losses - expected.losses).max()) if drift else None
    checks = [check("loss of every step", loss_error, LOSS_BOUND, own_loss)]
    for name, value in expected.weights.items():
        own_error = golden.relative_error(drift.weights[name], value) if drift else None
        checks.append(check(name, golden.relative_error(weights[name], value), WEIGHT_BOUND, own_error))
    num = len(job.samples.test_labels)
    if num:
        before = 100 * abs(log.right_before - expected.right_before) / num
        after = 100 * abs(log.right_after - expected.right_after) / num
        # Classes, not counts: as many may become right as wrong.
        own_points = 100 * float((drift.classes_after != expected.classes_after).mean()) if drift else None
        checks.append(check("accuracy before, points", before, ACCURACY_BOUND, None))
        checks.append(check("accuracy after, points", after, ACCURACY_BOUND, own_points))
    return checks


def _drifting(name: str, error: float, bound: float) -> Check:
    """Judge what is beyond its requirement in a run that drifts."""
    return Check(name, error, bound, DRIFT_SOURCE, Verdict.DRIFT if error <= bound else Verdict.FAIL)


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
    features = job.features

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


def is_drift(error: NDArray[np.float64], own: ReferenceRun, expected: ReferenceRun) -> bool:
    """Tell whether losses with these errors leave PyTorch's no faster than PyTorch's own run in float32 does.

    Compared are the largest errors up to each step: where rounding is amplified both grow alike, however far.
    """
    allowed = np.abs(own.losses - expected.losses)
    if not np.isfinite(error).all() or not np.isfinite(allowed).all():
        return False
    largest, allowed = np.maximum.accumulate(error), DRIFT * np.maximum.accumulate(allowed)
    return bool((largest <= np.maximum(allowed, LOSS_BOUND)).all())
