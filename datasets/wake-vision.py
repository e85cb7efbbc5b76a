"""Wake Vision: is there a person in the picture? From the hub (streamed), or from a folder of its parquet files.

Splits: train_quality (1,248,230 images), validation (18,582), test (55,763) of Harvard-Edge/Wake-Vision, which are the
default, and train_large (5,760,428) of Harvard-Edge/Wake-Vision-Train-Large. --from reads parquet files that are named
as on the hub (test-00000-of-00031.parquet, train_quality_part_0-00000-of-00030.parquet) or that lie in a folder of the
name of their split. Nothing else is downloaded, and images are handed on as they are stored.

The label is the column `person`. Images where it is -1 (in validation and test: of a distance subset only, with no
answer to the question) are left out. All other columns are kept as tags; -1 stands for a tag that has no value. The
train splits fill only `depiction` and `body_part`.

Labels: CC-BY 4.0. Images: CC-BY 2.0. Banbury et al., Wake Vision, arXiv 2405.00892.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item
from tinyclf.workstation.data.splits import choose_splits

OPTIONS = {
    "from": ("", "A folder of its parquet files in place of the hub."),
    "revision": ("", "Commit, tag or branch on the hub; by default the pinned one (of train_large: the newest)."),
}

SMALL, LARGE = "Harvard-Edge/Wake-Vision", "Harvard-Edge/Wake-Vision-Train-Large"
SPLITS = {"train_quality": SMALL, "validation": SMALL, "test": SMALL, "train_large": LARGE}
DEFAULT_SPLITS = ("train_quality", "validation", "test")
# The commit after the last upload of data (31 May 2024). Of the other repository no full hash was to be had offline:
# its newest commit is looked up, used, and recorded.
REVISIONS = {SMALL: "19c27e44926386c2dba2561cf71356b71d81a38b", LARGE: "main"}
TIMEOUT = 10  # seconds until the hub counts as out of reach

TAGS = (
    *("predominantly_female", "predominantly_male", "gender_unknown"),
    *("young", "middle_age", "older", "age_unknown"),
    *("near", "medium_distance", "far"),
    *("dark", "normal_lighting", "bright"),
    *("person_depiction", "non-person_depiction", "non-person_non-depiction"),
    *("depiction", "body_part"),
)
FILLED_IN_TRAIN = ("depiction", "body_part")


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the two classes in the order of the column `person`."""
    return ["no_person", "person"]


