"""A table of images and labels: CSV, TSV, or CelebA's list_attr_celeba.txt as it is.

The first line names the columns. One label column: its values are the classes. Several: one 0/1 (or -1/1) per label
(multi-label). By default the labels are all columns but those of the image and of the split. An image is a file, given
by its path or by its name without suffix; <id>.pt is a tensor saved by torch.save, (C, H, W) or (H, W), uint8 or float
in 0 .. 1. Paths are relative to --images, by default the folder of the table (of CelebA: img_align_celeba beside it).

The split stands in the column --split-column, or in a --partition file as CelebA's list_eval_partition.txt (name and
0, 1 or 2; taken by itself if it lies beside list_attr_celeba.txt); otherwise --shares divide the images by --seed.

Licence: that of your images. CelebA is for research that is not commercial (Liu et al., ICCV 2015).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import (
    DEFAULT_SHARES,
    SPLITS,
    assign_splits,
    choose_splits,
    named_split,
    parse_shares,
)

OPTIONS = {
    "from": (Path, "The table: .csv, .tsv, or list_attr_celeba.txt."),
    "images": ("", "The folder of the images."),
    "id_column": ("", "Column of the path or name of the image; by default the first."),
    "labels": ((), "A label column; one gives classes, several give multi-label."),
    "classes": ((), "The classes of the one label column, in order; by default those found, sorted."),
    "split_column": ("", "Column of the split; by default the one named split, if there is one."),
    "partition": ("", "A file of lines <name> 0|1|2 for train, validation and test."),
    "shares": (DEFAULT_SHARES, "Shares of train/validation/test, where the table names no split."),
}

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".pt", ".JPG", ".JPEG", ".PNG")
BITS = {"0": 0, "-1": 0, "false": 0, "False": 0, "FALSE": 0, "1": 1, "true": 1, "True": 1, "TRUE": 1}
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Table:
    """The parsed table: `ids` (N,), `labels` name -> (N,) cells, `splits` (N,) or none, `signs`: the cells are -1/1."""

    path: Path
    ids: list[str]
    labels: dict[str, list[str]]
    splits: list[str] | None
    signs: bool = False


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the classes of the one label column, or the names of the labels.

    Raises:
        BadInput: the table cannot be read, or a column is missing.
    """
    return _classes(_read(options), options)


def multi_label(options: dict[str, Any]) -> bool:
    """Return whether there is more than one label column."""
    return len(_read(options).labels) > 1


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield the images in the order of the table.

    Raises:
        BadInput: as `classes`; an unknown label; a split that is not there; no image found; a tensor of another shape.
    """
    table = _read(options)
    names = _classes(table, options)
    labels = _multi_labels(table) if len(table.labels) > 1 else _class_labels(table, names)
    splits, available = _splits(table, labels, options)
    wanted = choose_splits(options["split"], available=available, where=str(table.path))
    folder = _image_folder(table, options)
    rows = [row for row, split in enumerate(splits) if split in wanted]
    if not any(_find(folder, table.ids[row]).exists() for row in rows):
        raise BadInput(f"{folder}: holds none of the {len(rows)} images of {table.path.name}: give their --images")
    for row in rows:
        if not options["wants"](splits[row]):
            continue
        file = _find(folder, table.ids[row])
        yield Item(splits[row], _tensor(file) if file.suffix == ".pt" else file, labels[row], name=table.ids[row])


# --- the table ------------------------------------------------------------------------------------------------------


def _read(options: dict[str, Any]) -> Table:
    path = Path(options["from"])
    lines = _lines(path)
    celeba = bool(lines) and lines[0].strip().isdigit()
    table = _celeba(path, lines, options) if celeba else _delimited(path, lines, options)
    if not table.ids:
        raise BadInput(f"{path}: has no rows")
    twice, num = Counter(table.ids).most_common(1)[0]
    if num > 1:
        raise BadInput(f"{path}: image '{twice}' is listed {num} times")
    if table.splits is None:
        partition = Path(options["partition"]) if options["partition"] else path.with_name("list_eval_partition.txt")
        if options["partition"] or (celeba and partition.is_file()):
            return Table(path, table.ids, table.labels, _partition(partition, table.ids), table.signs)
    return table


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not a text file in UTF-8 (byte {error.start})") from error


def _celeba(path: Path, lines: Sequence[str], options: dict[str, Any]) -> Table:
    """Read CelebA's format: the number of images, the names of the attributes, then name and -1/1 per attribute."""
    names, rows = (lines[1].split() if len(lines) > 1 else []), [_cells(line) for line in lines[2:] if line.strip()]
    if len(rows) != int(lines[0]):
        raise BadInput(f"{path}: holds {len(rows)} images, its first line says {lines[0].strip()}: truncated?")
    _check_width(path, rows, len(names) + 1, first_line=3)
    labels = _chosen(path, ["", *names], options["labels"] or names)
    return Table(path, [row[0] for row in rows], _columns(rows, labels), None, signs=True)


