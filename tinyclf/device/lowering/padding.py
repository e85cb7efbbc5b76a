"""Padding of planes with a constant."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tinyclf.device.graph.ir import BlobOf, Call, Node, Phase, Tensor, Window, gradient_name
from tinyclf.device.graph.kernels import FW, IG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor


class Pad(Layer):
    """Padding with a constant; it is the padding of a window of one tap."""

    torch_type = nn.ConstantPad2d
    kind = "pad"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` pads with a constant, and cuts off nothing."""
        return isinstance(module, nn.ConstantPad2d) and min(module.padding) >= 0

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node."""
        assert isinstance(module, nn.ConstantPad2d)
        (x,) = inputs
        left, right, top, bottom = module.padding
        window = Window((1, 1), padding=(top, bottom, left, right))
        y = output_tensor(name, (x.shape[0], *window.outputs(x.shape[1:])))
        blobs = (("input", BlobOf(x.name)), ("output", BlobOf(y.name)))
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, cls.kind, (*blobs, ("window", window), ("value", float(module.value)))),),
            forward=(Call(find(cls.kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(
                Call(
                    find(cls.kind, IG).symbol, name, Phase.BACKWARD, (gradient_name(y.name),), (gradient_name(x.name),)
                ),
            ),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("pad 3x4x5 by 1, 2, 0, 3", nn.ZeroPad2d((1, 2, 0, 3)), (3, 4, 5))
        yield Case("pad 2x1x1 with -1.5", nn.ConstantPad2d((0, 1, 1, 0), -1.5), (2, 1, 1))
