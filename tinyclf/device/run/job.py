"""What is to be deployed: single steps, or a training run, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyclf.device.graph.ir import Graph
from tinyclf.device.lowering.lower import training_graph
from tinyclf.device.memory.kept_features import FeatureMemory, feature_memory
from tinyclf.device.run.files import Samples
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant


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
