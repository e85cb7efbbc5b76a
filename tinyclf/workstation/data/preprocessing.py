"""Preprocessing: how an image becomes the input of a net. It is part of a run, and travels with its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.images import CROPS, to_pixels

if TYPE_CHECKING:  # torch costs a second to import, and building or checking a dataset does not need it
    import torch

# Of ImageNet, RGB, for pixels in 0 .. 1: what the pretrained nets were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CHANNELS = ("RGB", "BGR")

ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image, in this order.

    It is made square as `crop` says and brought to `stored` x `stored` pixels, uint8 RGB: that is what a dataset folder
    holds. Where the net takes another `size`, it is resized (bilinear, antialiased). Pixels p of channel c become
    (p / 255 - mean[c]) / std[c]; `channels` is the order in which the net, `mean` and `std` have them.
    """

    size: int
    stored: int
    crop: str = "squash"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if self.channels not in CHANNELS:
            raise BadInput(f"channels '{self.channels}': choose one of {', '.join(CHANNELS)}")
        if self.crop not in CROPS:
            raise BadInput(f"crop '{self.crop}': choose one of {', '.join(CROPS)}")
        if self.size < 1 or self.stored < 1:
            raise BadInput(f"size {self.size}: images need at least 1 pixel")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise BadInput(f"{name} {values}: give three numbers, one for each channel")
        if min(self.std) <= 0:
            raise BadInput(f"std {self.std}: must be more than 0")

    def pixels(self, image: Path | bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return any image as a dataset folder would hold it: (stored, stored, 3) uint8 RGB.

        Raises:
            Corrupt: the image cannot be read.
        """
        return to_pixels(image, size=self.stored, crop=self.crop)

    def apply(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Turn images (N, stored, stored, 3) uint8 RGB into (N, 3, size, size) float32, channels last in memory."""
        if self.channels == "BGR":
            images = np.ascontiguousarray(images[..., ::-1])
        tensor = _normalise(images, self.mean, self.std)
        return tensor if self.size == images.shape[1] else _resize(tensor, self.size)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def from_dict(given: Mapping[str, Any]) -> Preprocessing:
        """Undo `to_dict`; what is wrong raises TypeError, LookupError, ValueError or BadInput."""
        mean, std = (tuple(float(v) for v in given[name]) for name in ("mean", "std"))
        return Preprocessing(**{**given, "mean": mean, "std": std})


def _normalise(
    images: NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    import torch

    num, height, width, _ = images.shape
    scale = torch.tensor(1 / (255 * np.array(std)), dtype=torch.float32).repeat(width)
    offset = torch.tensor(-np.array(mean) / np.array(std), dtype=torch.float32).repeat(width)
    # Whole rows at a time: an inner loop over three channels would not be vectorised. Few enough to stay in the cache.
    pixels = torch.from_numpy(images.reshape(num * height, width * 3))
    rows = torch.from_numpy(np.empty(pixels.shape, np.float32))  # numpy asks for huge pages: fewer page faults
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        part.copy_(pixels[first : first + ROWS_AT_ONCE])
        torch.addcmul(offset, part, scale, out=part)
    return rows.reshape(num, height, width, 3).permute(0, 3, 1, 2)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    # Normalising is linear and the weights of a resampled pixel sum to one: the order of the two does not matter.
    resized = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return resized.contiguous(memory_format=torch.channels_last)
