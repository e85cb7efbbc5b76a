"""What each kind of operation does with a tile: its loops, operands and cycles, as the bodies of tcl_tile.h need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from tinyclf.device.graph.kernels import ACT_NONE, FW, IG, WG, Kernel, find
from tinyclf.device.graph.tile_bodies import Tile
from tinyclf.device.targets.costs import Costs
from tinyclf.device.tiles.choose import Axis, Use, Work
from tinyclf.device.tiles.windows import Groups, TileWindow


@dataclass(frozen=True)
class Names:
    """The tensors of a layer's operation; None: it has none. `stores`: those whose values anything reads later.

    `rate` and `decay` are those of plain SGD in the same operation.
    """

    calls: tuple[int, ...]
    x: str | None = None
    w: str | None = None
    b: str | None = None
    y: str | None = None
    dy: str | None = None
    dx: str | None = None
    dw: str | None = None
    db: str | None = None
    mask: str | None = None
    act: int = ACT_NONE
    updates: bool = False
    rate: float = 0.0
    decay: float = 0.0
    stores: frozenset[str] = frozenset()


def gemm_cycles(costs: Costs, m: int, n: int, k: int) -> float:
    """Return the cycles of tcl_fast_gemm_fp32 for (m, k) x (k, n): see there. Two cores share an FPU."""
    per = costs.gemm
    columns = -(-m // 4) * n / costs.cores
    blocks, rest = divmod(ceil(columns), 4)
    strips = max(1.0, columns / n)
    blocks_cycles = blocks * (per.block_term * k + per.block)
    return blocks_cycles + rest * (per.column_term * k + per.column) + strips * per.strip + per.start


def _layer(names: Names, window: TileWindow | None = None) -> tuple[tuple[str, int | float], ...]:
    fields: list[tuple[str, int | float]] = [("act", names.act)] if names.act else []
    fields += window.fields if window else ()
    if names.updates:
        fields += [("learning_rate", names.rate), ("weight_decay", names.decay)]
    return tuple(fields)


def _loaded(
    slot: str, tensor: str | None, rows: Axis, columns: Axis, unit: int = 1, stride: int | None = None
) -> list[Use]:
    return [Use(slot, tensor, rows, columns, unit, stride, load=True)] if tensor else []


def _stored(
    names: Names, slot: str, tensor: str | None, rows: Axis, columns: Axis, unit: int = 1, stride: int | None = None
) -> list[Use]:
    """Return an output; one that nothing reads later stays in L1."""
    if not tensor:
        return []
    is_kept = tensor in names.stores
    return [Use(slot, tensor if is_kept else None, rows, columns, unit, stride, store=is_kept)]


def _parameter_grads(
    names: Names, out: Axis, weights: Axis, unit: int, *, partial: int | None = None
) -> tuple[Use, ...]:
    """Return the gradients of a layer's parameters, with the parameters before and after, if it updates them.

    `partial`: the loop that the weight gradient sums over, if its kernel can update the weights by a whole sum at once.
    """
    one = Axis(1)
    uses = _stored(names, "DW", names.dw, out, weights, unit)
    if names.updates and partial is not None:
        uses = [use if use.store else replace(use, partial=partial) for use in uses]
    uses += _stored(names, "DB", names.db, out, one)
    if names.updates:
        for slot, tensor, grad, columns, size in (
            ("W", names.w, names.dw, weights, unit),
            ("B", names.b, names.db, one, 1),
        ):
            if grad:
                uses += _loaded(slot, tensor, out, columns, size)
                uses.append(Use(f"{slot}_NEW", tensor, out, columns, size, store=True))
    return tuple(uses)


def pointwise(row: Kernel, names: Names, num_in: int, num_out: int, pixels: int) -> Work:
    """Return a pointwise convolution or a linear layer (of one pixel). Loops: output channels, pixels, inputs."""
    out, inputs, px = Axis(num_out, 0), Axis(num_in, 2), Axis(pixels, 1)
    sizes = ((num_out, 4), (pixels, 4), (num_in, 4))
    layer = _layer(names)
    w = _loaded("W", names.w, out, inputs)
    if row.direction == FW:
        uses = _loaded("X", names.x, inputs, px) + w + _loaded("B", names.b, out, Axis(1))
        uses += _stored(names, "Y", names.y, out, px)
        return Work(names.calls, row.tiles[0].symbol, sizes, ((0, 1, 2), (1, 0, 2)), 2, tuple(uses),
                    lambda c, t: gemm_cycles(c, t[0], t[1], t[2]), layer)  # fmt: skip
    if row.direction == IG:
        uses = _loaded("DY", names.dy, out, px) + w + _loaded("MASK", names.mask, inputs, px)
        uses += _stored(names, "DX", names.dx, inputs, px)
        num_masks = 1 if names.mask else 0
        return Work(names.calls, row.tiles[0].symbol, sizes, ((2, 1, 0), (1, 2, 0)), 2, tuple(uses),
                    lambda c, t: gemm_cycles(c, t[2], t[1], t[0]) + num_masks * c.element.mask * t[1] * t[2],
                    layer)  # fmt: skip
    uses = _loaded("X", names.x, inputs, px) + _loaded("DY", names.dy, out, px)
    uses += _parameter_grads(names, out, inputs, 1, partial=1)

    def cycles(costs: Costs, tiles: Sequence[int]) -> float:
        per, at_once = costs.element, tiles[1] == pixels and names.dw not in names.stores
        update = 0.0 if not names.updates else per.descent_at_once if at_once else per.descent
        summed = tiles[1] / per.bias_per_cycle + tiles[2] * update
        return gemm_cycles(costs, tiles[0], tiles[2], tiles[1]) + tiles[0] * summed

    return Work(names.calls, row.tiles[0].symbol, sizes, ((0, 2, 1),), 2, tuple(uses), cycles, layer)


def _planes(
    names: Names,
    window: TileWindow,
    channels: Axis,
    loop: int,
    *slots: tuple[str, str | None, bool, bool],
    stores: bool = False,
) -> list[Use]:
    """Return operands that are planes: (slot, tensor, is it an input of the layer, does its tile meet windows)."""
    uses: list[Use] = []
    for slot, tensor, is_input, meets in slots:
        height, width = window.inputs if is_input else window.outputs
        rows = Axis(height, loop) if not meets else window.input_rows(loop) if is_input else window.output_rows(loop)
        if stores:
            uses += _stored(names, slot, tensor, channels, rows, width, height * width)
        else:
            uses += _loaded(slot, tensor, channels, rows, width, height * width)
    return uses


def depthwise(row: Kernel, names: Names, window: TileWindow, num_channels: int) -> Work:
    """Return a depthwise convolution. Loops: channels, rows of the output (of the input, for its gradient)."""
    channels, weights = Axis(num_channels, 0), Axis(1)
    kernel = window.kernel[0] * window.kernel[1]
    w = _loaded("W", names.w, channels, weights, kernel)
    layer = _layer(names, window)
    row_macs = float(window.outputs[1] * kernel)
    if row.direction == FW:
        uses = _planes(names, window, channels, 1, ("X", names.x, True, True)) + w
        uses += _loaded("B", names.b, channels, Axis(1))
        uses += _planes(names, window, channels, 1, ("Y", names.y, False, False), stores=True)
        rows = (window.outputs[0], 1)
    elif row.direction == IG:
        uses = _planes(names, window, channels, 1, ("DY", names.dy, False, True), ("MASK", names.mask, True, False)) + w
        uses += _planes(names, window, channels, 1, ("DX", names.dx, True, False), stores=True)
        rows = (window.inputs[0], window.stride[0])
        row_macs = row_macs / window.stride[0] + (window.inputs[1] if names.mask else 0)
    else:
        uses = _planes(names, window, channels, 1, ("X", names.x, True, True), ("DY", names.dy, False, False))
        uses += _parameter_grads(names, channels, weights, kernel)
        rows = (window.outputs[0], 1)
        row_macs += window.outputs[1]

    def cycles(costs: Costs, tiles: Sequence[int]) -> float:
        num, per = costs.cores, costs.window
        per_core = ceil(tiles[0] * tiles[1] / num) if row.direction != WG else ceil(tiles[0] / num) * tiles[1]
        mac = per.fast_mac if window.has_usual_columns else per.mac
        return num * per_core * (row_macs * mac + per.row) + per.start

    num_outer = 1 if row.direction == WG else 2
    sizes = ((num_channels, 1), rows)
    return Work(names.calls, row.tiles[0].symbol, sizes, ((0, 1),), num_outer, tuple(uses), cycles, layer)


def _is_first_layer(window: TileWindow, num_in: int) -> bool:
    """Tell whether tcl_fast_conv_*_fp32 is the better kernel."""
    return window.has_usual_columns and window.stride[0] == 2 and num_in <= 4


def _first_layer(row: Kernel, names: Names, window: TileWindow, num_in: int, num_out: int) -> Work:
    """Return a 3x3 convolution from few channels. Loops: output channels, rows."""
    out, inputs = Axis(num_out, 0), Axis(num_in)
    uses = _planes(names, window, inputs, 1, ("X", names.x, True, True))
    if row.direction == FW:
        uses += _loaded("W", names.w, out, inputs, 9) + _loaded("B", names.b, out, Axis(1))
        uses += _planes(names, window, out, 1, ("Y", names.y, False, False), stores=True)
    else:
        uses += _planes(names, window, out, 1, ("DY", names.dy, False, False))
        uses += _parameter_grads(names, out, inputs, 9)
    row_macs = window.outputs[1] * 9 * num_in
    sizes = ((num_out, 4), (window.outputs[0], 1))
    num_outer = 2 if row.direction == FW else 1

    def cycles(costs: Costs, tiles: Sequence[int]) -> float:
        num, per = costs.cores, costs.window
        return num * ceil(tiles[0] * tiles[1] / num) * row_macs * per.first_layer_mac + per.first_layer_start

    return Work(names.calls, row.tiles[1].symbol, sizes, ((0, 1),), num_outer, tuple(uses), cycles,
                _layer(names, window))  # fmt: skip


def convolution(row: Kernel, names: Names, window: TileWindow, num_in: int, num_out: int) -> Work:
    """Return a convolution with a window over all channels. Loops: output channels, rows, input channels."""
    out, inputs = Axis(num_out, 0), Axis(num_in, 2)
    kernel = window.kernel[0] * window.kernel[1]
    width = window.inputs[1] if row.direction == IG else window.outputs[1]
    w = _loaded("W", names.w, out, inputs, kernel)
    layer = _layer(names, window)
    body = row.tiles[0].symbol

    def columns(channels: int, rows: int) -> int:
        return channels * kernel * rows * width

    def turned(tiles: Sequence[int]) -> int:
        return tiles[0] * tiles[2] * kernel

    if row.direction != IG and _is_first_layer(window, num_in):
        return _first_layer(row, names, window, num_in, num_out)

    if row.direction == FW:
        uses = _planes(names, window, inputs, 1, ("X", names.x, True, True)) + w + _loaded("B", names.b, out, Axis(1))
        uses += _planes(names, window, out, 1, ("Y", names.y, False, False), stores=True)
        sizes = ((num_out, 4), (window.outputs[0], 1), (num_in, 1))
        return Work(names.calls, body, sizes, ((0, 1, 2), (1, 0, 2)), 2, tuple(uses),
                    lambda c, t: gemm_cycles(c, t[0], t[1] * width, t[2] * kernel)
                    + columns(t[2], t[1]) / c.window.columns_per_cycle, layer,
                    lambda t: (columns(t[2], t[1]),))  # fmt: skip
    if row.direction == IG:
        uses = _planes(names, window, out, 1, ("DY", names.dy, False, True)) + w
        uses += _planes(names, window, inputs, 1, ("MASK", names.mask, True, False))
        uses += _planes(names, window, inputs, 1, ("DX", names.dx, True, False), stores=True)
        sizes = ((num_out, 1), (window.inputs[0], window.stride[0]), (num_in, 4))
        return Work(names.calls, body, sizes, ((2, 1, 0), (1, 2, 0)), 2, tuple(uses),
                    lambda c, t: gemm_cycles(c, t[2], t[1] * width, t[0] * kernel)
                    + (columns(t[0], t[1]) + turned(t)) / c.window.gradient_columns_per_cycle, layer,
                    lambda t: (columns(t[0], t[1]), turned(t)))  # fmt: skip
    uses = _planes(names, window, inputs, 1, ("X", names.x, True, True))
    uses += _planes(names, window, out, 1, ("DY", names.dy, False, False))
    uses += _parameter_grads(names, out, inputs, kernel, partial=1)
    sizes = ((num_out, 4), (window.outputs[0], 1), (num_in, 1))
    return Work(names.calls, body, sizes, ((0, 2, 1),), 2, tuple(uses),
                lambda c, t: gemm_cycles(c, t[0], t[2] * kernel, t[1] * width)
                + columns(t[2], t[1]) / c.window.columns_per_cycle, layer,
                lambda t: (columns(t[2], t[1]),))  # fmt: skip


def grouped(row: Kernel, names: Names, window: TileWindow, groups: Groups) -> Work:
    """Return a convolution in groups, each a convolution of its own. Loops: groups, rows."""
    inputs, out, weights = groups.channels(groups.inputs), groups.channels(groups.outputs), Axis(groups.inputs)
    kernel = window.kernel[0] * window.kernel[1]
    layer, body = _layer(names, window), row.tiles[0].symbol
    width = window.inputs[1] if row.direction == IG else window.outputs[1]
    rows = (window.inputs[0], window.stride[0]) if row.direction == IG else (window.outputs[0], 1)
    w = _loaded("W", names.w, out, weights, kernel)
    turned = groups.outputs * groups.inputs * kernel

    def columns(channels: int, rows: int) -> int:
        return channels * kernel * rows * width

    if row.direction == FW:
        uses = _planes(names, window, inputs, 1, ("X", names.x, True, True)) + w
        uses += _loaded("B", names.b, out, Axis(1))
        uses += _planes(names, window, out, 1, ("Y", names.y, False, False), stores=True)
        return Work(names.calls, body, ((groups.num, 1), rows), ((0, 1), (1, 0)), 2, tuple(uses),
                    lambda c, t: t[0] * (gemm_cycles(c, groups.outputs, t[1] * width, groups.inputs * kernel)
                        + columns(groups.inputs, t[1]) / c.window.columns_per_cycle + c.window.group), layer,
                    lambda t: (columns(groups.inputs, t[1]),))  # fmt: skip
    if row.direction == IG:
        uses = _planes(names, window, out, 1, ("DY", names.dy, False, True)) + w
        uses += _planes(names, window, inputs, 1, ("MASK", names.mask, True, False))
        uses += _planes(names, window, inputs, 1, ("DX", names.dx, True, False), stores=True)
        return Work(names.calls, body, ((groups.num, 1), rows), ((0, 1), (1, 0)), 2, tuple(uses),
                    lambda c, t: t[0] * (gemm_cycles(c, groups.inputs, t[1] * width, groups.outputs * kernel)
                        + (columns(groups.outputs, t[1]) + turned) / c.window.gradient_columns_per_cycle
                        + c.window.group), layer,
                    lambda t: (columns(groups.outputs, t[1]), turned))  # fmt: skip
    uses = _planes(names, window, inputs, 1, ("X", names.x, True, True))
    uses += _planes(names, window, out, 1, ("DY", names.dy, False, False))
    uses += _parameter_grads(names, out, weights, kernel, partial=1)
    return Work(names.calls, body, ((groups.num, 1), rows), ((0, 1),), 1, tuple(uses),
                lambda c, t: t[0] * (gemm_cycles(c, groups.outputs, groups.inputs * kernel, t[1] * width)
                    + columns(groups.inputs, t[1]) / c.window.columns_per_cycle + c.window.group), layer,
                lambda t: (columns(groups.inputs, t[1]),))  # fmt: skip


def bias_gradient(names: Names, num_out: int, pixels: int) -> Work:
    """Return the gradient of a bias alone. Loops: channels, pixels."""
    out = Axis(num_out, 0)
    uses = _loaded("DY", names.dy, out, Axis(pixels, 1)) + list(_parameter_grads(names, out, Axis(1), 1))
    return Work(names.calls, find("bias", WG).tiles[0].symbol, ((num_out, 1), (pixels, 4)), ((0, 1),), 1, tuple(uses),
                lambda c, t: ceil(t[0] / c.cores) * t[1] * c.element.bias + c.element.start, _layer(names))  # fmt: skip


Fields = tuple[tuple[str, int | float], ...]  # of struct tcl_layer


def pooling(row: Kernel, names: Names, window: TileWindow, num_channels: int, more: Fields) -> Work:
    """Return a pooling, by channels; `more`: what its body reads beside the window."""
    channels = Axis(num_channels, 0)
    inputs, outputs = (Axis(height * width) for height, width in (window.inputs, window.outputs))
    of_all = next((tile for tile in row.tiles if tile.kind == "global"), None)
    is_global = of_all is not None and window.kernel == window.inputs and outputs.size == 1
    if is_global:
        inputs = Axis(inputs.size, 1)
    uses = _loaded("X", names.x, channels, inputs) + _loaded("DY", names.dy, channels, outputs)
    uses += _loaded("MASK", names.mask, channels, inputs)
    uses += _stored(names, "Y", names.y, channels, outputs) + _stored(names, "DX", names.dx, channels, inputs)
    if of_all and is_global:
        sizes = ((num_channels, 1), (inputs.size, 4))
        return Work(names.calls, of_all.symbol, sizes, ((0, 1),), 1 if names.y else 2, tuple(uses),
                    lambda c, t: ceil(t[0] / c.cores) * (t[1] * c.element.pool + c.element.pool_channel)
                    + c.element.start, _layer(names, window))  # fmt: skip
    taps = window.kernel[0] * window.kernel[1] * outputs.size

    def cycles(costs: Costs, tiles: Sequence[int]) -> float:
        per = costs.element
        return ceil(tiles[0] / costs.cores) * (taps * per.pool_tap + outputs.size * per.pool_output) + per.start

    return Work(names.calls, row.tiles[0].symbol, ((num_channels, 1),), ((0,),), 1, tuple(uses), cycles,
                (*_layer(names, window), *more))  # fmt: skip


def scale(tile: Tile, names: Names, num_channels: int, pixels: int) -> Work:
    """Return a product with a factor for each channel, or the factor's gradient. Loops: channels, pixels."""
    channels, px, one = Axis(num_channels, 0), Axis(pixels, 1), Axis(1)
    uses = _loaded("X", names.x, channels, px) + _loaded("W", names.w, channels, one)
    uses += _loaded("DY", names.dy, channels, px)
    uses += _stored(names, "Y", names.y, channels, px) + _stored(names, "DW", names.dw, channels, one)
    sizes, num_outer = ((num_channels, 1), (pixels, 4)), 1 if names.dw else 2

    def cycles(costs: Costs, tiles: Sequence[int]) -> float:
        num, per = costs.cores, costs.element
        return ceil(tiles[0] * tiles[1] / num) * per.scale + per.scale_channel * ceil(tiles[0] / num) + per.start

    return Work(names.calls, tile.symbol, sizes, ((0, 1),), num_outer, tuple(uses), cycles)


def elementwise(
    body: str,
    calls: tuple[int, ...],
    size: int,
    *,
    loads: Sequence[tuple[str, str]],
    stores: Sequence[tuple[str, str]],
    layer: tuple[tuple[str, int | float], ...] = (),
    needs_rule: bool = False,
    update: bool = False,
) -> Work:
    """Return an operation element by element; `update`: of a parameter, by a rule."""
    one, elements = Axis(1), Axis(size, 0)
    uses = [Use(slot, tensor, one, elements, load=True) for slot, tensor in loads]
    uses += [Use(slot, tensor, one, elements, store=True) for slot, tensor in stores]
    has_state = any(slot.startswith("STATE") for slot, _ in loads)

    def cycles(costs: Costs, tiles: Sequence[int]) -> float:
        per = costs.element
        each = per.map if not update else per.update_of_state if has_state else per.update
        return tiles[0] / costs.cores * each + per.start

    return Work(calls, body, ((size, 4),), ((0,),), 1, tuple(uses), cycles, layer, needs_rule=needs_rule)
