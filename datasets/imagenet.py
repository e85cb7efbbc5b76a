"""ImageNet (ILSVRC 2012): the folders train/<wnid>/ and val/<wnid>/, or the validation tar with its ground truth.

--from is the folder that holds train and val (either may be missing), or ILSVRC2012_img_val.tar, which is streamed and
not unpacked. The tar needs --ground-truth (ILSVRC2012_validation_ground_truth.txt: one number per line, from 1, line n
for image n) and --class-list (line k: the wnid that number k stands for, and perhaps its name, in the order of
ILSVRC2012_ID). Classes are wnids, sorted, so that folder and tar give the same labels; with --class-list they are those
of the list, also for a folder with some of the classes only.

Images and labels: for research that is not commercial, by the terms of image-net.org.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import SPLITS, choose_splits, interleave, named_split

OPTIONS = {
    "from": (Path, "The folder of train/ and val/, or ILSVRC2012_img_val.tar."),
    "ground_truth": ("", "ILSVRC2012_validation_ground_truth.txt, for the tar."),
    "class_list": ("", "The wnids in the order of the numbers of the ground truth, one per line."),
}

SUFFIXES = (".jpeg", ".jpg", ".png")
WNID = re.compile(r"n\d{8}")
MEMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the wnids, sorted: of the list, or of the folders of all splits.

    Raises:
        BadInput: no such file or folder; no class folder; a bad list.
    """
    if options["class_list"]:
        return sorted(_class_list(options))
    root = Path(options["from"])
    if root.is_file():
        raise BadInput(f"{root}: needs --class-list, the wnids in the order of the ground truth")
    names = sorted({sub.name for folder in _split_folders(root).values() for sub in _wnid_folders(folder)})
    if not names:
        raise BadInput(f"{root}: its splits have no folders named by wnid, such as n01440764")
    return names


def provenance(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return the licence and what was read."""
    licence = "for research that is not commercial, terms of image-net.org"
    return {"origin": f"ILSVRC 2012, {Path(options['from']).name}", "licence": licence}


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield the images: of folders with the classes mixed evenly, each sorted by name; of the tar in its own order.

    Raises:
        BadInput: as `classes`; no image; a truncated tar; a ground truth that does not fit the tar or the list.
    """
    names = classes(options)
    root = Path(options["from"])
    if root.is_file():
        choose_splits(options["split"], available=("validation",), where=root.name)
        yield from _tar_items(root, options)
        return
    folders = _split_folders(root)
    wanted = choose_splits(options["split"], available=[s for s in SPLITS if s in folders], where=str(root))
    index = {name: label for label, name in enumerate(names)}
    for split in wanted:
        for item in _folder_items(split, folders[split], index):
            if not options["wants"](split):
                break
            yield item


# --- folders ----------------------------------------------------------------------------------------------------------


def _folder_items(split: str, folder: Path, index: Mapping[str, int]) -> Iterator[Item]:
    unknown = [sub.name for sub in _wnid_folders(folder) if sub.name not in index]
    if unknown:
        raise BadInput(f"{folder}: {unknown[0]} is not in the class list of {len(index)} wnids")
    # Names, and no Path for each of 1.3 million files.
    files = [(sub.name, name) for sub in _wnid_folders(folder) for name in sorted(os.listdir(sub)) if _is_image(name)]
    if not files:
        raise BadInput(f"{folder}: no image in <wnid>/*.JPEG: sort the validation images into folders, or use the tar")
    labels = [index[wnid] for wnid, _ in files]
    for position in interleave(labels):
        wnid, name = files[position]
        yield Item(split, folder / wnid / name, labels[position], name=f"{folder.name}/{wnid}/{name}")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise BadInput(f"{root}: no such file or folder")
    subs = sorted(path for path in root.iterdir() if path.is_dir())
    folders = {split: sub for sub in subs if (split := named_split(sub.name))}
    if not folders:
        raise BadInput(f"{root}: has no folder train or val")
    return folders


def _wnid_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and WNID.fullmatch(path.name))


# --- the tar ----------------------------------------------------------------------------------------------------------


def _tar_items(path: Path, options: dict[str, Any]) -> Iterator[Item]:
    if not options["ground_truth"]:
        raise BadInput(f"{path}: needs --ground-truth ILSVRC2012_validation_ground_truth.txt")
    labels = _ground_truth(options)
    num = 0
    for name, content in _members(path):
        if not options["wants"]("validation"):
            return
        match = MEMBER.fullmatch(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(labels):
            raise BadInput(f"{path}: {name}: not one of the {len(labels)} images of the ground truth")
        num += 1
        yield Item("validation", content, labels[number - 1], name=name)
    if num != len(labels):
        raise BadInput(f"{path}: holds {num} images, the ground truth has {len(labels)} lines: truncated?")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file, reading the tar once from start to end."""
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    content = stream.read()
                    if len(content) != member.size:
                        raise tarfile.ReadError(f"{member.name} has {len(content)} of {member.size} bytes")
                    yield Path(member.name).name, content
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path}: truncated or damaged tar ({reason})") from error


def _ground_truth(options: dict[str, Any]) -> list[int]:
    """Return the label of each image of the tar: the position of its wnid among the sorted ones."""
    wnids = _class_list(options)
    index = {name: label for label, name in enumerate(sorted(wnids))}
    labels = []
    for line, text in enumerate(_lines(options["ground_truth"]), start=1):
        if not text.isdecimal() or not 1 <= int(text) <= len(wnids):
            where = f"{options['ground_truth']}: line {line}"
            raise BadInput(
                f"{where}: '{text[:40]}' is not a number from 1 to {len(wnids)}, the length of the class list"
            )
        labels.append(index[wnids[int(text) - 1]])
    return labels


def _class_list(options: dict[str, Any]) -> list[str]:
    wnids = [line.replace(",", " ").split()[0] for line in _lines(options["class_list"])]
    wrong = next((w for i, w in enumerate(wnids) if not WNID.fullmatch(w) or w in wnids[:i]), None)
    if wrong is not None or not wnids:
        raise BadInput(f"{options['class_list']}: {wrong or 'empty'}: each line must begin with a wnid of its own")
    return wnids


def _lines(name: str) -> list[str]:
    path = Path(name)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
