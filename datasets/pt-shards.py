"""Torch shards: .pt files of many images, uint8 (N, C, H, W), with their labels, as saved by torch.save.

Each file holds a tuple (images, labels), or a dict with images (or image, imgs, data, x) and labels (or label, targets,
target, y); further whole-number columns (N,) of a dict are kept as tags. C is 3 or 1. Labels are (N,) class indices, or
(N, L) of 0/1 for multi-label. The split is the nearest folder's name or a word of the file's name (train-003.pt,
shard_val_0.pt, test/0.pt); --default-split is that of files that name none. Files are read in the order of their paths,
with weights_only=True: a file can hold tensors, and no code. Licence: that of your images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import SPLITS, choose_splits, named_split, split_in

if TYPE_CHECKING:
    from torch import Tensor

OPTIONS = {
    "from": (Path, "A folder of .pt files, or one of them."),
    "classes": ((), "The class or label names, in order; by default numbers."),
    "default_split": ("", "The split of files whose name says none."),
}

IMAGE_KEYS = ("images", "image", "imgs", "data", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "y")
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Shard:
    """One file: `images` (N, C, H, W) uint8, `labels` (N,) or (N, L) int64, `tags` name -> (N,) int64."""

    images: Tensor
    labels: Tensor
    tags: dict[str, Tensor]


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the given names, or numbers up to the highest label of all files (which reads their labels).

    Raises:
        BadInput: no shard, or one that cannot be read.
    """
    if options["classes"]:
        return list(options["classes"])
    num = _num_labels(options)
    if num > MOST_CLASSES:
        raise BadInput(f"{options['from']}: a label is {num - 1}: that cannot be a class; give --classes if it is")
    return [str(label) for label in range(max(2, num))]


def multi_label(options: dict[str, Any]) -> bool:
    """Return whether the labels are (N, L)."""
    return _open(_files(options)[0][0]).labels.ndim == 2


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield the images of every shard; one shard is open at a time.

    Raises:
        BadInput: no shard; one that cannot be read or is of another shape; a label out of range; an unknown split.
    """
    files = _files(options)
    available = tuple(split for split in SPLITS if split in {split for _, split in files})
    wanted = choose_splits(options["split"], available=available, where=str(options["from"]))
    num_classes = len(classes(options))
    ordered = [(file, split) for split in wanted for file, of in files if of == split]
    for file, split in ordered:
        if not options["wants"](split):
            continue
        shard = _open(file)
        _check_labels(file, shard.labels, num_classes)
        tags = {name: column.tolist() for name, column in shard.tags.items()}
        for index, label in enumerate(shard.labels.tolist()):
            image = shard.images[index].expand(3, -1, -1).permute(1, 2, 0)
            own = {name: column[index] for name, column in tags.items()}
            target = tuple(label) if isinstance(label, list) else label
            yield Item(split, np.array(image.numpy(), order="C"), target, tags=own, name=f"{file.name} {index}")


def _num_labels(options: dict[str, Any]) -> int:
    num = 0
    for file, _ in _files(options):
        labels = _open(file).labels
        num = max(num, labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1 if len(labels) else 0)
    return num


def _files(options: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return the shards, sorted by path, each with its split."""
    root = Path(options["from"])
    if not root.exists():
        raise BadInput(f"{root}: no such file or folder")
    found = sorted((*root.rglob("*.pt"), *root.rglob("*.pth")), key=lambda f: f.as_posix()) if root.is_dir() else [root]
    if not found:
        raise BadInput(f"{root}: holds no .pt file")
    base = root if root.is_dir() else root.parent
    return [(file, _split_of(file.relative_to(base), options)) for file in found]


def _split_of(file: Path, options: dict[str, Any]) -> str:
    split = split_in(file.stem) or next((s for part in file.parts[-2::-1] if (s := named_split(part))), None)
    split = split or named_split(options["default_split"])
    if split is None:
        raise BadInput(f"{file}: names no split: rename it (train-{file.name}), or give --default-split train")
    return split


def _open(file: Path) -> Shard:
    """Map one file; its pixels are read as they are asked for."""
    content = _load(file)
    if isinstance(content, dict):
        images, image_key = _pick(file, content, IMAGE_KEYS)
        labels, label_key = _pick(file, content, LABEL_KEYS)
        rest = {str(key): value for key, value in content.items() if key not in (image_key, label_key)}
    elif isinstance(content, (tuple, list)) and len(content) == 2:
        (images, labels), rest = content, {}
    else:
        raise BadInput(f"{file}: holds a {type(content).__name__}: must be (images, labels), or a dict of them")
    return Shard(_images(file, images), _whole(file, labels, len(images)), _tags(rest, len(images)))


def _load(file: Path) -> Any:
    import pickle

    import torch

    try:
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        reason = "it holds more than tensors" if "weights_only" in str(error).lower() else "truncated or damaged"
        raise BadInput(f"{file}: cannot be read as a torch file of tensors: {reason}") from error


def _pick(file: Path, content: dict[Any, Any], keys: Sequence[str]) -> tuple[Any, str]:
    found = [key for key in content if str(key).lower() in keys]
    if len(found) != 1:
        raise BadInput(f"{file}: has the keys {', '.join(map(str, content))}: needs one of {', '.join(keys)}")
    return content[found[0]], found[0]


def _images(file: Path, images: Any) -> Tensor:
    import torch

    if not isinstance(images, torch.Tensor):
        raise BadInput(f"{file}: images are a {type(images).__name__}: must be a tensor (N, C, H, W) uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise BadInput(f"{file}: images are {tuple(images.shape)} {kind}: must be (N, C, H, W) uint8 with C 1 or 3")
    return images


def _whole(file: Path, labels: Any, num_images: int) -> Tensor:
    """Return labels as int64, (N,) or (N, L)."""
    import torch

    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{file}: labels are not numbers: must be a tensor or a list, (N,) or (N, L)") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != num_images:
        raise BadInput(f"{file}: labels are {tuple(labels.shape)} for {num_images} images: must be (N,) or (N, L)")
    if not torch.equal(labels.to(torch.int64).to(labels.dtype), labels):
        raise BadInput(f"{file}: labels are not whole numbers")
    whole: Tensor = labels.to(torch.int64)
    return whole


def _check_labels(file: Path, labels: Tensor, num_classes: int) -> None:
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if labels.ndim == 2 and (labels.shape[1] != num_classes or low < 0 or high > 1):
        shape = tuple(labels.shape)
        raise BadInput(f"{file}: labels {shape} of {low} to {high}: must be 0 or 1 for each of {num_classes} names")
    if labels.ndim == 1 and not 0 <= low <= high < num_classes:
        raise BadInput(f"{file}: labels {low} to {high}: must be 0 to {num_classes - 1} for {num_classes} classes")


def _tags(rest: dict[str, Any], num_images: int) -> dict[str, Tensor]:
    import torch

    return {
        name: values.to(torch.int64)
        for name, values in sorted(rest.items())
        if isinstance(values, torch.Tensor) and values.shape == (num_images,) and not values.is_floating_point()
    }
