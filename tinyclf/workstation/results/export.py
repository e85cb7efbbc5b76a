"""Export of a run: one ONNX file, or weights for PyTorch; measured against the run's own model before it is written."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf import __version__
from tinyclf.base.errors import BadInput, CheckFailed
from tinyclf.base.files import write_whole
from tinyclf.workstation.data import Dataset, Split, open_dataset
from tinyclf.workstation.results.classifiers import Classifier, OnnxClassifier, TorchClassifier, resized
from tinyclf.workstation.results.evaluate import check_classes
from tinyclf.workstation.runs.directory import BEST_FILE, RunConfig, load_run, read_state

if TYPE_CHECKING:
    from onnx import ModelProto

PRECISIONS = ("fp32", "fp16", "int8")
SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors"}
TOLERANCE = 1e-4  # of fp32 logits against PyTorch, relative to at least 1
# A net that amplifies rounding (BatchNorm over maps of one pixel, say) is far from double precision in PyTorch too: in
# another order of sums it may be that many times as far.
ROUNDING = 4
NUM_CALIBRATION = 200
CALIBRATION_BATCH = 16
SEED = 0  # of the choice of images, and of random ones
NUM_COMPARED = 256  # images whose logits are compared
MOST_MEASURED = 10_000  # images that the accuracy of int8 is measured on
HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Comparison:
    """The logits of what was exported against those of the run's model in PyTorch, on `images` (a description).

    `error` is the largest difference, relative to the largest logit but at least 1; `same` the share of images with
    the same class (of several labels: of labels with the same answer). `bound`: what fp32 may differ by.
    """

    images: str
    error: float
    same: float
    bound: float = TOLERANCE


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers before and after quantisation, on `images` (a description)."""

    images: str
    fp32: float
    int8: float

    @property
    def drop(self) -> float:
        """Return the drop in points; less than 0 where int8 is better."""
        return 100 * (self.fp32 - self.int8)


@dataclass(frozen=True)
class Exported:
    """What was written: the file, what it takes and gives, and how it was found to compare; `notes` are sentences."""

    file: Path
    num_bytes: int
    interface: str
    comparison: Comparison
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()

    def to_lines(self) -> list[str]:
        """Return the report for people, one string per line."""
        c = self.comparison
        lines = [
            f"wrote {self.file}: {self.num_bytes / 2**10:,.0f} KiB, {self.interface}",
            f"against PyTorch on {c.images}: {c.same:.1%} same answers, "
            f"largest difference of logits {c.error:.1e} (relative to the largest, at least 1)",
        ]
        if c.bound > TOLERANCE:
            lines.append(f"PyTorch itself is up to {c.bound / ROUNDING:.1e} from double precision with this net")
        if self.accuracy:
            a = self.accuracy
            lines.append(f"accuracy on {a.images}: fp32 {a.fp32:.1%}, int8 {a.int8:.1%}, a drop of {a.drop:.1f} points")
        return [*lines, *(f"note: {note}" for note in self.notes)]


@dataclass(frozen=True)
class _Images:
    """Images to compare on: (N, stored, stored, 3) uint8, and in words; `split` is None where they are random."""

    pixels: NDArray[np.uint8]
    words: str
    split: Split | None
    dataset: Dataset | None
    note: str = ""


