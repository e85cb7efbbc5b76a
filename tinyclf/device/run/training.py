"""A training run on the device from end to end: samples to a file, many steps, weights back, and PyTorch's same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tinyclf.base.errors import BadInput, DoesNotFit, ToolFailed
from tinyclf.base.files import write_text, write_whole
from tinyclf.device import targets
from tinyclf.device.emit.program import Program, TrainingRun
from tinyclf.device.emit.project import emit
from tinyclf.device.emit.upstream import Upstream
from tinyclf.device.footprint.fitting import Surroundings
from tinyclf.device.graph.dtypes import BOUNDS, INT8
from tinyclf.device.graph.ir import Role
from tinyclf.device.memory.samples import Streamed, kept_features
from tinyclf.device.memory.trained_pieces import file_offset, trained_pieces
from tinyclf.device.run.files import (
    REFUSALS,
    SamplesFile,
    TrainedTensor,
    WeightsHeader,
    number_of,
    read_log,
    read_weights,
    sample_bytes,
    samples_file_bytes,
)
from tinyclf.device.run.job import TrainingJob
from tinyclf.device.run.program import program_of, require_fit
from tinyclf.device.run.project import write_project
from tinyclf.device.run.run_report import FEATURE_SOURCE, Check, TrainingReport, _checks, _device_codes, reference
from tinyclf.device.run.step import PlannedStep, plan_step
from tinyclf.device.run.verdicts import judge
from tinyclf.device.targets.target import Target

SAMPLES = "data/samples.bin"  # of an emitted project
RUN_TIMEOUT_S = 7 * 24 * 3600


def net_number(model: nn.Module) -> int:
    """Return the number that names a folded net: all its parameters, by name and shape."""
    return number_of(*(f"{name} {tuple(p.shape)}" for name, p in model.named_parameters()))


def make_training_program(
    job: TrainingJob, target: Target | None = None, *, num_cores: int | None = None, upstream: Upstream | None = None
) -> Program:
    """Plan the step of a training run for `target`, and put the weights and settings that it starts from beside it.

    Raises:
        DoesNotFit, Unsupported, BadInput: see `plan_step`.
    """
    num, channels, height, width = job.samples.train_images.shape
    step = plan_step(
        job.model,
        image=(channels, height, width),
        rule=job.rule,
        around=Surroundings(target, Streamed(num, job.cache), num_cores),
        recompute=job.recompute,
        upstream=upstream,
        traces=lambda graph: frozenset(),
    )
    assert isinstance(step.around.samples, Streamed)
    program = program_of(step, job.model, num_steps=job.num_steps)
    start = (part for name, value in sorted(program.values.items()) for part in (name, value.tobytes()))
    features = repr(step.around.samples.features)
    run = TrainingRun(
        number=number_of(repr(step.graph), repr(step.plan), *start, job.num_epochs, job.seed, features),
        seed=job.seed,
        num_epochs=job.num_epochs,
        checkpoint_every=job.checkpoint_every,
        weights_header=_weights_header(job, step).to_bytes(),
        samples=step.around.samples,
    )
    return replace(program, training=run)


def _weights_header(job: TrainingJob, step: PlannedStep) -> WeightsHeader:
    """Return what the weights file of a run begins with."""
    pieces = trained_pieces(step.graph, step.plan)
    return WeightsHeader(
        net=net_number(job.model),
        source=job.source,
        trained=job.variant,
        tensors=tuple(
            TrainedTensor(t.name, t.trained_shape, file_offset(pieces, step.plan.offsets[t.name]))
            for t in step.graph.tensors_of(Role.PARAMETER)
            if t.trained
        ),
        num_bytes=sum(s.num_bytes for s in pieces),
    )


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
    job: TrainingJob,
    program: Program,
    target: Target,
    project: Path,
    *variables: str,
    on_end: Callable[[], object] = lambda: None,
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
    outcome = _compare(job, program, project, target, num_cores=cores, resumed_after=resumed_after)
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
    job: TrainingJob, program: Program, project: Path, target: Target, *, num_cores: int, resumed_after: int | None
) -> TrainingReport:
    log = read_log(project / "build" / "log.bin", num_steps=job.num_steps)
    _, weights = read_weights(project / "build" / "weights.bin")
    features = kept_features(program.source)
    codes = _device_codes(features, project) if features and features.kind == "int8" else None
    expected = reference(job, features, codes=codes)
    checks = _checks(job, features, log, weights, expected, codes)
    if codes:
        worst, bound = expected.worst_feature, BOUNDS[INT8].step
        checks.append(Check("kept features", worst, bound, FEATURE_SOURCE, judge(worst, bound=bound)))
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
