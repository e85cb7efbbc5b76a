"""Augmentation of a batch of normalised images: each kind one function, seeded, and off unless asked for.

Images are (N, C, H, W) float32 as `Preprocessing` makes them; what is uncovered becomes 0, the mean colour. Every image
of a batch draws its own amount. The draws depend on seed, epoch, number of the batch and rank alone: a run that is
resumed in the midst of an epoch sees the same images, on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclf.base.errors import BadInput

if TYPE_CHECKING:
    import torch

Amount = tuple[float, ...]
"""One number, or for a range (least, most)."""
Augmentation = Callable[..., "torch.Tensor"]
"""(images (N, C, H, W), amount, or the two ends of a range, generator) -> images."""


@dataclass(frozen=True)
class Kind:
    """One kind: its function, the amount that holds where none is given, the amounts there are, and what one means."""

    apply: Augmentation
    amount: Amount
    least: float
    most: float
    meaning: str


def _tensor(values: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def flip(images: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Mirror left and right with probability `share`."""
    chosen = np.flatnonzero(rng.random(len(images)) < share)
    flipped = images.clone()
    for index in chosen.tolist():  # a batch as a whole would be copied three times over
        flipped[index] = images[index].flip(2)
    return flipped


def shift(images: torch.Tensor, pixels: float, rng: np.random.Generator) -> torch.Tensor:
    """Move by up to `pixels` whole pixels either way, in both directions."""
    import torch

    _, _, height, width = images.shape
    most = min(int(pixels), height, width)
    moved = torch.zeros_like(images)
    for index, (down, right) in enumerate(rng.integers(-most, most + 1, (len(images), 2)).tolist()):
        to_y, from_y = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height + min(-down, 0))
        to_x, from_x = slice(max(right, 0), width + min(right, 0)), slice(max(-right, 0), width + min(-right, 0))
        moved[index, :, to_y, to_x] = images[index, :, from_y, from_x]
    return moved


def crop(images: torch.Tensor, least: float, most: float, rng: np.random.Generator) -> torch.Tensor:
    """Cut out a share of `least` to `most` of the area, sides 3:4 to 4:3, and enlarge it to the whole."""
    num = len(images)
    area = rng.uniform(least, most, num)
    stretch = np.minimum(math.log(4 / 3), -np.log(area)) / 2  # neither side becomes longer than the image's
    ratio = np.exp(rng.uniform(-1, 1, num) * stretch)
    width, height = np.sqrt(area) * ratio, np.sqrt(area) / ratio
    x, y = rng.uniform(-1, 1, num) * (1 - width), rng.uniform(-1, 1, num) * (1 - height)
    zero = np.zeros(num)
    return _resample(images, [[width, zero, x], [zero, height, y]])


def rotate(images: torch.Tensor, degrees: float, rng: np.random.Generator) -> torch.Tensor:
    """Rotate by up to `degrees` either way about the middle."""
    angle = np.radians(rng.uniform(-degrees, degrees, len(images)))
    stretch = images.shape[2] / images.shape[3]  # the axes of the grid run from -1 to 1, whatever their pixels
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(images))
    return _resample(images, [[cos, -sin * stretch, zero], [sin / stretch, cos, zero]])


