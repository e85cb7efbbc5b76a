"""How a training step is cut into tiles that fit L1, as a plain value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from tinyclf.device.graph.dtypes import FLOAT32, DataType, aligned

NUM_LOOPS = 3  # TCL_TILE_LOOPS of tcl_tile.h
STATE_BYTES = 2560  # TCL_TILE_STATE_BYTES


@dataclass(frozen=True)
class Span:
    """Which part of a dimension a tile takes: [i * step - before, + extent), within [0, size); loop -1: i is 0."""

    loop: int
    step: int
    extent: int
    before: int
    size: int

    def part(self, index: Sequence[int]) -> tuple[int, int]:
        """Return the half-open range that the tile at `index` takes."""
        start = (index[self.loop] * self.step if self.loop >= 0 else 0) - self.before
        first = min(max(start, 0), self.size)
        return first, max(min(start + self.extent, self.size), first)

    @property
    def more(self) -> int:
        """Return by how much a tile's extent is larger than its step."""
        return self.extent - self.step if self.loop >= 0 else 0

    @property
    def most(self) -> int:
        """Return the most that a tile takes."""
        return min(self.extent, self.size)


@dataclass(frozen=True)
class Operand:
    """A tensor in tiles: rows `stride` elements apart, columns of `unit` elements; None: scratch, or kept in L1 alone.

    `buffers` are bytes from the start of the tiles' memory. `early`: loaded while the operation before ends.
    """

    slot: str
    tensor: str | None
    rows: Span
    columns: Span
    unit: int
    stride: int
    load: bool = False
    store: bool = False
    early: bool = False
    buffers: tuple[int, int] = (0, 0)
    first: int = 0  # elements of the tensor before the first row: where only rows behind them are worked on
    dtype: DataType = FLOAT32  # of its elements

    @property
    def num_bytes(self) -> int:
        """Return the bytes of one buffer."""
        return aligned(self.rows.most * self.columns.most * self.unit * self.dtype.num_bytes)

    @property
    def row_bytes(self) -> int:
        """Return the bytes from one row of the tensor to the next."""
        return self.stride * self.dtype.num_bytes

    def tile_bytes(self, index: Sequence[int]) -> int:
        """Return the bytes of the tile at `index`."""
        row, stop_row, column, stop_column = self.ranges(index)
        return (stop_row - row) * (stop_column - column) * self.unit * self.dtype.num_bytes

    def ranges(self, index: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the ranges of rows and columns that the tile at `index` takes."""
        return (*self.rows.part(index), *self.columns.part(index))

    @property
    def is_double(self) -> bool:
        """Tell whether it has two buffers."""
        return self.buffers[0] != self.buffers[1]


@dataclass(frozen=True)
class Op:
    """Calls of the graph, by number, that are done on the same tiles by one body; without a body, one call on L2."""

    calls: tuple[int, ...]
    body: str | None = None
    counts: tuple[int, ...] = (1,) * NUM_LOOPS  # of the loops, outermost first
    num_outer: int = 0  # loops from this one on sum
    operands: tuple[Operand, ...] = ()
    layer: tuple[tuple[str, int | float], ...] = ()  # fields of struct tcl_layer that are not 0
    needs_rule: bool = False
    cycles: int = 0  # predicted

    @property
    def num_tiles(self) -> int:
        """Count tiles."""
        return prod(self.counts)

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the loops' indices in order."""
        return product(*(range(n) for n in self.counts))

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Return the byte ranges of L1 that its buffers take."""
        return [(b, b + o.num_bytes) for o in self.operands for b in set(o.buffers)]


@dataclass(frozen=True)
class TilePlan:
    """A training step in operations; their buffers lie in `num_bytes` of L1, the walk's own state before them."""

    ops: tuple[Op, ...]
    num_bytes: int

    @property
    def in_tiles(self) -> bool:
        """Tell whether any operation is cut into tiles."""
        return any(op.body for op in self.ops)

    @property
    def cycles(self) -> int:
        """Sum up what is predicted of tiled operations."""
        return sum(op.cycles for op in self.ops)


def without_tiles(num_calls: int) -> TilePlan:
    """Return the plan of a step on L2: each call is an operation without a body."""
    return TilePlan(tuple(Op((i,)) for i in range(num_calls)), num_bytes=0)
