"""Metrics of a model that calls one class per image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.workstation.metrics.calibration import calibrate_odds
from tinyclf.workstation.metrics.probabilities import check_logits, log_odds, sigmoid, surprise
from tinyclf.workstation.metrics.ranking import Ranking, Threshold, best_threshold, rank
from tinyclf.workstation.metrics.shares import mean_defined, shares
from tinyclf.workstation.metrics.tables import class_lines, confusion_lines, decimal, percent, shown


@dataclass(frozen=True)
class Metrics:
    """Results on one split; tuples run over `classes`, and what is undefined is None.

    `confusion[t][p]` counts images of class t that the model calls p. Undefined are the precision of a class that is
    never called, the recall of one without images, the F1 of one with neither, the average precision without images of
    the class, and the AUC without images of the class or of others. Means are over the classes where they are defined:
    `balanced_accuracy` of recall, `macro_f1` of F1. `auc` and `average_precision` are with two classes those of class
    1, with more the means of each class against the rest (`class_auc`, `class_average_precision`). `calibration_error`
    is the expected calibration error over 15 bins. `best_threshold` is of the probability of class 1 of two.
    """

    num_images: int
    accuracy: float
    balanced_accuracy: float
    loss: float
    macro_f1: float
    auc: float | None
    average_precision: float | None
    calibration_error: float
    best_threshold: Threshold | None
    classes: tuple[str, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    support: tuple[int, ...]
    class_auc: tuple[float | None, ...]
    class_average_precision: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)

    def to_lines(self, *, every_class: bool = False) -> list[str]:
        """Return a table for people, one string per line; of more than 12 classes the worst 10 alone, or all."""
        return [
            f"accuracy {self.accuracy:.1%}, loss {self.loss:.4f}, {self.num_images:,} images",
            f"balanced accuracy {self.balanced_accuracy:.1%}, macro F1 {self.macro_f1:.1%}, AUC {decimal(self.auc)}, "
            f"average precision {decimal(self.average_precision)}, calibration error {self.calibration_error:.4f}",
            *self._threshold_lines(),
            "",
            *class_lines(
                self.classes,
                columns={
                    "precision": [percent(value) for value in self.precision],
                    "recall": [percent(value) for value in self.recall],
                    "F1": [percent(value) for value in self.f1],
                    "AUC": [decimal(value) for value in self.class_auc],
                    "AP": [decimal(value) for value in self.class_average_precision],
                    "images": [f"{count:,}" for count in self.support],
                },
                worst=self.f1,
                confusion=self.confusion,
                every_class=every_class,
            ),
            *confusion_lines(self.classes, self.confusion),
        ]

    def _threshold_lines(self) -> list[str]:
        if self.best_threshold is None:
            return []
        best = self.best_threshold
        return [
            f"best threshold of {shown(self.classes[1])} on this split {best.probability:.4f}: balanced accuracy "
            f"{best.balanced_accuracy:.1%}, accuracy {best.accuracy:.1%}"
        ]


def measure(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], *, classes: tuple[str, ...]) -> Metrics:
    """Measure logits (N, C) against class indices (N,); of equal logits the first counts as called.

    Raises:
        BadInput: there are no images, or logits are not finite.
    """
    check_logits(logits, labels, num_classes=len(classes))
    odds, called = log_odds(logits), logits.argmax(axis=1)
    confusion = confusion_matrix(labels, called, num_classes=len(classes))
    hits, support, num_called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, f1 = shares(hits, support), shares(2 * hits, support + num_called)
    rankings = [rank(odds[:, index], labels == index) for index in range(len(classes))]
    aucs, precisions = [r.auc for r in rankings], [r.average_precision for r in rankings]
    binary = len(classes) == 2
    return Metrics(
        num_images=len(labels),
        accuracy=float(hits.sum() / len(labels)),
        balanced_accuracy=mean_defined(recall) or 0.0,
        loss=float(surprise(odds, labels).mean()),
        macro_f1=mean_defined(f1) or 0.0,
        auc=aucs[1] if binary else mean_defined(aucs),
        average_precision=precisions[1] if binary else mean_defined(precisions),
        calibration_error=calibrate_odds(odds, called == labels).error,
        best_threshold=best_threshold(_by_probability(odds, labels)) if binary else None,
        classes=tuple(classes),
        precision=shares(hits, num_called),
        recall=recall,
        f1=f1,
        support=tuple(support.tolist()),
        class_auc=tuple(aucs),
        class_average_precision=tuple(precisions),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(labels: NDArray[np.int64], called: NDArray[np.int64], *, num_classes: int) -> NDArray[np.int64]:
    """Count images (N,) by true class and called class: (C, C)."""
    cells = np.bincount(labels * num_classes + called, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _by_probability(odds: NDArray[np.float64], labels: NDArray[np.int64]) -> Ranking:
    """Rank by the probability of class 1 as a program has it, where the most probable may round to the same."""
    return rank(sigmoid(odds[:, 1]), labels == 1)
