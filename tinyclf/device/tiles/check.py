"""An independent checker of tile plans: it knows nothing of how tiles are chosen, and walks them all on index sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT
from tinyclf.device.graph.ir import PERSISTENT, Call, Graph, Role
from tinyclf.device.graph.kernels import DIRECTIONS, FW, IG, KERNELS, TILES
from tinyclf.device.graph.tile_bodies import Tile
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.tiles.limits import layer_fault, op_fault
from tinyclf.device.tiles.plan import NUM_LOOPS, Op, Operand, TilePlan

Range = tuple[int, int]
_BLOCK = 1 << 40  # bytes between the blocks of L2 (arena, parameters, state): ranges of two never overlap


def l2_ranges(graph: Graph, plan: MemoryPlan, operand: Operand, index: Sequence[int]) -> list[Range]:
    """Return the bytes of L2 that the tile at `index` is, as half-open ranges."""
    assert operand.tensor is not None
    tensor = graph.by_name[operand.tensor]
    block = {Role.PARAMETER: 1, Role.STATE: 2, Role.ACCUMULATED: 2}.get(tensor.role, 0)
    size = tensor.dtype.num_bytes
    base = block * _BLOCK + plan.offsets[tensor.name] + size * operand.first
    row, stop_row, column, stop_column = operand.ranges(index)
    first, last = column * operand.unit, stop_column * operand.unit
    if first == 0 and last == operand.stride:
        ends = [base + size * r * operand.stride for r in (row, stop_row)]
        return [(ends[0], ends[1])] if row < stop_row else []
    starts = (base + size * (r * operand.stride + first) for r in range(row, stop_row))
    return [(start, start + size * (last - first)) for start in starts if first < last]


def check_tiles(graph: Graph, plan: MemoryPlan, tiles: TilePlan, *, traced: frozenset[str] = frozenset()) -> None:
    """Assert that `tiles` does every call of `graph` once, and each by tiles that give the same result."""
    _check_order(graph, plan, tiles)
    _check_stored(graph, tiles)
    before: Op | None = None
    for op in tiles.ops:
        if op.body:
            _check_limits(op)
            _check_buffers(graph, op, tiles.num_bytes)
            _check_copies(graph, plan, op)
            _check_outputs(graph, op)
            _check_windows(op)
            if TILES[op.body].kind == "grouped":
                _check_groups(graph, op)
            _check_sums(op)
            _check_early(graph, plan, before, op)
        before = op
    _check_moves(graph, tiles)
    stored = {o.tensor for op in tiles.ops for o in op.operands if o.store}
    stored |= {name for op in tiles.ops if not op.body for i in op.calls for name in graph.calls[i].writes}
    assert traced <= stored, f"never stored, though it is looked at: {sorted(traced - stored)}"


def _check_order(graph: Graph, plan: MemoryPlan, tiles: TilePlan) -> None:
    """Run the calls in both orders on a model of memory: every call must read what the same call wrote."""
    order = [i for op in tiles.ops for i in op.calls]
    split = {i for i in order if order.count(i) > 1}  # one call in several operations
    assert sorted(set(order)) == list(range(len(graph.calls))), "a call is left out"
    assert all(_is_in_parts(KERNELS[graph.calls[i].kernel].tile) for i in split), "a call is done twice"
    limit = graph.num_calls_within_batch
    parts = [i < limit for i in order]
    assert parts == sorted(parts, reverse=True), "a call of the end of a batch comes before it"
    sources = _sources(graph, plan, range(len(graph.calls)))
    assert sources == _sources(graph, plan, list(dict.fromkeys(order))), "a call reads what another one wrote"


def _is_in_parts(tile: Tile | None) -> bool:
    """Tell whether a body does part of a call: one parameter of several that it updates, or some rows that it moves."""
    return tile is not None and tile.kind in ("descent", "move")


def _check_stored(graph: Graph, tiles: TilePlan) -> None:
    """Assert that whatever an operation reads, or is looked at in the end, was stored when it was last written."""
    lost: set[str] = set()
    in_parts = [op for op in tiles.ops if _is_in_parts(TILES.get(op.body or ""))]
    in_part = {i for op in in_parts for i in op.calls}
    stored = {o.tensor for op in in_parts for o in op.operands if o.store}
    missing = {name for i in in_part for name in graph.calls[i].writes} ^ stored
    assert not missing, f"is not updated, or moved: {missing}"
    for op in tiles.ops:
        calls = [graph.calls[i] for i in op.calls]
        reads = {o.tensor for o in op.operands if o.load} if op.body else {name for c in calls for name in c.reads}
        assert not reads & lost, f"{op.body or calls[0].kernel}: never stored: {sorted(n for n in reads & lost if n)}"
        written = {name for i in op.calls if i not in in_part for name in graph.calls[i].writes}
        lost |= written
        lost -= {o.tensor for o in op.operands if o.store and o.tensor} if op.body else written
    assert not lost & set(graph.outputs), "an output is never stored"


def _sources(graph: Graph, plan: MemoryPlan, order: Sequence[int]) -> dict[tuple[int, str], int]:
    """Return for each call and tensor that it reads the call that wrote it; -1: nobody."""
    spans = {p.tensor.name: (p.offset, p.end) for p in plan.placements}
    writer: dict[str, int] = {}
    sources = {}
    for i in order:
        for name in graph.calls[i].reads:
            sources[i, name] = writer.get(name, -1)
        for name in graph.calls[i].writes:
            if name in spans:
                start, stop = spans[name]
                for other in [o for o in writer if o in spans and spans[o][0] < stop and start < spans[o][1]]:
                    writer[other] = -2 - i  # overwritten
            writer[name] = i
    return sources


def _check_limits(op: Op) -> None:
    """Assert that the structs in C hold all numbers, and that the DMA can do every copy."""
    fault = op_fault(op) or layer_fault(op.layer)
    assert fault is None, f"{op.body}: {fault}"


def _check_buffers(graph: Graph, op: Op, num_bytes: int) -> None:
    """Assert that buffers are apart and inside of L1, and that a tile never comes into one that is in use."""
    end = 0
    for start, stop in sorted(op.extents):
        assert start >= end, f"{op.body}: two buffers overlap"
        assert start % BLOCK_ALIGNMENT == 0, f"{op.body}: a buffer is not aligned"
        end = stop
    assert end <= num_bytes, f"{op.body}: the buffers take {end} bytes"
    for o in op.operands:
        tiles = {o.ranges(index): o.tile_bytes(index) for index in op.indices()}
        assert o.is_double or len(tiles) == 1, f"{op.body}: {o.slot} needs two buffers"
        assert max(tiles.values()) <= o.num_bytes, f"{op.body}: a tile of {o.slot} is larger than its buffer"
        whose = graph.by_name[o.tensor].dtype if o.tensor else o.dtype
        assert o.dtype is whose, f"{op.body}: {o.slot} is of {o.dtype.name}, {o.tensor} of {whose.name}"


def _check_copies(graph: Graph, plan: MemoryPlan, op: Op) -> None:
    """Assert that no tile is loaded from bytes that the operation has stored to, and that all lie in their tensor."""
    written: list[Range] = []
    last: dict[str, tuple[int, ...]] = {}
    for index in op.indices():
        fresh = [o for o in op.operands if o.tensor and last.get(o.slot) != o.ranges(index)]
        for o in fresh:
            name = o.tensor or ""
            whole = l2_ranges(graph, plan, o, index)
            tensor = graph.by_name[name]
            base = (whole[0][0] // _BLOCK) * _BLOCK + plan.offsets[name] if whole else 0
            for start, stop in whole:
                assert base <= start <= stop <= base + tensor.num_bytes, f"{op.body}: a tile lies outside of {name}"
                if o.load:
                    assert not any(start < b and a < stop for a, b in written), f"{op.body}: {name} is overwritten"
            last[o.slot] = o.ranges(index)
        # A tile is stored behind the loads of the next one at the earliest: at worst at once.
        written += [r for o in fresh if o.store for r in l2_ranges(graph, plan, o, index)]
        written = _merged(written)


def _merged(ranges: list[Range]) -> list[Range]:
    result: list[Range] = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


def _visits(op: Op, operand: Operand) -> list[list[tuple[int, ...]]]:
    """Return the indices of the tiles in which `operand` stays the same, run by run."""
    runs: list[list[tuple[int, ...]]] = []
    for index in op.indices():
        if runs and operand.ranges(runs[-1][-1]) == operand.ranges(index):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _check_outputs(graph: Graph, op: Op) -> None:
    """Assert that every element of what is stored is stored once, when all that it sums has been added."""
    written = {name for i in op.calls for name in graph.calls[i].writes}
    reads = {name for i in op.calls for name in graph.calls[i].reads}
    for o in op.operands:
        if o.load:
            assert o.tensor in reads, f"{op.body}: {o.tensor} is loaded for nothing"
        if not o.store:
            continue
        assert o.tensor in written, f"{op.body}: {o.tensor} is not what its calls write"
        count = np.zeros((o.rows.size, o.columns.size), dtype=np.int32)
        for run in _visits(op, o):
            row, stop_row, column, stop_column = o.ranges(run[0])
            count[row:stop_row, column:stop_column] += 1
        assert (count == 1).all(), f"{op.body}: {o.tensor} is not stored exactly once"
        if TILES[op.body or ""].kind == "move":
            continue  # see _check_moves
        tensor = graph.by_name[o.tensor]
        num = o.rows.size * o.columns.size * o.unit
        assert o.rows.size == 1 or o.stride == o.columns.size * o.unit, f"{op.body}: {o.tensor} has gaps"
        in_part = tensor.trained or tensor.role in PERSISTENT  # leading channels, or a block of rows
        assert num == tensor.num_elements or (in_part and num < tensor.num_elements), f"{op.body}: {o.tensor}"


def _check_moves(graph: Graph, tiles: TilePlan) -> None:
    """Assert that what is moved in parts comes from where the layer says, element by element."""
    by_call: dict[int, list[Op]] = {}
    for op in tiles.ops:
        if op.body and TILES[op.body].kind == "move":
            for i in op.calls:
                by_call.setdefault(i, []).append(op)
    for i, ops in by_call.items():
        call = graph.calls[i]
        moved = _untouched(graph, call.writes[0])
        for op in ops:
            by_slot = {o.slot: o for o in op.operands}
            for index in op.indices():
                to = _elements(by_slot["Y"], index)
                assert (moved[to] == _UNTOUCHED).all(), f"{call.kernel} of {call.node}: an element is moved twice"
                moved[to] = _elements(by_slot["X"], index) if "X" in by_slot else _ZERO
        assert (moved == _moved(graph, call)).all(), f"{call.kernel} of {call.node}: elements from elsewhere"


_UNTOUCHED, _ZERO = -2, -1


def _untouched(graph: Graph, name: str) -> NDArray[np.int64]:
    return np.full(graph.by_name[name].num_elements, _UNTOUCHED, np.int64)


def _elements(operand: Operand, index: Sequence[int]) -> NDArray[np.int64]:
    """Return the elements of its tensor that a tile is, in the order in which they lie in L1."""
    row, stop_row, column, stop_column = operand.ranges(index)
    columns = np.arange(column * operand.unit, stop_column * operand.unit, dtype=np.int64)
    rows = operand.first + np.arange(row, stop_row, dtype=np.int64) * operand.stride
    return (rows[:, None] + columns).ravel()


def _moved(graph: Graph, call: Call) -> NDArray[np.int64]:
    """Return for each element that a call writes the one of its input that it is, by what its layer means."""
    row = KERNELS[call.kernel]
    node = next(node for node in graph.nodes if node.name == call.node)
    (x,), result = call.reads, _untouched(graph, call.writes[0])
    source = np.arange(graph.by_name[x].num_elements, dtype=np.int64)
    if row.layer == "shuffle":
        groups, shape = int(str(node["groups"])), graph.by_name[x].shape
        # Groups of channels, as a matrix with a group a row, are transposed; backwards likewise, the other way round.
        matrix = (groups, -1) if row.direction == FW else (shape[0] // groups, groups)
        result[:] = source.reshape(*matrix, int(np.prod(shape[1:]))).swapaxes(0, 1).ravel()
        return result
    first = int(str(node["first"]))
    if len(source) > len(result):
        result[:] = source[first : first + len(result)]
        return result
    if row.layer == "slice":
        result[:] = _ZERO
    result[first : first + len(source)] = source
    return result


def _check_groups(graph: Graph, op: Op) -> None:
    """Assert that tiles of a convolution in groups have whole groups, and the inputs of just these."""
    node = next(node for node in graph.nodes if node.name == graph.calls[op.calls[0]].node)
    inputs, outputs = (int(str(node[name])) for name in ("group_inputs", "group_outputs"))
    for index in op.indices():
        into = _axis(op, "X.rows", index) or _axis(op, "DX.rows", index)
        out = _axis(op, "Y.rows", index) or _axis(op, "DY.rows", index)
        assert into is not None
        assert out is not None
        groups = [(a // num, b // num) for (a, b), num in ((into, inputs), (out, outputs))]
        whole = all(a % num == 0 == b % num for (a, b), num in ((into, inputs), (out, outputs)))
        assert whole, f"{op.body}: channels {into} and {out}: part of a group"
        assert groups[0] == groups[1], f"{op.body}: channels {into} and {out}: other groups"


def _axis(op: Op, name: str, index: Sequence[int]) -> Range | None:
    slot, _, axis = name.partition(".")
    for o in op.operands:
        if o.slot == slot:
            return o.rows.part(index) if axis == "rows" else o.columns.part(index)
    return None


def _check_sums(op: Op) -> None:
    """Assert that what is summed is summed over all its terms, once each, and that parts of a tile fit each other."""
    assert op.body is not None
    assert len(op.counts) == NUM_LOOPS
    body = TILES[op.body]
    for index in op.indices():
        for a, b in body.alike:
            first, second = _axis(op, a, index), _axis(op, b, index)
            assert first is None or second is None or first == second, f"{op.body}: {a} {first}, {b} {second}"
    by_slot = {o.slot: o for o in op.operands}
    output = next(by_slot[slot] for slot in body.outputs if slot in by_slot)
    for run in _visits(op, output):
        assert len(run) == 1 or not body.sums or output.slot != "W_NEW", f"{op.body}: an update by part of a sum"
        _check_sum(op, body, run)


def _check_sum(op: Op, body: Tile, run: Sequence[tuple[int, ...]]) -> None:
    """Assert that the tiles of `run` are one sum for the walk too, and have each of its terms once."""
    summed = tuple(range(op.num_outer, NUM_LOOPS))
    for number, index in enumerate(run):
        is_first = all(index[loop] == 0 for loop in summed)
        is_last = all(index[loop] == op.counts[loop] - 1 for loop in summed)
        assert is_first == (number == 0), f"{op.body}: the first tile of a sum"
        assert is_last == (number == len(run) - 1), f"{op.body}: the last tile of a sum"
    for name in body.sums:
        slot, _, axis = name.partition(".")
        operand = next((o for o in op.operands if o.slot == slot), None)
        if operand is not None:
            size = (operand.rows if axis == "rows" else operand.columns).size
            terms = [_axis(op, name, index) for index in run]
            assert [t for r in terms if r for t in range(*r)] == list(range(size)), f"{op.body}: {name} {terms}"


def _check_windows(op: Op) -> None:
    """Assert that every tile has the rows of the image that its windows meet."""
    layer = dict(op.layer)
    if "kernel_height" not in layer or op.body is None or TILES[op.body].kind in ("planes", "global"):
        return
    direction = DIRECTIONS[op.body]
    kernel, stride, pad = (int(layer.get(name, 0)) for name in ("kernel_height", "stride_h", "pad_top"))
    height, out_height = int(layer["in_height"]), int(layer["out_height"])
    inputs, outputs = ("DX.columns", "DY.columns") if direction == IG else ("X.columns", "DY.columns")
    if direction == FW:
        outputs = "Y.columns"
    for index in op.indices():
        rows_in, rows_out = _axis(op, inputs, index), _axis(op, outputs, index)
        assert rows_in is not None
        assert rows_out is not None
        if direction == IG:
            needed = {(y + pad - k) // stride for y in range(*rows_in) for k in range(kernel)
                      if (y + pad - k) % stride == 0} & set(range(out_height))  # fmt: skip
            assert needed <= set(range(*rows_out)), f"{op.body}: rows {rows_in} need {sorted(needed)} of {rows_out}"
        else:
            needed = {y * stride - pad + k for y in range(*rows_out) for k in range(kernel)} & set(range(height))
            assert needed <= set(range(*rows_in)), f"{op.body}: rows {rows_out} need {sorted(needed)} of {rows_in}"


def _check_early(graph: Graph, plan: MemoryPlan, before: Op | None, op: Op) -> None:
    """Assert that what is loaded while the operation before ends disturbs nothing of it and is complete."""
    for o in (o for o in op.operands if o.early):
        assert before is not None, f"{op.body}: nothing comes before it"
        assert before.body, f"{op.body}: what comes before it is not tiled"
        start, stop = o.buffers[0], o.buffers[0] + o.num_bytes
        assert o.load, f"{op.body}: {o.slot} is never loaded"
        assert not any(start < b and a < stop for a, b in before.extents), f"{op.body}: {o.slot} is early"
        in_flight = [r for index in list(before.indices())[-2:] for p in before.operands if p.store
                     for r in l2_ranges(graph, plan, p, index)]  # fmt: skip
        for a, b in l2_ranges(graph, plan, o, (0,) * NUM_LOOPS):
            assert not any(a < d and c < b for c, d in in_flight), f"{op.body}: {o.slot} is not there yet"
