"""Layers that work element by element: activations, and sum and product of two tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from tinyclf.device.graph.ir import Attribute, BlobOf, Call, Node, Phase, Tensor, gradient_name
from tinyclf.device.graph.kernels import FW, IG, WG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor
from tinyclf.device.lowering.tracing import Add as AddModule
from tinyclf.device.lowering.tracing import Product


class _Activation(Layer):
    """A function of each element. `of`: what tells its derivative, the "input", the "output", or "either" of them."""

    of: ClassVar[str] = "either"

    @classmethod
    def attributes(cls, module: nn.Module) -> tuple[tuple[str, Attribute], ...]:
        """Return what the node has beside its input and output."""
        return ()

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node with input and output, which may be the same blob."""
        (x,) = inputs
        y = output_tensor(name, x.shape)
        blobs = (("input", BlobOf(x.name)), ("output", BlobOf(y.name)))
        read = y if cls.of == "output" else x
        reads, writes = (read.name, gradient_name(y.name)), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, cls.kind, (*blobs, *cls.attributes(module))),),
            forward=(Call(find(cls.kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(Call(find(cls.kind, IG).symbol, name, Phase.BACKWARD, reads, writes),),
            in_place=True,
            keeps_input=cls.of == "input",
        )

    @classmethod
    def _cases(cls, module: nn.Module) -> Iterator[Case]:
        """Yield cases of all that an activation can be asked for."""
        yield Case(f"{cls.kind} 3x5x7", module, (3, 5, 7))
        yield Case(f"{cls.kind} 3x5x7 in place", module, (3, 5, 7), in_place=True)
        yield Case(f"{cls.kind} 1x1x1 in place", module, (1, 1, 1), in_place=True)


class ReLU(_Activation):
    """ReLU: a gradient passes where the output is positive, which is where the input was."""

    torch_type = nn.ReLU
    kind = "relu"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield from ReLU._cases(nn.ReLU())


class ReLU6(_Activation):
    """ReLU6: a gradient passes where the output is above 0 and below 6, which is where the input was."""

    torch_type = nn.ReLU6
    kind = "relu6"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases; many inputs lie above 6."""
        yield from ReLU6._cases(nn.ReLU6())


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)); the derivative is y (1 - y) of its output."""

    torch_type = nn.Sigmoid
    kind = "sigmoid"
    of = "output"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield from Sigmoid._cases(nn.Sigmoid())


class SiLU(_Activation):
    """x sigmoid(x), also called Swish."""

    torch_type = nn.SiLU
    kind = "silu"
    of = "input"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield from SiLU._cases(nn.SiLU())


class Hardsigmoid(_Activation):
    """ReLU6(x + 3) / 6; a gradient passes where the output is above 0 and below 1."""

    torch_type = nn.Hardsigmoid
    kind = "hardsigmoid"
    of = "output"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases; inputs lie on all sides."""
        yield from Hardsigmoid._cases(nn.Hardsigmoid())


class Hardswish(_Activation):
    """x ReLU6(x + 3) / 6."""

    torch_type = nn.Hardswish
    kind = "hardswish"
    of = "input"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases; inputs lie on all sides."""
        yield from Hardswish._cases(nn.Hardswish())


class LeakyReLU(_Activation):
    """x where it is positive, else a share of it; as that is not negative, the output has the sign of the input."""

    torch_type = nn.LeakyReLU
    kind = "leaky_relu"
    of = "output"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` keeps the signs of its inputs."""
        return isinstance(module, nn.LeakyReLU) and module.negative_slope >= 0

    @classmethod
    def attributes(cls, module: nn.Module) -> tuple[tuple[str, Attribute], ...]:
        """Return the slope below 0."""
        assert isinstance(module, nn.LeakyReLU)
        return (("slope", float(module.negative_slope)),)

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield from LeakyReLU._cases(nn.LeakyReLU(0.2))
        yield Case("leaky_relu 2x3x3 of no slope", nn.LeakyReLU(0.0), (2, 3, 3))


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


class Scale(Layer):
    """The product of an image with a factor for each channel, as of squeeze and excitation, or with its like."""

    torch_type = Product
    kind = "scale"

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node; the factor's gradient comes first, as that of the image may overwrite what both read."""
        x, factor = sorted(inputs, key=lambda tensor: tensor.num_elements, reverse=True)
        y = output_tensor(name, x.shape)
        grad = gradient_name(y.name)
        blobs = (("input", BlobOf(x.name)), ("factor", BlobOf(factor.name)), ("output", BlobOf(y.name)))

        def call(direction: str, phase: Phase, reads: tuple[str, str], write: str) -> Call:
            return Call(find(cls.kind, direction).symbol, name, phase, reads, (write,))

        return Lowered(
            name=name,
            inputs=(x, factor),
            output=y,
            parameters=(),
            nodes=(Node(name, cls.kind, blobs),),
            forward=(call(FW, Phase.FORWARD, (x.name, factor.name), y.name),),
            backward_input=(
                call(WG, Phase.BACKWARD, (x.name, grad), gradient_name(factor.name)),
                call(IG, Phase.BACKWARD, (grad, factor.name), gradient_name(x.name)),
            ),
            in_place=True,
            keeps_input=True,
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("scale 3x5x7", Product(), (3, 5, 7), num_inputs=2, other_shapes=((3, 1, 1),))
        yield Case("scale 3x5x7 in place", Product(), (3, 5, 7), num_inputs=2, in_place=True, other_shapes=((3, 1, 1),))
        yield Case("scale 11x9x9", Product(), (11, 9, 9), num_inputs=2, other_shapes=((11, 1, 1),))
        yield Case("scale 5x1x1", Product(), (5, 1, 1), num_inputs=2)
        yield Case("scale 2x3x4 by its like", Product(), (2, 3, 4), num_inputs=2)
