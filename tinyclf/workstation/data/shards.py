"""An open dataset folder: its shards as memory maps, its labels and tags as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.manifest import FILE_NAME, LFS_HINT, ExpectedArray, Manifest, parse_manifest, table_name
from tinyclf.workstation.data.tables import Columns, check_table, is_lfs_pointer, read_table


@dataclass(frozen=True)
class Split:
    """One split of an open dataset.

    `shards` are memory maps (n, H, W, 3) uint8. `labels` are int64: class indices (N,), or where there are several
    labels (N, L) of 0 and 1, in the order of `classes`.
    """

    name: str
    classes: tuple[str, ...]
    shards: tuple[NDArray[np.uint8], ...]
    labels: NDArray[np.int64]
    folder: Path
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def tags(self) -> Columns:
        """The further columns, name -> (N,) int64; read when first asked for."""
        names = tuple(self.manifest.splits[self.name].tags)
        return read_table(self.folder, self.manifest, self.name, names) if names else {}

    @property
    def image_bytes(self) -> int:
        """Return the size of one image."""
        return 3 * self.manifest.size**2

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First index of each shard, and one past the last: (shards + 1,)."""
        return np.cumsum([0, *(len(shard) for shard in self.shards)])

    def gather(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the images at `indices` (n,), in that order: (n, H, W, 3) uint8, a copy.

        The files are read in ascending order, whatever the order asked for; it is fastest when it is ascending already.

        Raises:
            IndexError: an index is outside 0 .. len - 1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"split '{self.name}' has {len(self)} images: index out of range")
        in_order = bool((wanted[1:] >= wanted[:-1]).all())
        order = None if in_order else np.argsort(wanted, kind="stable")
        ascending = wanted if order is None else wanted[order]
        images = np.empty((len(wanted), *self.shards[0].shape[1:]), dtype=self.shards[0].dtype)
        cuts = np.searchsorted(ascending, self.starts).tolist()
        for shard, start, first, last in zip(self.shards, self.starts, cuts, cuts[1:], strict=False):
            if first == last:
                continue
            rows, within = shard.view(np.ndarray), ascending[first:last] - start
            if order is None:
                np.take(rows, within, axis=0, out=images[first:last], mode="clip")
            else:  # image by image: a copy on the way would cost more than the loop
                for place, index in zip(order[first:last].tolist(), within.tolist(), strict=True):
                    images[place] = rows[index]
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
    def multi_label(self) -> bool:
        """Say whether an image has several labels; `classes` are then their names."""
        return self.manifest.multi_label

    @property
    def size(self) -> int:
        """Return the width and height of the images in pixels."""
        return self.manifest.size

    @property
    def training_split(self) -> str:
        """Return the name of the split to train on: train, or the only one whose name begins so (train_quality, say).

        Raises:
            BadInput: there is none, or several.
        """
        names = [name for name in self.manifest.splits if name.startswith("train")]
        if "train" in names or not names:
            return "train"  # where there is none, opening it says what there is
        if len(names) > 1:
            raise BadInput(f"{self.path}: has {' and '.join(names)}: build a dataset with one of them, with --split")
        return names[0]

    def split(self, name: str) -> Split:
        """Open the memory maps of split `name`.

        Raises:
            BadInput: there is no such split, or one of its files is damaged.
        """
        if name not in self.manifest.splits:
            raise BadInput(f"{self.path}: has no split '{name}': choose one of {', '.join(self.manifest.splits)}")
        shards = tuple(open_array(self.path, array) for array in self.manifest.shards(name))
        columns = read_table(self.path, self.manifest, name, self.manifest.label_columns)
        labels = np.stack(list(columns.values()), axis=1) if self.multi_label else columns["label"]
        return Split(name, self.classes, shards, labels, self.path, self.manifest)


def open_dataset(path: Path) -> Dataset:
    """Open the dataset folder `path`; pixels are not read, so this costs the same for any size.

    Raises:
        BadInput: no dataset, or a file is missing or visibly damaged.
    """
    manifest = read_manifest(path)
    num_bytes = {entry.name: entry.num_bytes for entry in manifest.files}
    for split in manifest.splits:
        for array in manifest.shards(split):
            open_array(path, array)
        check_table(path, manifest, split)
        for name in (*(array.name for array in manifest.shards(split)), table_name(split)):
            if (path / name).stat().st_size != num_bytes[name]:
                raise BadInput(f"{path / name}: its size is not the one in {FILE_NAME}: build the dataset again")
    return Dataset(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the dataset folder `path`.

    Raises:
        BadInput: no dataset, one of another version, or a damaged manifest.
    """
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder: write a dataset with tinyclf data build")
    file = path / FILE_NAME
    if not file.is_file():
        raise BadInput(f"{path}: not a tinyclf dataset, it has no {FILE_NAME}: write one with tinyclf data build")
    try:
        return parse_manifest(file.read_bytes())
    except BadInput as error:
        raise BadInput(f"{path}/{error}") from error


def open_array(path: Path, expected: ExpectedArray) -> NDArray[Any]:
    """Map one array file and compare its header with the manifest.

    Raises:
        BadInput: missing, damaged, or not what the manifest says.
    """
    file = path / expected.name
    if not file.is_file():
        raise BadInput(f"{file}: missing: run git lfs pull, or build the dataset again")
    if is_lfs_pointer(file):
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
