"""The shards of a dataset folder: written once, checked to the last byte, read through memory maps."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.data.manifest import (
    FILE_NAME,
    LFS_HINT,
    LFS_MAGIC,
    SPLIT_NAME,
    ExpectedArray,
    FileEntry,
    Manifest,
    labels_name,
    parse_manifest,
    shard_name,
)
from tinyclf.errors import BadInput, CheckFailed

SHARD_SIZE = 4096

Sample = tuple[str, NDArray[np.uint8], int]
"""What a source yields: split, image (H, W, 3) uint8 RGB, label."""


@dataclass(frozen=True)
class Split:
    """One split of an open dataset: `shards` are memory maps (n, H, W, 3) uint8, `labels` (N,) int64."""

    name: str
    classes: tuple[str, ...]
    shards: tuple[NDArray[np.uint8], ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """First index of each shard, and one past the last: (shards + 1,)."""
        return np.cumsum([0, *(len(shard) for shard in self.shards)])

    def gather(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the images at `indices` (n,), in that order: (n, H, W, 3) uint8, a copy.

        The files are read in ascending order, whatever the order asked for.

        Raises:
            IndexError: an index is outside 0 .. len - 1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"split '{self.name}' has {len(self)} images: index out of range")
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        images = np.empty((len(wanted), *self.shards[0].shape[1:]), dtype=np.uint8)
        cuts = np.searchsorted(ascending, self._starts)
        for shard, start, first, last in zip(self.shards, self._starts, cuts, cuts[1:], strict=False):
            if first < last:
                images[order[first:last]] = shard[ascending[first:last] - start]
        return images


@dataclass(frozen=True)
class Dataset:
    """An open dataset folder."""

    path: Path
    manifest: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names; a label is an index into them."""
        return self.manifest.classes

    @property
    def size(self) -> int:
        """Return the width and height of the images in pixels."""
        return self.manifest.size

    def split(self, name: str) -> Split:
        """Open the memory maps of split `name`.

        Raises:
            BadInput: there is no such split, or one of its files is damaged.
        """
        if name not in self.manifest.splits:
            raise BadInput(f"{self.path}: has no split '{name}': choose one of {', '.join(self.manifest.splits)}")
        shards = tuple(_open_array(self.path, array) for array in self.manifest.shards(name))
        labels = np.array(_open_array(self.path, self.manifest.labels(name)))
        return Split(name, self.classes, shards, labels)


def open_dataset(path: Path) -> Dataset:
    """Open the dataset folder `path`; pixels are not read, so this costs the same for any size.

    Raises:
        BadInput: no dataset, or a file is missing or visibly damaged.
    """
    dataset = Dataset(path, _read_manifest(path))
    for array in dataset.manifest.arrays():
        _open_array(path, array)
    return dataset


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder: write a dataset with tinyclf data build")
    file = path / FILE_NAME
    if not file.is_file():
        raise BadInput(f"{path}: not a tinyclf dataset, it has no {FILE_NAME}: write one with tinyclf data build")
    try:
        return parse_manifest(file.read_bytes())
    except BadInput as error:
        raise BadInput(f"{path}/{error}") from error


def _open_array(path: Path, expected: ExpectedArray) -> NDArray[Any]:
    """Map one array file and compare its header with the manifest."""
    file = path / expected.name
    if not file.is_file():
        raise BadInput(f"{file}: missing: run git lfs pull, or build the dataset again")
    if _is_lfs_pointer(file):
        raise BadInput(f"{file}: {LFS_HINT}")
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"{file}: damaged ({type(error).__name__}): build the dataset again") from error
    if array.shape != expected.shape or str(array.dtype) != expected.dtype:
        raise BadInput(
            f"{file}: holds {array.shape} {array.dtype}, the manifest says {expected.shape} {expected.dtype}: "
            "build the dataset again"
        )
    return array


def _is_lfs_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(LFS_MAGIC)) == LFS_MAGIC


def check_dataset(path: Path) -> Manifest:
    """Verify every file of the dataset folder `path`: presence, size, sha256, header, labels and counts.

    Raises:
        BadInput: the folder is no dataset at all.
        CheckFailed: damage; one line per problem.
    """
    if not (path / FILE_NAME).is_file():
        _read_manifest(path)  # raises, and says which
    try:
        manifest = _read_manifest(path)
    except BadInput as error:
        raise CheckFailed(str(error)) from error
    entries = {entry.name: entry for entry in manifest.files}
    problems = [problem for array in manifest.arrays() if (problem := _problem(path, array, entries[array.name]))]
    problems += [f"{path / name}: does not belong to the dataset: remove it" for name in _foreign(path, manifest)]
    problems += [] if problems else _label_problems(path, manifest)
    if problems:
        raise CheckFailed("\n".join(problems))
    return manifest


