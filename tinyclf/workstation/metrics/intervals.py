"""How far metrics could be off by the chance of which images were drawn: percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.workstation.metrics.probabilities import check_logits, log_odds
from tinyclf.workstation.metrics.ranking import tie_groups

BLOCK = 1 << 20  # images, over all resamples that are worked on at once
MOST_WORK = 2_000_000_000  # images x resamples x classes up to which rankings are resampled too: about a minute

RANKED = ("auc", "mean_average_precision")

Weights = NDArray[np.int64]  # (b, N): how often each image is in each of b resamples
Values = NDArray[np.float64]  # (b,): one value per resample, nan where it is undefined


def bootstrap(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    *,
    classes: tuple[str, ...],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of the metrics, by their names in `Metrics` or `MultiMetrics`.

    Images are drawn with replacement, N of N; the interval holds the middle `level` of the values over the resamples
    (the percentile method, Efron and Tibshirani 1993, chapter 13). With class indices (N,) these are accuracy,
    balanced_accuracy, macro_f1 and auc; with labels (N, L) accuracy, macro_f1 and mean_average_precision. A metric that
    is undefined in every resample is left out, and so are auc and mean_average_precision where images x resamples x
    classes are above 2e9. The same seed gives the same intervals.

    Raises:
        BadInput: there are no images, or logits are not finite.
    """
    assert num_resamples >= 1, num_resamples
    assert 0 < level < 1, level
    check_logits(logits, labels, num_classes=len(classes))
    metrics = _multi(logits, labels) if labels.ndim == 2 else _single(logits, labels)
    if logits.size * num_resamples > MOST_WORK:
        metrics = {name: metric for name, metric in metrics.items() if name not in RANKED}
    blocks = [
        [metric(weights) for metric in metrics.values()]
        for weights in resample(len(labels), num_resamples=num_resamples, seed=seed)
    ]
    result = {}
    for name, parts in zip(metrics, zip(*blocks, strict=True), strict=True):
        values = np.concatenate(parts)
        defined = values[~np.isnan(values)]
        if len(defined):
            low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
            result[name] = (float(low), float(high))
    return result


