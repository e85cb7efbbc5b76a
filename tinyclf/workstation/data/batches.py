"""Batches: a split in order, and the loader that training reads from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.augment import Augmentations, augment, generator
from tinyclf.workstation.data.preprocessing import Preprocessing
from tinyclf.workstation.data.sampling import Position, Sampler
from tinyclf.workstation.data.shards import Split
from tinyclf.workstation.data.streaming import read_ahead, window_images

if TYPE_CHECKING:  # torch costs a second to import, and building or checking a dataset does not need it
    import torch

Transform = Callable[["torch.Tensor", np.random.Generator], "torch.Tensor"]
"""A change of the user's own to the training images: (n, 3, H, W) float32 preprocessed, and a seeded generator."""


def batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    order: NDArray[np.int64] | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images (n, 3, H, W) float32, labels (n,) or (n, L) int64) of the whole split, in `order` if given."""
    import torch

    order = np.arange(len(split)) if order is None else order
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        yield preprocessing.apply(split.gather(indices)), torch.from_numpy(split.labels[indices])


@dataclass(frozen=True)
class Loader:
    """The training batches of a split: which images and in what order, augmented how, read through how large a window.

    `window_mib` bounds the memory that images are held in; None: the shards are mapped, and mixed as a whole.
    """

    split: Split
    sampler: Sampler
    preprocessing: Preprocessing
    augmentations: Augmentations
    transform: Transform | None = None
    window_mib: int | None = None

    def __len__(self) -> int:
        return self.sampler.num_batches()

    def batches(self, position: Position) -> Iterator[tuple[Position, torch.Tensor, torch.Tensor]]:
        """Yield what is left of the epoch from `position` on: (position after the batch, images, labels)."""
        import torch

        for after, indices, images in self.read(position):
            number = (after.batch or len(self)) - 1
            tensor = self.augmented(self.preprocessing.apply(images), epoch=position.epoch, batch=number)
            yield after, tensor, torch.from_numpy(self.split.labels[indices])

    def augmented(self, images: torch.Tensor, *, epoch: int, batch: int) -> torch.Tensor:
        """Apply augmentations and the user's transform to preprocessed images; the draws depend on the place alone."""
        where = {"seed": self.sampler.seed, "epoch": epoch, "batch": batch, "rank": self.sampler.rank}
        if self.augmentations:
            images = augment(images, self.augmentations, **where)
        return self._transformed(images, generator(**where)) if self.transform else images

    def _transformed(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        assert self.transform is not None
        changed = self.transform(images, rng)
        if getattr(changed, "shape", None) != images.shape or changed.dtype != images.dtype:
            what = f"{tuple(changed.shape)} {changed.dtype}" if hasattr(changed, "shape") else type(changed).__name__
            raise BadInput(f"the transform gives {what}, it was given images {tuple(images.shape)} {images.dtype}")
        return changed

    def read(self, position: Position) -> Iterator[tuple[Position, NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield (position after the batch, indices, images (n, H, W, 3) uint8) of what is left of the epoch."""
        order = self.sampler.batches(position)
        if self.window_mib is None:
            return ((after, indices, self.split.gather(indices)) for after, indices in order)
        num = max(1, self.sampler.window // self.sampler.batch_size)
        return read_ahead(self.split, order, batches_per_window=num)


def make_loader(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int = 0,
    order: str = "shuffled",
    rank: int = 0,
    world: int = 1,
    augmentations: Augmentations | None = None,
    transform: Transform | None = None,
    window_mib: int | None = None,
    merge_single: bool = False,
) -> Loader:
    """Return the loader of `split`; the arguments are those of `Sampler` and `Loader`.

    Raises:
        BadInput: they do not go together, or a window in which no batch fits.
    """
    window = 0 if window_mib is None else window_images(split, window_mib=window_mib, batch_size=batch_size)
    sampler = Sampler(
        num_images=len(split),
        batch_size=batch_size,
        seed=seed,
        order=order,
        rank=rank,
        world=world,
        window=window,
        shard_sizes=tuple(len(shard) for shard in split.shards),
        labels=split.labels if order == "balanced" else (),
        merge_single=merge_single,
    )
    return Loader(split, sampler, preprocessing, augmentations or {}, transform, window_mib)
