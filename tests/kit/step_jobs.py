"""Single steps of an architecture with two classes."""

from __future__ import annotations

import numpy as np

from tinyclf.device.run.job import Job
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze


def step_job(
    variant: Variant,
    *,
    arch: str = "mobilenet_wd4",
    size: int = 32,
    rule: UpdateRule | None = None,
    num_samples: int = 2,
    num_steps: int = 2,
) -> Job:
    """Return steps of an architecture with two classes on `num_samples` images of noise, each `size` pixels square."""
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    return Job(
        model=fold_batchnorm(model),
        samples=np.random.default_rng(0).standard_normal((num_samples, 3, size, size)).astype(np.float32),
        labels=np.eye(2, dtype=np.float32)[np.arange(num_samples) % 2],
        num_steps=num_steps,
        rule=rule or UpdateRule(0.01),
        command="tests",
    )
