"""Shares that may be undefined: None where there is nothing to take a share of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shares(parts: NDArray[np.integer[Any]], wholes: NDArray[np.integer[Any]]) -> tuple[float | None, ...]:
    """Return parts / wholes, None where the whole is 0."""
    values = (parts / np.maximum(wholes, 1)).tolist()
    return tuple(value if whole else None for value, whole in zip(values, wholes.tolist(), strict=True))


def mean_defined(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined; None if none is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