def provenance(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return where the images come from: the repositories with their commits, or the files.

    Raises:
        BadInput: the hub cannot be reached, or does not know the revision; no parquet file in the folder.
    """
    licence = {"licence": "labels CC-BY 4.0, images CC-BY 2.0", "paper": "arXiv 2405.00892"}
    if options["from"]:
        files = _local_files(options)
        return {**licence, "files": {split: [Path(file).name for file in paths] for split, paths in files.items()}}
    repositories = dict.fromkeys(SPLITS[split] for split in _hub_splits(options))
    return {**licence, "repositories": {name: _commit(name, options["revision"]) for name in repositories}}


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield the rows of each split in the order of its files, without those where `person` is -1.

    Raises:
        BadInput: as `provenance`; a damaged file; a column that is missing or holds other values than it should.
    """
    yield from resume(options, {})


def resume(options: dict[str, Any], done: Mapping[str, int]) -> Iterator[Item]:
    """Yield what `build` yields but for the first done[split] items; of files that are done, only `person` is read."""
    files = _local_files(options) if options["from"] else _hub_files(options)
    for split, paths in files.items():
        skip = done.get(split, 0)
        for path in paths:
            if not options["wants"](split):
                break
            num = _num_labelled(path) if skip else 0
            if skip < num or not skip:
                for item in itertools.islice(_items(split, path), skip, None):
                    if not options["wants"](split):
                        break
                    yield item
            skip = max(0, skip - num)


def _hub_splits(options: dict[str, Any]) -> tuple[str, ...]:
    return choose_splits(options["split"] or DEFAULT_SPLITS, available=tuple(SPLITS), where=SMALL)


def _hub_files(options: dict[str, Any]) -> dict[str, list[str]]:
    """Return the addresses of the parquet files of each wanted split, sorted by path."""
    from huggingface_hub import HfApi

    found: dict[str, list[str]] = {}
    for split in _hub_splits(options):
        repository = SPLITS[split]
        commit = _commit(repository, options["revision"])
        try:
            names = HfApi().list_repo_files(repository, repo_type="dataset", revision=commit)
        except Exception as error:  # as in _commit
            raise _unreachable(repository, error) from error
        paths = sorted(name for name in names if name.endswith(".parquet") and _split_of(Path(name)) == split)
        if not paths:
            raise BadInput(f"{repository} at {commit}: has no parquet file of split '{split}': try --revision main")
        found[split] = [f"hf://datasets/{repository}@{commit}/{path}" for path in paths]
    return found


def _local_files(options: dict[str, Any]) -> dict[str, list[str]]:
    """Return the parquet files of each wanted split, sorted by path."""
    root = Path(options["from"])
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder")
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for file in sorted(root.rglob("*.parquet"), key=lambda file: file.as_posix()):
        split = _split_of(file.relative_to(root))
        if split:
            found[split].append(str(file))
    available = tuple(split for split, files in found.items() if files)
    if not available:
        raise BadInput(f"{root}: no parquet file that names its split, such as test-00000-of-00031.parquet")
    wanted = choose_splits(options["split"], available=available, where=str(root))
    return {split: found[split] for split in wanted}


def _split_of(file: Path) -> str | None:
    """Return the split that the name of a file begins with, or that the nearest of its folders has for a name."""
    for part in (file.name, *reversed(file.parts[:-1])):
        for split in SPLITS:
            if part == split or (part.startswith((f"{split}-", f"{split}_", f"{split}.")) and part == file.name):
                return split
    return None


@functools.cache
def _commit(repository: str, revision: str) -> str:
    """Ask the hub for the commit of a revision: one short request, which shows too whether it can be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    revision = revision or REVISIONS[repository]
    try:
        commit = HfApi().dataset_info(repository, revision=revision, timeout=TIMEOUT).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise BadInput(f"the hub has no revision '{revision}' of {repository}: try --revision main") from error
    except Exception as error:  # its clients raise errors of many libraries, which share no base
        raise _unreachable(repository, error) from error
    assert commit is not None, repository
    return commit


def _items(split: str, file: str) -> Iterator[Item]:
    """Yield the labelled rows of one file."""
    for index, row in enumerate(_rows(split, file)):
        person = row["person"]
        if person == -1:
            continue
        where = f"{_short(file)}: row {index}"
        if person not in (0, 1):
            raise BadInput(f"{where}: person is {person}: must be 0, 1 or -1")
        image, name = row["image"] or {}, row.get("filename") or where
        content = image.get("bytes")
        if content is None:  # a name and no content: for the builder to list among what cannot be read
            content = Path(image.get("path") or name)
        tags = {tag: -1 if row[tag] is None else int(row[tag]) for tag in TAGS if tag in row}
        yield Item(split, content, int(person), tags=tags, name=name)


def _rows(split: str, file: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file as `datasets` streams them, with the images still encoded."""
    import fsspec
    import pyarrow.parquet

    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # or it asks the hub even for a local file: up to 5 s each
    try:
        with fsspec.open(file, "rb") as opened:  # asked of the stream, it would decode the first image
            present = pyarrow.parquet.read_schema(opened).names
        _check_columns(split, present, file=file)
        wanted = [name for name in ("image", "filename", "person", *TAGS) if name in present]
        stream = datasets.load_dataset("parquet", data_files={split: [file]}, split=split, streaming=True)
        yield from stream.select_columns(wanted).cast_column("image", datasets.Image(decode=False))
    except BadInput:
        raise
    except Exception as error:  # of pyarrow, fsspec, the hub's client or datasets: they share no base
        raise _unreadable(file, error) from error


def _num_labelled(file: str) -> int:
    """Return how many items a file gives; only its column `person` is read."""
    import fsspec
    import pyarrow.compute
    import pyarrow.parquet

    try:
        with fsspec.open(file, "rb") as stream:
            person = pyarrow.parquet.ParquetFile(stream).read(columns=["person"]).column("person")
            return len(person) - int(pyarrow.compute.sum(pyarrow.compute.equal(person, -1)).as_py() or 0)
    except Exception as error:  # as in _rows
        raise _unreadable(file, error) from error


def _check_columns(split: str, present: Sequence[str], *, file: str) -> None:
    required = ("image", "person", *(FILLED_IN_TRAIN if split.startswith("train") else TAGS))
    missing = [name for name in required if name not in present]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadInput(f"{_short(file)}: lacks the columns {', '.join(missing[:3])}{more}: not Wake Vision")


def _unreachable(repository: str, error: Exception) -> BadInput:
    return BadInput(f"cannot reach the hub for {repository} ({_one_line(error)}): try again, or use --from DIR")


def _unreadable(file: str, error: Exception) -> BadInput:
    advice = "try again with --resume" if file.startswith("hf://") else "truncated or damaged: download it again"
    return BadInput(f"{_short(file)}: cannot be read ({_one_line(error)}): {advice}")


def _short(file: str) -> str:
    return file.rsplit("/", 1)[-1] if file.startswith("hf://") else file


def _one_line(error: BaseException) -> str:
    """Return the kind of an error and the beginning of what it says; the cause, where it only wraps one."""
    cause = error.__cause__ or error
    text = " ".join(str(cause).split())[:120]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