def _cells(line: str) -> list[str]:
    """Split at white space; equal cells are one object: CelebA has eight million of them."""
    return [sys.intern(cell) for cell in line.split()]


def _delimited(path: Path, lines: Sequence[str], options: dict[str, Any]) -> Table:
    import csv

    rows = [row for row in csv.reader(lines, delimiter=_delimiter(path, lines)) if row]
    if not rows:
        raise BadInput(f"{path}: is empty")
    header, rows = [name.strip() for name in rows[0]], [[cell.strip() for cell in row] for row in rows[1:]]
    _check_width(path, rows, len(header), first_line=2)
    id_column = options["id_column"] or header[0]
    split_column = options["split_column"] or ("split" if "split" in header else "")
    columns = _chosen(path, header, [id_column, *([split_column] if split_column else [])])
    labels = _chosen(path, header, options["labels"] or [name for name in header if name not in columns])
    if not labels:
        raise BadInput(f"{path}: has no label column beside {', '.join(columns)}")
    splits = [_split_name(path, row[columns[split_column]]) for row in rows] if split_column else None
    ids = [row[columns[id_column]] for row in rows]
    return Table(path, ids, _columns(rows, labels), splits)


def _columns(rows: Sequence[Sequence[str]], index: Mapping[str, int]) -> dict[str, list[str]]:
    return {name: [row[i] for row in rows] for name, i in index.items()}


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    header = lines[0] if lines else ""
    return "\t" if path.suffix.lower() == ".tsv" or "\t" in header else ";" if "," not in header else ","


