"""Layers that only move channels: joining tensors, slicing one, and the channel shuffle."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import prod

from torch import nn

from tinyclf.base.errors import Unsupported
from tinyclf.device.graph.ir import Attribute, BlobOf, Call, Node, Phase, Tensor, gradient_name
from tinyclf.device.graph.kernels import FW, IG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor
from tinyclf.device.lowering.tracing import Concat, Slice


def _moved(name: str, kind: str, x: Tensor, y: Tensor, attribute: tuple[str, Attribute]) -> tuple[Node, Call, Call]:
    """Return the node that moves elements of `x` to `y`, its forward call, and the one that moves gradients back."""
    node = Node(name, kind, (("input", BlobOf(x.name)), ("output", BlobOf(y.name)), attribute))
    forward = Call(find(kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,))
    grads = (gradient_name(y.name),), (gradient_name(x.name),)
    return node, forward, Call(find(kind, IG).symbol, name, Phase.BACKWARD, *grads)


def _layer(name: str, inputs: tuple[Tensor, ...], y: Tensor, moved: list[tuple[Node, Call, Call]]) -> Lowered:
    nodes, forward, backward = zip(*moved, strict=True)
    return Lowered(name, inputs, y, (), nodes, forward, backward_input=backward)


class Join(Layer):
    """Tensors behind one another along the channels: a call for each, which writes its part of the output."""

    torch_type = Concat
    kind = "join"

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to a node for each input.

        Raises:
            Unsupported: an input is there twice, whose gradient would be the sum of two parts.
        """
        if len({x.name for x in inputs}) < len(inputs):
            raise Unsupported(f"layer '{name}' cannot be lowered: it joins a tensor with itself")
        y = output_tensor(name, (sum(x.shape[0] for x in inputs), *inputs[0].shape[1:]))
        firsts = accumulate((x.num_elements for x in inputs[:-1]), initial=0)
        parts = enumerate(zip(inputs, firsts, strict=True))
        moved = [_moved(f"{name}.{i}", cls.kind, x, y, ("first", first)) for i, (x, first) in parts]
        return _layer(name, inputs, y, moved)

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("join 3+5x4x3", Concat(), (3, 4, 3), num_inputs=2, other_shapes=((5, 4, 3),))
        yield Case("join 1+2+4 of 3x1", Concat(), (1, 3, 1), num_inputs=3, other_shapes=((2, 3, 1), (4, 3, 1)))
        yield Case("join one 2x5x5", Concat(), (2, 5, 5))


class Cut(Layer):
    """Some channels of a tensor; the gradient of the others is zero."""

    torch_type = Slice
    kind = "slice"

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node."""
        assert isinstance(module, Slice)
        (x,) = inputs
        first, stop = module.bounds(x.shape[0])
        y = output_tensor(name, (stop - first, *x.shape[1:]))
        return _layer(name, inputs, y, [_moved(name, cls.kind, x, y, ("first", first * prod(x.shape[1:])))])

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("slice 7x3x5 first of 2", Slice(index=0, num=2), (7, 3, 5))
        yield Case("slice 7x3x5 last of 2", Slice(index=1, num=2), (7, 3, 5))
        yield Case("slice 6x2x2 middle of 1, 3, 2", Slice(index=1, sizes=(1, 3, 2)), (6, 2, 2))


class Shuffle(Layer):
    """The channel shuffle: channels of each group, dealt out in turn."""

    torch_type = nn.ChannelShuffle
    kind = "shuffle"

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node.

        Raises:
            Unsupported: the groups are not equal.
        """
        assert isinstance(module, nn.ChannelShuffle)
        (x,) = inputs
        if x.shape[0] % module.groups:
            raise Unsupported(f"layer '{name}' cannot be lowered: {x.shape[0]} channels in {module.groups} groups")
        y = output_tensor(name, x.shape)
        return _layer(name, inputs, y, [_moved(name, cls.kind, x, y, ("groups", module.groups))])

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("shuffle 6x3x5 in 2", nn.ChannelShuffle(2), (6, 3, 5))
        yield Case("shuffle 12x1x2 in 3", nn.ChannelShuffle(3), (12, 1, 2))
