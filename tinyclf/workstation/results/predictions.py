"""Predictions for image files: found in folders, read, classified, and written as a table, CSV, JSON or a picture."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.images import Corrupt, is_image_file
from tinyclf.workstation.data.sheet import draw_sheet
from tinyclf.workstation.metrics import sigmoid
from tinyclf.workstation.results.classifiers import BATCH_SIZE, Classifier

SHEET_MOST = 256  # images on a contact sheet
SHEET_WIDTH = 128  # least pixels of one, so that a file name can be read


@dataclass(frozen=True)
class Prediction:
    """What a net says of one image.

    `labels` are the names of what is there: the class, or every label with a probability above 0.5. `probabilities`
    and `logits` are in the order of the classes; the probabilities of classes sum to 1, those of labels do not.
    """

    file: Path
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: tuple[float, ...]

    @property
    def name(self) -> str:
        """Return the path as text that can be printed and encoded, whatever bytes it is made of."""
        return os.fsencode(self.file).decode("utf-8", "replace")

    def shares(self, classes: Sequence[str]) -> list[float]:
        """Return the probabilities of `labels`."""
        by_name = dict(zip(classes, self.probabilities, strict=True))
        return [by_name[label] for label in self.labels]


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files to read, each once: a file as given, of a folder all images in it and below, sorted by path.

    Raises:
        BadInput: a folder without images.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = None  # whether it can be read is seen when it is
            continue
        found = sorted(filter(is_image_file, path.rglob("*")), key=lambda file: file.as_posix())
        if not found:
            raise BadInput(f"{path}: no image in this folder or below it (.jpg, .png and other formats of images)")
        files.update(dict.fromkeys(found))
    return list(files)


def predict_files(
    classifier: Classifier, files: Sequence[Path], *, on_failure: Callable[[Path, str], None] = lambda file, why: None
) -> Iterator[Prediction]:
    """Yield the prediction of each file, in order; those that cannot be read go to `on_failure` with the reason."""
    for first in range(0, len(files), BATCH_SIZE):
        readable, pixels = [], []
        for file in files[first : first + BATCH_SIZE]:
            try:
                pixels.append(read_pixels(classifier, file))
                readable.append(file)
            except Corrupt as error:
                on_failure(file, str(error))
        if readable:
            yield from predictions_of(classifier, readable, classifier.logits(np.stack(pixels)))


def read_pixels(classifier: Classifier, file: Path) -> NDArray[np.uint8]:
    """Return the image as the preprocessing begins with it: (stored, stored, 3) uint8 RGB.

    Raises:
        Corrupt: it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of EXIF and sizes: the image is read all the same, or it is Corrupt
        return classifier.preprocessing.pixels(file)


def predictions_of(classifier: Classifier, files: Sequence[Path], logits: NDArray[np.float32]) -> list[Prediction]:
    """Return one prediction per row of `logits` (N, classes)."""
    return [
        Prediction(file, _labels(classifier, values), tuple(shares), tuple(values))
        for file, shares, values in zip(
            files,
            probabilities(logits, multi_label=classifier.multi_label).tolist(),
            logits.astype(np.float64).tolist(),
            strict=True,
        )
    ]


def _labels(classifier: Classifier, logits: Sequence[float]) -> tuple[str, ...]:
    if classifier.multi_label:
        return tuple(name for name, value in zip(classifier.classes, logits, strict=True) if value > 0)
    return (classifier.classes[int(np.argmax(logits))],)


def probabilities(logits: NDArray[np.float32], *, multi_label: bool) -> NDArray[np.float64]:
    """Return the softmax of each row of logits (N, C), or where an image has several labels the sigmoid of each."""
    values = logits.astype(np.float64)
    if multi_label:
        return sigmoid(values)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


# --- writing ----------------------------------------------------------------------------------------------------------


def to_table(predictions: Sequence[Prediction], classifier: Classifier) -> str:
    """Return lines for people: file, then the class or the labels, each with its probability."""
    names = [_printable(prediction.name) for prediction in predictions]
    width = max(map(len, names), default=0)
    return "".join(
        f"{name:<{width}}  {_answer(prediction, classifier)}\n"
        for name, prediction in zip(names, predictions, strict=True)
    )


def to_csv(predictions: Sequence[Prediction], classifier: Classifier) -> str:
    """Return CSV: file, prediction and probability (several are separated by ";"), all probabilities, all logits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [f"{what}:{name}" for what in ("probability", "logit") for name in classifier.classes]
    writer.writerow(["file", "prediction", "probability", *columns])
    for p in predictions:
        shares = ";".join(map(_number, p.shares(classifier.classes)))
        writer.writerow([p.name, ";".join(p.labels), shares, *map(_number, (*p.probabilities, *p.logits))])
    return stream.getvalue()


def to_json(predictions: Sequence[Prediction], classifier: Classifier) -> str:
    """Return JSON: the classes, and per image its labels, probabilities and logits in their order."""
    content = {
        "classes": list(classifier.classes),
        "multi_label": classifier.multi_label,
        "predictions": [
            {"file": p.name, "labels": p.labels, "probabilities": p.probabilities, "logits": p.logits}
            for p in predictions
        ],
    }
    return json.dumps(content, indent=1) + "\n"


FORMATS = {"table": to_table, "csv": to_csv, "json": to_json}


def write_prediction_sheet(predictions: Sequence[Prediction], classifier: Classifier, file: Path) -> int:
    """Draw the first images, as the net's preprocessing stores them, with name and answer; return how many.

    Raises:
        BadInput: nothing to draw, `file` is no .png, or an image can no longer be read.
    """
    check_sheet_name(file)
    shown = predictions[:SHEET_MOST]
    if not shown:
        raise BadInput(f"--sheet {file}: no image could be read, there is nothing to draw")
    try:
        images = [read_pixels(classifier, prediction.file) for prediction in shown]
    except Corrupt as error:
        raise BadInput(f"--sheet {file}: an image has changed since it was classified: {error}") from error
    captions = [[_printable(p.file.name), _answer(p, classifier)] for p in shown]
    draw_sheet(images, captions, file, least_width=SHEET_WIDTH)
    return len(shown)


def check_sheet_name(file: Path) -> None:
    """Refuse a file that is no .png; raises BadInput."""
    if file.suffix.lower() != ".png":
        raise BadInput(f"--sheet {file}: a PNG is written, its name must end in .png")


def _answer(prediction: Prediction, classifier: Classifier) -> str:
    shares = prediction.shares(classifier.classes)
    return ", ".join(f"{name} ({share:.1%})" for name, share in zip(prediction.labels, shares, strict=True)) or "-"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _number(value: float) -> str:
    return f"{value:.9g}"  # as many digits as float32 has
