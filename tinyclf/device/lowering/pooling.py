"""Pooling over windows of a plane: average and maximum."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from torch import nn

from tinyclf.base.errors import Unsupported
from tinyclf.device.graph.ir import Attribute, BlobOf, Call, Node, Phase, Tensor, Window, gradient_name
from tinyclf.device.graph.kernels import FW, IG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor, pair


def _attributes(x: Tensor, y: Tensor, window: Window) -> tuple[tuple[str, Attribute], ...]:
    return (("input", BlobOf(x.name)), ("output", BlobOf(y.name)), ("window", window))


def _pooled(name: str, x: Tensor, window: Window) -> Tensor:
    """Return the output of a layer with a window."""
    return output_tensor(name, (x.shape[0], *window.outputs(x.shape[1:])))


def _moving(module: nn.AvgPool2d | nn.MaxPool2d, x: Tensor) -> Window:
    """Return the window of a pooling of `x`; with `ceil_mode` what the last window needs is padded behind `x`."""
    kernel, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)

    def after(size: int, kernel: int, stride: int, padding: int) -> int:
        if not module.ceil_mode:
            return padding
        last = ceil((size + 2 * padding - kernel) / stride) * stride - padding  # where the last window begins
        return max(padding, (last if last < size else last - stride) + kernel - size)

    below, beside = (after(*sizes) for sizes in zip(x.shape[1:], kernel, stride, padding, strict=True))
    return Window(kernel, stride, (padding[0], below, padding[1], beside))


def _parts(name: str, module: nn.AdaptiveAvgPool2d, x: Tensor) -> Window:
    """Return the window of a pooling that cuts the planes of `x` into so many parts of one size."""
    size: Any = module.output_size
    asked = size if isinstance(size, tuple | list) else (size, size)
    numbers = [whole if num is None else num for num, whole in zip(asked, x.shape[1:], strict=True)]
    if any(whole % num for num, whole in zip(numbers, x.shape[1:], strict=True)):
        raise Unsupported(
            f"layer '{name}' cannot be lowered: {module} of {x.shape[1]}x{x.shape[2]}: windows of unequal size"
        )
    height, width = (whole // num for num, whole in zip(numbers, x.shape[1:], strict=True))
    return Window((height, width), (height, width)) if max(numbers) > 1 else Window((height, width))


class AvgPool(Layer):
    """Average pooling, also with padding; globally, it gives (C, 1, 1)."""

    torch_type = nn.AvgPool2d
    kind = "avgpool"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` averages windows, or parts of planes."""
        is_moving = isinstance(module, nn.AvgPool2d) and module.divisor_override is None
        return is_moving or isinstance(module, nn.AdaptiveAvgPool2d)

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node; a global average is that of one window."""
        (x,) = inputs
        kind = cls.kind
        more: tuple[tuple[str, Attribute], ...] = ()
        if isinstance(module, nn.AvgPool2d):
            window = _moving(module, x)
            if any(window.padding):
                kind, more = "avgpool_padded", (("count_padding", int(module.count_include_pad)),)
        else:
            assert isinstance(module, nn.AdaptiveAvgPool2d)
            window = _parts(name, module, x)
        y = _pooled(name, x, window)
        grads = (gradient_name(y.name),), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, kind, (*_attributes(x, y, window), *more)),),
            forward=(Call(find(kind, FW).symbol, name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(Call(find(kind, IG).symbol, name, Phase.BACKWARD, *grads),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("avgpool 11x3x5", nn.AdaptiveAvgPool2d(1), (11, 3, 5))
        yield Case("avgpool 2x1x1", nn.AdaptiveAvgPool2d(1), (2, 1, 1))
        yield Case("avgpool 3x7x9 2x2 s2", nn.AvgPool2d(2), (3, 7, 9))
        yield Case("avgpool 2x6x5 3x2 s1x2", nn.AvgPool2d((3, 2), (1, 2)), (2, 6, 5))
        yield Case("avgpool 2x6x9 to 2x3", nn.AdaptiveAvgPool2d((2, 3)), (2, 6, 9))
        yield Case("avgpool 2x4x5 to its width", nn.AdaptiveAvgPool2d((1, None)), (2, 4, 5))
        yield Case("avgpool 11x7x9 3x3 s2 p1", nn.AvgPool2d(3, 2, 1), (11, 7, 9))
        yield Case("avgpool 3x6x5 5x3 p2x1 not counted", nn.AvgPool2d((5, 3), (1, 2), (2, 1), count_include_pad=False),
                   (3, 6, 5))  # fmt: skip
        yield Case("avgpool 3x7x8 3x3 s2, up", nn.AvgPool2d(3, 2, ceil_mode=True), (3, 7, 8))
        yield Case("avgpool 2x8x6 4x3 s3 p1, up", nn.AvgPool2d((4, 3), 3, 1, ceil_mode=True), (2, 8, 6))
        yield Case("avgpool 2x8x6 3x3 s4 p1, up, not counted", nn.AvgPool2d(3, 4, 1, True, False), (2, 8, 6))


class MaxPool(Layer):
    """Maximum pooling; the backward pass finds the maxima again, so it reads the input."""

    torch_type = nn.MaxPool2d
    kind = "maxpool"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` takes windows of neighbours, and gives no indices."""
        return isinstance(module, nn.MaxPool2d) and module.dilation in (1, (1, 1)) and not module.return_indices

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node."""
        (x,) = inputs
        assert isinstance(module, nn.MaxPool2d)
        window = _moving(module, x)
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
        yield Case("maxpool 5x8x7 3x3 s2, up", nn.MaxPool2d(3, 2, ceil_mode=True), (5, 8, 7))
        yield Case("maxpool 2x8x6 2x3 s4 p1, up", nn.MaxPool2d((2, 3), 4, 1, ceil_mode=True), (2, 8, 6))
