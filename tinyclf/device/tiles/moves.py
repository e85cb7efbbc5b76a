"""Joins, slices and shuffles of channels as tiles: copies of rows from one tensor to another."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclf.device.graph.ir import Node, Tensor
from tinyclf.device.graph.kernels import FW, Kernel
from tinyclf.device.tiles.choose import Axis, Use, Work


@dataclass(frozen=True)
class Place:
    """Rows of a tensor: the elements before the first of them, and from each to the next."""

    tensor: str
    first: int
    stride: int


def move(body: str, calls: tuple[int, ...], num_rows: int, row_size: int, *, source: Place | None, to: Place) -> Work:
    """Return a copy of rows from one tensor to another, or a fill with zeros. Loops: rows, columns."""
    rows, columns = Axis(num_rows, 0), Axis(row_size, 1)
    uses = []
    if source:
        uses.append(Use("X", source.tensor, rows, columns, stride=source.stride, load=True, first=source.first))
    uses.append(Use("Y", to.tensor, rows, columns, stride=to.stride, store=True, first=to.first))
    return Work(calls, body, ((num_rows, 1), (row_size, 4)), ((0, 1),), 2, tuple(uses),
                lambda c, t: t[0] * t[1] / c.cores * c.element.move + c.element.start)  # fmt: skip


def moves(row: Kernel, node: Node, call: int, x: Tensor, y: Tensor) -> list[Work]:
    """Return a join, a slice or a shuffle, forward or backward, from `x` to `y`; a slice's gradient is 0 beside it."""
    if row.layer == "shuffle":
        return _shuffle(row, node, call, x, y)
    first = _integer(node, "first")
    move_body, *fill_bodies = (tile.symbol for tile in row.tiles)
    size = min(x.num_elements, y.num_elements)
    grows = (row.layer == "join") == (row.direction == FW)  # it is y that is larger
    source, to = Place(x.name, 0 if grows else first, size), Place(y.name, first if grows else 0, size)
    works = [move(move_body, (call,), 1, size, source=source, to=to)]
    beside = [(a, b) for a, b in ((0, first), (first + size, y.num_elements)) if a < b]
    for body in fill_bodies:
        works += [move(body, (call,), 1, b - a, source=None, to=Place(y.name, a, b - a)) for a, b in beside]
    return works


def _shuffle(row: Kernel, node: Node, call: int, x: Tensor, y: Tensor) -> list[Work]:
    """Return a copy for each group, whose channels lie together in the layer's input and apart in its output."""
    groups, channels = _integer(node, "groups"), x.shape[0]
    num, plane = channels // groups, x.num_elements // channels
    is_forward = row.direction == FW
    inputs, outputs = (x, y) if is_forward else (y, x)
    works = []
    for group in range(groups):
        together = Place(inputs.name, group * num * plane, plane)
        apart = Place(outputs.name, group * plane, groups * plane)
        source, to = (together, apart) if is_forward else (apart, together)
        works.append(move(row.tiles[0].symbol, (call,), num, plane, source=source, to=to))
    return works


def _integer(node: Node, attribute: str) -> int:
    value = node[attribute]
    assert isinstance(value, int)
    return value
