"""The labels and tags of a split in one columnar file (Parquet), and the balance that they show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.manifest import LFS_HINT, LFS_MAGIC, Manifest, table_name

MOST_VALUES = 32  # a tag with more different values is told as a range

Columns = dict[str, NDArray[np.int64]]


def write_table(file: Path, columns: Mapping[str, Sequence[int]]) -> None:
    """Write integer columns of the same length; the same columns give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    pq.write_table(table, file, compression="zstd", version="2.6", row_group_size=1 << 20)


def read_table(folder: Path, manifest: Manifest, split: str, columns: Sequence[str] | None = None) -> Columns:
    """Read `columns` (all by default) of `split`.

    Raises:
        BadInput: the file is missing or damaged, or it is not what the manifest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / table_name(split)
    check_table(folder, manifest, split)
    try:
        table = pq.read_table(file, columns=list(columns or manifest.columns(split)), use_threads=False)
        return {name: np.array(table[name].to_numpy(), dtype=np.int64) for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, error) from error


def check_table(folder: Path, manifest: Manifest, split: str) -> None:
    """Compare rows and columns of the file of `split` with the manifest; the values are not read.

    Raises:
        BadInput: missing, damaged, or not what the manifest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / table_name(split)
    if not file.is_file():
        raise BadInput(f"{file}: missing: run git lfs pull, or build the dataset again")
    if is_lfs_pointer(file):
        raise BadInput(f"{file}: {LFS_HINT}")
    try:
        metadata = pq.read_metadata(file)
        names = tuple(metadata.schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, error) from error
    due = manifest.columns(split)
    if metadata.num_rows != manifest.num_images(split) or names != due:
        raise BadInput(
            f"{file}: holds {metadata.num_rows:,} rows of {', '.join(names)[:80]}, the manifest says "
            f"{manifest.num_images(split):,} of {', '.join(due)[:80]}: build the dataset again"
        )


def _damaged(file: Path, error: Exception) -> BadInput:
    return BadInput(f"{file}: damaged ({type(error).__name__}): build the dataset again")


def is_lfs_pointer(file: Path) -> bool:
    """Say whether `file` is the text that git-lfs leaves where the data is not pulled yet."""
    with file.open("rb") as stream:
        return stream.read(len(LFS_MAGIC)) == LFS_MAGIC


def class_counts(columns: Mapping[str, Any], *, classes: Sequence[str], multi_label: bool) -> tuple[int, ...]:
    """Return the images per class, or per label name those whose label is 1."""
    if multi_label:
        return tuple(int(np.asarray(columns[name]).sum()) for name in classes)
    return tuple(np.bincount(np.asarray(columns["label"]), minlength=len(classes)).tolist())


def balance(columns: Mapping[str, Any], *, split: str, classes: Sequence[str], multi_label: bool) -> dict[str, Any]:
    """Return how often each class occurs, and each value of each tag, by class: as JSON can hold it."""
    labels = classes if multi_label else ("label",)
    tags = {name: np.asarray(values) for name, values in columns.items() if name not in labels}
    counts = class_counts(columns, classes=classes, multi_label=multi_label)
    masks = _masks(columns, classes=classes, multi_label=multi_label)
    return {
        "split": split,
        "num_images": len(next(iter(columns.values()))),
        "classes": dict(zip(classes, counts, strict=True)),
        "tags": {name: _tag_balance(values, masks) for name, values in tags.items()},
    }


def _masks(columns: Mapping[str, Any], *, classes: Sequence[str], multi_label: bool) -> dict[str, Any]:
    if multi_label:
        return {name: np.asarray(columns[name]) == 1 for name in classes}
    label = np.asarray(columns["label"])
    return {name: label == index for index, name in enumerate(classes)}


def _tag_balance(values: NDArray[Any], masks: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
    """Return {value: {"all": n, class: n}}, or the range of a tag with many values."""
    found = np.unique(values)
    if len(found) > MOST_VALUES:
        return {"least": int(found[0]), "most": int(found[-1]), "num_values": len(found)}
    result = {}
    for value in found:
        hit = values == value
        by_class = {name: int((hit & mask).sum()) for name, mask in masks.items()}
        result[str(value)] = {"images": int(hit.sum()), "by_class": by_class}
    return result


def balance_json(content: dict[str, Any]) -> str:
    """Return the text of <split>_balance.json."""
    return json.dumps(content, indent=1) + "\n"


def balance_text(content: dict[str, Any]) -> str:
    """Return the text of <split>_balance.txt: the classes, then each tag with its values, as shares of the split."""
    num = content["num_images"]
    lines = [f"{content['split']}: {num:,} images", "", "classes"]
    lines += [_share_line(name, count, num) for name, count in content["classes"].items()]
    for tag, values in content["tags"].items():
        lines += ["", tag]
        if "num_values" in values:
            lines.append(f"  {values['num_values']:,} values from {values['least']} to {values['most']}")
            continue
        for value, found in values.items():
            by_class = ", ".join(f"{name} {n:,}" for name, n in found["by_class"].items() if n)
            by_class = by_class if len(content["classes"]) <= 10 else ""
            lines.append(_share_line(value, found["images"], num) + (f"   {by_class}" if by_class else ""))
    return "\n".join(lines) + "\n"


def _share_line(name: str, count: int, whole: int) -> str:
    return f"  {name:<24} {count:>10,} {count / max(whole, 1):>7.1%}"


def info_lines(manifest: Manifest) -> list[str]:
    """Return what `tinyclf data info` shows: where it comes from, and per split the images of each class and tag."""
    options = manifest.provenance.get("options", {})
    given = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items() if v not in ("", None, False, [], 0))
    more = [f"{k}: {v}" for k, v in manifest.provenance.items() if k not in ("source", "options")]
    splits = manifest.splits
    num_bytes = sum(entry.num_bytes for entry in manifest.files)
    rows = [["images", *(f"{split.num_images:,}" for split in splits.values())]]
    for index, name in enumerate(manifest.classes):
        rows.append([name, *(_cell(split.counts[index], split.num_images) for split in splits.values())])
    for tag in dict.fromkeys(tag for split in splits.values() for tag in split.tags):
        cells = [_cell(split.tags[tag], split.num_images) if tag in split.tags else "" for split in splits.values()]
        rows.append([f"tag {tag}", *cells])
    for what in ("mean", "std"):
        rows.append([f"{what} RGB", *(" ".join(f"{v:.3f}" for v in getattr(split, what)) for split in splits.values())])
    if any(split.skipped for split in splits.values()):
        rows.append(["left out", *(f"{len(split.skipped):,}" for split in splits.values())])
    width = max(len(row[0]) for row in rows)
    head = [
        f"source {manifest.provenance.get('source')} {given}".rstrip(),
        *more,
        f"{manifest.size}x{manifest.size} pixels, {num_bytes / 2**20:,.1f} MiB in {len(manifest.files) + 1} files",
        "",
        " " * width + "".join(f"  {name:>18}" for name in splits),
    ]
    return head + [f"{row[0]:<{width}}" + "".join(f"  {cell:>18}" for cell in row[1:]) for row in rows]


def _cell(count: int, whole: int) -> str:
    return f"{count:,} {count / whole:>7.1%}"
