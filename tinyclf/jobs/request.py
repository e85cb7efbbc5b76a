"""Where the two halves meet: what a user asks to deploy, and the net and the samples that a run gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.device.targets.target import Target
from tinyclf.recipe.update_options import UpdateOptions
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.data import Dataset, Split, open_dataset
from tinyclf.workstation.data.sampling import epoch_order
from tinyclf.workstation.nets.build import freeze
from tinyclf.workstation.results.evaluate import check_classes
from tinyclf.workstation.runs.directory import RunConfig, load_run

MOST_64_BITS = 2**64 - 1


@dataclass(frozen=True)
class Request(UpdateOptions):
    """What a user asks to deploy. None: the default, which with `from_run` is the run's own.

    Without `from_run` the weights, samples and labels are random, from `seed`; `size` is in pixels. `num_steps` is of
    single steps.
    """

    target: Target
    variant: Variant | None = None
    arch: str | None = None
    size: int | None = None
    num_classes: int | None = None
    small_input: bool = False
    from_run: Path | None = None
    data: Path | None = None
    num_steps: int = 1
    num_samples: int | None = None
    seed: int = 0
    recompute: bool = False


@dataclass(frozen=True)
class TrainingRequest(Request):
    """What a user asks of a training run of `num_epochs` in place of steps; `num_test` None: all test samples."""

    num_epochs: int = 1
    num_test: int | None = None
    checkpoint_every: int = 0
    cache: str = "off"


def check_request(request: Request) -> None:
    """Refuse what does not go together, or is out of its range, before anything is read.

    Raises:
        BadInput: says what.
    """
    if request.num_samples is not None and request.num_samples < 1:
        raise BadInput("--samples must be at least 1")
    if not 0 <= request.seed <= MOST_64_BITS:
        raise BadInput("--seed must be in 0 .. 2^64 - 1")
    if request.from_run and (request.arch or request.size or request.num_classes or request.small_input):
        raise BadInput(
            "--from RUN already says architecture, size, classes and the kind of input: leave out --arch, --size, "
            "--classes and --small-input"
        )


@dataclass(frozen=True)
class LoadedRun:
    """What a run gives a deployment: its best weights, what is trained of them, its settings and its data.

    BatchNorm is not folded yet. `dataset` is the one that was asked for.
    """

    model: nn.Module
    variant: Variant
    config: RunConfig
    dataset: Dataset

    @property
    def training(self) -> Split:
        """Return the split to train on."""
        return self.dataset.split(self.dataset.training_split)

    def take(
        self, split: Split, num: int | None, *, option: str, seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return `num` images of a split (num, C, H, W), None: all, prepared for the net, and their classes.

        Which ones depends on the seed.

        Raises:
            BadInput: there are not so many; `option` is how the user asked for them.
        """
        if num is not None and num > len(split):
            raise BadInput(f"{option} {num}: the {split.name} split has {len(split):,}")
        order = epoch_order(len(split), seed=seed, epoch=0)[:num]
        images = self.config.preprocessing.apply(split.gather(order)).contiguous().numpy()
        return images, split.labels[order].astype(np.int64)


def load_for(run: Path, request: Request) -> LoadedRun:
    """Return what `run` gives to what is asked for.

    Raises:
        BadInput: the run or the dataset cannot be read, or has other classes.
        Unsupported: the run was trained on several labels per image.
    """
    model, config = load_run(run)
    if config.multi_label:
        raise Unsupported(f"{run}: was trained on several labels per image, the device trains on one class")
    variant = request.variant or config.variant
    freeze(model, variant)
    dataset = open_dataset(request.data or config.data)
    check_classes(config, dataset.classes, multi_label=dataset.multi_label, run_name=run, data_name=dataset.path)
    config = replace(config, preprocessing=replace(config.preprocessing, stored=dataset.size))
    return LoadedRun(model, variant, config, dataset)
