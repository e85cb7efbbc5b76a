"""What is to be deployed: single steps, or a training run, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyclf.device.run.files import Samples
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant


@dataclass(frozen=True)
class Job:
    """What to deploy: a model with BatchNorm folded, samples (N, C, H, W), one-hot labels (N, classes), and how.

    `command` is how the user asked for it, up to the number of samples, and `options` what stands behind that: they
    stand in the emitted headers.
    """

    model: nn.Module
    samples: NDArray[np.float32]
    labels: NDArray[np.float32]
    num_steps: int  # one sample each
    rule: UpdateRule
    command: str
    options: str = ""
    recompute: bool = False  # activations, where they would not fit the target; where all fits, as few bytes as can be
    gradients: bool = True  # are reported; otherwise a step does just what it does within a training run
    fewer_will_do: bool = False  # of the samples, the first that fit, at least one


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
