"""Pooling over windows of a plane: average and maximum."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tinyclf.device.graph.ir import BlobOf, Call, Field, Node, Phase, Tensor, gradient_name
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor, pair


def _window_fields(
    x: Tensor, y: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> tuple[tuple[str, Field], ...]:
    return (
        ("input", BlobOf(x.name)),
        ("output", BlobOf(y.name)),
        ("Hker", window[0]),
        ("Wker", window[1]),
        ("Hstride", stride[0]),
        ("Wstride", stride[1]),
    )


def _pooled(
    name: str, x: Tensor, window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Return the output of a layer with a window."""
    height, width = (
        (size + 2 * pad - kernel) // step + 1
        for size, pad, kernel, step in zip(x.shape[1:], padding, window, stride, strict=True)
    )
    return output_tensor(name, (x.shape[0], height, width))


class AvgPool(Layer):
    """Average pooling without padding; globally, it gives (C, 1, 1)."""

    torch_type = nn.AvgPool2d

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
        """Lower to pool_args; the kernels are bodies that the caller forks."""
        (x,) = inputs
        if isinstance(module, nn.AvgPool2d):
            window, stride = pair(module.kernel_size), pair(module.stride)
        else:
            window, stride = (x.shape[1], x.shape[2]), (1, 1)
        y = _pooled(name, x, window, stride)
        grads = (gradient_name(y.name),), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, "pool_args", _window_fields(x, y, window, stride)),),
            forward=(Call("pulp_avgpool_fp32_fw_cl", name, Phase.FORWARD, (x.name,), (y.name,), fork=True),),
            backward_input=(Call("pulp_avgpool_fp32_bw_cl", name, Phase.BACKWARD, *grads, fork=True),),
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
        """Lower to tcl_maxpool_args."""
        (x,) = inputs
        assert isinstance(module, nn.MaxPool2d)
        window, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
        y = _pooled(name, x, window, stride, padding)
        pads = (("Lpad", padding[1]), ("Rpad", padding[1]), ("Upad", padding[0]), ("Dpad", padding[0]))
        reads, writes = (x.name, gradient_name(y.name)), (gradient_name(x.name),)
        return Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=(),
            nodes=(Node(name, "tcl_maxpool_args", (*_window_fields(x, y, window, stride), *pads)),),
            forward=(Call("tcl_maxpool_fp32_fw_cl", name, Phase.FORWARD, (x.name,), (y.name,)),),
            backward_input=(Call("tcl_maxpool_fp32_bw_cl", name, Phase.BACKWARD, reads, writes),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("maxpool 11x7x9 3x3 s2 p1", nn.MaxPool2d(3, 2, 1), (11, 7, 9))
        yield Case("maxpool 3x8x6 2x2 s2", nn.MaxPool2d(2), (3, 8, 6))
        yield Case("maxpool 2x6x5 3x2 s1x2 p1x0", nn.MaxPool2d((3, 2), (1, 2), (1, 0)), (2, 6, 5))
        yield Case("maxpool 1x1x1 3x3 s2 p1", nn.MaxPool2d(3, 2, 1), (1, 1, 1))
