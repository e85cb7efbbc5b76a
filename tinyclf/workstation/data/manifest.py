"""What a dataset folder says about itself: the schema of manifest.json, written and read back strictly."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tinyclf.base.errors import BadInput

FILE_NAME = "manifest.json"
FORMAT = "tinyclf-dataset"
VERSION = 2
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
LABEL = "label"  # the column of class indices
LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
LFS_HINT = "a git-lfs pointer in place of the data: run git lfs pull"


@dataclass(frozen=True)
class FileEntry:
    """One file: its name, sha256 (hex) and size."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class ExpectedArray:
    """What the header of an array file must say; `dtype` as numpy prints it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SplitInfo:
    """What is known of one split.

    `counts`: images per class, or with label 1 for each label name, in the order of `Manifest.classes`. `tags`: images
    whose value is above 0, per tag. `mean` and `std`: of each channel, for pixels in 0 .. 1. `skipped`: names of the
    images that could not be read.
    """

    num_images: int
    counts: tuple[int, ...]
    tags: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything known of a dataset but its pixels; `provenance` says where it comes from and with which options."""

    size: int
    classes: tuple[str, ...]
    multi_label: bool
    splits: dict[str, SplitInfo]
    provenance: dict[str, Any]
    shard_size: int
    files: tuple[FileEntry, ...] = ()

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Return the images per class of each split."""
        return {name: split.counts for name, split in self.splits.items()}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Return the names of the columns that hold the labels."""
        return self.classes if self.multi_label else (LABEL,)

    def num_images(self, split: str) -> int:
        """Return the number of images in `split`."""
        return self.splits[split].num_images

    def columns(self, split: str) -> tuple[str, ...]:
        """Return the names of all columns of `split`: labels, then tags."""
        return (*self.label_columns, *self.splits[split].tags)

    def shards(self, split: str) -> Iterator[ExpectedArray]:
        """Yield the image shards of `split` in order."""
        num_images = self.num_images(split)
        for index, first in enumerate(range(0, num_images, self.shard_size)):
            num = min(self.shard_size, num_images - first)
            yield ExpectedArray(shard_name(split, index), (num, self.size, self.size, 3), "uint8")

    def file_names(self) -> Iterator[str]:
        """Yield the name of every file but the manifest itself."""
        for split in self.splits:
            yield from (array.name for array in self.shards(split))
            yield table_name(split)
            yield from balance_names(split)

    def to_json(self) -> str:
        """Return the text of manifest.json, with a checksum over its own content."""
        content = self._content()
        return json.dumps({**content, "manifest_sha256": _digest(content)}, indent=1) + "\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "shape": [self.size, self.size, 3],
            "multi_label": self.multi_label,
            "classes": list(self.classes),
            "provenance": self.provenance,
            "shard_size": self.shard_size,
            "splits": {name: self._split_content(split) for name, split in self.splits.items()},
            "files": [{"name": f.name, "sha256": f.sha256, "bytes": f.num_bytes} for f in self.files],
        }

    def _split_content(self, split: SplitInfo) -> dict[str, Any]:
        counts = dict(zip(self.classes, split.counts, strict=True))
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(split).items()}
        return {**plain, "counts": counts}


def shard_name(split: str, index: int) -> str:
    """Return the file name of image shard `index` of `split`."""
    return f"{split}-{index:05d}.npy"


def table_name(split: str) -> str:
    """Return the file name of the labels and tags of `split`."""
    return f"{split}.parquet"


def balance_names(split: str) -> tuple[str, str]:
    """Return the names of the files that tell of the balance of `split`: for people, and for programs."""
    return f"{split}_balance.txt", f"{split}_balance.json"


def parse_manifest(raw: bytes) -> Manifest:
    """Read the bytes of a manifest.json.

    Raises:
        BadInput: not JSON, another format or version, a field missing or of the wrong kind, a wrong checksum.
    """
    if raw.startswith(LFS_MAGIC):
        raise BadInput(f"{FILE_NAME}: {LFS_HINT}")
    try:
        text = raw.decode()
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{FILE_NAME}: damaged, it is not JSON ({str(error)[:80]})") from error
    _check_version(content)
    try:
        manifest = _from_content(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise BadInput(f"{FILE_NAME}: damaged, a field is missing or wrong ({reason})") from error
    # Byte for byte, and not only by meaning: a flipped bit anywhere is to be found.
    if manifest.to_json() != text:
        raise BadInput(f"{FILE_NAME}: was changed since it was written (its checksum differs): build the dataset again")
    return manifest


def _check_version(content: object) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(f'{FILE_NAME}: is not the manifest of a tinyclf dataset (no "format": "{FORMAT}")')
    if content.get("version") != VERSION:
        raise BadInput(
            f"{FILE_NAME}: has format version {content.get('version')}, this tinyclf reads version {VERSION}: "
            "build the dataset again with tinyclf data build, or use the tinyclf that wrote it"
        )


def _from_content(content: dict[str, Any]) -> Manifest:
    """Build the manifest from parsed JSON; what is wrong raises LookupError, TypeError or ValueError."""
    size = content["shape"][0]
    if type(size) is not int or size < 1 or content["shape"] != [size, size, 3]:
        raise ValueError(f"shape {content['shape']} is not [size, size, 3]")
    classes = tuple(str(name) for name in content["classes"])
    manifest = Manifest(
        size=size,
        classes=classes,
        multi_label=bool(content["multi_label"]),
        splits={name: _split_from(split, classes) for name, split in content["splits"].items()},
        provenance=dict(content["provenance"]),
        shard_size=int(content["shard_size"]),
        files=tuple(FileEntry(str(f["name"]), str(f["sha256"]), int(f["bytes"])) for f in content["files"]),
    )
    _check_consistent(manifest)
    return manifest


def _split_from(content: dict[str, Any], classes: tuple[str, ...]) -> SplitInfo:
    return SplitInfo(
        num_images=int(content["num_images"]),
        counts=tuple(int(content["counts"][name]) for name in classes),
        tags={str(name): int(count) for name, count in content["tags"].items()},
        mean=tuple(float(value) for value in content["mean"]),
        std=tuple(float(value) for value in content["std"]),
        skipped=tuple(str(name) for name in content["skipped"]),
    )


def _check_consistent(manifest: Manifest) -> None:
    if len(set(manifest.classes)) != len(manifest.classes) or not manifest.classes:
        raise ValueError("class names are missing or occur twice")
    if manifest.shard_size < 1:
        raise ValueError(f"shard_size is {manifest.shard_size}")
    for name, split in manifest.splits.items():
        if not SPLIT_NAME.fullmatch(name) or min(split.counts) < 0 or split.num_images < 1:
            raise ValueError(f"split '{name}' has a bad name, a negative count or no images")
        if not manifest.multi_label and sum(split.counts) != split.num_images:
            raise ValueError(f"the classes of split '{name}' hold {sum(split.counts)} of {split.num_images} images")
        if len(split.mean) != 3 or len(split.std) != 3:
            raise ValueError(f"split '{name}' has not three channels")
    listed = [f.name for f in manifest.files]
    total = sum(f.num_bytes for f in manifest.files)  # before a huge count is turned into a long list of names
    if sum(split.num_images for split in manifest.splits.values()) * 3 * manifest.size**2 > total:
        raise ValueError("files do not match the counts: they are too small")
    expected = list(manifest.file_names())
    if sorted(listed) != sorted(expected):
        raise ValueError(f"files do not match the counts: {sorted(set(listed) ^ set(expected))[:3]}")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
