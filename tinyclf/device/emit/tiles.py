"""A tile plan -> what the templates show of it: the table of operations, and one row of the step for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, num_blocks
from tinyclf.device.graph.ir import Call, Graph, Phase, Tensor
from tinyclf.device.graph.kernels import KERNELS, Launch
from tinyclf.device.tiles.plan import Op, Operand, Span, TilePlan

MOST_NAMES = 8  # of calls, in the comment of an operation


def traces_by_op(tiles: TilePlan, traces: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Return for each operation what its calls are the last to write; of calls in several, with the last."""
    last = {i: number for number, op in enumerate(tiles.ops) for i in op.calls}
    return [
        tuple(tensor for i in op.calls if last[i] == number for tensor in traces[i])
        for number, op in enumerate(tiles.ops)
    ]


def is_forked(call: Call) -> int:
    """Tell whether the kernel is a body which the caller runs on every core: 1; others do as they like: 0."""
    return int(KERNELS[call.kernel].launch is Launch.EVERY_CORE)


def direct_nodes(graph: Graph, tiles: TilePlan) -> set[str]:
    """Return the nodes of the calls that are not tiled: only these need an args struct."""
    return {graph.calls[op.calls[0]].node for op in tiles.ops if not op.body}


def num_ops_before(graph: Graph, tiles: TilePlan, num_calls: int) -> int:
    """Count the operations of the graph's first `num_calls` calls."""
    return sum(op.calls[0] < num_calls for op in tiles.ops)


def num_forward_ops(graph: Graph, tiles: TilePlan) -> int:
    """Count the operations of the forward pass."""
    return sum(graph.calls[op.calls[0]].phase is Phase.FORWARD for op in tiles.ops)


def call_rows(
    graph: Graph,
    tiles: TilePlan,
    symbols: Sequence[str],
    node_ids: Mapping[str, str],
    traces: Sequence[tuple[Tensor, ...]],
) -> list[dict[str, Any]]:
    """Return the rows of the table of calls, one for each operation; `symbols`: the functions of the graph's calls."""
    rows = []
    first_trace = 0
    for number, (op, written) in enumerate(zip(tiles.ops, traces, strict=True)):
        call = graph.calls[op.calls[0]]
        rows.append(
            {
                "kernel": "tcl_tile_op" if op.body else symbols[op.calls[0]],
                "args": f"ops[{_number(tiles, number)}]" if op.body else f"args_{node_ids[call.node]}",
                "fork": 0 if op.body else is_forked(call),
                "first_trace": first_trace,
                "num_traces": len(written),
                "phase": call.phase.value,
            }
        )
        first_trace += len(written)
    return rows


def tile_context(
    graph: Graph,
    tiles: TilePlan,
    place: Callable[[Tensor], str],
    literal: Callable[[float], str],
    *,
    num_frozen: int | None = None,
) -> dict[str, Any]:
    """Return what tiles.j2 shows; `place` gives a tensor's address, `literal` a float, as C text.

    Where a walk may end, or begin because features of `num_frozen` operations are kept, nothing is loaded early.
    """
    apart = {num_frozen, num_forward_ops(graph, tiles), num_ops_before(graph, tiles, graph.num_calls_within_batch)}
    return {
        "size": num_blocks(tiles.num_bytes),
        "ops": [_op(graph, tiles, number, op, place, literal, apart) for number, op in enumerate(tiles.ops) if op.body],
    }


def _number(tiles: TilePlan, number: int) -> int:
    """Return the number of an operation among the tiled ones."""
    return sum(op.body is not None for op in tiles.ops[:number])


def _op(
    graph: Graph,
    tiles: TilePlan,
    number: int,
    op: Op,
    place: Callable[[Tensor], str],
    literal: Callable[[float], str],
    apart: Collection[int | None],
) -> dict[str, Any]:
    behind = tiles.ops[number + 1] if number + 1 < len(tiles.ops) and number + 1 not in apart else None
    layer = [(name, literal(value) if isinstance(value, float) else str(value)) for name, value in op.layer]
    return {
        "first_operand": sum(len(before.operands) for before in tiles.ops[:number]),
        "names": _names([graph.calls[i] for i in op.calls]),
        "body": op.body,
        "layer": [*layer, *([("rule", "&rule")] if op.needs_rule else [])],
        "counts": op.counts,
        "num_outer": op.num_outer,
        "operands": [_operand(graph, o, place) for o in op.operands],
        "num_next": len(behind.operands) if behind and behind.body else 0,
    }


def _names(calls: Sequence[Call]) -> str:
    """Return what calls an operation stands for; of many alike, such as blocks of rows, the first and the last."""
    names = [f"{call.kernel} of {call.node}" for call in calls]
    return ", ".join(names if len(names) <= MOST_NAMES else [*names[:2], "...", *names[-2:]])


def _operand(graph: Graph, operand: Operand, place: Callable[[Tensor], str]) -> dict[str, Any]:
    flags = [
        name
        for name, is_set in (
            ("TCL_LOAD", operand.load),
            ("TCL_STORE", operand.store),
            ("TCL_EARLY", operand.early),
        )
        if is_set
    ]
    return {
        "name": operand.tensor or "in L1 alone",
        "data": _address(place(graph.by_name[operand.tensor]), operand.first) if operand.tensor else "NULL",
        "slot": f"TCL_{operand.slot}",
        "flags": " | ".join(flags) or "0",
        "buffers": [offset // BLOCK_ALIGNMENT for offset in operand.buffers],
        "unit": operand.unit,
        "stride": operand.stride,
        "rows": _span(operand.rows),
        "columns": _span(operand.columns),
    }


def _address(place: str, first: int) -> str:
    return f"{place} + {first}" if first else place


def _span(span: Span) -> str:
    return ", ".join(str(value) for value in (span.step, span.size, span.before, span.more, span.loop))
