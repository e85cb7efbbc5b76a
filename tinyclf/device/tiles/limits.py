"""What the tables of tcl_tile.h can hold: widths of their fields, and what is beyond them."""

from __future__ import annotations

from collections.abc import Iterable

from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT
from tinyclf.device.tiles.plan import Op, Operand

# What the structs of tcl_tile.h and one copy by a port's DMA can hold: a tiling beyond that is none.
FIELD_TYPES = {
    "tcl_span": {"step": "int32_t", "size": "int32_t", "before": "int16_t", "more": "int8_t", "loop": "int8_t"},
    "tcl_operand": {"stride": "int32_t", "buffers": "uint16_t", "unit": "uint16_t"},
    "tcl_layer": {
        **dict.fromkeys(("in_height", "in_width", "out_height", "out_width"), "uint16_t"),
        **dict.fromkeys(("kernel_height", "kernel_width", "stride_h", "stride_w"), "uint16_t"),
        **dict.fromkeys(("pad_top", "pad_left", "act", "count_padding"), "uint8_t"),
    },
    "tcl_op": {"counts": "uint16_t", "num_outer": "uint8_t", "num_operands": "uint8_t", "num_next": "uint8_t"},
}
MOST_OPERANDS = 10  # TCL_TILE_OPERANDS
MOST_COPY_BYTES = (1 << 17) - 1  # PORT_DMA_MOST_BYTES of port_dma.h
_RANGES = {
    f"{'u' * (low == 0)}int{bits}_t": range(low, high)
    for bits in (8, 16, 32)
    for low, high in ((0, 1 << bits), (-(1 << bits - 1), 1 << bits - 1))
}
_HOLDS = {struct: {name: _RANGES[kind] for name, kind in kinds.items()} for struct, kinds in FIELD_TYPES.items()}


def layer_fault(layer: Iterable[tuple[str, int | float]]) -> str | None:
    """Return which of the fields of a layer struct tcl_layer cannot hold; None: it holds all."""
    holds = _HOLDS["tcl_layer"]
    return next((_beyond(name, v, holds[name]) for name, v in layer if name in holds and v not in holds[name]), None)


def _beyond(name: str, value: int | float, holds: range) -> str:
    return f"{name} is {value}, tiles can do {holds[0]:,} to {holds[-1]:,}"


def op_fault(op: Op) -> str | None:
    """Return what of an operation's tiles C cannot hold: a field of a struct, or a copy; None: it holds all."""
    if len(op.operands) > MOST_OPERANDS:
        return f"{len(op.operands)} operands, tiles can do {MOST_OPERANDS}"
    holds = _HOLDS["tcl_op"]["counts"]
    faults = [_beyond("counts", count, holds) for count in op.counts if count not in holds]
    return next(iter((*faults, *filter(None, map(_operand_fault, op.operands)))), None)


def _operand_fault(o: Operand) -> str | None:
    if o.tensor and o.num_bytes > MOST_COPY_BYTES:
        return f"a copy of {o.slot} is {o.num_bytes:,} bytes, the DMA can do {MOST_COPY_BYTES:,}"
    holds, span = _HOLDS["tcl_operand"], _HOLDS["tcl_span"]
    values = [("stride", o.stride, holds["stride"]), ("unit", o.unit, holds["unit"])]
    values += [("buffers", buffer // BLOCK_ALIGNMENT, holds["buffers"]) for buffer in o.buffers]
    for s in (o.rows, o.columns):
        values += [("step", s.step, span["step"]), ("size", s.size, span["size"])]
        values += [("before", s.before, span["before"]), ("more", s.more, span["more"])]
    return next((f"{o.slot}: {_beyond(name, v, inside)}" for name, v, inside in values if v not in inside), None)
