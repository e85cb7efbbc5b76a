"""The memory that PULP-TrainLib's own deployer counts for a training step, for comparison; the formula is not ours.

Source: DNN_Size_Checker of TrainLib_Deployer, github.com/pulp-platform/pulp-trainlib, revision 7bfc760, without DMA
and im2col, and for the net that it is given: without BatchNorm and its biases.
"""

from __future__ import annotations

from math import prod

from tinyclf.ir import BlobOf, Graph, Node, Phase, Tensor

_FLOAT_BYTES = 4


def upstream_bytes(graph: Graph) -> int:
    """Return the bytes that upstream counts for the layers of `graph`, a chain, and what of them is trained.

    Of each layer it adds up the input and, behind the first trained layer, the input's gradient; weight and weight
    gradient from there on (a frozen weight counts 0), a depthwise one as C x C x kernel, a pool as if it had one of
    C x C x window; of the last layer also output and output gradient; a bias as one byte a channel; and the largest
    transposed pointwise weight behind the first trained layer. Nothing is discarded or shared.
    """
    layers = [node for node in _forward_nodes(graph) if node.struct != "tcl_bias_args"]
    trained = [_is_trained(graph, node) for node in layers]
    first = trained.index(True)
    total = transposed = 0
    for i, node in enumerate(layers):
        tensors = _tensors(graph, node)
        is_behind = i > first
        total += tensors["input"].num_bytes * (1 + is_behind)
        if trained[i] or (is_behind and node.struct == "pool_args"):
            total += 2 * _FLOAT_BYTES * _num_weights(node, tensors)
            total += 2 * tensors["bias"].num_elements if node.struct == "Linear_args" and "bias" in tensors else 0
        if is_behind and node.struct == "PointWise_Conv_args":
            transposed = max(transposed, tensors["coeff"].num_bytes)
    return total + 2 * _tensors(graph, layers[-1])["output"].num_bytes + transposed


def _forward_nodes(graph: Graph) -> list[Node]:
    nodes = {node.name: node for node in graph.nodes}
    return [nodes[call.node] for call in graph.calls if call.phase is Phase.FORWARD]


def _tensors(graph: Graph, node: Node) -> dict[str, Tensor]:
    return {name: graph.by_name[value.tensor] for name, value in node.fields if isinstance(value, BlobOf)}


def _is_trained(graph: Graph, node: Node) -> bool:
    return "coeff" in (tensors := _tensors(graph, node)) and tensors["coeff"].trained


def _num_weights(node: Node, tensors: dict[str, Tensor]) -> int:
    """Count weights as upstream does: input channels x output channels x window, for every kind of layer."""
    if node.struct == "Linear_args":
        return tensors["coeff"].num_elements
    channels = tensors["input"].shape[0] * tensors["output"].shape[0]
    if node.struct == "pool_args":
        fields = dict(node.fields)
        window = (fields["Hker"], fields["Wker"])
        return channels * prod(size for size in window if isinstance(size, int))
    return channels * prod(tensors["coeff"].shape[2:])
