"""A folder of image files, one subfolder per class: train|validation|test/<class>/*.jpg, or <class>/*.jpg.

Without folders for the splits, every class is divided by --seed in the shares that --shares gives. The names train,
training, val, valid, validation, dev, test and testing are understood. A class is a subfolder; classes are sorted by
name, and are the same for all splits. Images may lie deeper than the folder of their class. Hidden files and files that
are not images by their suffix are passed over. Licence: that of your images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.images import SUFFIXES, is_image_file
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import (
    DEFAULT_SHARES,
    SPLITS,
    assign_splits,
    choose_splits,
    interleave,
    named_split,
    parse_shares,
)

OPTIONS = {
    "from": (Path, "The folder."),
    "shares": (DEFAULT_SHARES, "Shares of train/validation/test, where no folder names the split."),
}


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the names of the class folders, of all splits, sorted.

    Raises:
        BadInput: no folder, or no class folder in it.
    """
    return _classes(_split_folders(Path(options["from"])))


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield every image file, split by split; the classes are mixed evenly, each sorted by path.

    Raises:
        BadInput: as `classes`; images outside of class folders; a split that is not there; bad shares; no image.
    """
    root = Path(options["from"])
    folders = _split_folders(root)
    names = _classes(folders)
    if None in folders:
        files = _files(folders[None], names)
        shares = parse_shares(options["shares"])
        assigned = assign_splits([label for _, label in files], shares=shares, seed=options["seed"])
        wanted = choose_splits(options["split"], available=tuple(shares), where="--shares")
        parts = {split: [f for f, s in zip(files, assigned, strict=True) if s == split] for split in wanted}
    else:
        available = tuple(split for split in SPLITS if split in folders)
        wanted = choose_splits(options["split"], available=available, where=str(root))
        parts = {split: _files(folders[split], names) for split in wanted}
    if not any(parts.values()):
        raise BadInput(f"{root}: no image in the class folders {_some(names)}: known are {', '.join(sorted(SUFFIXES))}")
    for split, files in parts.items():
        for index in interleave([label for _, label in files]):
            file, label = files[index]
            yield Item(split, file, label, name=file.relative_to(root).as_posix())


def _split_folders(root: Path) -> dict[str | None, Path]:
    """Return the folder of each split, or that of no split (None) if the folders are classes."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder")
    folders = _subfolders(root)
    named = [folder for folder in folders if named_split(folder.name)]
    if not named:
        return {None: root}
    others = [folder.name for folder in folders if folder not in named]
    if others:
        raise BadInput(f"{root}: has folders of splits ({named[0].name}) and others ({_some(others)}): keep one kind")
    splits: dict[str | None, Path] = {}
    for folder in named:
        other = splits.setdefault(named_split(folder.name), folder)
        if other != folder:
            raise BadInput(f"{root}: {other.name} and {folder.name} name the same split: keep one")
    return splits


def _classes(folders: dict[str | None, Path]) -> list[str]:
    names = sorted({sub.name for folder in folders.values() for sub in _subfolders(folder)})
    if not names:
        raise BadInput(f"{next(iter(folders.values()))}: has no class folders: sort the images into <class>/*.jpg")
    return names


def _files(folder: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    """Return the images of one folder of classes, each with the index of its class."""
    stray = [file.name for file in folder.iterdir() if is_image_file(file)]
    if stray:
        raise BadInput(f"{folder}: {len(stray)} images lie outside of the class folders ({_some(sorted(stray))})")
    return [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((folder / name).rglob("*"), key=lambda file: file.as_posix())
        if is_image_file(file)
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
