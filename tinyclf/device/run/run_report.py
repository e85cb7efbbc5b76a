"""What a training run on a target showed: each comparison with PyTorch, its bound, where that is from, a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32, INT8, RUN_BOUNDS
from tinyclf.device.memory.kept_features import FeatureMemory
from tinyclf.device.reference.quantized import DeviceCodes, QuantizedFeatures
from tinyclf.device.reference.run import ReferenceRun, training_run
from tinyclf.device.reference.steps import relative_error
from tinyclf.device.run.files import (
    DeviceLog,
    read_features,
    shuffled,
)
from tinyclf.device.run.job import TrainingJob
from tinyclf.device.run.verdicts import Verdict, judge
from tinyclf.recipe.update_rule import UpdateRule

ACCURACY_BOUND = 0.5  # points
DRIFT = 10.0  # what drifts is at most so many times as far from PyTorch's in float64 as PyTorch's in float32 is
DRIFT_SOURCE = (
    f"{DRIFT:g} times the error of PyTorch's own run in float32 for this value (losses: up to each step; accuracy: the "
    "share of test samples that it calls otherwise), as the losses drift"
)
SOURCE = "requirement: a device's float32 against PyTorch's float64 over the whole run"
FEATURE_SOURCE = "that of single steps: kept features against PyTorch's, beyond the rounding to 8 bits"


def _checks(
    job: TrainingJob,
    features: FeatureMemory | None,
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
    is_far = RUN_BOUNDS[FLOAT32].loss < loss_error < math.inf
    own = reference(job, features, dtype=torch.float32, codes=codes) if is_far else None
    drift = own if own and is_drift(error, own, expected) else None

    def check(name: str, error: float, bound: float, own_error: float | None) -> Check:
        if error <= bound or own_error is None:
            return Check(name, error, bound, SOURCE, judge(error, bound=bound))
        return _drifting(name, error, max(bound, DRIFT * own_error))

    own_loss = float(np.abs(drift.losses - expected.losses).max()) if drift else None
    checks = [check("loss of every step", loss_error, RUN_BOUNDS[FLOAT32].loss, own_loss)]
    for name, value in expected.weights.items():
        own_error = relative_error(drift.weights[name], value) if drift else None
        checks.append(check(name, relative_error(weights[name], value), RUN_BOUNDS[FLOAT32].weight, own_error))
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


def reference(
    job: TrainingJob,
    features: FeatureMemory | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    codes: Codes | None = None,
) -> ReferenceRun:
    """Return PyTorch's run of `job`, in the order in which the device visits the samples, with `features` kept of them.

    `codes`: the features that the device quantised; what rounding may have put on either side is taken from them.
    """

    def quantized(model: nn.Module) -> QuantizedFeatures:
        assert features is not None
        return QuantizedFeatures(model, first_trained=features.first_trained, device=codes, tie=BOUNDS[INT8].step)

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
        quantized=quantized if features and features.kind == "int8" else None,
    )


def is_drift(error: NDArray[np.float64], own: ReferenceRun, expected: ReferenceRun) -> bool:
    """Tell whether losses with these errors leave PyTorch's no faster than PyTorch's own run in float32 does.

    Compared are the largest errors up to each step: where rounding is amplified both grow alike, however far.
    """
    allowed = np.abs(own.losses - expected.losses)
    if not np.isfinite(error).all() or not np.isfinite(allowed).all():
        return False
    largest, allowed = np.maximum.accumulate(error), DRIFT * np.maximum.accumulate(allowed)
    return bool((largest <= np.maximum(allowed, RUN_BOUNDS[FLOAT32].loss)).all())


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
