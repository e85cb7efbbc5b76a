"""What cifar10 and cifar100 share: reading the official python archives, safely, and grouping their classes.

Not a source (its name begins with an underscore); the two load it by path.
"""

from __future__ import annotations

import difflib
import importlib
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import assign_splits, choose_splits

SIDE = 32  # pixels
NUM_PIXELS = 3 * SIDE * SIDE

# All that a pickled array needs, in the spelling of old and new numpy. Nothing else is ever looked up.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}

OPTIONS = {
    "from": (Path, "The archive (.tar.gz) or the folder extracted from it."),
    "positive": ((), "A class of the positive group; the others are the negative group, so there are two classes."),
    "validation_share": (0.1, "Share of the train images that becomes the validation split, divided by --seed."),
}


@dataclass(frozen=True)
class Kind:
    """One of the two data sets: its folder in the archive, its files, and where its label names stand.

    `labels` maps the name of a kind of label to (key of the labels, key of their names).
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: Mapping[str, tuple[bytes, bytes]]


@dataclass(frozen=True)
class Batch:
    """The content of one or more files: `pixels` (N, 3072) uint8, channel by channel; kind of label -> (N,)."""

    pixels: NDArray[np.uint8]
    labels: dict[str, NDArray[np.int64]]


def class_names(kind: Kind, options: dict[str, Any], *, by: str) -> list[str]:
    """Return the names of the classes: those of the labels `by`, or of the two groups that --positive makes."""
    names = _label_names(kind, Path(options["from"]))
    if not options["positive"]:
        return names[by]
    _check_positive(options["positive"], names)
    group = "_or_".join(options["positive"])
    return [f"not_{group}", group]


def items(kind: Kind, options: dict[str, Any], *, by: str) -> Iterator[Item]:
    """Yield train, validation and test; every kind of label that is not the class itself becomes a tag."""
    wanted = choose_splits(options["split"], available=("train", "validation", "test"), where=kind.folder)
    share = options["validation_share"]
    if not 0 <= share < 1:
        raise BadInput(f"--validation-share {share}: must be 0 or more, and below 1")
    names = _label_names(kind, Path(options["from"]))
    _check_positive(options["positive"], names)
    if "train" in wanted or "validation" in wanted:
        batch = _read(kind, Path(options["from"]), kind.train, names)
        finest = batch.labels[next(iter(kind.labels))]
        shares = {"train": 1 - share, "validation": share}
        assigned = assign_splits(finest, shares=shares, seed=options["seed"])
        for split in wanted:
            yield from _rows(split, batch, np.flatnonzero(assigned == split), names, options, by=by)
    if "test" in wanted:
        batch = _read(kind, Path(options["from"]), kind.test, names)
        yield from _rows("test", batch, np.arange(len(batch.pixels)), names, options, by=by)


def _rows(
    split: str,
    batch: Batch,
    indices: NDArray[np.int64],
    names: Mapping[str, Sequence[str]],
    options: dict[str, Any],
    *,
    by: str,
) -> Iterator[Item]:
    origin = "test" if split == "test" else "train"
    positive = {(k, names[k].index(name)) for name in options["positive"] for k in names if name in names[k]}
    for index in indices:
        if not options["wants"](split):
            return
        labels = {k: int(values[index]) for k, values in batch.labels.items()}
        label = int(any((k, value) in positive for k, value in labels.items())) if positive else labels[by]
        tags = {k: value for k, value in labels.items() if positive or k != by}
        image = np.ascontiguousarray(batch.pixels[index].reshape(3, SIDE, SIDE).transpose(1, 2, 0))
        yield Item(split, image, label, tags=tags, name=f"{origin} {index}")


def _check_positive(positive: Sequence[str], names: Mapping[str, Sequence[str]]) -> None:
    known = [name for group in names.values() for name in group]
    for name in positive:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0) if len(known) > 20 else known
            raise BadInput(f"--positive {name}: no such class: choose from {', '.join(close)}")


def _label_names(kind: Kind, path: Path) -> dict[str, list[str]]:
    content = _load(kind, path, kind.meta)
    try:
        return {k: [_text(name) for name in content[key]] for k, (_, key) in kind.labels.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: {kind.meta} holds no names of classes ({type(error).__name__}: {error})") from error


def _read(kind: Kind, path: Path, files: Sequence[str], names: Mapping[str, Sequence[str]]) -> Batch:
    """Read and check some of the files of images, as one batch."""
    pixels: list[NDArray[np.uint8]] = []
    labels: dict[str, list[NDArray[np.int64]]] = {k: [] for k in kind.labels}
    for file in files:
        content = _load(kind, path, file)
        data = content.get(b"data")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != NUM_PIXELS:
            raise BadInput(f"{path}: {file}: holds no images (N, {NUM_PIXELS}) uint8 under 'data'")
        pixels.append(data)
        for k, (key, _) in kind.labels.items():
            labels[k].append(_labels(content.get(key), len(data), len(names[k]), where=f"{path}: {file}: {k} labels"))
    return Batch(np.concatenate(pixels), {k: np.concatenate(parts) for k, parts in labels.items()})


def _labels(values: Any, num_images: int, num_classes: int, *, where: str) -> NDArray[np.int64]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise BadInput(f"{where}: missing, or not a list of whole numbers")
    if len(values) != num_images:
        raise BadInput(f"{where}: {len(values)} for {num_images} images")
    if values and not 0 <= min(values) <= max(values) < num_classes:
        raise BadInput(f"{where}: {min(values)} to {max(values)}, there are {num_classes} classes")
    return np.array(values, dtype=np.int64)


# --- files ------------------------------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Builds numbers, text, lists, dicts and numpy arrays; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few allowed names."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        where, what = ALLOWED[module, name]
        return getattr(importlib.import_module(where), what)


def _load(kind: Kind, path: Path, file: str) -> dict[bytes, Any]:
    """Unpickle one file of the archive or folder."""
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder: download the python version from cs.toronto.edu/~kriz/cifar")
    try:
        content = _from_folder(kind, path, file) if path.is_dir() else _from_archive(kind, path, file)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path}: {file}: truncated or damaged archive ({reason})") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: {file}: holds a {type(content).__name__}: not a file of CIFAR")
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


def _from_folder(kind: Kind, path: Path, file: str) -> Any:
    folder = path / kind.folder if (path / kind.folder).is_dir() else path
    if not (folder / file).is_file():
        raise BadInput(f"{folder}: has no file {file}: not the folder {kind.folder} of the python version")
    with (folder / file).open("rb") as stream:
        return _unpickle(stream, where=f"{folder}/{file}")


def _from_archive(kind: Kind, path: Path, file: str) -> Any:
    with tarfile.open(path) as archive:
        for member in archive:  # in order, to the wanted one: nothing is written to the disk
            if member.name.removeprefix("./") == f"{kind.folder}/{file}" and member.isfile():
                stream = archive.extractfile(member)
                assert stream is not None, member.name
                return _unpickle(stream, where=f"{path}: {file}")
    raise BadInput(f"{path}: has no member {kind.folder}/{file}: not the archive of the python version, or truncated")


def _unpickle(stream: IO[bytes], *, where: str) -> Any:
    try:
        return _ArraysOnly(stream, encoding="bytes").load()
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise BadInput(f"{where}: not a sound pickle of arrays ({' '.join(str(error).split())[:120]})") from error


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
