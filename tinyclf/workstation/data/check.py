"""Verifies a dataset folder to the last byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tinyclf.base.errors import BadInput, CheckFailed
from tinyclf.workstation.data.journal import sha256
from tinyclf.workstation.data.manifest import FILE_NAME, LFS_HINT, FileEntry, Manifest, balance_names, table_name
from tinyclf.workstation.data.shards import open_array, read_manifest
from tinyclf.workstation.data.tables import (
    balance,
    balance_json,
    balance_text,
    check_table,
    class_counts,
    is_lfs_pointer,
    read_table,
)

OnFile = Callable[[int, int], None]


def check_dataset(path: Path, *, on_file: OnFile | None = None) -> Manifest:
    """Verify every file of the dataset folder `path`: presence, size, sha256, header, labels, counts; and no others.

    `on_file(bytes verified, bytes in all)` is called after each file.

    Raises:
        BadInput: the folder is no dataset at all.
        CheckFailed: damage; one line per problem.
    """
    if not (path / FILE_NAME).is_file():
        read_manifest(path)  # raises, and says which
    try:
        manifest = read_manifest(path)
    except BadInput as error:
        raise CheckFailed(str(error)) from error
    problems = _file_problems(path, manifest.files, on_file=on_file)
    problems += [f"{path / name}: does not belong to the dataset: remove it" for name in _foreign(path, manifest)]
    problems += [] if problems else _content_problems(path, manifest)
    if problems:
        raise CheckFailed("\n".join(problems))
    return manifest


def verify_files(path: Path, manifest: Manifest, *, splits: Sequence[str]) -> None:
    """Verify the sha256 of the images and labels of `splits`.

    Raises:
        BadInput: the manifest does not fit the files; the first problem.
    """
    wanted = {name for s in splits for name in (table_name(s), *(array.name for array in manifest.shards(s)))}
    problems = _file_problems(path, [entry for entry in manifest.files if entry.name in wanted])
    if problems:
        raise BadInput(problems[0])


def _file_problems(path: Path, entries: Sequence[FileEntry], *, on_file: OnFile | None = None) -> list[str]:
    problems, done, total = [], 0, sum(entry.num_bytes for entry in entries)
    for entry in entries:
        problem = _problem(path / entry.name, entry)
        problems += [problem] if problem else []
        done += entry.num_bytes
        if on_file:
            on_file(done, total)
    return problems


def _problem(file: Path, entry: FileEntry) -> str | None:
    """Return what is wrong with the bytes of one file, in one line, or None."""
    if not file.is_file():
        return f"{file}: missing: run git lfs pull, or build the dataset again"
    if is_lfs_pointer(file):
        return f"{file}: {LFS_HINT}"
    num_bytes = file.stat().st_size
    if num_bytes != entry.num_bytes:
        kind = "truncated" if num_bytes < entry.num_bytes else "too long"
        return f"{file}: {kind}, {num_bytes:,} of {entry.num_bytes:,} bytes: build the dataset again"
    if sha256(file) != entry.sha256:
        return f"{file}: damaged, its sha256 is not the one in {FILE_NAME}: build the dataset again"
    return None


def _foreign(path: Path, manifest: Manifest) -> list[str]:
    own = {FILE_NAME, *(entry.name for entry in manifest.files)}
    return sorted(file.name for file in path.iterdir() if file.name not in own)


def _content_problems(path: Path, manifest: Manifest) -> list[str]:
    """Compare what sound files hold with what the manifest says of them."""
    problems: list[str] = []
    for split in manifest.splits:
        try:
            for array in manifest.shards(split):
                open_array(path, array)
            check_table(path, manifest, split)
            problems += _table_problems(path, manifest, split)
        except BadInput as error:
            problems.append(str(error))
    return problems


def _table_problems(path: Path, manifest: Manifest, split: str) -> list[str]:
    """Compare labels, tags and balance files of `split` with the class names and counts."""
    file, info = path / table_name(split), manifest.splits[split]
    columns = read_table(path, manifest, split)
    most = 1 if manifest.multi_label else len(manifest.classes) - 1
    for name in manifest.label_columns:
        if columns[name].min() < 0 or columns[name].max() > most:
            return [f"{file}: {name} is {columns[name].min()} to {columns[name].max()}, it must be 0 to {most}"]
    if class_counts(columns, classes=manifest.classes, multi_label=manifest.multi_label) != info.counts:
        return [f"{file}: the number of images per class is not the one in {FILE_NAME}"]
    if {name: int((columns[name] > 0).sum()) for name in info.tags} != info.tags:
        return [f"{file}: the number of images per tag is not the one in {FILE_NAME}"]
    content = balance(columns, split=split, classes=manifest.classes, multi_label=manifest.multi_label)
    due = zip(balance_names(split), (balance_text(content), balance_json(content)), strict=True)
    return [
        f"{path / name}: does not tell the balance of {file.name}: build the dataset again"
        for name, text in due
        if (path / name).read_text(encoding="utf-8") != text
    ]
