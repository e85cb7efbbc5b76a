"""What an unfinished build has done so far, on disk: a kill at any moment leaves it whole, and nothing in it wrong.

`.<out>.partial/` holds `dataset/`, which becomes `out` by one rename at the end, and `journal.jsonl`: one line of plan,
then one line per finished shard. A line is written only after its shard is on the disk under its final name. What the
journal does not tell of did not happen: it is removed on resuming, and made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput

JOURNAL = "journal.jsonl"
DATASET = "dataset"


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard, and where its split goes on.

    The split goes on with image `offset` of its group `group` (a group is one item, or one of each class). `columns`:
    labels and tags of its images. `sums` and `squares`: of its pixel values, per channel. `skipped`: names of the
    images that could not be read since the shard before.
    """

    split: str
    name: str
    sha256: str
    num_bytes: int
    num_images: int
    group: int
    offset: int
    columns: dict[str, list[int]]
    sums: list[int]
    squares: list[int]
    skipped: list[str]


def partial_folder(out: Path) -> Path:
    """Return where the unfinished build of `out` lies."""
    return out.parent / f".{out.name}.partial"


class Journal:
    """The open journal of a build; only one process at a time can have it open."""

    def __init__(self, out: Path, *, plan: dict[str, Any], resume: bool) -> None:
        """Begin, or with `resume` go on where `plan` was left.

        Raises:
            BadInput: an unfinished build is there and `resume` is not asked for; it is another plan's; another process
                is at work on it.
        """
        self.out = out
        self.root = partial_folder(out)
        self.folder = self.root / DATASET
        if self.root.exists() and not resume:
            raise BadInput(f"{out}: an earlier build did not finish: go on with --resume, or remove {self.root}")
        self.root.mkdir(parents=True, exist_ok=True)
        self._stream = (self.root / JOURNAL).open("a+b")
        self._lock()
        self.records = self._read(plan)
        self._tidy()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise BadInput(
                f"{self.out}: another process is building it: wait for it, or choose another --out"
            ) from error

    def _read(self, plan: dict[str, Any]) -> list[ShardRecord]:
        """Return the records whose shards are there, whole; cut the journal behind them."""
        self._stream.seek(0)
        lines = self._stream.read().splitlines(keepends=True)
        first = _parse(lines[0]) if lines else None
        if first is None:
            self._cut(0)
            self._append(plan)
            return []
        plan = json.loads(json.dumps(plan))
        if first != plan:
            raise BadInput(f"{self.out}: {_difference(first, plan)}: repeat the first command, or remove {self.root}")
        records, end = [], len(lines[0])
        for line in lines[1:]:
            content = _parse(line)
            if content is None or not _is_whole(self.folder / content["name"], content):
                break
            records.append(ShardRecord(**content))
            end += len(line)
        self._cut(end)
        return records

    def _cut(self, end: int) -> None:
        self._stream.truncate(end)
        self._stream.seek(0, os.SEEK_END)

    def _append(self, content: dict[str, Any]) -> None:
        self._stream.write(json.dumps(content).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _tidy(self) -> None:
        self.folder.mkdir(exist_ok=True)
        known = {record.name for record in self.records}
        for file in self.folder.iterdir():
            if file.name not in known:
                file.unlink()
        sync(self.root)

    def add(self, record: ShardRecord) -> None:
        """Note that a shard is finished; its file must be on the disk."""
        self._append(asdict(record))
        self.records.append(record)

    def publish(self) -> None:
        """Turn the finished folder into `out`, at once, and remove what was needed to build it."""
        sync(self.folder)
        if self.out.exists():
            raise BadInput(f"{self.out}: has come into being meanwhile: move it away, then repeat with --resume")
        os.rename(self.folder, self.out)
        sync(self.out.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the unfinished build."""
        shutil.rmtree(self.root)
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._stream.close()


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line, or None where the last write did not get to its end."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _is_whole(file: Path, content: dict[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == content["num_bytes"] and sha256(file) == content["sha256"]


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in one line what the unfinished build was begun with, and what is asked for now."""
    for name in sorted({*before["options"], *now["options"]}):
        old, new = before["options"].get(name), now["options"].get(name)
        if old != new:
            flag = name.replace("_", "-")
            return f"the unfinished build was begun with --{flag} {old}, now it is {new}"
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return f"the unfinished build was begun with another {', '.join(changed)}"


def sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    """Return the sha256 of the content of `file`, hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
