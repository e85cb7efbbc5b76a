"""Pooling over windows of a plane: average and maximum."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tinyclf.device.graph.ir import Attribute, BlobOf, Call, Node, Phase, Tensor, Window, gradient_name
from tinyclf.device.graph.kernels import FW, IG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor, pair


def _attributes(x: Tensor, y: Tensor, window: Window) -> tuple[tuple[str, Attribute], ...]:
    return (("input", BlobOf(x.name)), ("output", BlobOf(y.name)), ("window", window))


def _pooled(name: str, x: Tensor, window: Window) -> Tensor:
    """Return the output of a layer with a window."""
    return output_tensor(name, (x.shape[0], *window.outputs(x.shape[1:])))


class AvgPool(Layer):
    """Average pooling without padding; globally, it gives (C, 1, 1)."""

    torch_type = nn.AvgPool2d
    kind = "avgpool"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` averages the whole plane, or whole windows."""
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return module.output_size in (1, (1, 1))
        return (
            isinstance(module, nn.AvgPool2d)
            and module.padding in (0, (0, 0))
            and not module.ceil_mode
            and module.divisor_override is None
        )

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node; a global average is that of one window."""
        (x,) = inputs
        if isinstance(module, nn.AvgPool2d):
            window = Window(pair(module.kernel_size), pair(module.stride))
        else:
            window = Window((x.shape[1], x.shape[2]))
        y = _pooled(name, x, window)
        grads = (gradient_name(y.name),), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, cls.kind, _attributes(x, y, window)),),
            forward=(Call(find(cls.kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(Call(find(cls.kind, IG).symbol, name, Phase.BACKWARD, *grads),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("avgpool 11x3x5", nn.AdaptiveAvgPool2d(1), (11, 3, 5))
        yield Case("avgpool 2x1x1", nn.AdaptiveAvgPool2d(1), (2, 1, 1))
        yield Case("avgpool 3x7x9 2x2 s2", nn.AvgPool2d(2), (3, 7, 9))
        yield Case("avgpool 2x6x5 3x2 s1x2", nn.AvgPool2d((3, 2), (1, 2)), (2, 6, 5))


class MaxPool(Layer):
    """Maximum pooling; the backward pass finds the maxima again, so it reads the input."""

    torch_type = nn.MaxPool2d
    kind = "maxpool"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` takes whole windows of neighbours, and gives no indices."""
        return (
            isinstance(module, nn.MaxPool2d)
            and module.dilation in (1, (1, 1))
            and not module.ceil_mode
            and not module.return_indices
        )

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node."""
        (x,) = inputs
        assert isinstance(module, nn.MaxPool2d)
        above, beside = pair(module.padding)
        window = Window(pair(module.kernel_size), pair(module.stride), (above, above, beside, beside))
        y = _pooled(name, x, window)
        reads, writes = (x.name, gradient_name(y.name)), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, cls.kind, _attributes(x, y, window)),),
            forward=(Call(find(cls.kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(Call(find(cls.kind, IG).symbol, name, Phase.BACKWARD, reads, writes),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("maxpool 11x7x9 3x3 s2 p1", nn.MaxPool2d(3, 2, 1), (11, 7, 9))
        yield Case("maxpool 3x8x6 2x2 s2", nn.MaxPool2d(2), (3, 8, 6))
        yield Case("maxpool 2x6x5 3x2 s1x2 p1x0", nn.MaxPool2d((3, 2), (1, 2), (1, 0)), (2, 6, 5))
        yield Case("maxpool 1x1x1 3x3 s2 p1", nn.MaxPool2d(3, 2, 1), (1, 1, 1))
