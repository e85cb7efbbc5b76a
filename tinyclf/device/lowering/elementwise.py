"""Layers that work element by element: ReLU, ReLU6 and the sum of two tensors."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tinyclf.device.graph.ir import BlobOf, Call, Node, Phase, Tensor, gradient_name
from tinyclf.device.graph.kernels import FW, IG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor
from tinyclf.device.lowering.tracing import Add as AddModule


class _Activation(Layer):
    """A function of each element whose gradient can be told from its output as well as from its input."""

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node with input and output, which may be the same blob."""
        (x,) = inputs
        y = output_tensor(name, x.shape)
        node = Node(name, cls.kind, (("input", BlobOf(x.name)), ("output", BlobOf(y.name))))
        reads, writes = (x.name, gradient_name(y.name)), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(node,),
            forward=(Call(find(cls.kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(Call(find(cls.kind, IG).symbol, name, Phase.BACKWARD, reads, writes),),
            in_place=True,
        )


class ReLU(_Activation):
    """ReLU: a gradient passes where the output is positive, which is where the input was."""

    torch_type = nn.ReLU
    kind = "relu"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("relu 3x5x7", nn.ReLU(), (3, 5, 7))
        yield Case("relu 3x5x7 in place", nn.ReLU(), (3, 5, 7), in_place=True)
        yield Case("relu 1x1x1 in place", nn.ReLU(), (1, 1, 1), in_place=True)


class ReLU6(_Activation):
    """ReLU6: a gradient passes where the output is above 0 and below 6, which is where the input was."""

    torch_type = nn.ReLU6
    kind = "relu6"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases; many inputs lie above 6."""
        yield Case("relu6 3x5x7", nn.ReLU6(), (3, 5, 7))
        yield Case("relu6 3x5x7 in place", nn.ReLU6(), (3, 5, 7), in_place=True)
        yield Case("relu6 1x1x1 in place", nn.ReLU6(), (1, 1, 1), in_place=True)


class Add(Layer):
    """The sum of two tensors of the same shape; both get the gradient of the sum as it is."""

    torch_type = AddModule
    kind = "add"

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node, forward only."""
        first, second = inputs
        y = output_tensor(name, first.shape)
        blobs = (("first", BlobOf(first.name)), ("second", BlobOf(second.name)), ("output", BlobOf(y.name)))
        node = Node(name, cls.kind, blobs)
        add = Call(find(cls.kind, FW).symbol, name, Phase.FORWARD, (first.name, second.name), (y.name,))
        return Lowered(name, inputs, y, (), (node,), (add,), backward_input=(), in_place=True)

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("add 3x5x7", AddModule(), (3, 5, 7), num_inputs=2)
        yield Case("add 3x5x7 in place", AddModule(), (3, 5, 7), num_inputs=2, in_place=True)
        yield Case("add 1", AddModule(), (1,), num_inputs=2)
