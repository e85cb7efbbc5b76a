"""Which calls of a step are done on the same tiles: a layer with its bias and activation, a gradient with its mask or
with the update of its weights.

A call joins only where nothing can tell: what lies between is not touched, what is left out is not read again, and no
tensor that the operation writes shares bytes with another that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tinyclf.device.graph.ir import BlobOf, Call, Graph, Phase, Role, gradient_name
from tinyclf.device.graph.kernels import ACT_NONE, FW, IG, KERNELS, WG, Kernel
from tinyclf.device.graph.tile_bodies import Tile
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.tiles.choose import Use, Work
from tinyclf.device.tiles.kinds import (
    Names,
    bias_gradient,
    convolution,
    depthwise,
    elementwise,
    grouped,
    pointwise,
    pooling,
    scale,
)
from tinyclf.device.tiles.moves import moves
from tinyclf.device.tiles.windows import Groups, TileWindow

_WEIGHTED = ("pointwise", "depthwise", "convolution", "grouped")  # kinds of tiles
# Operands with a row for each output channel; what is made of a block of rows has a tensor of its own.
_BY_OUTPUT = ("DY", "W", "W_NEW", "B", "B_NEW", "STATE1", "STATE1_NEW", "STATE2", "STATE2_NEW")


def _key(call: Call) -> tuple[str, str]:
    row = KERNELS[call.kernel]
    return row.layer, row.direction


def _act(call: Call, direction: str) -> int:
    """Return the number of an activation that can be done on the tiles of another operation."""
    row = KERNELS[call.kernel]
    return row.act if row.direction == direction else ACT_NONE


@dataclass(frozen=True)
class _Fused:
    """Calls that became one operation, in order, and the names that it works on."""

    calls: tuple[int, ...]
    names: Names


class Fusion:
    """The calls of a step, put together; `works` goes through them in order."""

    def __init__(self, graph: Graph, plan: MemoryPlan, traced: frozenset[str]) -> None:
        self._graph, self._plan, self._traced = graph, plan, traced
        self._nodes = {node.name: node for node in graph.nodes}
        self._placed = {p.tensor.name: (p.offset, p.end) for p in plan.placements}
        self._taken: set[int] = set()

    def works(self) -> list[tuple[tuple[int, ...], list[Work]]]:
        """Return the operations in order: their calls and how they are tiled; an empty list: one call on L2.

        Where several works stand for an operation, they are done one after the other.
        """
        result: list[tuple[tuple[int, ...], list[Work]]] = []
        for i, call in enumerate(self._graph.calls):
            if i not in self._taken:
                works = [self._typed(self._on_rows(work, call)) for work in self._work(i, call)]
                calls = works[-1].calls if works else (i,)
                self._taken.update(calls)
                result.append((calls, works))
        return result

    def _on_rows(self, work: Work, call: Call) -> Work:
        """Return `work` on the rows of its outputs that `call` is for, where these do not begin with the first."""
        row = self._first_row(call)
        if not row:
            return work

        def first(use: Use) -> int:
            tensor = self._graph.by_name[use.tensor] if use.tensor and use.slot in _BY_OUTPUT else None
            return row * (tensor.num_elements // tensor.shape[0]) if tensor and not tensor.part_of else 0

        return replace(work, uses=tuple(replace(use, first=first(use)) for use in work.uses))

    def _typed(self, work: Work) -> Work:
        """Return `work` with the types of the tensors that it is on."""
        types = self._graph.by_name
        return replace(work, uses=tuple(
            replace(use, dtype=types[use.tensor].dtype) if use.tensor else use for use in work.uses
        ))  # fmt: skip

    def _first_row(self, call: Call) -> int:
        """Return the first of the output channels that a call is for."""
        blob = self._nodes[call.node].get("weight")
        return blob.first if isinstance(blob, BlobOf) else 0

    # --- what a call is ----------------------------------------------------------------------------------------

    def _work(self, i: int, call: Call) -> list[Work]:
        row = KERNELS[call.kernel]
        tile = row.tile
        if tile is None:
            return []
        if tile.kind in _WEIGHTED:
            return self._weighted(i, call, row)
        if tile.kind == "descent":
            return self._descents(i, call, tile)
        if tile.kind == "move":
            return moves(
                row, self._nodes[call.node], i, self._graph.by_name[call.reads[0]], self._graph.by_name[call.writes[0]]
            )
        one: Mapping[str, Callable[[int, Call, Tile], Work]] = {
            "planes": self._pooling,
            "bias": self._bias_gradient,
            "sum": self._add,
            "map": self._map,
            "scale": self._scale,
            "update": self._update,
            "accumulate": self._accumulation,
        }
        return [one[tile.kind](i, call, tile)]

    def _size(self, tensor: str) -> int:
        return self._graph.by_name[tensor].num_elements

    def _of(self, call: Call, attribute: str) -> str:
        """Return the name of the tensor that an attribute of a call's node is."""
        return self._nodes[call.node].tensor(attribute)

    def _window(self, call: Call) -> TileWindow:
        """Return the window of a convolution or a pooling."""
        window = self._nodes[call.node].window()
        _, height, width = self._graph.by_name[self._of(call, "input")].shape
        top, _, left, _ = window.padding
        outputs = window.outputs((height, width))
        return TileWindow((height, width), outputs, window.kernel, window.stride, (top, left))

    def _weighted(self, i: int, call: Call, row: Kernel) -> list[Work]:
        weight = self._graph.by_name[self._of(call, "weight")]
        if row.direction == FW:
            fused = self._forward(i, call)
        elif row.direction == IG:
            fused = self._with_mask(i, Names((i,), dy=call.reads[0], w=call.reads[1], dx=call.writes[0]))
        else:
            fused = self._parameter_gradients(i, call, weight.name)
            if fused.names.dw is None:
                num_out = self._size(fused.names.db or "")
                pixels = self._size(call.reads[0]) // weight.shape[0]
                return [bias_gradient(fused.names, num_out, pixels)]
        num_out = weight.shape[0]
        if fused.names.dw:
            fused, num_out = self._with_blocks_behind(fused, call, weight.name)  # rows of what is trained
        if row.layer == "depthwise":
            return [depthwise(row, fused.names, self._window(call), num_out)]
        if row.layer == "grouped":
            return self._grouped(row, fused.names, call, num_out)
        if row.layer == "convolution":
            return [convolution(row, fused.names, self._window(call), weight.shape[1], num_out)]
        x = fused.names.x or fused.names.dx or ""
        pixels = 1 if row.layer == "linear" else self._size(x) // weight.shape[1]
        return [pointwise(row, fused.names, weight.shape[1], num_out, pixels)]

    def _grouped(self, row: Kernel, names: Names, call: Call, num_out: int) -> list[Work]:
        """Return a convolution in whole groups; with gaps between its taps, or with part of a group, it is none."""
        node = self._nodes[call.node]
        inputs, outputs = node["group_inputs"], node["group_outputs"]
        assert isinstance(inputs, int)
        assert isinstance(outputs, int)
        if node.window().dilation != (1, 1) or num_out % outputs:
            return []
        return [grouped(row, names, self._window(call), Groups(num_out // outputs, inputs, outputs))]

    def _pooling(self, i: int, call: Call, tile: Tile) -> Work:
        row, window = KERNELS[call.kernel], self._window(call)
        num_channels = self._graph.by_name[self._of(call, "input")].shape[0]
        if row.direction == FW:
            names = Names((i,), x=call.reads[0], y=call.writes[0])
            return pooling(row, self._final(names), window, num_channels, self._layer_fields(call, tile))
        x = call.reads[0] if len(call.reads) > 1 else None
        names = Names((i,), x=x, dy=call.reads[-1], dx=call.writes[0])
        can_be_global = any(other.kind == "global" for other in row.tiles)
        is_global = can_be_global and window.kernel == window.inputs and window.outputs == (1, 1)
        # Other poolings take whole planes: where these are too large they are done alone, on L2.
        names = self._with_mask(i, names).names if is_global else self._final(names)
        return pooling(row, names, window, num_channels, self._layer_fields(call, tile))

    def _layer_fields(self, call: Call, tile: Tile) -> tuple[tuple[str, int | float], ...]:
        """Return the attributes of a call's node that its body reads in struct tcl_layer."""
        node = self._nodes[call.node]
        values = [(name, node[name]) for name in tile.fields]
        return tuple((name, value) for name, value in values if isinstance(value, int | float))

    def _scale(self, i: int, call: Call, tile: Tile) -> Work:
        """Return a product by channel: of values or gradients with the factor, or the gradient of the factor."""
        first, second = call.reads
        num_channels = self._size(self._of(call, "factor"))
        if KERNELS[call.kernel].direction == WG:
            names = Names((i,), x=first, dy=second, dw=call.writes[0])
        else:
            names = Names((i,), x=first, w=second, y=call.writes[0])
        return scale(tile, self._final(names), num_channels, self._size(first) // num_channels)

    def _bias_gradient(self, i: int, call: Call, tile: Tile) -> Work:
        names = self._with_descent(Names((i,), dy=call.reads[0], db=call.writes[0]), b=self._of(call, "bias"))
        bias = self._graph.by_name[self._of(call, "bias")]
        return bias_gradient(names, self._size(call.writes[0]), self._size(call.reads[0]) // bias.num_elements)

    def _add(self, i: int, call: Call, tile: Tile) -> Work:
        names = Names((i,), x=call.reads[0], dy=call.reads[1], y=call.writes[0])
        fused = self._with_activation(names) if call.phase is Phase.FORWARD else names
        if call.phase is not Phase.FORWARD:
            masked = self._with_mask(i, replace(names, dx=names.y)).names
            fused = replace(masked, dx=None)
        loads = [(slot, name) for slot, name in (("X", names.x), ("DY", names.dy), ("MASK", fused.mask)) if name]
        layer = (("act", fused.act),) if fused.act else ()
        stores = [("Y", fused.y or "")]
        return elementwise(tile.symbol, fused.calls, self._size(names.x or ""), loads=loads, stores=stores, layer=layer)

    def _map(self, i: int, call: Call, tile: Tile) -> Work:
        """Return what works element by element; the first of what its call writes is what it makes."""
        layer = self._layer_fields(call, tile)
        act = KERNELS[call.kernel].act
        loads = list(zip(tile.loads, call.reads, strict=True))
        stores = [(tile.outputs[0], call.writes[0])]
        layer = ((("act", act),) if act else ()) + layer
        return elementwise(tile.symbol, (i,), self._size(call.writes[0]), loads=loads, stores=stores, layer=layer)

    def _descents(self, i: int, call: Call, tile: Tile) -> list[Work]:
        """Return plain SGD by a gradient that others need too: an operation for each parameter."""
        layer = self._descent_fields(call)
        return [
            elementwise(tile.symbol, (i,), self._size(gradient), loads=[("W", w), ("DW", gradient)],
                        stores=[("W_NEW", w)], layer=layer)
            for w, gradient in zip(call.writes, call.reads[len(call.writes) :], strict=True)
        ]  # fmt: skip

    def _descent_fields(self, call: Call) -> tuple[tuple[str, int | float], ...]:
        node = self._nodes[call.node]
        values = [(name, node[name]) for name in ("learning_rate", "weight_decay")]
        return tuple((name, value) for name, value in values if isinstance(value, float))

    def _accumulation(self, i: int, call: Call, tile: Tile) -> Work:
        gradient, total = call.reads
        return elementwise(tile.symbol, (i,), self._size(gradient), needs_rule=True,
                           loads=[("DW", gradient), ("STATE1", total)], stores=[("STATE1_NEW", total)])  # fmt: skip

    def _update(self, i: int, call: Call, tile: Tile) -> Work:
        """Return an update of one parameter."""
        w, gradient, *others = call.reads
        states = [name for name in others if self._graph.by_name[name].role is Role.STATE]
        loads = [("W", w), ("DW", gradient), *((f"STATE{n}", s) for n, s in enumerate(states, start=1))]
        stores = [("W_NEW", w), *((f"STATE{n}_NEW", s) for n, s in enumerate(states, start=1))]
        return elementwise(tile.symbol, (i,), self._size(gradient), needs_rule=True, loads=loads,
                           stores=stores, update=True)  # fmt: skip

    # --- what joins it -----------------------------------------------------------------------------------------

    def _next(self, calls: Sequence[int]) -> tuple[int, Call] | None:
        """Return the call behind the last of `calls`, if it is of the same part of the step."""
        i = calls[-1] + 1
        if i >= len(self._graph.calls) or i in self._taken or i == self._graph.num_calls_within_batch:
            return None
        return i, self._graph.calls[i]

    def _forward(self, i: int, call: Call) -> _Fused:
        x, w, *b = call.reads
        names = Names((i,), x=x, w=w, b=b[0] if b else None, y=call.writes[0])
        behind = self._next(names.calls)
        if behind and _key(behind[1]) == ("bias", FW) and behind[1].reads[0] == names.y and not names.b:
            names = replace(names, calls=(*names.calls, behind[0]), b=behind[1].reads[1])
        names = self._with_activation(names)
        return _Fused(names.calls, names)

    def _with_activation(self, names: Names) -> Names:
        """Add the activation of the output, and keep what is read later."""
        behind = self._next(names.calls)
        act = _act(behind[1], FW) if behind else ACT_NONE
        if behind and act and behind[1].reads[0] == names.y:
            y = behind[1].writes[0]
            calls = (*names.calls, behind[0])
            inputs = [t for t in (names.x, names.w, names.b, names.dy) if t and t != y]
            is_free = not any(self._overlap(y, t) for t in inputs)
            if y == names.y or (is_free and not self._is_read_after(names.y or "", behind[0])):
                names = replace(names, calls=calls, y=y, act=act)
        return self._final(names)

    def _with_mask(self, i: int, names: Names) -> _Fused:
        """Add the backward pass of the activation below, wherever it comes, if nothing before it tells them apart."""
        dx = names.dx or ""
        written: set[str] = set()  # in between: activations may be computed again
        for j in range(i + 1, len(self._graph.calls)):
            call = self._graph.calls[j]
            if j == self._graph.num_calls_within_batch or j in self._taken:
                break
            if (act := _act(call, IG)) and call.reads[1] == dx:
                if call.writes[0] == dx and call.reads[0] not in written:
                    mask = call.reads[0]
                    names = replace(names, calls=(i, j), mask=mask, act=act)
                break
            if dx in (*call.reads, *call.writes):
                break
            written.update(call.writes)
        names = self._final(names)
        return _Fused(names.calls, names)

    def _parameter_gradients(self, i: int, call: Call, weight: str) -> _Fused:
        """Add the gradient of a bias that is a node of its own, and plain SGD by both."""
        grads = {self._graph.by_name[name].part_of or name: name for name in call.writes}
        dw = grads.pop(gradient_name(weight), None)
        names = Names(
            (i,), dy=call.reads[0], x=call.reads[1] if dw else None, dw=dw, db=next(iter(grads.values()), None)
        )
        bias = self._of(call, "bias") if names.db else None
        behind = self._next(names.calls)
        if behind and _key(behind[1]) == ("bias", WG) and behind[1].reads[0] == names.dy and not names.db:
            both = replace(names, calls=(*names.calls, behind[0]), db=behind[1].writes[0])
            both = self._with_descent(both, w=weight, b=self._of(behind[1], "bias"))
            # The bias's gradient may lie where the input was: no call but that of the weight's reads it any more.
            if not (both.db in both.stores and names.x and self._overlap(both.db or "", names.x)):
                return _Fused(both.calls, both)
        names = self._with_descent(names, w=weight, b=bias)
        return _Fused(names.calls, names)

    def _with_blocks_behind(self, fused: _Fused, call: Call, weight: str) -> tuple[_Fused, int]:
        """Add the blocks of rows that follow, if no gradient among them is stored; return the rows of all as well."""
        names, first = fused.names, self._first_row(call)
        num_rows = self._graph.by_name[names.dw or ""].shape[0]
        while names.updates and not names.stores and (behind := self._next(names.calls)):
            i, other = behind
            if other.kernel != call.kernel or self._first_row(other) != first + num_rows:
                break
            block = self._parameter_gradients(i, other, weight).names
            if replace(block, calls=names.calls, dw=names.dw, db=names.db) != names:
                break
            names = replace(names, calls=(*names.calls, *block.calls))
            num_rows += self._graph.by_name[block.dw or ""].shape[0]
        return _Fused(names.calls, names), num_rows

    def _with_descent(self, names: Names, *, w: str | None = None, b: str | None = None) -> Names:
        """Add plain SGD, if it is by just these gradients."""
        behind = self._next(names.calls)
        pairs = [(p, g) for p, g in ((w, names.dw), (b, names.db)) if p and g]
        if behind and KERNELS[behind[1].kernel].layer == "descent" and set(behind[1].writes) == {p for p, _ in pairs}:
            fields = dict(self._descent_fields(behind[1]))
            names = replace(
                names,
                calls=(*names.calls, behind[0]),
                w=w if names.dw else None,
                b=b if names.db else None,
                updates=True,
                rate=fields["learning_rate"],
                decay=fields["weight_decay"],
            )
        return self._final(names)

    def _final(self, names: Names) -> Names:
        """Note which of the values that are made must be stored: all but gradients that nothing reads any more."""
        outputs = [t for t in (names.y, names.dx, names.dw, names.db) if t]
        kept = {t for t in outputs if t in (names.y, names.dx) or t in self._traced}
        last = names.calls[-1]
        kept |= {t for t in outputs if self._is_read_after(t, last)}
        return replace(names, stores=frozenset(kept))

    def _is_read_after(self, tensor: str, i: int) -> bool:
        """Tell whether a call after number i, or whoever looks at the end, reads what `tensor` holds then."""
        for call in self._graph.calls[i + 1 :]:
            if tensor in call.reads:
                return True
            if tensor in call.writes:
                return False
        return tensor in self._graph.outputs

    def _overlap(self, first: str, second: str) -> bool:
        """Tell whether two tensors of the arena share bytes."""
        if first not in self._placed or second not in self._placed:
            return False
        (a, b), (c, d) = self._placed[first], self._placed[second]
        return a < d and c < b
