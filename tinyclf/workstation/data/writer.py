"""Writes the shards of a build one by one, each noted in the journal, and at the end tables, balance and manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.decoding import Decoded
from tinyclf.workstation.data.journal import Journal, ShardRecord, sha256, sync
from tinyclf.workstation.data.manifest import (
    FILE_NAME,
    FileEntry,
    Manifest,
    SplitInfo,
    balance_names,
    shard_name,
    table_name,
)
from tinyclf.workstation.data.selection import Group
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.tables import balance, balance_json, balance_text, class_counts, write_table


@dataclass
class _Split:
    """How far a split is. `columns` holds all rows, also those of `pending`, the images not yet in a shard."""

    columns: dict[str, list[int]] = field(default_factory=dict)
    pending: list[NDArray[np.uint8]] = field(default_factory=list)
    num_images: int = 0
    num_shards: int = 0
    group: int = 0
    offset: int = 0
    sums: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    squares: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    skipped: list[str] = field(default_factory=list)
    num_noted: int = 0  # of skipped: those that the journal knows


class Writer:
    """Takes decoded groups in order; `on_shard(split, images so far)` is called after each finished shard."""

    def __init__(
        self,
        journal: Journal,
        *,
        classes: tuple[str, ...],
        multi_label: bool,
        size: int,
        shard_size: int,
        limit: int,
        strict: bool,
        on_shard: Callable[[str, int], None] | None = None,
    ) -> None:
        self.journal = journal
        self.classes, self.multi_label = classes, multi_label
        self.size, self.shard_size, self.limit, self.strict = size, shard_size, limit, strict
        self.on_shard = on_shard
        self.splits: dict[str, _Split] = {}
        for record in journal.records:
            self._restore(record)

    def _restore(self, record: ShardRecord) -> None:
        split = self.splits.setdefault(record.split, _Split())
        for name, values in record.columns.items():
            split.columns.setdefault(name, []).extend(values)
        split.num_images += record.num_images
        split.num_shards += 1
        split.group, split.offset = record.group, record.offset
        split.sums += np.array(record.sums, np.int64)
        split.squares += np.array(record.squares, np.int64)
        split.skipped += record.skipped
        split.num_noted = len(split.skipped)

    def is_full(self, name: str) -> bool:
        """Say whether split `name` has as many images as the limit allows."""
        return bool(self.limit) and name in self.splits and self.splits[name].num_images >= self.limit

    def next_groups(self) -> dict[str, int]:
        """Return the group that each split goes on with."""
        return {name: split.group for name, split in self.splits.items()}

    def add(self, group: Group, images: tuple[Decoded, ...]) -> None:
        """Take the images of a group, or none where one cannot be read; pass what was taken before a resumption.

        Raises:
            BadInput: an image that cannot be read and `strict`; tags that the items before it do not have.
        """
        split = self.splits.setdefault(group.split, _Split())
        if group.index < split.group or self.is_full(group.split):
            return
        bad = [(item, why) for item, why in zip(group.items, images, strict=True) if isinstance(why, str)]
        if bad:
            self._skip(split, bad)
        else:
            for offset in range(split.offset, len(images)):
                image = images[offset]
                assert not isinstance(image, str)
                if len(split.pending) == self.shard_size:  # in the midst of a group
                    split.offset = offset
                    self._flush(group.split, split)
                self._take(split, group.items[offset], image)
        split.group, split.offset = group.index + 1, 0
        if len(split.pending) == self.shard_size:
            self._flush(group.split, split)

    def _skip(self, split: _Split, bad: list[tuple[Item, str]]) -> None:
        for item, why in bad:
            name = item.name or (str(item.image) if isinstance(item.image, Path) else f"image {split.group}")
            if self.strict:
                raise BadInput(f"{name}: cannot be read ({why}): repair or remove it, or leave out --strict")
            split.skipped.append(f"{name}: {why}")

    def _take(self, split: _Split, item: Item, image: NDArray[np.uint8]) -> None:
        labels = item.label if isinstance(item.label, tuple) else (item.label,)
        names = self.classes if self.multi_label else ("label",)
        row = {**dict(zip(names, labels, strict=True)), **item.tags}
        if split.num_images and row.keys() != split.columns.keys():
            odd = ", ".join(sorted(row.keys() ^ split.columns.keys()))
            raise BadInput(f"the source yields tags that not all images of '{item.split}' have: {odd}")
        for name, value in row.items():
            split.columns.setdefault(name, []).append(int(value))
        split.pending.append(image)
        split.num_images += 1

    def _flush(self, name: str, split: _Split) -> None:
        """Write the pending images as the next shard and note it."""
        file = shard_name(name, split.num_shards)
        digest, num_bytes = _write_shard(self.journal.folder / file, split.pending)
        sums, squares = _sums(split.pending)
        num = len(split.pending)
        record = ShardRecord(
            split=name,
            name=file,
            sha256=digest,
            num_bytes=num_bytes,
            num_images=num,
            group=split.group,
            offset=split.offset,
            columns={column: values[-num:] for column, values in split.columns.items()},
            sums=sums.tolist(),
            squares=squares.tolist(),
            skipped=split.skipped[split.num_noted :],
        )
        self.journal.add(record)
        split.pending.clear()
        split.num_shards += 1
        split.num_noted = len(split.skipped)
        split.sums += sums
        split.squares += squares
        if self.on_shard:
            self.on_shard(name, split.num_images)

    def finish(self, provenance: dict[str, Any]) -> Manifest:
        """Write what is left, and the files that tell of it; then the folder takes its final name.

        Raises:
            BadInput: there is no image, or a split has none that can be read.
        """
        for name, split in self.splits.items():
            if split.pending:
                self._flush(name, split)
            if not split.num_images:
                raise BadInput(f"split '{name}': none of its {len(split.skipped)} images can be read")
        if not self.splits:
            why = ": --balance needs one of every class" if provenance["options"]["balance"] else ""
            raise BadInput(f"source '{provenance['source']}' yields no image with these options{why}")
        names = sorted(self.splits, key=_split_order)
        written = [entry for name in names for entry in self._write_tables(name)]
        shards = [FileEntry(r.name, r.sha256, r.num_bytes) for r in self.journal.records]
        manifest = Manifest(
            size=self.size,
            classes=self.classes,
            multi_label=self.multi_label,
            splits={name: self._info(self.splits[name]) for name in names},
            provenance=provenance,
            shard_size=self.shard_size,
            files=tuple(sorted([*written, *shards], key=lambda entry: entry.name)),
        )
        self._write(FILE_NAME, manifest.to_json())
        self.journal.publish()
        return manifest

    def _write_tables(self, name: str) -> list[FileEntry]:
        columns = self.splits[name].columns
        table = self.journal.folder / table_name(name)
        write_table(table, columns)
        sync(table)
        content = balance(columns, split=name, classes=self.classes, multi_label=self.multi_label)
        text, data = balance_names(name)
        self._write(text, balance_text(content))
        self._write(data, balance_json(content))
        files = [table, self.journal.folder / text, self.journal.folder / data]
        return [FileEntry(file.name, sha256(file), file.stat().st_size) for file in files]

    def _write(self, name: str, text: str) -> None:
        file = self.journal.folder / name
        file.write_text(text, encoding="utf-8", newline="\n")
        sync(file)

    def _info(self, split: _Split) -> SplitInfo:
        num_values = split.num_images * self.size**2
        mean = split.sums / num_values / 255
        std = np.sqrt(np.maximum(split.squares / num_values / 255**2 - mean**2, 0))
        labels = self.classes if self.multi_label else ("label",)
        return SplitInfo(
            num_images=split.num_images,
            counts=class_counts(split.columns, classes=self.classes, multi_label=self.multi_label),
            tags={name: sum(v > 0 for v in values) for name, values in split.columns.items() if name not in labels},
            mean=tuple(round(float(value), 6) for value in mean),
            std=tuple(round(float(value), 6) for value in std),
            skipped=tuple(split.skipped),
        )


def _split_order(name: str) -> tuple[bool, bool, str]:
    """Sort train, validation, then the others."""
    return not name.startswith("train"), name != "validation", name


def _sums(images: list[NDArray[np.uint8]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums of all values and of their squares, per channel: exact, so that their order does not matter."""
    counts = np.zeros((3, 256), np.int64)
    for image in images:
        for channel in range(3):
            counts[channel] += np.bincount(image[:, :, channel].ravel(), minlength=256)
    values = np.arange(256, dtype=np.int64)
    return counts @ values, counts @ values**2


def _write_shard(file: Path, images: list[NDArray[np.uint8]]) -> tuple[str, int]:
    """Write images as one .npy array under a temporary name, then rename; return its sha256 and size."""
    temporary = file.with_name(f".{file.name}.tmp")
    digest = hashlib.sha256()
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *images[0].shape)}
    with temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        num_header = stream.tell()
        for image in images:
            stream.write(image.tobytes())
        stream.flush()
        os.fsync(stream.fileno())
    with temporary.open("rb") as stream:
        digest.update(stream.read(num_header))
    for image in images:
        digest.update(image.tobytes())
    os.replace(temporary, file)
    sync(file.parent)
    return digest.hexdigest(), num_header + sum(image.nbytes for image in images)