def export_onnx(
    source: Path,
    *,
    out: Path | None = None,
    precision: str = "fp32",
    preprocessing_inside: bool = False,
    data: Path | None = None,
    num_calibration: int = NUM_CALIBRATION,
    force: bool = False,
) -> Exported:
    """Write the model of a run directory or checkpoint as one ONNX file, by default `model.onnx` beside its weights.

    BatchNorm is folded where it can be; the batch dimension is free. Input: "images" (N, 3, size, size) float32,
    preprocessed; with `preprocessing_inside` (N, size, size, 3) uint8 RGB. Output: "logits" (N, classes) float32.
    Metadata: classes and preprocessing as JSON, architecture, version. It is compared with PyTorch on the test split of
    the run's dataset, or of the folder `data`. With int8, `num_calibration` training images give the ranges.

    Raises:
        BadInput: no run, a file in the way, options that do not go together, no dataset for int8.
        Unsupported: the net cannot be exported.
        CheckFailed: fp32 logits differ by more than `TOLERANCE`, and than `ROUNDING` times what PyTorch's differ from
            double precision; or fp16 overflows. Nothing is written then.
    """
    from tinyclf.workstation.results.onnx_graph import fold_for_export, to_onnx, with_metadata, with_preprocessing

    if precision not in PRECISIONS:
        raise BadInput(f"precision {precision}: choose one of {', '.join(PRECISIONS)}")
    if num_calibration < 1:
        raise BadInput(f"--calibration {num_calibration}: must be 1 or more")
    model, run = load_run(source)
    file = _target(source, out, kind="onnx", precision=precision, force=force)
    images = _images(run, data)
    reference = TorchClassifier.of(model, run)
    metadata = _metadata(run, precision=precision, preprocessing_inside=preprocessing_inside)

    net, folded = fold_for_export(model)
    base = to_onnx(net, size=run.size)
    graph = _converted(base, run, images, precision=precision, num_calibration=num_calibration)
    if preprocessing_inside:
        graph = with_preprocessing(graph, run.preprocessing)
    content = with_metadata(graph, metadata).SerializeToString()
    exported = OnnxClassifier.load(content, name=str(file))

    comparison = _compare(exported, reference, images)
    _judge(comparison, precision=precision)
    notes = _notes(run, images, folded=folded, preprocessing_inside=preprocessing_inside)
    if precision == "fp16":
        notes.append(_half_throughout(net, reference, images))
    accuracy = None
    if precision == "int8" and images.split:
        plain = OnnxClassifier.load(with_metadata(base, metadata).SerializeToString(), name="fp32")
        accuracy = _accuracy(plain, exported, images.split)
    _write(file, content)
    return Exported(file, len(content), metadata["interface"], comparison, accuracy, tuple(notes))


def _converted(
    base: ModelProto, run: RunConfig, images: _Images, *, precision: str, num_calibration: int
) -> ModelProto:
    """Return the fp32 graph `base` in the precision asked for."""
    from tinyclf.workstation.results.onnx_graph import to_half, to_int8

    if precision == "fp16":
        return to_half(base)
    if precision == "int8":
        if images.dataset is None:
            raise BadInput(f"int8 needs training images for its ranges, and {run.data} is no dataset: give --data DIR")
        return to_int8(base, _calibration(images.dataset, run, num_calibration))
    return base


def _notes(run: RunConfig, images: _Images, *, folded: bool, preprocessing_inside: bool) -> list[str]:
    """Return what the user should know of an ONNX file beyond its numbers."""
    notes = [images.note] if images.note else []
    if not folded:
        notes.append("BatchNorm of this net cannot be folded into its convolutions: it is in the file as it is")
    if preprocessing_inside and run.preprocessing.stored != run.size:
        notes.append(f"resizing to {run.size}x{run.size} pixels is not inside: give it images of that size")
    return notes


