"""Which of a source's items are used, and in which groups: checked, filtered by split, balanced over the classes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.manifest import LABEL, SPLIT_NAME
from tinyclf.workstation.data.sources import Item

Wants = Callable[[str], bool]


@dataclass(frozen=True)
class Group:
    """Items of one split that are written together or not at all; `index` counts the groups of the split."""

    index: int
    items: tuple[Item, ...]

    @property
    def split(self) -> str:
        """Return the split they belong to."""
        return self.items[0].split


def select(
    items: Iterable[Item],
    *,
    classes: tuple[str, ...],
    multi_label: bool,
    balance: bool,
    wants: Wants,
    first: Mapping[str, int],
) -> Iterator[Group]:
    """Yield single items, or with `balance` one of each class, of the splits that `wants` more.

    The items of a class wait in line for those of the other classes; what waits at the end is left out. Groups are
    counted from `first`, per split (0 by default).

    Raises:
        BadInput: the source yields what cannot be used.
    """
    num_groups = dict(first)
    waiting: dict[str, list[deque[Item]]] = {}
    for item in items:
        check_item(item, classes=classes, multi_label=multi_label)
        if not wants(item.split):
            continue
        group: tuple[Item, ...] | None = (item,)
        if balance:
            lines = waiting.setdefault(item.split, [deque() for _ in classes])
            group = _join(lines, item)
        if group:
            index = num_groups.get(item.split, 0)
            num_groups[item.split] = index + 1
            yield Group(index, group)


def _join(lines: list[deque[Item]], item: Item) -> tuple[Item, ...] | None:
    """Put `item` in its line; when nobody is missing, return the first of each."""
    assert isinstance(item.label, int)
    lines[item.label].append(item)
    return tuple(line.popleft() for line in lines) if all(lines) else None


def check_item(item: Item, *, classes: tuple[str, ...], multi_label: bool) -> None:
    """Refuse what a source must not yield.

    Raises:
        BadInput: a bad split name or label, or a tag with the name of a label column.
    """
    label, num = item.label, len(classes)
    if not SPLIT_NAME.fullmatch(item.split):
        raise BadInput(f"the source yields split '{item.split}': a name is lower-case letters, digits and _")
    if multi_label:
        if not isinstance(label, tuple) or len(label) != num or not set(label) <= {0, 1}:
            raise BadInput(f"the source yields labels {label}: they must be {num} of 0 and 1, one per label name")
    elif isinstance(label, tuple) or not 0 <= label < num:
        raise BadInput(f"the source yields label {label} in split '{item.split}': there are {num} classes")
    taken = set(item.tags) & ({*classes} if multi_label else {LABEL})
    if taken:
        raise BadInput(f"the source yields a tag '{taken.pop()}': that is the name of a label column")
