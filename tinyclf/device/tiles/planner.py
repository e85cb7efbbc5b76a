"""The tile plan of a training step: calls are put together, each operation is cut into tiles, L1 is shared out."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from tinyclf.base.errors import DoesNotFit
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, MOST_TILE_BYTES
from tinyclf.device.graph.ir import Call, Graph
from tinyclf.device.graph.kernels import plane_bodies
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.targets.costs import Costs
from tinyclf.device.tiles.check import check_tiles, l2_ranges
from tinyclf.device.tiles.choose import Work, choose
from tinyclf.device.tiles.fusion import Fusion
from tinyclf.device.tiles.limits import layer_fault
from tinyclf.device.tiles.plan import STATE_BYTES, Op, Operand, TilePlan
from tinyclf.device.tiles.table import TileTable


def plan_tiles(
    graph: Graph,
    plan: MemoryPlan,
    *,
    l1_bytes: int,
    costs: Costs,
    traced: frozenset[str] = frozenset(),
    table: TileTable | None = None,
) -> TilePlan:
    """Cut a step into tiles whose buffers, with the walk's own state, fit `l1_bytes` of L1; then check it.

    `traced` names tensors whose values are looked at when the operation that writes them is over. An operation that is
    in `table` is cut as it says, the others as the model of `costs` says.

    Raises:
        DoesNotFit: a call's smallest tile is larger.
    """
    num_bytes = buffer_bytes(l1_bytes)
    ops: list[Op] = []
    for calls, works in Fusion(graph, plan, traced).works():
        if not works:
            ops.append(Op(calls))
        for work in works:
            op = choose(work, num_bytes, costs, table.choice(work, num_bytes) if table else None)
            if op is None and work.body in plane_bodies():
                op = Op(calls)  # a plane is larger than L1
            if op is None:
                raise _does_not_fit(graph.calls[calls[0]], work, l1_bytes, costs)
            ops.append(op)
    tiles = TilePlan(_early(graph, plan, _spread(ops, num_bytes)), num_bytes)
    check_tiles(graph, plan, tiles, traced=traced)
    return tiles


def _does_not_fit(call: Call, work: Work, l1_bytes: int, costs: Costs) -> DoesNotFit:
    what = f"{call.kernel} of {call.node} cannot be cut into tiles"
    fault = layer_fault(work.layer)
    if fault:
        return DoesNotFit(f"{what}: {fault}: compute on L2 with --l1 off")
    sizes = range(0, buffer_bytes(MOST_TILE_BYTES) + 1, BLOCK_ALIGNMENT)
    number = bisect_left(sizes, True, key=lambda num_bytes: choose(work, num_bytes, costs) is not None)
    if number == len(sizes):
        return DoesNotFit(f"{what} of any size: compute on L2 with --l1 off")
    needs = f"it needs {STATE_BYTES + sizes[number]:,} bytes of L1 beside stacks, and {l1_bytes:,} are there"
    return DoesNotFit(f"{what}: {needs}: give more with --l1, or compute on L2 with --l1 off")


def buffer_bytes(l1_bytes: int) -> int:
    """Return the bytes of `l1_bytes` of L1 that buffers may take: what the walk's own state leaves."""
    return max(min(l1_bytes, MOST_TILE_BYTES) - STATE_BYTES, 0) // BLOCK_ALIGNMENT * BLOCK_ALIGNMENT


def tiled_works(
    graph: Graph, plan: MemoryPlan, *, l1_bytes: int, costs: Costs, traced: frozenset[str] = frozenset()
) -> list[Work | None]:
    """Return of each operation that `plan_tiles` plans, in order, what is tiled; None: one call on L2."""
    num_bytes = buffer_bytes(l1_bytes)
    result: list[Work | None] = []
    for _, works in Fusion(graph, plan, traced).works():
        result += [w if w.body not in plane_bodies() or choose(w, num_bytes, costs) else None for w in works] or [None]
    return result


def _spread(ops: list[Op], num_bytes: int) -> list[Op]:
    """Lay the buffers of every second operation from the end of L1 on, so that those of two in a row may lie apart.

    What is first in one lies farthest from the other, whichever of the two it is: inputs can be loaded early.
    """

    def mirrored(o: Operand) -> Operand:
        first, second = o.buffers
        return replace(o, buffers=(num_bytes - first - o.num_bytes, num_bytes - second - o.num_bytes))

    return [
        replace(op, operands=tuple(map(mirrored, op.operands))) if number % 2 else op for number, op in enumerate(ops)
    ]


def _early(graph: Graph, plan: MemoryPlan, ops: list[Op]) -> tuple[Op, ...]:
    """Mark the operands whose first tile may be loaded while the last tile of the operation before is computed.

    Neither may what they read be on its way to L2 still, nor their buffer be in use.
    """
    result = list(ops)
    for number in range(1, len(ops)):
        before, op = ops[number - 1], ops[number]
        if not before.body or not op.body:
            continue
        busy = before.extents
        written = _last_stores(graph, plan, before)

        def may_be(o: Operand, busy: list[tuple[int, int]] = busy, written: list[tuple[int, int]] = written) -> bool:
            if not o.load or o.tensor is None:
                return False
            start, stop = o.buffers[0], o.buffers[0] + o.num_bytes
            if any(start < b and a < stop for a, b in busy):
                return False
            reads = l2_ranges(graph, plan, o, (0, 0, 0))
            return not any(a < d and c < b for a, b in reads for c, d in written)

        result[number] = replace(op, operands=tuple(replace(o, early=may_be(o)) for o in op.operands))
    return tuple(result)


def _last_stores(graph: Graph, plan: MemoryPlan, op: Op) -> list[tuple[int, int]]:
    """Return the ranges of L2 that are stored in or after the last tile's step: of the last two tiles."""
    indices = list(op.indices())[-2:]
    return [r for o in op.operands if o.store for index in indices for r in l2_ranges(graph, plan, o, index)]
