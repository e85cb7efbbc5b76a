"""How one operation is cut into tiles that fit L1: the choice by a cost model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf, prod

from tinyclf.device.graph.dtypes import FLOAT32, DataType
from tinyclf.device.targets.costs import Costs
from tinyclf.device.tiles.limits import layer_fault, op_fault
from tinyclf.device.tiles.plan import NUM_LOOPS, Op, Operand, Span

Cycles = Callable[[Costs, Sequence[int]], float]  # of one tile, for tile sizes by loop


@dataclass(frozen=True)
class Axis:
    """A dimension of an operand: what a tile of `tile` steps of loop `loop` takes of it, as (step, extent, before)."""

    size: int
    loop: int | None = None
    window: Callable[[int], tuple[int, int, int]] | None = None

    def span(self, tiles: Sequence[int], order: Sequence[int]) -> Span:
        """Return the span for tile sizes by loop, with the loops in `order`."""
        if self.loop is None:
            return Span(-1, 0, self.size, 0, self.size)
        step, extent, before = self.window(tiles[self.loop]) if self.window else (tiles[self.loop],) * 2 + (0,)
        return Span(order.index(self.loop), step, extent, before, self.size)


@dataclass(frozen=True)
class Use:
    """An operand before its tiles are chosen."""

    slot: str
    tensor: str | None
    rows: Axis
    columns: Axis
    unit: int = 1
    stride: int | None = None  # None: rows lie one behind the other
    load: bool = False
    store: bool = False
    first: int = 0  # elements of the tensor before the first row
    dtype: DataType = FLOAT32  # of its elements
    partial: int | None = None  # a loop: the operand is needed only if that is cut, for what sums up over its tiles


@dataclass(frozen=True)
class Work:
    """An operation before its tiles are chosen.

    `sizes`: of each loop, how much there is and what a tile's size is a multiple of. `orders`: loops, outermost first.
    `scratch` returns the floats of the scratch buffers, `cycles` how long one tile takes on a target of such costs, for
    tile sizes by loop.
    """

    calls: tuple[int, ...]
    body: str
    sizes: tuple[tuple[int, int], ...]
    orders: tuple[tuple[int, ...], ...]
    num_outer: int
    uses: tuple[Use, ...]
    cycles: Cycles
    layer: tuple[tuple[str, int | float], ...] = ()
    scratch: Callable[[Sequence[int]], tuple[int, ...]] = lambda tiles: ()
    needs_rule: bool = False


@dataclass(frozen=True)
class Choice:
    """Tile sizes by loop, and the loops' order, outermost first."""

    tiles: tuple[int, ...]
    order: tuple[int, ...]


_PARTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256, 512, 1024, 4096)


