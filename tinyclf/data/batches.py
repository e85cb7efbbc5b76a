"""Batches: the order of an epoch, how it is cut, and how pixels become the net's input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyclf.data.shards import Split

if TYPE_CHECKING:  # torch costs a second to import, and building or checking a dataset does not need it
    import torch

# Of ImageNet, RGB, for pixels in 0 .. 1: what the pretrained nets were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Turn images (N, H, W, 3) uint8 RGB into the input of a net: (N, 3, H, W) float32, channels last in memory.

    A pixel p of channel c becomes (p / 255 - MEAN[c]) / STD[c].
    """
    import torch

    num, height, width, _ = images.shape
    scale = np.tile(1 / (255 * np.array(STD)), width).astype(np.float32)
    offset = np.tile(np.array(MEAN) / np.array(STD), width).astype(np.float32)
    # Whole rows at a time: an inner loop over three channels would not be vectorised.
    rows = images.reshape(num * height, width * 3).astype(np.float32)
    rows *= scale
    rows -= offset
    return torch.from_numpy(rows.reshape(num, height, width, 3)).permute(0, 3, 1, 2)


def epoch_order(num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order (num_images,) in which `epoch` visits the images; it depends on the arguments alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(num_images)


def batch_bounds(num_images: int, *, batch_size: int, merge_single: bool = False) -> list[tuple[int, int]]:
    """Cut 0 .. num_images into half-open ranges of `batch_size`; the last may be smaller.

    With `merge_single`, a last batch of one image joins the one before it: BatchNorm in train mode cannot take it.
    """
    firsts = list(range(0, num_images, batch_size))
    if merge_single and len(firsts) > 1 and num_images - firsts[-1] == 1:
        firsts.pop()
    return list(zip(firsts, [*firsts[1:], num_images], strict=True))


def batches(
    split: Split, *, batch_size: int, order: NDArray[np.int64] | None = None, merge_single: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images (n, 3, H, W) float32 normalised, labels (n,) int64) of the whole split, in `order` if given."""
    import torch

    order = np.arange(len(split)) if order is None else order
    for first, last in batch_bounds(len(order), batch_size=batch_size, merge_single=merge_single):
        indices = order[first:last]
        yield normalise(split.gather(indices)), torch.from_numpy(split.labels[indices])
