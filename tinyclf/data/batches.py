"""Batches: how pixels become the net's input, and the loader that training reads from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyclf.data.augment import Augmentations, augment
from tinyclf.data.sampling import Position, Sampler, batch_bounds
from tinyclf.data.shards import Split
from tinyclf.data.streaming import read_ahead, window_images

if TYPE_CHECKING:  # torch costs a second to import, and building or checking a dataset does not need it
    import torch

# Of ImageNet, RGB, for pixels in 0 .. 1: what the pretrained nets were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

ROWS_AT_ONCE = 128


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Turn images (N, H, W, 3) uint8 RGB into the input of a net: (N, 3, H, W) float32, channels last in memory.

    A pixel p of channel c becomes (p / 255 - MEAN[c]) / STD[c].
    """
    import torch

    num, height, width, _ = images.shape
    scale = torch.tensor(1 / (255 * np.array(STD)), dtype=torch.float32).repeat(width)
    offset = torch.tensor(-np.array(MEAN) / np.array(STD), dtype=torch.float32).repeat(width)
    # Whole rows at a time: an inner loop over three channels would not be vectorised. Few enough to stay in the cache.
    pixels = torch.from_numpy(images.reshape(num * height, width * 3))
    rows = torch.from_numpy(np.empty(pixels.shape, np.float32))  # numpy asks for huge pages: fewer page faults
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        part.copy_(pixels[first : first + ROWS_AT_ONCE])
        torch.addcmul(offset, part, scale, out=part)
    return rows.reshape(num, height, width, 3).permute(0, 3, 1, 2)


def batches(
    split: Split, *, batch_size: int, order: NDArray[np.int64] | None = None, merge_single: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images (n, 3, H, W) float32 normalised, labels (n,) int64) of the whole split, in `order` if given."""
    import torch

    order = np.arange(len(split)) if order is None else order
    for first, last in batch_bounds(len(order), batch_size=batch_size, merge_single=merge_single):
        indices = order[first:last]
        yield normalise(split.gather(indices)), torch.from_numpy(split.labels[indices])


@dataclass(frozen=True)
class Loader:
    """The training batches of a split: which images and in what order, augmented how, read through how large a window.

    `window_mib` bounds the memory that images are held in; None: the shards are mapped, and mixed as a whole.
    """

    split: Split
    sampler: Sampler
    augmentations: Augmentations
    window_mib: int | None = None

    def __len__(self) -> int:
        return self.sampler.num_batches()

    def batches(self, position: Position) -> Iterator[tuple[Position, torch.Tensor, torch.Tensor]]:
        """Yield what is left of the epoch from `position` on: (position after the batch, images, labels)."""
        import torch

        for after, indices, images in self.read(position):
            number = (after.batch or len(self)) - 1
            tensor = normalise(images)
            if self.augmentations:
                seed = self.sampler.seed
                tensor = augment(
                    tensor, self.augmentations, seed=seed, epoch=position.epoch, batch=number, rank=self.sampler.rank
                )
            yield after, tensor, torch.from_numpy(self.split.labels[indices])

    def read(self, position: Position) -> Iterator[tuple[Position, NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield (position after the batch, indices, images (n, H, W, 3) uint8) of what is left of the epoch."""
        order = self.sampler.batches(position)
        if self.window_mib is None:
            return ((after, indices, self.split.gather(indices)) for after, indices in order)
        num = max(1, self.sampler.window // self.sampler.batch_size)
        return read_ahead(self.split, order, batches_per_window=num)


def make_loader(
    split: Split,
    *,
    batch_size: int,
    seed: int = 0,
    order: str = "shuffled",
    rank: int = 0,
    world: int = 1,
    augmentations: Augmentations | None = None,
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
    return Loader(split, sampler, augmentations or {}, window_mib)
