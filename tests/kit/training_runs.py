"""A training run of a net of two layers."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from tinyclf.device.run.files import Samples
from tinyclf.device.run.job import TrainingJob
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant

PLAIN = UpdateRule(0.05, weight_decay=1e-3)


def training_job(
    *,
    num_train: int = 6,
    num_epochs: int = 3,
    checkpoint_every: int = 2,
    num_test: int = 5,
    rule: UpdateRule = PLAIN,
    cache: str = "off",
) -> TrainingJob:
    """Return a run of a net of two layers on images of 6x5, the first one frozen."""
    rng = np.random.default_rng(5)
    torch.manual_seed(5)
    model = nn.Sequential(
        OrderedDict(first=nn.Conv2d(2, 4, 3), relu=nn.ReLU(), conv=nn.Conv2d(4, 8, 1), flat=nn.Flatten())
    )
    model.append(nn.Linear(8 * 4 * 3, 3))
    model.first.requires_grad_(False)

    def images(num: int) -> np.ndarray:
        return rng.standard_normal((num, 2, 6, 5)).astype(np.float32)

    return TrainingJob(
        model=model,
        variant=Variant("FT", k=1),
        samples=Samples(
            images(num_train), rng.integers(0, 3, num_train), images(num_test), rng.integers(0, 3, num_test)
        ),
        num_classes=3,
        num_epochs=num_epochs,
        checkpoint_every=checkpoint_every,
        rule=rule,
        seed=9,
        source=1,
        command="tests",
        cache=cache,
    )
