"""Rules of updates, and runs of single steps with them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tinyclf.device.run.job import Job
from tinyclf.device.run.step_report import Report
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target
from tinyclf.recipe.update_rule import UpdateRule

SEED = 11
RULES = {
    "momentum": UpdateRule(0.01, momentum=0.9, weight_decay=1e-3),
    "adam": UpdateRule(0.001, optimizer="adam", weight_decay=1e-3),
    "adamw": UpdateRule(0.003, optimizer="adamw", weight_decay=0.1),
    "batch 4": UpdateRule(0.05, batch=4, weight_decay=1e-3),
    "batch 7": UpdateRule(0.05, batch=7, momentum=0.9),
    "clip": UpdateRule(0.05, clip=0.5, weight_decay=1e-3),
    "clip, batch 4": UpdateRule(0.05, clip=0.5, batch=4, momentum=0.5),
    "cosine": UpdateRule(0.05, schedule="cosine", num_updates=10, warmup=3),
    "step": UpdateRule(0.05, schedule="step", num_updates=10, milestones=(0.2, 0.5), gamma=0.3),
    "mse": UpdateRule(0.05, loss="mse", momentum=0.9),
    "all": UpdateRule(0.002, optimizer="adam", batch=4, clip=0.1, schedule="cosine", num_updates=10, weight_decay=0.01),
}


def updates_net() -> nn.Module:
    """Return a small net with every kind of trained layer; its weights are in a natural range."""
    torch.manual_seed(SEED)
    layers = OrderedDict(
        conv=nn.Conv2d(3, 6, 3, stride=2, padding=1),
        relu1=nn.ReLU(),
        depthwise=nn.Conv2d(6, 6, 3, padding=1, groups=6),
        relu2=nn.ReLU(),
        pointwise=nn.Conv2d(6, 10, 1),
        relu3=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        output=nn.Linear(10, 3),
    )
    return nn.Sequential(layers)


def updates_job(rule: UpdateRule, *, num_updates: int, model: nn.Module | None = None, size: int = 9) -> Job:
    rng = np.random.default_rng(SEED)
    num_samples = 5  # unlike any batch: batches differ
    return Job(
        model=model or updates_net(),
        samples=rng.standard_normal((num_samples, 3, size, size)).astype(np.float32),
        labels=np.eye(3, dtype=np.float32)[rng.integers(0, 3, num_samples)],
        num_steps=rule.batch * num_updates,
        rule=rule,
        command="tests",
    )


def execute_updates(job: Job, target: Target, project: Path, *variables: str) -> Report:
    done = execute(job, emit_project(job, target, project), target, project, *variables)
    failed = [c for c in done.comparisons if not c.passed or c.drifted]
    assert not failed, failed[:5]
    trained = {name for name, p in job.model.named_parameters() if p.requires_grad}
    updates = [c.step for c in done.comparisons if c.name == "output.bias"]
    assert updates == list(range(job.rule.batch - 1, job.num_steps, job.rule.batch))
    last = [c for c in done.comparisons if c.name in trained and c.step == job.num_steps - 1]
    assert {c.name for c in last} == trained
    assert max(c.run_error for c in last) <= 1e-5, last
    return done