def _resample(images: torch.Tensor, matrix: list[list[Any]]) -> torch.Tensor:
    """Take each image at the places that its 2x3 matrix maps a pixel to; bilinear, 0 outside."""
    import torch

    theta = _tensor(np.stack([np.stack(row, axis=1) for row in matrix], axis=1))
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def brightness(images: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Add up to `amount` (in standard deviations of normalised pixels) either way to all channels."""
    return images + _tensor(rng.uniform(-amount, amount, (len(images), 1, 1, 1)))


def contrast(images: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Multiply the distance from the image's mean by 1 - `amount` to 1 + `amount`."""
    factor = _tensor(rng.uniform(1 - amount, 1 + amount, (len(images), 1, 1, 1)))
    # In the order of memory (channels last): a mean over strided dimensions takes ten times as long.
    mean = images.permute(0, 2, 3, 1).flatten(1).mean(dim=1)[:, None, None, None]
    return (images - mean).mul_(factor).add_(mean)


def erase(images: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Blank, in every other image, a rectangle of up to `share` of the area."""
    num, _, height, width = images.shape
    erased = images.clone()
    side = np.sqrt(rng.uniform(0, share, num))
    ratio = np.exp(rng.uniform(-1, 1, num) * math.log(2) / 2)
    tall = np.minimum(side * ratio, 1) * height
    wide = np.minimum(side / ratio, 1) * width
    top, left, chosen = rng.random(num) * (height - tall), rng.random(num) * (width - wide), rng.random(num) < 0.5
    for index in np.flatnonzero(chosen).tolist():
        rows = slice(int(top[index]), int(top[index] + tall[index]))
        erased[index, :, rows, int(left[index]) : int(left[index] + wide[index])] = 0
    return erased


# In the order in which they are applied: first what moves pixels, then what changes them.
KINDS = {
    "flip": Kind(flip, (0.5,), 0, 1, "share of images mirrored"),
    "crop": Kind(crop, (0.5, 1), 0.05, 1, "share of the area that a random crop keeps: the least, or least:most"),
    "rotate": Kind(rotate, (15,), 0, 180, "degrees, either way"),
    "shift": Kind(shift, (4,), 0, 1024, "pixels, either way"),
    "brightness": Kind(brightness, (0.4,), 0, 4, "standard deviations, either way"),
    "contrast": Kind(contrast, (0.3,), 0, 1, "share, either way"),
    "erase": Kind(erase, (0.2,), 0, 1, "most of the area blanked, in half of the images"),
}

Augmentations = dict[str, Amount]
"""Kind -> amount."""


def parse_augmentations(text: str) -> Augmentations:
    """Read "flip,crop=0.3:0.9"; an amount that is left out takes the default of its kind.

    Raises:
        BadInput: an unknown kind, one twice, or an amount out of range.
    """
    found: Augmentations = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, value = part.partition("=")
        if name not in KINDS or name in found:
            raise BadInput(f"--augment {part}: unknown or twice: choose from {', '.join(KINDS)}")
        kind = KINDS[name]
        found[name] = _amount(value, kind.amount) if given else kind.amount
        if not all(kind.least <= value <= kind.most for value in found[name]) or found[name] != _sorted(found[name]):
            raise BadInput(f"--augment {part}: give {kind.least:g} to {kind.most:g}, {kind.meaning}")
    return found


def _amount(text: str, default: Amount) -> Amount:
    """Read an amount; where the kind has a range and only one end is given, the other is the default's."""
    try:
        given = tuple(float(value) for value in text.split(":"))
    except ValueError:
        given = ()
    return given + default[len(given) :] if 1 <= len(given) <= len(default) else (math.nan,)


def _sorted(amount: Amount) -> Amount:
    return tuple(sorted(amount))


def generator(*stream: int, seed: int, epoch: int, batch: int, rank: int = 0) -> np.random.Generator:
    """Return the random numbers of one batch: they depend on the arguments alone, on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, batch, rank, *stream])))


def augment(
    images: torch.Tensor, augmentations: Augmentations, *, seed: int, epoch: int, batch: int, rank: int = 0
) -> torch.Tensor:
    """Apply `augmentations` to a batch; `images` itself is not changed."""
    import torch

    for number, (name, kind) in enumerate(KINDS.items()):
        if name in augmentations:
            # A stream of its own for each kind: one more does not change what the others draw.
            rng = generator(number, seed=seed, epoch=epoch, batch=batch, rank=rank)
            images = kind.apply(images, *augmentations[name], rng)
    return images.contiguous(memory_format=torch.channels_last)
