"""A net in PyTorch whose trained part sees what its frozen part gives in 8 bits, as the device keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from tinyclf.device.lowering.tracing import as_module_calls

MOST = 127


@dataclass(frozen=True)
class DeviceCodes:
    """What a device kept of the outputs of a layer: scales (N,) and codes (N, elements) for N samples."""

    scales: NDArray[np.float32]
    codes: NDArray[np.int8]


class QuantizedFeatures:
    """The net cut in two before its first trained layer; what crosses is x -> scale * round(x / scale).

    The scale is max|x| / 127, for each sample and tensor; halves round to even. What lies nearer to a half than `tie`,
    relative to max|x|, rounding may put on either side: it is resolved as the device did.
    """

    def __init__(
        self, model: nn.Module, *, first_trained: str, device: Mapping[str, DeviceCodes] | None, tie: float
    ) -> None:
        """Cut `model` before the layer `first_trained`; `device`: by layer, "" for the image, what the device kept."""
        self._front, self._back, self._layers = _cut(as_module_calls(model), first_trained, frozenset(device or ()))
        self._device = device
        self._tie = tie
        self._kept: dict[int, tuple[Any, ...]] = {}
        self.worst = 0.0  # how far the device's codes and scales are from what they should be, relative to max|x|

    def logits(self, sample: int, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (1, classes) of a training sample; its frozen part is computed once."""
        if sample not in self._kept:
            with torch.no_grad():
                crossing = zip(self._layers, self._front(image), strict=True)
                self._kept[sample] = tuple(self._quantized(x, layer, sample) for layer, x in crossing)
        # A copy: a layer of the net may work in place.
        values = (x.clone() if isinstance(x, torch.Tensor) else x for x in self._kept[sample])
        logits: torch.Tensor = self._back(*values)
        return logits

    def _quantized(self, x: Any, layer: str, sample: int) -> Any:
        if not isinstance(x, torch.Tensor):
            return x  # the size of a dimension
        scale = x.abs().max() / MOST
        exact = x / scale if scale > 0 else torch.zeros_like(x)
        codes = exact.round()
        if self._device is not None:
            theirs = torch.from_numpy(self._device[layer].codes[sample].astype(np.float64)).to(x.dtype).view(x.shape)
            beyond = (theirs - exact).abs() - 0.5
            codes = torch.where(beyond <= MOST * self._tie, theirs, codes)
            their_scale = float(self._device[layer].scales[sample])
            off = abs(their_scale - float(scale)) / (float(scale) or 1.0)
            self.worst = max(self.worst, float(beyond.max()) / MOST, off)
        return codes * scale


def _cut(
    traced: fx.GraphModule, first: str, layers: frozenset[str]
) -> tuple[fx.GraphModule, fx.GraphModule, tuple[str, ...]]:
    """Return what comes before the layer `first`, the rest, and for each value that crosses the layer that gave it."""
    nodes = list(traced.graph.nodes)
    start = next(i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == first)
    later = set(nodes[start:])
    crossing = [node for node in nodes[:start] if later & set(node.users)]
    front, back = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:start]:
        copies[node] = front.node_copy(node, lambda n: copies[n])
    front.output(tuple(copies[node] for node in crossing))
    copies = {node: back.placeholder(node.name) for node in crossing}
    for node in nodes[start:]:
        copies[node] = back.node_copy(node, lambda n: copies[n])
    names = tuple(_layer(node, layers) for node in crossing)
    return fx.GraphModule(traced, front), fx.GraphModule(traced, back), names


def _layer(node: fx.Node, layers: frozenset[str]) -> str:
    """Return the layer whose output `node` holds, perhaps in another shape; "" for the image."""
    while node.op != "placeholder" and str(node.target) not in layers and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return "" if node.op == "placeholder" else str(node.target)
