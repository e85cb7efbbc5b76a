"""How well a score separates positives from negatives: ROC AUC, average precision, their curves, the best threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Threshold:
    """A threshold of the probability of an answer, and what the split gives at it.

    An image is called positive when its probability is at least `probability`. Chosen to maximise the balanced accuracy
    (the mean of the shares of positives and of negatives that are called right), which does not depend on how many
    there are of each; among equals the one nearest to 0.5. `accuracy` and `f1` (of the positives) are those at the
    threshold.
    """

    probability: float
    balanced_accuracy: float
    accuracy: float
    f1: float


@dataclass(frozen=True)
class Ranking:
    """Images ranked by a score, from the highest; images of the same score are one group.

    `scores` (G,) are the groups'; `true` and `false` (G,) count the positives and negatives of the group and of all
    above it: what is called positive, rightly and wrongly, when the threshold is the group's score.
    """

    scores: NDArray[np.float64]
    true: NDArray[np.int64]
    false: NDArray[np.int64]

    @property
    def num_positive(self) -> int:
        """Return the number of positives."""
        return int(self.true[-1])

    @property
    def num_negative(self) -> int:
        """Return the number of negatives."""
        return int(self.false[-1])

    @property
    def auc(self) -> float | None:
        """Return the area under the ROC curve: how often a positive ranks above a negative, ties by half.

        None without positives or without negatives.
        """
        if not self.num_positive or not self.num_negative:
            return None
        gained, missed = np.diff(self.true, prepend=0), self.num_negative - self.false
        tied = np.diff(self.false, prepend=0)
        return float((gained * (missed + tied / 2)).sum() / self.num_positive / self.num_negative)

    @property
    def average_precision(self) -> float | None:
        """Return the sum over groups of precision x gain in recall, as in scikit-learn; None without positives."""
        if not self.num_positive:
            return None
        gained = np.diff(self.true, prepend=0)
        return float((gained * self.precision).sum() / self.num_positive)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Return the precision at the threshold of each group, (G,)."""
        result: NDArray[np.float64] = self.true / (self.true + self.false)
        return result

    @property
    def recall(self) -> NDArray[np.float64]:
        """Return the share of positives found at the threshold of each group, (G,); 0 without positives."""
        result: NDArray[np.float64] = self.true / max(self.num_positive, 1)
        return result

    @property
    def false_rate(self) -> NDArray[np.float64]:
        """Return the share of negatives called positive at the threshold of each group, (G,); 0 without negatives."""
        result: NDArray[np.float64] = self.false / max(self.num_negative, 1)
        return result


def tie_groups(scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order (N,) of scores (N,) from the highest, and where in it groups of equal scores start, (G,)."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return order, starts


def rank(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Ranking:
    """Rank images by `scores` (N,), N at least 1; `positive` (N,) says which are positives."""
    order, starts = tie_groups(scores)
    ends = np.concatenate([starts[1:], [len(scores)]])
    true = np.cumsum(positive[order], dtype=np.int64)[ends - 1]
    return Ranking(scores[order[starts]], true, ends - true)


def best_threshold(ranking: Ranking) -> Threshold | None:
    """Return the best threshold of a ranking by probability; None without positives or without negatives."""
    positives, negatives = ranking.num_positive, ranking.num_negative
    if not positives or not negatives:
        return None
    true, right = ranking.true, negatives - ranking.false
    # In whole numbers, or rounding would choose among equals.
    doubled = true * negatives + right * positives
    # Half-way to the next group; where that rounds down to it, the group's own probability.
    below = np.concatenate([ranking.scores[1:], [0.0]])
    half_way = (ranking.scores + below) / 2
    half_way = np.where(half_way > below, half_way, ranking.scores)
    equals = np.flatnonzero(doubled == doubled.max())
    best = equals[np.abs(half_way[equals] - 0.5).argmin()]
    return Threshold(
        probability=float(half_way[best]),
        balanced_accuracy=float(doubled[best] / 2 / positives / negatives),
        accuracy=float((true[best] + right[best]) / (positives + negatives)),
        f1=float(2 * true[best] / (positives + true[best] + ranking.false[best])),
    )