def _chosen(path: Path, header: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    missing = [name for name in names if name not in header]
    if missing:
        known = ", ".join([name for name in header if name][:50])
        raise BadInput(f"{path}: has no column '{missing[0]}': it has {known}")
    return {name: list(header).index(name) for name in names}


def _check_width(path: Path, rows: Sequence[Sequence[str]], width: int, *, first_line: int) -> None:
    for line, row in enumerate(rows, start=first_line):
        if len(row) != width:
            raise BadInput(f"{path}: row {line} has {len(row)} cells, the header has {width}")


# --- labels and splits ------------------------------------------------------------------------------------------------


def _classes(table: Table, options: dict[str, Any]) -> list[str]:
    if len(table.labels) > 1:
        return list(table.labels)
    ((name, cells),) = table.labels.items()
    if table.signs:
        return [f"not_{name}", name]
    return list(options["classes"]) or _sorted_classes(set(cells))


def _multi_labels(table: Table) -> list[int | tuple[int, ...]]:
    columns = [_bits(table, name) for name in table.labels]
    return list(zip(*columns, strict=True))


def _class_labels(table: Table, names: Sequence[str]) -> list[int | tuple[int, ...]]:
    ((name, cells),) = table.labels.items()
    if table.signs:
        return list(_bits(table, name))
    index = {value: label for label, value in enumerate(names)}
    for image, cell in zip(table.ids, cells, strict=True):
        if not cell or cell not in index:
            known = ", ".join(names[:10])
            raise BadInput(f"{table.path}: image '{image}' has the unknown label '{cell}' in {name}: known are {known}")
    return [index[cell] for cell in cells]


def _bits(table: Table, name: str) -> list[int]:
    cells = table.labels[name]
    wrong = next((index for index, cell in enumerate(cells) if cell not in BITS), None)
    if wrong is not None:
        what = f"image '{table.ids[wrong]}' has {name} = '{cells[wrong]}'"
        raise BadInput(f"{table.path}: {what}: must be 0, 1 or -1; choose the label columns with --labels")
    return [BITS[cell] for cell in cells]


def _sorted_classes(values: set[str]) -> list[str]:
    values = values - {""}
    numbers = all(re.fullmatch(r"-?\d{1,18}", value) for value in values)
    return sorted(values, key=lambda value: (int(value), value) if numbers else (0, value))


def _splits(table: Table, labels: Sequence[Any], options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the split of each row, and the names of all."""
    if table.splits is None:
        shares = parse_shares(options["shares"])
        strata = [0 if len(table.labels) > 1 else label for label in labels]
        return assign_splits(strata, shares=shares, seed=options["seed"]).tolist(), list(shares)
    return table.splits, list(dict.fromkeys([*(s for s in SPLITS if s in table.splits), *table.splits]))


def _split_name(path: Path, cell: str) -> str:
    split = named_split(cell) or cell.lower()
    if not SPLIT_NAME.fullmatch(split):
        raise BadInput(f"{path}: '{cell}' is no name of a split: use train, validation and test")
    return split


def _partition(path: Path, ids: Sequence[str]) -> list[str]:
    split_of = {}
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split()
        if cells and (len(cells) != 2 or cells[1] not in ("0", "1", "2")):
            raise BadInput(f"{path}: line {number}: '{line[:40]}' is not a name and 0, 1 or 2")
        if cells:
            split_of[cells[0]] = SPLITS[int(cells[1])]
    missing = [name for name in ids if name not in split_of]
    if missing:
        raise BadInput(f"{path}: says nothing of {len(missing)} of {len(ids)} images, such as {missing[0]}")
    return [split_of[name] for name in ids]


# --- images -----------------------------------------------------------------------------------------------------------


def _image_folder(table: Table, options: dict[str, Any]) -> Path:
    beside = table.path.parent
    celeba = beside / "img_align_celeba"
    folder = Path(options["images"]) if options["images"] else celeba if table.signs and celeba.is_dir() else beside
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder: give the --images")
    return folder


def _find(folder: Path, name: str) -> Path:
    """Return the file of an image; one that is missing is for the builder to list."""
    file = folder / name
    if file.is_file():
        return file
    found = (file.with_name(file.name + suffix) for suffix in SUFFIXES)
    return next((candidate for candidate in found if candidate.is_file()), file)


def _tensor(file: Path) -> NDArray[np.uint8] | Path:
    """Return the image in a .pt file, (H, W, 3) uint8; a damaged file comes back as it is, for the builder to list."""
    import pickle

    import torch

    try:
        image = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError):
        return file
    shape = image.shape if isinstance(image, torch.Tensor) else ()
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[0] not in (1, 3)):
        what = tuple(shape) if isinstance(image, torch.Tensor) else type(image).__name__
        raise BadInput(f"{file}: holds {what}: must be a tensor (3, H, W), (1, H, W) or (H, W)")
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if not 0 <= low <= high <= 1:
            raise BadInput(f"{file}: has values from {low:.3g} to {high:.3g}: floats must be 0 to 1, not normalised")
        image = (image.double() * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise BadInput(f"{file}: is of {image.dtype}: must be uint8 or float")
    return np.ascontiguousarray(image.expand(3, *image.shape[-2:]).permute(1, 2, 0).numpy())


def provenance(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return the name and the sha256 of the table."""
    import hashlib

    path = Path(options["from"])
    return {"table": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}
