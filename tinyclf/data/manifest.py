"""What a dataset folder says about itself: the schema of manifest.json, written and read back strictly."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinyclf.errors import BadInput

FILE_NAME = "manifest.json"
FORMAT = "tinyclf-dataset"
VERSION = 1
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
LFS_HINT = "a git-lfs pointer in place of the data: run git lfs pull"


@dataclass(frozen=True)
class FileEntry:
    """One array file: its name, sha256 (hex) and size."""

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
class Manifest:
    """Everything known of a dataset but its pixels.

    `counts` holds, per split, the number of images of each class, in the order of `classes`.
    """

    size: int
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    source: str
    options: dict[str, Any]
    shard_size: int
    files: tuple[FileEntry, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(self.counts)

    def num_images(self, split: str) -> int:
        """Return the number of images in `split`."""
        return sum(self.counts[split])

    def shards(self, split: str) -> Iterator[ExpectedArray]:
        """Yield the image shards of `split` in order."""
        num_images = self.num_images(split)
        for index, first in enumerate(range(0, num_images, self.shard_size)):
            num = min(self.shard_size, num_images - first)
            yield ExpectedArray(shard_name(split, index), (num, self.size, self.size, 3), "uint8")

    def labels(self, split: str) -> ExpectedArray:
        """Return the label array of `split`."""
        return ExpectedArray(labels_name(split), (self.num_images(split),), "int64")

    def arrays(self) -> Iterator[ExpectedArray]:
        """Yield every array of the dataset."""
        for split in self.splits:
            yield from self.shards(split)
            yield self.labels(split)

    def to_json(self) -> str:
        """Return the text of manifest.json, with a checksum over its own content."""
        content = self._content()
        return json.dumps({**content, "manifest_sha256": _digest(content)}, indent=1) + "\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "shape": [self.size, self.size, 3],
            "classes": list(self.classes),
            "splits": {split: dict(zip(self.classes, row, strict=True)) for split, row in self.counts.items()},
            "source": self.source,
            "options": self.options,
            "shard_size": self.shard_size,
            "files": [{"name": f.name, "sha256": f.sha256, "bytes": f.num_bytes} for f in self.files],
        }


def shard_name(split: str, index: int) -> str:
    """Return the file name of image shard `index` of `split`."""
    return f"{split}-{index:05d}.npy"


def labels_name(split: str) -> str:
    """Return the file name of the labels of `split`."""
    return f"{split}.labels.npy"


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
    except ValueError as error:
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
            "build the dataset again, or use the tinyclf that wrote it"
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
        counts={split: tuple(int(row[name]) for name in classes) for split, row in content["splits"].items()},
        source=str(content["source"]),
        options=dict(content["options"]),
        shard_size=int(content["shard_size"]),
        files=tuple(FileEntry(str(f["name"]), str(f["sha256"]), int(f["bytes"])) for f in content["files"]),
    )
    _check_consistent(manifest)
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    if len(set(manifest.classes)) != len(manifest.classes) or not manifest.classes:
        raise ValueError("class names are missing or occur twice")
    for split, row in manifest.counts.items():
        if not SPLIT_NAME.fullmatch(split) or min(row) < 0:
            raise ValueError(f"split '{split}' has a bad name or a negative count")
    if manifest.shard_size < 1:
        raise ValueError(f"shard_size is {manifest.shard_size}")
    listed, expected = {f.name for f in manifest.files}, {a.name for a in manifest.arrays()}
    if listed != expected or len(manifest.files) != len(expected):
        raise ValueError(f"files do not match the counts: {sorted(listed ^ expected)[:3]}")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
