"""The 1,797 scans of handwritten digits in scikit-learn (8x8 pixels, 17 grey levels), enlarged; needs no network.

They are split 70/15/15 into train, validation and test, class by class. The split depends on the seed alone: with the
same seed, no digit of the clean train split is in the shifted test split.

They are rendered at the asked --size, so that nothing is resized afterwards. With --shifted they look as another camera
might see them: each digit is rotated by up to 25 degrees either way, dark on a light ground in place of light on dark,
and covered with Gaussian noise of 10 % of the full scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import choose_splits

OPTIONS = {"shifted": (False, "Rotate, invert and add noise.")}
SIZE = 32

SHARES = (("train", 0.70), ("validation", 0.15), ("test", 0.15))
MAX_ANGLE = 25.0  # degrees, either way
NOISE = 0.10  # standard deviation, in units of the full scale


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the ten digits."""
    return [str(digit) for digit in range(10)]


def provenance(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return where the scans come from."""
    return {"origin": "scikit-learn load_digits, from the UCI ML hand-written digits", "licence": "CC-BY 4.0"}


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield the digits, (size, size, 3) uint8, split by split, in the order of scikit-learn.

    Raises:
        BadInput: a size outside 8 .. 512, a negative seed, or a split that is not there.
    """
    from sklearn.datasets import load_digits

    size, seed = options["size"], options["seed"]
    if not 8 <= size <= 512:
        raise BadInput(f"digits of {size}x{size} pixels: --size must be 8 to 512")
    if seed < 0:
        raise BadInput(f"--seed {seed}: must be 0 or more")
    wanted = choose_splits(options["split"], available=[name for name, _ in SHARES], where="digits")
    scans, labels = load_digits(return_X_y=True)
    grey = _enlarge(scans.reshape(-1, 8, 8).astype(np.float32) / 16, size=size)
    if options["shifted"]:
        grey = _shift(grey, seed=seed)
    images = np.round(grey.clip(0, 1) * 255).astype(np.uint8)
    indices = _splits(labels, seed=seed)
    for split in wanted:
        for index in indices[split]:
            image = np.repeat(images[index][:, :, None], 3, axis=2)
            yield Item(split, image, int(labels[index]), name=f"digit {index}")


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
