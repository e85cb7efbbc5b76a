"""What a training step reports, by which it is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tinyclf.device.graph.ir import Graph, Role, Tensor, gradient_name
from tinyclf.device.graph.kernels import FW, KERNELS

Array = NDArray[np.float32]


def traced_tensors(graph: Graph, *, gradients: bool = True) -> frozenset[str]:
    """Return what a training step is checked by.

    That is the outputs, the gradients of parameters, the updated parameters, and what decides which way gradients
    take (`kinks`). Without `gradients` these are judged by the parameters that they update: tiles need not store them.
    """
    trained = [t.name for t in graph.tensors_of(Role.PARAMETER) if t.trained]
    grads = [t.name for name in trained for t in _gradient_parts(graph, name)] if gradients else []
    return frozenset({*graph.outputs, *trained, *grads, *kinks(graph).values()})


def _gradient_parts(graph: Graph, parameter: str) -> list[Tensor]:
    """Return the tensors that hold the gradient of a trained parameter: one, or blocks of its rows in order."""
    name = gradient_name(parameter)
    return [t for t in graph.tensors if name in (t.name, t.part_of)]


def kinks(graph: Graph) -> dict[str, str]:
    """Return for each node of the backward pass whose derivative jumps the tensor that tells on which side it was.

    That is the output of a ReLU or ReLU6, and the input of a maximum pooling.
    """
    rows = [KERNELS[call.kernel] for call in graph.calls]
    passed = {call.node: row.kink for call, row in zip(graph.calls, rows, strict=True) if row.kink}
    return {
        call.node: (call.reads if passed[call.node].of == "input" else call.writes)[0]
        for call, row in zip(graph.calls, rows, strict=True)
        if call.node in passed and row.direction == FW
    }


def whole_gradients(graph: Graph, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return reported `values` with the gradients that were computed in blocks of rows put together."""
    parts: dict[str, list[str]] = {}
    for tensor in graph.tensors:
        if tensor.part_of and tensor.name in values:
            parts.setdefault(tensor.part_of, []).append(tensor.name)
    blocks = {name for names in parts.values() for name in names}
    whole = {name: np.concatenate([values[block] for block in names]) for name, names in parts.items()}
    return {name: value for name, value in values.items() if name not in blocks} | whole