def _problem(path: Path, expected: ExpectedArray, entry: FileEntry) -> str | None:
    """Return what is wrong with one array file, in one line, or None."""
    file = path / entry.name
    if file.is_file() and not _is_lfs_pointer(file):
        num_bytes = file.stat().st_size
        if num_bytes != entry.num_bytes:
            kind = "truncated" if num_bytes < entry.num_bytes else "too long"
            return f"{file}: {kind}, {num_bytes:,} of {entry.num_bytes:,} bytes: build the dataset again"
        if _sha256(file) != entry.sha256:
            return f"{file}: damaged, its sha256 is not the one in {FILE_NAME}: build the dataset again"
    try:
        _open_array(path, expected)
    except BadInput as error:
        return str(error)
    return None


def _foreign(path: Path, manifest: Manifest) -> list[str]:
    own = {FILE_NAME, *(entry.name for entry in manifest.files)}
    return sorted(file.name for file in path.iterdir() if file.name not in own)


def _label_problems(path: Path, manifest: Manifest) -> list[str]:
    """Compare the labels with the class names and counts; the files themselves are sound."""
    problems = []
    for split, counts in manifest.counts.items():
        file = path / labels_name(split)
        labels = np.load(file, allow_pickle=False)
        if labels.size and (labels.min() < 0 or labels.max() >= len(counts)):
            problems.append(f"{file}: labels {labels.min()} to {labels.max()}, there are {len(counts)} classes")
        elif tuple(np.bincount(labels, minlength=len(counts)).tolist()) != counts:
            problems.append(f"{file}: the number of images per class is not the one in {FILE_NAME}")
    return problems


def write_dataset(
    samples: Iterable[Sample],
    *,
    out: Path,
    classes: Sequence[str],
    source: str,
    options: dict[str, Any],
    shard_size: int = SHARD_SIZE,
) -> Manifest:
    """Write `samples` as the dataset folder `out`, which appears whole or not at all.

    Raises:
        BadInput: `out` exists; a sample that is no square uint8 RGB image, or a label without a class; no samples.
    """
    if out.exists():
        raise BadInput(f"{out}: exists already: remove it, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        work.chmod(0o777 & ~_umask())  # mkdtemp hides the folder from everybody else
        writer = _Writer(work, num_classes=len(classes), shard_size=shard_size)
        for split, image, label in samples:
            writer.add(split, image, label)
        manifest = writer.finish(Manifest(0, tuple(classes), {}, source, options, shard_size))
        (work / FILE_NAME).write_text(manifest.to_json())
        os.rename(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return manifest


class _Writer:
    """Collects samples and writes a shard as soon as it is full."""

    def __init__(self, folder: Path, *, num_classes: int, shard_size: int) -> None:
        self.folder = folder
        self.num_classes = num_classes
        self.shard_size = shard_size
        self.size = 0
        self.pending: dict[str, list[NDArray[np.uint8]]] = {}
        self.labels: dict[str, list[int]] = {}
        self.files: list[FileEntry] = []

    def add(self, split: str, image: NDArray[np.uint8], label: int) -> None:
        self.size = self.size or image.shape[0]
        if image.dtype != np.uint8 or image.shape != (self.size, self.size, 3):
            due = f"({self.size}, {self.size}, 3) uint8"
            raise BadInput(f"the source yields an image {image.shape} {image.dtype}: all must be {due}")
        if not 0 <= label < self.num_classes or not SPLIT_NAME.fullmatch(split):
            raise BadInput(f"the source yields label {label} in split '{split}': there are {self.num_classes} classes")
        self.labels.setdefault(split, []).append(int(label))
        pending = self.pending.setdefault(split, [])
        pending.append(image)
        if len(pending) == self.shard_size:
            self._flush(split)

    def _flush(self, split: str) -> None:
        index = (len(self.labels[split]) - 1) // self.shard_size
        self._save(shard_name(split, index), np.stack(self.pending[split]))
        self.pending[split].clear()

    def _save(self, name: str, array: NDArray[Any]) -> None:
        file = self.folder / name
        np.save(file, array, allow_pickle=False)
        self.files.append(FileEntry(name, _sha256(file), file.stat().st_size))

    def finish(self, manifest: Manifest) -> Manifest:
        """Write what is left; return `manifest` with size, counts and files filled in."""
        if not self.labels:
            raise BadInput(f"source '{manifest.source}' yields no image with these options")
        counts = {}
        for split, labels in self.labels.items():
            if self.pending[split]:
                self._flush(split)
            self._save(labels_name(split), np.array(labels, dtype=np.int64))
            counts[split] = tuple(np.bincount(labels, minlength=self.num_classes).tolist())
        files = tuple(sorted(self.files, key=lambda entry: entry.name))
        return replace(manifest, size=self.size, counts=counts, files=files)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
