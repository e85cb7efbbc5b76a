"""What a training run on a target showed: each comparison with PyTorch, its bound, where that is from, a verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tinyclf.feature_memory import FeatureMemory
from tinyclf.rules import UpdateRule
from tinyclf.verdicts import Verdict


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
