"""What a model says of the images of a split, and how good it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import Preprocessing, Split, batches, open_dataset
from tinyclf.workstation.metrics import Metrics, MultiMetrics, bootstrap, interval_lines, measure, measure_multi
from tinyclf.workstation.results.finegrained import FineGrained, fine_grained, has_fine_grained
from tinyclf.workstation.runs.directory import RunConfig, load_run

BATCH_SIZE = 128
LEVEL = 0.95


@dataclass(frozen=True)
class Assessment:
    """Everything measured on one split: `intervals` as `metrics.bootstrap` gives them, empty if not asked for."""

    split: Split
    logits: NDArray[np.float32]
    metrics: Metrics | MultiMetrics
    intervals: dict[str, tuple[float, float]]
    num_resamples: int
    fine_grained: FineGrained | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        content = self.metrics.to_dict()
        if self.num_resamples:
            content["intervals"] = self.intervals
        if self.fine_grained:
            content["fine_grained"] = self.fine_grained.to_dict()
        return content

    def to_lines(self) -> list[str]:
        """Return tables for people."""
        lines = self.metrics.to_lines()
        if self.num_resamples:
            lines += ["", *interval_lines(self.intervals, level=LEVEL, num_resamples=self.num_resamples)]
        if self.fine_grained:
            lines += ["", *self.fine_grained.to_lines()]
        return lines


def predict(model: nn.Module, split: Split, preprocessing: Preprocessing) -> torch.Tensor:
    """Return the logits (N, classes) of every image of `split`, in order; leaves `model` in eval mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(images) for images, _ in batches(split, preprocessing, batch_size=BATCH_SIZE)])


def evaluate(model: nn.Module, split: Split, preprocessing: Preprocessing) -> Metrics | MultiMetrics:
    """Measure `model` on `split`; leaves it in eval mode.

    Raises:
        BadInput: the model has another number of classes than the split, or its training has diverged.
    """
    logits = predict(model, split, preprocessing)
    if logits.shape[1] != len(split.classes):
        raise BadInput(f"the model has {logits.shape[1]} classes, the dataset {len(split.classes)}: they do not belong")
    return _measure(logits.numpy(), split)


def _measure(logits: NDArray[np.float32], split: Split) -> Metrics | MultiMetrics:
    kind = measure_multi if split.labels.ndim > 1 else measure
    return kind(logits, split.labels, classes=split.classes)


def evaluate_run(path: Path, *, split: str, data: Path | None = None) -> Metrics | MultiMetrics:
    """Measure the best model of a run, or a checkpoint, on a split of its own dataset, or of the dataset folder `data`.

    Raises:
        BadInput: as `predict_run`; the run's training has diverged.
    """
    chosen, logits = predict_run(path, split=split, data=data)
    return _measure(logits, chosen)


def assess_run(
    path: Path,
    *,
    split: str,
    data: Path | None = None,
    num_resamples: int = 0,
    loaded: tuple[nn.Module, RunConfig] | None = None,
) -> Assessment:
    """Measure all there is to measure of a run; with `num_resamples`, bootstrap intervals too.

    `loaded` is the model and the run if they are loaded already, or are not those that `path` holds.

    Raises:
        BadInput: as `evaluate_run`.
    """
    chosen, logits = predict_run(path, split=split, data=data, loaded=loaded)
    labels, classes = chosen.labels, chosen.classes
    metrics = _measure(logits, chosen)
    intervals = {}
    if num_resamples:
        intervals = bootstrap(logits, labels, classes=classes, num_resamples=num_resamples, level=LEVEL)
    with_subsets = labels.ndim == 1 and has_fine_grained(chosen.tags, classes=classes)
    subsets = fine_grained(logits.argmax(axis=1), labels, chosen.tags) if with_subsets else None
    return Assessment(chosen, logits, metrics, intervals, num_resamples, subsets)


def predict_run(
    path: Path, *, split: str, data: Path | None = None, loaded: tuple[nn.Module, RunConfig] | None = None
) -> tuple[Split, NDArray[np.float32]]:
    """Return a split of a run's own dataset, or of the folder `data`, and the logits (N, C) of the run's best model.

    `loaded` is the model and the run if they are loaded already, or are not those that `path` holds.

    Raises:
        BadInput: the run or the dataset cannot be read, or their classes differ.
    """
    model, run = loaded or load_run(path)
    dataset = open_dataset(data or run.data)
    check_classes(run, dataset.classes, multi_label=dataset.multi_label, run_name=path, data_name=dataset.path)
    chosen = dataset.split(split)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return chosen, predict(model, chosen, replace(run.preprocessing, stored=dataset.size)).numpy()


def check_classes(
    run: RunConfig, classes: Sequence[str], *, multi_label: bool, run_name: Path | str, data_name: Path
) -> None:
    """Refuse a dataset that asks for something else than the run has learnt.

    Raises:
        BadInput: other classes, another order, or several labels in place of one class.
    """
    if multi_label != run.multi_label:
        kinds = {True: "several labels", False: "one class"}
        raise BadInput(
            f"{data_name} has {kinds[multi_label]} per image, {run_name} was trained on {kinds[not multi_label]}"
        )
    if tuple(classes) != run.classes:
        theirs, ours = ", ".join(classes[:5]), ", ".join(run.classes[:5])
        raise BadInput(
            f"{data_name} has other classes ({len(classes)}: {theirs}) than {run_name} was trained on "
            f"({run.num_classes}: {ours}): evaluate on a dataset with the same classes in the same order"
        )
