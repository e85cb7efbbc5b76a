"""The table of tiles that were measured to be best: what an operation is -> how it is cut, as a file in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.base.files import write_text
from tinyclf.device.tiles.choose import Axis, Choice, Use, Work

VERSION = 1
# They say how fast weights change, not how an operation is done.
_VALUES = ("learning_rate", "weight_decay")


@dataclass(frozen=True)
class Entry:
    """How an operation is cut, and how many cycles that was measured to take, on average over a step's."""

    choice: Choice
    cycles: int


@dataclass(frozen=True)
class TileTable:
    """The entries of a target by `work_key`."""

    target: str
    entries: dict[str, Entry]

    def choice(self, work: Work, num_bytes: int) -> Choice | None:
        """Return how `work` is cut where buffers may take `num_bytes`; None: the table does not say."""
        entry = self.entries.get(work_key(work, num_bytes))
        return entry.choice if entry else None

    def with_entries(self, entries: dict[str, Entry]) -> TileTable:
        """Return the table with `entries` added, in place of those of the same keys."""
        return TileTable(self.target, {**self.entries, **entries})


def work_key(work: Work, num_bytes: int) -> str:
    """Return what an operation is, for any net: body, sizes of its loops, operands, fields, bytes for buffers.

    Not whether an output is stored: that is another one where gradients are traced, and moves no buffer.
    """
    sizes = "x".join(str(size) for size, _ in work.sizes)
    operands = ",".join(_use_text(use) for use in work.uses)
    fields = "".join(f" {name}={value}" for name, value in sorted(work.layer) if name not in _VALUES)
    return f"{work.body} {sizes} {operands}{fields}{' rule' * work.needs_rule} bytes={num_bytes}"


def _use_text(use: Use) -> str:
    """Return the slot, rows and columns: a size, or the loop that cuts it."""

    def axis(a: Axis) -> str:
        return str(a.size) if a.loop is None else f"{a.size}@{a.loop}"

    return f"{use.slot}:{axis(use.rows)}x{axis(use.columns)}" + (f"x{use.unit}" if use.unit > 1 else "")


def read_table(path: Path, *, target: str) -> TileTable:
    """Read a table.

    Raises:
        BadInput: there is none, or it is damaged, of another version or of another target.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}: tinyclf tune writes tables of tiles") from error
    except ValueError as error:
        raise BadInput(f"{path}: is damaged, or no table of tiles: write it anew with tinyclf tune") from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise BadInput(f"{path}: is no table of tiles: write one with tinyclf tune")
    if version != VERSION:
        raise BadInput(
            f"{path}: is of version {version}, this tinyclf reads {VERSION}: write it anew with tinyclf tune"
        )
    if content.get("target") != target:
        raise BadInput(f"{path}: is of target {str(content.get('target'))[:20]}, this is target {target}")
    try:
        return TileTable(target, {str(key): _entry(value) for key, value in content["entries"].items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: is damaged: write it anew with tinyclf tune") from error


def _entry(value: dict[str, Any]) -> Entry:
    tiles, order, cycles = value["tiles"], value["order"], value["cycles"]
    if not all(type(number) is int for number in (*tiles, *order, cycles)):
        raise TypeError(value)
    return Entry(Choice(tuple(tiles), tuple(order)), cycles)


def write_table(path: Path, table: TileTable) -> None:
    """Write a table, a line for each entry, sorted; whole, or not at all."""
    rows = [
        f"  {json.dumps(key)}: "
        + json.dumps({"tiles": entry.choice.tiles, "order": entry.choice.order, "cycles": entry.cycles})
        for key, entry in sorted(table.entries.items())
    ]
    head = f'{{\n "version": {VERSION},\n "target": {json.dumps(table.target)},\n "entries": {{\n'
    write_text(path, head + ",\n".join(rows) + "\n }\n}\n")
