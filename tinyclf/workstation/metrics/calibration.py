"""Whether confidence can be believed: how often answers are right, by how sure the model is of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.workstation.metrics.probabilities import log_odds, sigmoid

NUM_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class Calibration:
    """Predictions in 15 equal-width bins of confidence, (0, 1/15], (1/15, 2/15] and so on; the first has 0 too.

    `counts` (15,) predictions; `confidence` and `share` (15,) the mean confidence and the share that came true, nan in
    empty bins; `error` the expected calibration error: the mean of |share - confidence|, weighted by counts.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    share: NDArray[np.float64]
    error: float


def calibrate(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Calibration:
    """Sort the predictions of logits (N, C) into bins of confidence.

    With class indices (N,) a prediction is an image's most probable class, as in Guo et al. 2017, arXiv 1706.04599;
    with several labels (N, L) of 0 and 1 it is "label l is 1", for every image and label, and its confidence the
    label's probability.
    """
    if labels.ndim == 2:
        return calibration_of(sigmoid(logits.ravel()), labels.ravel() == 1)
    return calibrate_odds(log_odds(logits), logits.argmax(axis=1) == labels)


def calibrate_odds(odds: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Sort images into bins by their most probable class, from log odds (N, C); `right` (N,) says where it is true."""
    return calibration_of(sigmoid(odds.max(axis=1)), right)


def calibration_of(confidence: NDArray[np.float64], true: NDArray[np.bool_]) -> Calibration:
    """Sort predictions into bins by `confidence` (n,); `true` (n,) says which came true."""
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidence, side="left")
    counts = np.bincount(bins, minlength=NUM_BINS)
    filled = np.where(counts, counts, 1)
    summed, hits = (np.bincount(bins, weights=values, minlength=NUM_BINS) for values in (confidence, true))
    error = float(np.abs(hits - summed).sum() / counts.sum())
    return Calibration(
        counts=counts,
        confidence=np.where(counts, summed / filled, np.nan),
        share=np.where(counts, hits / filled, np.nan),
        error=error,
    )