def export_torch(
    source: Path, *, out: Path | None = None, precision: str = "fp16", data: Path | None = None, force: bool = False
) -> Exported:
    """Write the weights of a run directory or checkpoint as .safetensors with the same metadata: it can be loaded so.

    In fp16 a tensor with a value beyond 65504 stays fp32, which happens to statistics of BatchNorm only.

    Raises:
        BadInput: no run, a file in the way, int8.
        CheckFailed: the logits of the weights read back are not finite, or in fp32 differ; nothing is written then.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    if precision not in ("fp32", "fp16"):
        raise BadInput(f"--format torch holds fp32 or fp16, not {precision}: use --format onnx")
    model, run = load_run(source)
    file = _target(source, out, kind="torch", precision=precision, force=force)
    checkpoint = source if source.is_file() else source / BEST_FILE
    with safe_open(checkpoint, "pt") as opened:
        metadata = opened.metadata()
    state = {name: _stored(tensor, precision) for name, tensor in read_state(source).items()}
    images = _images(run, data)
    again = copy.deepcopy(model)
    again.load_state_dict(state, strict=False)  # copies into float32; BatchNorm may lack its count of batches
    comparison = _compare(TorchClassifier.of(again, run), TorchClassifier.of(model, run), images)
    _judge(comparison, precision=precision)
    content = save(state, metadata=metadata)
    _write(file, content)
    notes = (images.note,) if images.note else ()
    return Exported(file, len(content), f"weights in {precision}, a checkpoint of tinyclf", comparison, None, notes)


def _stored(tensor: torch.Tensor, precision: str) -> torch.Tensor:
    if precision == "fp16" and tensor.dtype == torch.float32 and bool((tensor.abs() <= HALF_MAX).all()):
        return tensor.half()
    return tensor.contiguous()


# --- where to, and with which images ----------------------------------------------------------------------------------


def _target(source: Path, out: Path | None, *, kind: str, precision: str, force: bool) -> Path:
    """Return the file to write, by default beside the weights: model.onnx, model-fp16.onnx, ..."""
    suffix = SUFFIXES[kind]
    folder = source.parent if source.is_file() else source
    file = out or folder / ("model" + ("" if precision == "fp32" else f"-{precision}") + suffix)
    if file.suffix.lower() != suffix:
        raise BadInput(f"--out {file}: --format {kind} writes a file whose name ends in {suffix}")
    if file.is_dir():
        raise BadInput(f"--out {file}: is a folder: name a file")
    checkpoint = source if source.is_file() else source / BEST_FILE
    if file.exists() and file.samefile(checkpoint):
        raise BadInput(f"--out {file}: is the checkpoint that is exported: choose another name")
    if file.exists() and not force:
        raise BadInput(f"{file}: exists already: choose another --out, or replace it with --force")
    return file


def _images(run: RunConfig, data: Path | None) -> _Images:
    """Return images of the test split (or validation, or the first); random ones where the run's dataset is gone."""
    try:
        dataset = open_dataset(data or run.data)
    except BadInput as error:
        if data:
            raise
        side = run.preprocessing.stored
        pixels = np.random.default_rng(SEED).integers(0, 256, (64, side, side, 3), dtype=np.uint8)
        return _Images(pixels, "64 random images", None, None, f"not compared on real images, for {error}")
    check_classes(run, dataset.classes, multi_label=dataset.multi_label, run_name="the run", data_name=dataset.path)
    splits = dataset.manifest.splits
    name = next((name for name in ("test", "validation") if name in splits), next(iter(splits)))
    split = dataset.split(name)
    chosen = _choose(split, NUM_COMPARED)
    return _Images(split.gather(chosen), _count(len(chosen), split), split, dataset)


def _calibration(dataset: Dataset, run: RunConfig, num: int) -> Iterator[NDArray[np.float32]]:
    split = dataset.split(dataset.training_split)
    chosen = _choose(split, num)
    for first in range(0, len(chosen), CALIBRATION_BATCH):
        pixels = split.gather(chosen[first : first + CALIBRATION_BATCH])
        yield np.ascontiguousarray(run.preprocessing.apply(pixels).numpy())


def _choose(split: Split, most: int) -> NDArray[np.int64]:
    """Return ascending indices of at most `most` images, always the same ones."""
    return np.sort(np.random.default_rng(SEED).permutation(len(split))[:most])


def _count(num: int, split: Split) -> str:
    of = "" if num == len(split) else f"{num:,} of "
    return f"{of}{len(split):,} images of {split.name}"


# --- comparing --------------------------------------------------------------------------------------------------------


