"""Which image belongs to which split (by the names people give folders, or by a seed), and the order within it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput

SPLITS = ("train", "validation", "test")
DEFAULT_SHARES = "70/15/15"

_ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def named_split(name: str) -> str | None:
    """Return the split that a folder or a table cell names ("Val" means "validation"), None if it names none."""
    return _ALIASES.get(name.strip().lower())


def split_in(name: str) -> str | None:
    """Return the split that is a word of a file name ("shard-val_003"), None if there is none or more than one."""
    found = {_ALIASES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _ALIASES}
    return found.pop() if len(found) == 1 else None


def choose_splits(asked: Sequence[str], *, available: Sequence[str], where: str) -> tuple[str, ...]:
    """Return those of `available` that are `asked` for, in their own order; all if none is asked for.

    Raises:
        BadInput: a split is asked for that is not there; `where` says where it was looked for.
    """
    unknown = [split for split in asked if split not in available]
    if unknown:
        raise BadInput(f"{where}: has no split '{unknown[0]}': choose from {', '.join(available) or 'none'}")
    return tuple(split for split in available if not asked or split in asked)


def parse_shares(text: str) -> dict[str, float]:
    """Read "70/15/15" as the shares of train, validation and test; shares of 0 are left out, the sum is 1.

    Raises:
        BadInput: not three numbers from 0 up, or all are 0.
    """
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) != len(SPLITS) or not all(0 <= number < np.inf for number in numbers) or sum(numbers) == 0:
        raise BadInput(f"--shares {text}: give three numbers for train, validation and test, such as {DEFAULT_SHARES}")
    return {split: number / sum(numbers) for split, number in zip(SPLITS, numbers, strict=True) if number}


def assign_splits(
    labels: Sequence[int] | NDArray[np.int64], *, shares: Mapping[str, float], seed: int
) -> NDArray[np.str_]:
    """Return the split of each image (N,), given its class: every class is divided in the same shares.

    It depends on the arguments alone, and what becomes of one class does not depend on the others.

    Raises:
        BadInput: a negative seed.
    """
    if seed < 0:
        raise BadInput(f"--seed {seed}: must be 0 or more")
    classes = np.asarray(labels, dtype=np.int64)
    names = list(shares)
    assigned = np.full(len(classes), names[-1], dtype=np.dtype(f"U{max(map(len, names))}"))
    cuts = np.cumsum(list(shares.values()))[:-1]
    for label in np.unique(classes):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(label)])))
        members = rng.permutation(np.flatnonzero(classes == label))
        parts = np.split(members, np.round(cuts * len(members)).astype(int))
        for name, part in zip(names, parts, strict=True):
            assigned[part] = name
    return assigned


def interleave(labels: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order (N,) in which every stretch holds the classes in about the proportions of the whole.

    Within a class the order is kept. Files sorted by class would leave a --limit, and a window that shuffles, with one.
    """
    classes = np.asarray(labels, dtype=np.int64)
    position = np.empty(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((classes, position))