def resample(num_images: int, *, num_resamples: int, seed: int) -> Iterator[Weights]:
    """Yield how often each image is drawn, (b, N) with rows that sum to N, until there are `num_resamples` rows."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // num_images)
    for first in range(0, num_resamples, step):
        num = min(step, num_resamples - first)
        drawn = rng.integers(0, num_images, size=(num, num_images))
        drawn += np.arange(num)[:, None] * num_images
        yield np.bincount(drawn.ravel(), minlength=num * num_images).reshape(num, num_images)


def _single(logits: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Callable[[Weights], Values]]:
    """Return the metrics of one class per image as functions of the weights."""
    num_classes, called = logits.shape[1], logits.argmax(axis=1)
    right = labels == called
    by_label, by_called = _Sums.of(labels, num_classes), _Sums.of(called, num_classes)

    def balanced_accuracy(weights: Weights) -> Values:
        return _mean_share(by_label(weights * right), by_label(weights))

    def macro_f1(weights: Weights) -> Values:
        return _mean_share(2 * by_label(weights * right), by_label(weights) + by_called(weights))

    odds = log_odds(logits)
    rated = [1] if num_classes == 2 else range(num_classes)
    orders = [_Order.of(odds[:, index], labels == index) for index in rated]
    return {
        "accuracy": lambda weights: (weights @ right) / len(labels),
        "balanced_accuracy": balanced_accuracy,
        "macro_f1": macro_f1,
        "auc": lambda weights: _mean_defined([order.auc(weights) for order in orders]),
    }


def _multi(logits: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Callable[[Weights], Values]]:
    """Return the metrics of several labels per image as functions of the weights."""
    truth, called = labels == 1, logits > 0
    share_right = (truth == called).mean(axis=1)
    hits, either = (truth & called).astype(np.float64), truth.astype(np.float64) + called
    columns = zip(logits.T.astype(np.float64), truth.T, strict=True)
    orders = [_Order.of(column, positive) for column, positive in columns]

    def macro_f1(weights: Weights) -> Values:
        exact = weights.astype(np.float64)  # BLAS multiplies floats alone; counts are exact in them
        return _mean_share(2 * (exact @ hits), exact @ either)

    return {
        "accuracy": lambda weights: (weights @ share_right) / len(labels),
        "macro_f1": macro_f1,
        "mean_average_precision": lambda weights: _mean_defined([order.average_precision(weights) for order in orders]),
    }


@dataclass(frozen=True)
class _Sums:
    """Sums weights over the images of each class."""

    order: NDArray[np.int64]  # (N,) images sorted by class
    starts: NDArray[np.int64]  # (present,) where in the order each class begins
    present: NDArray[np.int64]  # (present,) the classes that have images
    num_classes: int

    @classmethod
    def of(cls, classes: NDArray[np.int64], num_classes: int) -> _Sums:
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        return cls(order, starts, present, num_classes)

    def __call__(self, weights: Weights) -> Weights:
        """Return the sums of weights (b, N) by class: (b, C)."""
        result = np.zeros((len(weights), self.num_classes), dtype=np.int64)
        result[:, self.present] = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        return result


@dataclass(frozen=True)
class _Order:
    """Images sorted once by a score, from the highest; each resample then needs sums alone."""

    order: NDArray[np.int64]  # (N,)
    starts: NDArray[np.int64]  # (G,) where each group of equal scores begins
    positive: NDArray[np.bool_]  # (N,) in the order

    @classmethod
    def of(cls, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> _Order:
        order, starts = tie_groups(scores)
        return cls(order, starts, positive[order])

    def _counts(self, weights: Weights) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positives and all images of each group of equal scores, (b, G) each."""
        ordered = weights[:, self.order]
        true = ordered * self.positive
        if len(self.starts) == len(self.order):
            return true, ordered
        return np.add.reduceat(true, self.starts, axis=1), np.add.reduceat(ordered, self.starts, axis=1)

    def auc(self, weights: Weights) -> Values:
        """Return the area under the ROC curve of each resample, (b,), as `Ranking.auc`."""
        true, both = self._counts(weights)
        false = both - true
        positives, negatives = true.sum(axis=1), false.sum(axis=1)
        # Twice the negatives below, and the tied ones: in whole numbers.
        beaten = 2 * (negatives[:, None] - np.cumsum(false, axis=1)) + false
        return _share(np.einsum("bg,bg->b", true, beaten), 2 * positives * negatives)

    def average_precision(self, weights: Weights) -> Values:
        """Return the average precision of each resample, (b,), as `Ranking.average_precision`."""
        true, both = self._counts(weights)
        precision = np.cumsum(true, axis=1) / np.maximum(np.cumsum(both, axis=1), 1)
        return _share(np.einsum("bg,bg->b", true, precision), true.sum(axis=1))


def _share(parts: NDArray[Any], wholes: NDArray[Any]) -> NDArray[np.float64]:
    """Return parts / wholes, nan where the whole is 0."""
    result: NDArray[np.float64] = np.where(wholes > 0, parts / np.maximum(wholes, 1), np.nan)
    return result


def _mean_share(parts: NDArray[Any], wholes: NDArray[Any]) -> Values:
    """Return the mean of parts / wholes (b, C) over the classes where it is defined, (b,)."""
    return _mean_defined(list(_share(parts, wholes).T))


def _mean_defined(values: list[Values]) -> Values:
    """Return the mean over the list of those that are defined in each resample, (b,); nan where none is."""
    stacked = np.stack(values)
    defined = ~np.isnan(stacked)
    return _share(np.where(defined, stacked, 0.0).sum(axis=0), defined.sum(axis=0))