def _compare(exported: Classifier, reference: TorchClassifier, images: _Images) -> Comparison:
    """Compare logits; where the exported one takes pixels of the net's size, both get the same."""
    pixels = images.pixels
    if isinstance(exported, OnnxClassifier) and exported.takes_pixels:
        pixels = resized(pixels, reference.preprocessing)
    actual, expected = exported.logits(pixels), reference.logits(pixels)
    if not np.isfinite(actual).all():
        return Comparison(images.words, float("inf"), 0.0)
    error, bound = _error(actual, expected), TOLERANCE
    if error > bound:
        exact = replace(reference, model=_InPrecision(reference.model, torch.float64)).logits(pixels)
        bound = max(bound, ROUNDING * _error(expected, exact))
    return Comparison(images.words, error, _share_same(actual, expected, multi_label=reference.multi_label), bound)


def _error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max())))


def _share_same(actual: NDArray[np.float32], expected: NDArray[np.float32], *, multi_label: bool) -> float:
    if multi_label:
        return float(((actual > 0) == (expected > 0)).mean())
    return float((actual.argmax(1) == expected.argmax(1)).mean())


def _judge(comparison: Comparison, *, precision: str) -> None:
    if precision == "fp32" and not comparison.error <= comparison.bound:
        raise CheckFailed(
            f"on {comparison.images} the logits differ from PyTorch's by {comparison.error:.1e} "
            f"(at most {comparison.bound:.0e}): nothing was written"
        )
    if not np.isfinite(comparison.error):
        raise CheckFailed(f"in {precision} some logits overflow: nothing was written, export fp32")


class _InPrecision(nn.Module):
    """A net that computes in another precision from float32 to float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).to(dtype).eval()
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes) of images (N, 3, size, size)."""
        logits: torch.Tensor = self.net(images.to(self.dtype)).float()
        return logits


def _half_throughout(net: nn.Module, reference: TorchClassifier, images: _Images) -> str:
    """Compare arithmetic in half precision, which ONNX Runtime does not do on a CPU, in PyTorch; return it in words.

    Raises:
        CheckFailed: it overflows.
    """
    compared = _compare(replace(reference, model=_InPrecision(net, torch.float16)), reference, images)
    _judge(compared, precision="fp16")
    return (
        "ONNX Runtime on a CPU computes in fp32 from the fp16 weights; where arithmetic is in fp16 too (tried in "
        f"PyTorch), {compared.same:.1%} same answers, largest difference {compared.error:.1e}"
    )


def _accuracy(fp32: Classifier, int8: Classifier, split: Split) -> Accuracy:
    """Measure both on at most `MOST_MEASURED` images of `split`, in parts that fit in memory."""
    chosen = _choose(split, MOST_MEASURED)
    right = np.zeros(2)
    for first in range(0, len(chosen), NUM_COMPARED):
        part = chosen[first : first + NUM_COMPARED]
        pixels, labels = split.gather(part), split.labels[part]
        for i, classifier in enumerate((fp32, int8)):
            logits = classifier.logits(pixels)
            answers = (logits > 0) == labels if fp32.multi_label else logits.argmax(1) == labels
            right[i] += len(part) * answers.mean()
    before, after = (right / len(chosen)).tolist()
    return Accuracy(_count(len(chosen), split), before, after)


# --- writing ----------------------------------------------------------------------------------------------------------


def _metadata(run: RunConfig, *, precision: str, preprocessing_inside: bool) -> dict[str, str]:
    return {
        "tinyclf": __version__,
        "architecture": run.arch,
        "classes": json.dumps(list(run.classes)),
        "multi_label": json.dumps(run.multi_label),
        "preprocessing": json.dumps(run.preprocessing.to_dict()),
        "precision": precision,
        "interface": _interface(run, preprocessing_inside, precision),
    }


def _interface(run: RunConfig, preprocessing_inside: bool, precision: str) -> str:
    size = run.size
    takes = f"(N, 3, {size}, {size}) float32, preprocessed"
    if preprocessing_inside:
        takes = f"(N, {size}, {size}, 3) uint8 RGB, to be resized before"
    return f"{precision}, images {takes} -> logits (N, {run.num_classes}) float32"


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda temporary: temporary.write_bytes(content))
