"""How good a model is on a split: accuracy, loss, precision, recall and F1 per class, the confusion matrix."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyclf.data import Preprocessing, Split, batches, open_dataset
from tinyclf.errors import BadInput, Unsupported
from tinyclf.runs import load_run

BATCH_SIZE = 128


@dataclass(frozen=True)
class Metrics:
    """Results on one split; tuples run over `classes`.

    `confusion[t][p]` counts images of class t that the model calls p. A share whose denominator is 0 is 0.
    """

    num_images: int
    accuracy: float
    loss: float
    classes: tuple[str, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON can hold them."""
        return asdict(self)

    def to_lines(self) -> list[str]:
        """Return a table for people, one string per line."""
        width = max(len("class"), *(len(name) for name in self.classes))
        cell = max(4, len(str(max(map(max, self.confusion)))))
        lines = [
            f"accuracy {self.accuracy:.1%}, loss {self.loss:.4f}, {self.num_images:,} images",
            "",
            f"{'class':<{width}}  precision  recall      F1  images   called, in the order of the rows",
        ]
        for i, name in enumerate(self.classes):
            called = " ".join(f"{count:>{cell}}" for count in self.confusion[i])
            shares = f"{self.precision[i]:>9.1%}  {self.recall[i]:>6.1%}  {self.f1[i]:>6.1%}"
            lines.append(f"{name:<{width}}  {shares}  {self.support[i]:>6}   {called}")
        return lines


def predict(model: nn.Module, split: Split, preprocessing: Preprocessing) -> torch.Tensor:
    """Return the logits (N, classes) of every image of `split`, in order; leaves `model` in eval mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(images) for images, _ in batches(split, preprocessing, batch_size=BATCH_SIZE)])


def evaluate(model: nn.Module, split: Split, preprocessing: Preprocessing) -> Metrics:
    """Measure `model` on `split`; leaves it in eval mode.

    Raises:
        BadInput: the model has another number of classes than the split.
    """
    logits = predict(model, split, preprocessing)
    if logits.shape[1] != len(split.classes):
        raise BadInput(f"the model has {logits.shape[1]} classes, the dataset {len(split.classes)}: they do not belong")
    labels = torch.from_numpy(split.labels)
    confusion = np.zeros((len(split.classes),) * 2, dtype=np.int64)
    np.add.at(confusion, (split.labels, logits.argmax(1).numpy()), 1)
    return metrics_of(confusion, loss=nn.functional.cross_entropy(logits, labels).item(), classes=split.classes)


def metrics_of(confusion: np.ndarray[Any, np.dtype[np.int64]], *, loss: float, classes: tuple[str, ...]) -> Metrics:
    """Derive all metrics from a confusion matrix (true, predicted)."""
    hits, support, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return Metrics(
        num_images=int(confusion.sum()),
        accuracy=float(hits.sum() / confusion.sum()),
        loss=loss,
        classes=classes,
        precision=_shares(hits, called),
        recall=_shares(hits, support),
        f1=_shares(2 * hits, support + called),
        support=tuple(support.tolist()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _shares(parts: Any, wholes: Any) -> tuple[float, ...]:
    return tuple((parts / np.maximum(wholes, 1)).tolist())


def evaluate_run(run_dir: Path, *, split: str, data: Path | None = None) -> Metrics:
    """Measure the best model of a run on a split of its own dataset, or of the dataset folder `data`.

    Raises:
        BadInput: the run or the dataset cannot be read, or they differ in image size or classes.
    """
    model, config = load_run(run_dir)
    dataset = open_dataset(data or config.data)
    if dataset.multi_label:
        raise Unsupported(
            f"{dataset.path}: has {len(dataset.classes)} labels per image: eval takes one class per image"
        )
    if dataset.classes != config.classes:
        theirs, ours = ", ".join(dataset.classes[:5]), ", ".join(config.classes[:5])
        raise BadInput(
            f"{dataset.path} has other classes ({len(dataset.classes)}: {theirs}) than {run_dir} was trained on "
            f"({len(config.classes)}: {ours}): evaluate on a dataset with the same classes in the same order"
        )
    preprocessing = replace(config.preprocessing, stored=dataset.size)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return evaluate(model, dataset.split(split), preprocessing)
