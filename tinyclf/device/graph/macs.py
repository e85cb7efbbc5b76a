"""Multiply-accumulates of a training step, by call and in all."""

from __future__ import annotations

from math import prod

from tinyclf.device.graph.ir import BlobOf, Graph, Node


def num_macs(graph: Graph) -> int:
    """Count the multiply-accumulates of a step: each direction of a layer does outputs x weights / output channels."""
    return sum(macs_by_call(graph))


def macs_by_call(graph: Graph) -> list[int]:
    """Count the multiply-accumulates of each call, as `num_macs` does."""
    nodes = {node.name: node for node in graph.nodes}
    return [_call_macs(graph, nodes[call.node]) for call in graph.calls]


def _call_macs(graph: Graph, node: Node) -> int:
    weight, output = node.get("weight"), node.get("output")
    if not isinstance(weight, BlobOf) or not isinstance(output, BlobOf):
        return 0
    shape, channels = graph.by_name[weight.tensor].shape, graph.by_name[output.tensor].shape
    num_channels = channels[0] if output.channels is None else output.channels
    return num_channels * prod(channels[1:]) * prod(shape[1:])
