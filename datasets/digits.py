"""The 1,797 scans of handwritten digits in scikit-learn (8x8 pixels, 17 grey levels), enlarged; needs no network.

They are split 70/15/15 into train, validation and test, class by class. The split depends on the seed alone: with the
same seed, no digit of the clean train split is in the shifted test split.

With --shifted they look as another camera might see them: each digit is rotated by up to 25 degrees either way, dark on
a light ground in place of light on dark, and covered with Gaussian noise of 10 % of the full scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.errors import BadInput

OPTIONS = {
    "size": (32, "Width and height in pixels."),
    "seed": (0, "Of the split and of the shift."),
    "shifted": (False, "Rotate, invert and add noise."),
}

SHARES = (("train", 0.70), ("validation", 0.15), ("test", 0.15))
MAX_ANGLE = 25.0  # degrees, either way
NOISE = 0.10  # standard deviation, in units of the full scale


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the ten digits."""
    return [str(digit) for digit in range(10)]


def build(options: dict[str, Any]) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    """Yield (split, image (size, size, 3) uint8, digit).

    Raises:
        BadInput: a size outside 8 .. 512, or a negative seed.
    """
    from sklearn.datasets import load_digits

    size, seed = options["size"], options["seed"]
    if not 8 <= size <= 512:
        raise BadInput(f"digits of {size}x{size} pixels: --size must be 8 to 512")
    if seed < 0:
        raise BadInput(f"--seed {seed}: must be 0 or more")
    scans, labels = load_digits(return_X_y=True)
    grey = _enlarge(scans.reshape(-1, 8, 8).astype(np.float32) / 16, size=size)
    if options["shifted"]:
        grey = _shift(grey, seed=seed)
    images = np.round(grey.clip(0, 1) * 255).astype(np.uint8)
    for split, indices in _splits(labels, seed=seed).items():
        for index in indices:
            yield split, np.repeat(images[index][:, :, None], 3, axis=2), int(labels[index])


def _splits(labels: NDArray[np.int64], *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the indices of each split, ascending; every class is divided in the same shares."""
    rng = np.random.default_rng([seed, 0])
    cuts = np.cumsum([share for _, share in SHARES])[:-1]
    parts = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        parts.append(np.split(members, np.round(cuts * len(members)).astype(int)))
    return {name: np.sort(np.concatenate([part[i] for part in parts])) for i, (name, _) in enumerate(SHARES)}


def _enlarge(scans: NDArray[np.float32], *, size: int) -> NDArray[np.float32]:
    """Enlarge (N, 8, 8) to (N, size, size), bicubic."""
    import torch

    images = torch.from_numpy(scans)[:, None]
    large: NDArray[np.float32] = torch.nn.functional.interpolate(images, (size, size), mode="bicubic")[:, 0].numpy()
    return large


def _shift(grey: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
    """Rotate, invert and add noise to (N, H, W) in 0 .. 1."""
    import torch

    rng = np.random.default_rng([seed, 1])
    angle = np.radians(rng.uniform(-MAX_ANGLE, MAX_ANGLE, len(grey)))
    noise = rng.normal(0, NOISE, grey.shape).astype(np.float32)
    zero = np.zeros_like(angle)
    matrix = np.stack([np.cos(angle), -np.sin(angle), zero, np.sin(angle), np.cos(angle), zero], axis=1)
    theta = torch.from_numpy(matrix.reshape(-1, 2, 3).astype(np.float32))
    images = torch.from_numpy(grey)[:, None]
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    rotated = torch.nn.functional.grid_sample(images, grid, align_corners=False)[:, 0].numpy()
    shifted: NDArray[np.float32] = 1 - rotated + noise
    return shifted