def _tile_sizes(size: int, multiple: int) -> list[int]:
    """Return sizes that cut `size` into parts as equal as multiples of `multiple` allow, largest first."""
    cut = (-(-size // parts) for parts in _PARTS if parts <= max(size // multiple, 1))
    return sorted({min(-(-part // multiple) * multiple, size) for part in cut}, reverse=True)


def choose(work: Work, num_bytes: int, costs: Costs, tuned: Choice | None = None) -> Op | None:
    """Return the tiling `tuned` of `work` if its buffers fit `num_bytes`, else the best that fits; None: none does."""
    if tuned and _cuts(work, tuned):
        for cost, _, op in _fitting(work, [tuned], num_bytes, costs):
            if not op_fault(op):
                return replace(op, cycles=round(cost))
    best: Op | None = None
    least = inf
    for cost, _, op in _fitting(work, _choices(work), num_bytes, costs):
        if cost < least and not op_fault(op):
            best, least = op, cost
    return replace(best, cycles=round(least)) if best else None


def candidates(work: Work, num_bytes: int, costs: Costs, most: int) -> list[Choice]:
    """Return the `most` best tilings of `work` that fit `num_bytes`, best first; of several that do the same, one."""
    found: dict[tuple[object, ...], tuple[float, Choice]] = {}
    for cost, choice, op in _fitting(work, _choices(work), num_bytes, costs):
        if op_fault(op):
            continue
        walked = tuple(loop for loop, count in zip(choice.order, op.counts, strict=False) if count > 1)
        found.setdefault((choice.tiles, walked), (cost, choice))
    return [choice for _, choice in sorted(found.values(), key=lambda pair: pair[0])[:most]]


def _choices(work: Work) -> Iterator[Choice]:
    return (Choice(t, order) for t in product(*(_tile_sizes(*size) for size in work.sizes)) for order in work.orders)


def _cuts(work: Work, choice: Choice) -> bool:
    """Tell whether `choice` cuts `work` as its loops may be cut."""
    if choice.order not in work.orders or len(choice.tiles) != len(work.sizes):
        return False
    pairs = zip(choice.tiles, work.sizes, strict=True)
    return all(tile == size or (0 < tile < size and tile % multiple == 0) for tile, (size, multiple) in pairs)


def _fitting(work: Work, choices: Iterable[Choice], num_bytes: int, costs: Costs) -> Iterator[tuple[float, Choice, Op]]:
    """Yield the choices whose buffers fit, each with the cycles of the cost model before it."""
    if layer_fault(work.layer):
        return
    for choice in choices:
        op = _tiled(work, choice.tiles, choice.order)
        if sum(stop - start for start, stop in op.extents) <= num_bytes:
            yield _cost(op, work.cycles(costs, choice.tiles), costs), choice, op


def _tiled(work: Work, tiles: Sequence[int], order: Sequence[int]) -> Op:
    by_loop = [-(-size // tile) for (size, _), tile in zip(work.sizes, tiles, strict=True)]
    counts = (*(by_loop[loop] for loop in order), *(1,) * (NUM_LOOPS - len(order)))
    operands = []
    offset = 0
    for use in work.uses:
        if use.partial is not None and by_loop[use.partial] == 1:
            continue
        rows, columns = use.rows.span(tiles, order), use.columns.span(tiles, order)
        stride = use.columns.size * use.unit if use.stride is None else use.stride
        o = Operand(use.slot, use.tensor, rows, columns, use.unit, stride, use.load, use.store, first=use.first,
                    dtype=use.dtype)  # fmt: skip
        is_double = num_changes(o, counts) > 1
        operands.append(replace(o, buffers=(offset, offset + o.num_bytes * is_double)))
        offset += o.num_bytes * (1 + is_double)
    for number, size in enumerate(work.scratch(tiles), start=1):
        whole = Span(-1, 0, size, 0, size)
        o = Operand(f"SCRATCH{number}", None, Span(-1, 0, 1, 0, 1), whole, 1, size, buffers=(offset, offset))
        operands.append(o)
        offset += o.num_bytes
    return Op(work.calls, work.body, counts, work.num_outer, tuple(operands), work.layer, work.needs_rule)


def num_changes(operand: Operand, counts: Sequence[int]) -> int:
    """Count how often the operand's tile is another one than before, with the first."""
    loops = [s.loop for s in (operand.rows, operand.columns) if s.loop >= 0 and counts[s.loop] > 1]
    return prod(counts[: max(loops) + 1]) if loops else 1


def _cost(op: Op, compute: float, costs: Costs) -> float:
    """Return the cycles that an operation takes: the larger of DMA and compute, and what nothing overlaps."""
    per = costs.dma
    dma = first = last = 0.0
    copies = 0
    for o in op.operands:
        if not (o.load or (o.store and o.tensor)):
            continue
        rows, row_bytes = o.rows.most, o.columns.most * o.unit * o.dtype.num_bytes
        cycles = rows * row_bytes / per.bytes_per_cycle + (rows * per.row if row_bytes != o.row_bytes else 0)
        changes = num_changes(o, op.counts)
        copies += changes
        dma += changes * (cycles + per.change)
        if o.load:
            first += cycles
        else:
            last += cycles
    per_tile = dma / op.num_tiles
    steps = op.num_tiles * (max(compute, per_tile) + costs.tile) + copies * per.copy
    return steps + first + last + 2 * per.latency
