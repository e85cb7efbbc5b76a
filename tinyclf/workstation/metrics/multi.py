"""Metrics of a model that answers several labels per image with yes or no."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.workstation.metrics.calibration import calibrate
from tinyclf.workstation.metrics.probabilities import binary_cross_entropy, check_logits, sigmoid
from tinyclf.workstation.metrics.ranking import Threshold, best_threshold, rank
from tinyclf.workstation.metrics.shares import mean_defined, shares
from tinyclf.workstation.metrics.tables import class_lines, decimal, percent


@dataclass(frozen=True)
class MultiMetrics:
    """Results on one split; tuples run over the labels, whose names are `classes`, and what is undefined is None.

    A label is called where its probability is above 0.5. `accuracy` is the mean over labels of `label_accuracy`;
    `exact_match` the share of images with every label right; `loss` the mean binary cross entropy. `called`, `support`
    and `hits` count the images of which a label is called, true, and both. Undefined are the precision of a label that
    is never called, recall and average precision of one that is never true, the F1 of one that is neither, AUC and best
    threshold of one that is always or never true. `macro_f1`, `auc` and `mean_average_precision` are means over the
    labels where they are defined; `micro_f1` is that of all answers together. `calibration_error` is the expected
    calibration error of all probabilities over 15 bins.
    """

    num_images: int
    accuracy: float
    exact_match: float
    loss: float
    macro_f1: float | None
    micro_f1: float | None
    auc: float | None
    mean_average_precision: float | None
    calibration_error: float
    classes: tuple[str, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    support: tuple[int, ...]
    called: tuple[int, ...]
    hits: tuple[int, ...]
    label_accuracy: tuple[float, ...]
    label_auc: tuple[float | None, ...]
    label_average_precision: tuple[float | None, ...]
    best_threshold: tuple[Threshold | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)

    def to_lines(self, *, every_class: bool = False) -> list[str]:
        """Return a table for people, one string per line; of more than 12 labels the worst 10 alone, or all."""
        thresholds = ["-" if best is None else f"{best.probability:.4f}" for best in self.best_threshold]
        return [
            f"accuracy {self.accuracy:.1%}, loss {self.loss:.4f}, {self.num_images:,} images",
            f"all labels right {self.exact_match:.1%}, macro F1 {percent(self.macro_f1)}, micro F1 "
            f"{percent(self.micro_f1)}, AUC {decimal(self.auc)}, mAP "
            f"{decimal(self.mean_average_precision)}, calibration error {self.calibration_error:.4f}",
            "",
            *class_lines(
                self.classes,
                columns={
                    "accuracy": [percent(value) for value in self.label_accuracy],
                    "precision": [percent(value) for value in self.precision],
                    "recall": [percent(value) for value in self.recall],
                    "F1": [percent(value) for value in self.f1],
                    "AUC": [decimal(value) for value in self.label_auc],
                    "AP": [decimal(value) for value in self.label_average_precision],
                    "threshold": thresholds,
                    "images": [f"{count:,}" for count in self.support],
                },
                worst=self.f1,
                every_class=every_class,
                what="label",
            ),
        ]


def measure_multi(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], *, classes: tuple[str, ...]
) -> MultiMetrics:
    """Measure logits (N, L) against labels (N, L) of 0 and 1.

    Raises:
        BadInput: there are no images, or logits are not finite.
    """
    check_logits(logits, labels, num_classes=len(classes))
    truth, called = labels == 1, logits > 0
    right = truth == called
    hits, support, num_called = (values.sum(axis=0) for values in (truth & called, truth, called))
    f1 = shares(2 * hits, support + num_called)
    rankings = [rank(column, true) for column, true in zip(logits.T.astype(np.float64), truth.T, strict=True)]
    by_probability = [rank(sigmoid(column), true) for column, true in zip(logits.T, truth.T, strict=True)]
    aucs, precisions = [r.auc for r in rankings], [r.average_precision for r in rankings]
    return MultiMetrics(
        num_images=len(labels),
        accuracy=float(right.mean()),
        exact_match=float(right.all(axis=1).mean()),
        loss=float(binary_cross_entropy(logits, labels).mean()),
        macro_f1=mean_defined(f1),
        micro_f1=shares(np.array([2 * hits.sum()]), np.array([(support + num_called).sum()]))[0],
        auc=mean_defined(aucs),
        mean_average_precision=mean_defined(precisions),
        calibration_error=calibrate(logits, labels).error,
        classes=tuple(classes),
        precision=shares(hits, num_called),
        recall=shares(hits, support),
        f1=f1,
        support=tuple(support.tolist()),
        called=tuple(num_called.tolist()),
        hits=tuple(hits.tolist()),
        label_accuracy=tuple(right.mean(axis=0).tolist()),
        label_auc=tuple(aucs),
        label_average_precision=tuple(precisions),
        best_threshold=tuple(best_threshold(ranking) for ranking in by_probability),
    )
