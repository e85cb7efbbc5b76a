"""Rows of weight gradients: Graph -> placed Graph in which a large weight gradient is nowhere whole.

A layer's weight gradient is read by its update alone, where nothing waits for the end of a batch. Its rows are then
computed block by block, each block followed by its update, in a buffer of one block. All values are the same bits. Only
gradients that are live when most bytes are live are cut: each block costs entries in the emitted tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from tinyclf.device.graph.ir import Attribute, BlobOf, Call, DataOf, Graph, Node, Phase, Tensor, check, gradient_name
from tinyclf.device.graph.kernels import KERNELS
from tinyclf.device.memory.placement import Placement, lifetimes, max_live, peak_of, place
from tinyclf.device.memory.plan import Placed
from tinyclf.device.memory.planner import plan_at

TABLE_BYTES = 256  # about what a block costs in tables: two nodes, two calls, three blobs

_PARAMETERS = ("weight", "bias")  # attributes of the nodes of updates


@dataclass(frozen=True)
class _Pair:
    """The call of a weight gradient and the calls that update by what it writes, each by its index in the graph."""

    gradient: int
    updates: tuple[int, ...]


def cut_rows(graph: Graph) -> Placed:
    """Return the step, placed, in a smaller arena where cutting weight gradients into blocks gives one; checked.

    The places are known here because they tell what is gained.
    """
    best, best_placed = graph, _placed(graph)
    tried: set[str] = set()
    while pair := _next_pair(best, best_placed, tried):
        tried.update(best.calls[pair.gradient].writes)
        cut = _cut(best, pair)
        placed = _placed(cut)
        num_blocks = (len(cut.nodes) - len(best.nodes)) // 2
        if peak_of(best_placed) - peak_of(placed) > TABLE_BYTES * num_blocks:
            best, best_placed = cut, placed
    check(best)
    return Placed(best, plan_at(best, best_placed))


def _placed(graph: Graph) -> tuple[Placement, ...]:
    spans = lifetimes(graph)
    return place(spans, max_live(spans))


def _next_pair(graph: Graph, placed: tuple[Placement, ...], tried: set[str]) -> _Pair | None:
    """Return a pair not yet tried: of those whose gradient lives beside what ends the arena, or of all, the largest."""
    peak = peak_of(placed)
    highest = [p for p in placed if p.end == peak]
    beside = {p.tensor.name for p in placed for h in highest if p.first < h.stop and h.first < p.stop}
    pairs = []
    for pair in _pairs(graph):
        gradients = set(graph.calls[pair.gradient].writes)
        if not gradients & tried:
            num_bytes = sum(graph.by_name[name].num_bytes for name in gradients)
            pairs.append((bool(gradients & beside), num_bytes, pair))
    return max(pairs, key=lambda p: p[:2])[2] if pairs else None


def _pairs(graph: Graph) -> Iterator[_Pair]:
    for i, call in enumerate(graph.calls):
        if not KERNELS[call.kernel].by_rows or graph.by_name[call.writes[0]].part_of:
            continue
        readers = [j for j, other in enumerate(graph.calls) if set(other.reads) & set(call.writes)]
        waits = graph.rule is not None and graph.rule.updates_at_end
        if readers and not waits and all(graph.calls[j].phase is Phase.UPDATE for j in readers):
            yield _Pair(i, tuple(readers))


def _cut(graph: Graph, pair: _Pair) -> Graph:
    """Return the step with the gradient of `pair` computed and used in blocks of rows."""
    call = graph.calls[pair.gradient]
    gradients = [graph.by_name[name] for name in call.writes]
    num_rows = gradients[0].shape[0]
    num_blocks = max(1, min(num_rows, round((sum(g.num_bytes for g in gradients) / TABLE_BYTES) ** 0.5)))
    bounds = [num_rows * i // num_blocks for i in range(num_blocks + 1)]
    nodes = {node.name: node for node in graph.nodes}
    tensors = [t for t in graph.tensors if t not in gradients]
    calls = _updates(graph, pair, nodes, {g.name: g for g in gradients}, None)
    for start, stop in pairwise(bounds):
        blocks = {g.name: _block(g, start, stop) for g in gradients}
        tensors += blocks.values()
        calls.append(_gradient_of_rows(call, nodes, blocks, start))
        calls += _updates(graph, pair, nodes, blocks, start)
    last = max(pair.updates)
    between = [c for i, c in enumerate(graph.calls[:last]) if i not in (pair.gradient, *pair.updates)]
    after = [*between, *calls, *graph.calls[last + 1 :]]
    used = {c.node for c in after}
    kept = tuple(node for node in nodes.values() if node.name in used)
    return replace(graph, tensors=tuple(tensors), nodes=kept, calls=tuple(after))


def _block(gradient: Tensor, start: int, stop: int) -> Tensor:
    name = f"{gradient.name}.rows{start}"
    return replace(gradient, name=name, shape=(stop - start, *gradient.shape[1:]), part_of=gradient.name)


def _gradient_of_rows(call: Call, nodes: dict[str, Node], blocks: Mapping[str, Tensor], start: int) -> Call:
    """Return the call that computes `blocks` of its gradients, which begin at row `start`; its node goes to `nodes`."""
    node = nodes[call.node]
    num_rows = next(iter(blocks.values())).shape[0]

    def of_rows(value: Attribute, name: str) -> Attribute:
        if not isinstance(value, BlobOf) or name == "input":
            return value
        block = blocks.get(value.gradient or gradient_name(value.tensor))
        gradient = block.name if block else value.gradient
        return replace(value, gradient=gradient, channels=num_rows, first=start)

    rows = replace(
        node, name=f"{node.name}.rows{start}", attributes=tuple((n, of_rows(v, n)) for n, v in node.attributes)
    )
    nodes[rows.name] = rows
    return replace(call, node=rows.name, writes=tuple(blocks[name].name for name in call.writes))


def _updates(
    graph: Graph, pair: _Pair, nodes: dict[str, Node], blocks: Mapping[str, Tensor], start: int | None
) -> list[Call]:
    parts = (_update(graph.calls[i], nodes, blocks, start) for i in pair.updates)
    return [call for call in parts if call]


def _update(call: Call, nodes: dict[str, Node], blocks: Mapping[str, Tensor], start: int | None) -> Call | None:
    """Return the part of an update that `blocks`, which begin at row `start`, are for; None if there is none.

    With `start` None: the part that they are not for. The call's node is added to `nodes`.
    """
    node = nodes[call.node]
    others = dict(node.attributes)
    blobs = [value for name in _PARAMETERS if isinstance(value := others.pop(name, None), BlobOf)]
    names = [blob.gradient or gradient_name(blob.tensor) for blob in blobs]
    others_read = [name for name in call.reads if name not in names and name not in {blob.tensor for blob in blobs}]
    if start is None:
        chosen = [(blob, name) for blob, name in zip(blobs, names, strict=True) if name not in blocks]
        part = "rest"
    else:
        chosen = [
            (replace(blob, gradient=block.name, channels=block.shape[0], first=start), block.name)
            for blob, name in zip(blobs, names, strict=True)
            if (block := blocks.get(name))
        ]
        others = {name: replace(v, first=start) if isinstance(v, DataOf) else v for name, v in others.items()}
        part = f"rows{start}"
    if not chosen:
        return None
    given: list[tuple[str, Attribute]] = [(name, blob) for name, (blob, _) in zip(_PARAMETERS, chosen, strict=False)]
    name = f"{node.name}.{part}"
    nodes[name] = Node(name, node.kind, (*given, *others.items()))
    parameters, gradients = [blob.tensor for blob, _ in chosen], [name for _, name in chosen]
    written = [name for name in call.writes if name in others_read]
    return replace(call, node=name, reads=(*parameters, *gradients, *others_read), writes=(*parameters, *written))
