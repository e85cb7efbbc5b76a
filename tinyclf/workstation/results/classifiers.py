"""A trained net ready for use, pixels in and logits out: through PyTorch from a run, or ONNX Runtime from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import Preprocessing
from tinyclf.workstation.runs.directory import RunConfig, load_run

BATCH_SIZE = 64
INPUT = "images"


class Classifier(Protocol):
    """What predictions need; `classes` are the names of the logits, of labels where an image has several."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, or labels."""

    @property
    def multi_label(self) -> bool:
        """Say whether an image has several labels."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how an image becomes the net's input."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, classes) of pixels (N, stored, stored, 3) uint8 RGB."""


@dataclass(frozen=True)
class TorchClassifier:
    """The model of a run, in PyTorch."""

    model: nn.Module
    classes: tuple[str, ...]
    multi_label: bool
    preprocessing: Preprocessing

    @staticmethod
    def of(model: nn.Module, run: RunConfig) -> TorchClassifier:
        """Return the classifier of a model that is loaded already."""
        return TorchClassifier(model.eval(), run.classes, run.multi_label, run.preprocessing)

    @staticmethod
    def open(path: Path) -> TorchClassifier:
        """Load a run directory or a checkpoint; raises what `load_run` raises."""
        return TorchClassifier.of(*load_run(path))

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, classes) of pixels (N, stored, stored, 3) uint8 RGB."""

        def compute(part: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode():
                result: NDArray[np.float32] = self.model(self.preprocessing.apply(part)).numpy()
                return result

        return _in_batches(compute, pixels, num_classes=len(self.classes))


@dataclass(frozen=True)
class OnnxClassifier:
    """An ONNX file of ours in ONNX Runtime; `takes_pixels`: its preprocessing is inside, all but the resizing."""

    session: Any
    classes: tuple[str, ...]
    multi_label: bool
    preprocessing: Preprocessing
    takes_pixels: bool

    @staticmethod
    def open(file: Path, *, threads: int | None = None) -> OnnxClassifier:
        """Open an ONNX file; `threads` None: as many as PyTorch has.

        Raises:
            BadInput: no file, damaged, or without the metadata that tinyclf writes.
        """
        if not file.is_file():
            raise BadInput(f"{file}: no such file: tinyclf export writes one")
        return OnnxClassifier.load(file.read_bytes(), name=str(file), threads=threads)

    @staticmethod
    def load(content: bytes, *, name: str, threads: int | None = None) -> OnnxClassifier:
        """Open the content of an ONNX file, which errors call `name`; see `open`."""
        session = open_session(content, name=name, threads=threads)
        metadata = session.get_modelmeta().custom_metadata_map
        try:
            classes = tuple(str(label) for label in json.loads(metadata["classes"]))
            multi_label = bool(json.loads(metadata["multi_label"]))
            preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
        except (ValueError, LookupError, TypeError, BadInput) as error:
            raise BadInput(
                f"{name}: its metadata has no classes and preprocessing: export the run with tinyclf export"
            ) from error
        pixels, planes = (preprocessing.size,) * 2 + (3,), (3,) + (preprocessing.size,) * 2
        inputs, outputs = session.get_inputs(), session.get_outputs()
        form = (inputs[0].type, tuple(inputs[0].shape[1:])) if len(inputs) == 1 else None
        known = {("tensor(uint8)", pixels): True, ("tensor(float)", planes): False}
        if form not in known or inputs[0].name != INPUT or tuple(outputs[0].shape[1:]) != (len(classes),):
            raise BadInput(f"{name}: its input and output are not those its metadata describes: export the run anew")
        return OnnxClassifier(session, classes, multi_label, preprocessing, known[form])

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, classes) of pixels (N, stored, stored, 3) uint8 RGB.

        Where the preprocessing is inside, pixels of another size than the net's are resized here, and rounded.
        """

        def compute(part: NDArray[np.uint8]) -> NDArray[np.float32]:
            if self.takes_pixels:
                images: NDArray[Any] = resized(part, self.preprocessing)
            else:
                images = np.ascontiguousarray(self.preprocessing.apply(part).numpy())
            result: NDArray[np.float32] = self.session.run(None, {INPUT: images})[0]
            return result

        return _in_batches(compute, pixels, num_classes=len(self.classes))


def resized(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return pixels (N, stored, stored, 3) uint8 as (N, size, size, 3) uint8, as images of that size are stored."""
    if pixels.shape[1] == preprocessing.size:
        return pixels
    to_size = replace(preprocessing, stored=preprocessing.size)
    return np.stack([to_size.pixels(image) for image in pixels])


def _in_batches(
    compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]], pixels: NDArray[np.uint8], *, num_classes: int
) -> NDArray[np.float32]:
    parts = [compute(pixels[first : first + BATCH_SIZE]) for first in range(0, len(pixels), BATCH_SIZE)]
    return np.concatenate([np.empty((0, num_classes), np.float32), *parts])


def open_session(content: bytes, *, name: str, threads: int | None) -> Any:
    """Return a session of ONNX Runtime on the CPU; `threads` None: as many as PyTorch has.

    Raises:
        BadInput: `content` is no ONNX file; the message calls it `name`.
    """
    import onnxruntime as ort  # type: ignore[import-untyped]

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception type for each of its states, without a common base
        raise BadInput(f"{name}: damaged, or no ONNX file ({type(error).__name__}): export the run anew") from error
