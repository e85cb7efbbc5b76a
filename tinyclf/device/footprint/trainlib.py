"""The memory that PULP-TrainLib's own deployer counts for a training step, for comparison; the formula is not ours.

Source: DNN_Size_Checker of TrainLib_Deployer, github.com/pulp-platform/pulp-trainlib, revision 7bfc760, without DMA
and im2col, and for the net that it is given: without BatchNorm and its biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tinyclf.device.graph.dtypes import FLOAT32
from tinyclf.device.graph.ir import BlobOf, Call, Graph, Node, Phase, Role, Tensor

_BIAS, _SUM = "bias", "add"


@dataclass(frozen=True)
class _Layer:
    """A layer of upstream's list; `node` None: a Skipnode, which hands its input on to a sum further down.

    `is_updated`: upstream trains a layer whole or not at all.
    """

    node: Node | None
    input: Tensor
    is_updated: bool = False


def upstream_bytes(graph: Graph) -> int:
    """Return the bytes that upstream counts for the layers of `graph`, and what of them is trained.

    Of each layer it adds up the input and, behind the first trained layer, the input's gradient; weight and weight
    gradient from there on (a frozen weight counts 0), a depthwise one as C x C x kernel, a pool as if it had one of
    C x C x window; of the last layer also output and output gradient; a bias as one byte a channel; and the largest
    transposed pointwise weight behind the first trained layer. Nothing is discarded or shared. A residual sum is a
    layer without weights, and so is the node that an unchanged input is taken from; a shortcut with a convolution has
    that in its place. A layer of which only biases or some channels are trained counts as trained.
    """
    layers = _layers(graph)
    first = next(i for i, layer in enumerate(layers) if layer.is_updated)
    total = transposed = 0
    for i, layer in enumerate(layers):
        is_behind = i > first
        total += layer.input.num_bytes * (1 + is_behind)
        if layer.node is None:
            continue
        tensors = _tensors(graph, layer.node)
        if layer.is_updated or (is_behind and layer.node.kind == "avgpool"):
            total += 2 * FLOAT32.num_bytes * _num_weights(layer.node, tensors)
            total += 2 * tensors["bias"].num_elements if layer.node.kind == "linear" and "bias" in tensors else 0
        if is_behind and layer.node.kind == "pointwise":
            transposed = max(transposed, tensors["weight"].num_bytes)
    last = layers[-1].node
    assert last is not None, "a net ends in a layer"
    return total + 2 * _tensors(graph, last)["output"].num_bytes + transposed


def _layers(graph: Graph) -> list[_Layer]:
    """Return the layers in forward order, each Skipnode behind the layer whose output it takes."""
    nodes = {node.name: node for node in graph.nodes}
    calls = [call for call in graph.calls if call.phase is Phase.FORWARD]
    skipped = _skipped(calls, nodes)
    trained = {t.name.rpartition(".")[0] for t in graph.tensors_of(Role.PARAMETER) if t.trained}
    layers = [_Layer(None, graph.by_name[name]) for name in skipped.get(-1, [])]
    for i, call in enumerate(calls):
        node = nodes[call.node]
        if node.kind != _BIAS:
            tensors = _tensors(graph, node)
            coeff = tensors.get("weight")
            is_updated = coeff is not None and coeff.name.rpartition(".")[0] in trained
            layers.append(_Layer(node, tensors["first" if node.kind == _SUM else "input"], is_updated))
        layers += [_Layer(None, graph.by_name[name]) for name in skipped.get(i, [])]
    return layers


def _skipped(calls: list[Call], nodes: dict[str, Node]) -> dict[int, list[str]]:
    """Return by the number of the call that wrote them (-1: none) the operands of sums that other layers read too."""
    found: dict[int, list[str]] = {}
    for i, call in enumerate(calls):
        if nodes[call.node].kind != _SUM:
            continue
        for name in call.reads:
            writer = max((j for j in range(i) if name in calls[j].writes), default=-1)
            if any(name in other.reads for other in calls[writer + 1 : i]):
                found.setdefault(writer, []).append(name)
    return found


def _tensors(graph: Graph, node: Node) -> dict[str, Tensor]:
    return {name: graph.by_name[value.tensor] for name, value in node.attributes if isinstance(value, BlobOf)}


def _num_weights(node: Node, tensors: dict[str, Tensor]) -> int:
    """Count weights as upstream does: input channels x output channels x window, for every kind of layer."""
    if node.kind == "linear":
        return tensors["weight"].num_elements
    channels = tensors["input"].shape[0] * tensors["output"].shape[0]
    if node.kind == "avgpool":
        return channels * prod(node.window().kernel)
    return channels * prod(tensors["weight"].shape[2:])
