"""One class per layer: the torch type, its shapes, the args struct, the kernels of each direction, test cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from tinyclf.ir import BlobOf, Call, Field, Node, Phase, Role, Tensor, gradient_name


@dataclass(frozen=True)
class Case:
    """A layer to test, with the shape (C, H, W) of its input."""

    label: str
    module: nn.Module
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Lowered:
    """One layer in C: its nodes, and its calls in each direction.

    `backward_input` reads the gradient of `output` and writes that of `input`; `backward_parameters` writes those of
    `parameters` (weight, then bias). Both may read `input`, `output` and the parameters.
    """

    name: str
    input: Tensor
    output: Tensor
    parameters: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    forward: tuple[Call, ...]
    backward_input: tuple[Call, ...]
    backward_parameters: tuple[Call, ...] = ()


class Layer:
    """What every layer class has. A kernel name is always written whole, so that it can be searched for."""

    torch_type: ClassVar[type[nn.Module]]

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether this class lowers `module`."""
        return isinstance(module, cls.torch_type)

    @classmethod
    def lower(cls, name: str, module: nn.Module, x: Tensor) -> Lowered:
        """Lower `module`, called `name`, with the input `x`."""
        raise NotImplementedError

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases that cover odd sizes, strides, paddings and unequal channels."""
        raise NotImplementedError


def _parameters(name: str, module: nn.Module) -> tuple[Tensor, ...]:
    """Return the tensors of the weight and, if there is one, the bias."""
    return tuple(
        Tensor(f"{name}.{short}", tuple(p.shape), Role.PARAMETER, trained=p.requires_grad)
        for short, p in module.named_parameters()
    )


def _output(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(f"{name}.output", shape, Role.ACTIVATION)


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _output_shape(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Return the output shape of a layer with a weight.

    A convolution gives (C, H, W) with floor((size + 2 padding - kernel) / stride) + 1 in each direction.
    """
    if isinstance(module, nn.Linear):
        return (module.out_features,)
    assert isinstance(module, nn.Conv2d)
    assert not isinstance(module.padding, str)
    height, width = (
        (size + 2 * pad - kernel) // stride + 1
        for size, pad, kernel, stride in zip(
            x.shape[1:], module.padding, module.kernel_size, module.stride, strict=True
        )
    )
    return module.out_channels, height, width


def _window_fields(conv: nn.Conv2d) -> tuple[tuple[str, Field], ...]:
    assert not isinstance(conv.padding, str)
    (pad_h, pad_w), (stride_h, stride_w) = conv.padding, conv.stride
    return (
        ("Lpad", pad_w),
        ("Rpad", pad_w),
        ("Upad", pad_h),
        ("Dpad", pad_h),
        ("stride_h", stride_h),
        ("stride_w", stride_w),
    )


def _is_plain_conv(module: nn.Module) -> bool:
    """Tell whether `module` is a 2D convolution with zero padding by numbers and without dilation."""
    return (
        isinstance(module, nn.Conv2d)
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class _Weighted(Layer):
    """A layer with a weight and perhaps a bias: one struct with input, coeff and output, one kernel a direction."""

    struct: ClassVar[str]
    forward: ClassVar[str]
    input_grads: ClassVar[str]
    param_grads: ClassVar[str]
    has_window: ClassVar[bool] = False  # the struct has fields for stride and padding
    bias_flag: ClassVar[str | None] = None  # the struct's field that turns its bias on; None: it has no bias

    @classmethod
    def lower(cls, name: str, module: nn.Module, x: Tensor) -> Lowered:
        """Lower to one node, and a second for a bias that the struct has no field for."""
        y = _output(name, _output_shape(module, x))
        weight, *bias = _parameters(name, module)
        fields: list[tuple[str, Field]] = [
            ("input", BlobOf(x.name)),
            ("coeff", BlobOf(weight.name)),
            ("output", BlobOf(y.name)),
        ]
        if isinstance(module, nn.Conv2d) and cls.has_window:
            fields += _window_fields(module)
        own = [weight]
        if bias and cls.bias_flag:
            fields += [("bias", BlobOf(bias[0].name)), (cls.bias_flag, 1)]
            own += bias
        names = tuple(p.name for p in own)
        x_grad, y_grad = gradient_name(x.name), gradient_name(y.name)
        grads = tuple(gradient_name(p) for p in names)
        lowered = Lowered(
            name=name,
            input=x,
            output=y,
            parameters=tuple(own),
            nodes=(Node(name, cls.struct, tuple(fields)),),
            forward=(Call(cls.forward, name, Phase.FORWARD, (x.name, *names), (y.name,)),),
            backward_input=(Call(cls.input_grads, name, Phase.BACKWARD, (y_grad, weight.name), (x_grad,)),),
            backward_parameters=(Call(cls.param_grads, name, Phase.BACKWARD, (y_grad, x.name), grads),),
        )
        return lowered if len(own) == 1 + len(bias) else _with_bias(lowered, bias[0])


def _with_bias(lowered: Lowered, bias: Tensor) -> Lowered:
    """Add the node and the calls of a bias that the layer's own struct has no field for."""
    name, y = f"{lowered.name}.bias", lowered.output.name
    node = Node(name, "tcl_bias_args", (("bias", BlobOf(bias.name)), ("output", BlobOf(y))))
    add = Call("tcl_bias_fp32_fw_cl", name, Phase.FORWARD, (y, bias.name), (y,))
    grads = (gradient_name(y),), (gradient_name(bias.name),)
    grad = Call("tcl_bias_fp32_bw_param_grads_cl", name, Phase.BACKWARD, *grads)
    return replace(
        lowered,
        parameters=(*lowered.parameters, bias),
        nodes=(*lowered.nodes, node),
        forward=(*lowered.forward, add),
        backward_parameters=(*lowered.backward_parameters, grad),
    )


class Pointwise(_Weighted):
    """Convolution with a 1x1 kernel, stride 1, no padding; the bias is a second node."""

    torch_type = nn.Conv2d
    struct = "PointWise_Conv_args"
    forward = "pulp_conv_pw_fp32_fw_cl"
    input_grads = "pulp_conv_pw_fp32_bw_input_grads_cl"
    param_grads = "pulp_conv_pw_fp32_bw_param_grads_cl"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a pointwise convolution."""
        return (
            isinstance(module, nn.Conv2d)
            and _is_plain_conv(module)
            and (module.kernel_size, module.stride, module.padding) == ((1, 1), (1, 1), (0, 0))
            and module.groups == 1
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("pw 5->5 7x9", nn.Conv2d(5, 5, 1), (5, 7, 9))
        yield Case("pw 3->13 5x4", nn.Conv2d(3, 13, 1), (3, 5, 4))
        yield Case("pw 17->6 3x3 no bias", nn.Conv2d(17, 6, 1, bias=False), (17, 3, 3))
        yield Case("pw 32->64 1x1", nn.Conv2d(32, 64, 1), (32, 1, 1))
        yield Case("pw 1->1 2x2", nn.Conv2d(1, 1, 1), (1, 2, 2))


class Depthwise(_Weighted):
    """Convolution with one filter a channel; the bias is a second node."""

    torch_type = nn.Conv2d
    struct = "DepthWise_Conv_args"
    forward = "pulp_conv_dw_fp32_fw_cl"
    input_grads = "pulp_conv_dw_fp32_bw_input_grads_cl"
    param_grads = "pulp_conv_dw_fp32_bw_param_grads_cl"
    has_window = True

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a depthwise convolution with as many outputs as inputs."""
        return (
            isinstance(module, nn.Conv2d)
            and _is_plain_conv(module)
            and module.groups == module.in_channels == module.out_channels
            and module.groups > 1
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("dw 5 7x9 s1 p1", nn.Conv2d(5, 5, 3, padding=1, groups=5), (5, 7, 9))
        yield Case("dw 3 7x9 s2 p1", nn.Conv2d(3, 3, 3, stride=2, padding=1, groups=3), (3, 7, 9))
        yield Case("dw 4 8x6 s2 p1", nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 8, 6))
        yield Case("dw 9 2x2 s2 p1", nn.Conv2d(9, 9, 3, stride=2, padding=1, groups=9, bias=False), (9, 2, 2))
        yield Case("dw 6 1x1 s1 p1", nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 1, 1))
        yield Case("dw 3 9x8 s2 p0", nn.Conv2d(3, 3, 3, stride=2, groups=3), (3, 9, 8))
        yield Case("dw 2 11x5 5x5 s1x2 p2x1", nn.Conv2d(2, 2, 5, (1, 2), (2, 1), groups=2), (2, 11, 5))


class Conv2d(_Weighted):
    """Full convolution."""

    torch_type = nn.Conv2d
    struct = "Conv2D_args"
    forward = "pulp_conv2d_fp32_fw_cl"
    input_grads = "pulp_conv2d_fp32_bw_input_grads_cl"
    param_grads = "pulp_conv2d_fp32_bw_param_grads_cl"
    has_window = True
    bias_flag = "USE_BIASES"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a convolution in one group."""
        return isinstance(module, nn.Conv2d) and _is_plain_conv(module) and module.groups == 1

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("conv 3->8 9x7 s2 p1", nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 7))
        yield Case("conv 3->5 8x8 s2 p1", nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 8, 8))
        yield Case("conv 2->3 7x5 s1 p1", nn.Conv2d(2, 3, 3, padding=1), (2, 7, 5))
        yield Case("conv 4->2 6x9 s1 p0", nn.Conv2d(4, 2, 3, bias=False), (4, 6, 9))
        yield Case("conv 2->4 11x8 5x3 s2x1 p2x0", nn.Conv2d(2, 4, (5, 3), (2, 1), (2, 0)), (2, 11, 8))
        yield Case("conv 3->6 7x7 1x1 s2", nn.Conv2d(3, 6, 1, stride=2), (3, 7, 7))


class Linear(_Weighted):
    """Fully connected layer; its input is any tensor, flattened."""

    torch_type = nn.Linear
    struct = "Linear_args"
    forward = "pulp_linear_fp32_fw_cl"
    input_grads = "pulp_linear_fp32_bw_input_grads_cl"
    param_grads = "pulp_linear_fp32_bw_param_grads_cl"
    bias_flag = "use_biases"

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("linear 13->2", nn.Linear(13, 2), (13,))
        yield Case("linear 6->11", nn.Linear(6, 11), (6,))
        yield Case("linear 9->3 no bias", nn.Linear(9, 3, bias=False), (9,))


class ReLU(Layer):
    """ReLU in place: a gradient passes where the output is positive, which is where the input was."""

    torch_type = nn.ReLU

    @classmethod
    def lower(cls, name: str, module: nn.Module, x: Tensor) -> Lowered:
        """Lower to act_args with one blob as input and output."""
        node = Node(name, "act_args", (("input", BlobOf(x.name)), ("output", BlobOf(x.name))))
        grad = gradient_name(x.name)
        return Lowered(
            name=name,
            input=x,
            output=x,
            parameters=(),
            nodes=(node,),
            forward=(Call("pulp_relu_fp32_fw_cl", name, Phase.FORWARD, (x.name,), (x.name,)),),
            backward_input=(Call("pulp_relu_fp32_bw_cl", name, Phase.BACKWARD, (x.name, grad), (grad,)),),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("relu 3x5x7", nn.ReLU(), (3, 5, 7))
        yield Case("relu 1x1x1", nn.ReLU(), (1, 1, 1))


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
    def lower(cls, name: str, module: nn.Module, x: Tensor) -> Lowered:
        """Lower to pool_args; the kernels are bodies that the caller forks."""
        channels, height, width = x.shape
        if isinstance(module, nn.AvgPool2d):
            window_h, window_w = _pair(module.kernel_size)
            stride_h, stride_w = _pair(module.stride)
        else:
            (window_h, window_w), (stride_h, stride_w) = (height, width), (1, 1)
        y = _output(name, (channels, (height - window_h) // stride_h + 1, (width - window_w) // stride_w + 1))
        node = Node(
            name,
            "pool_args",
            (
                ("input", BlobOf(x.name)),
                ("output", BlobOf(y.name)),
                ("Hker", window_h),
                ("Wker", window_w),
                ("Hstride", stride_h),
                ("Wstride", stride_w),
            ),
        )
        grads = (gradient_name(y.name),), (gradient_name(x.name),)
        return Lowered(
            name=name,
            input=x,
            output=y,
            parameters=(),
            nodes=(node,),
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


# The first class that accepts a module lowers it.
LAYERS: tuple[type[Layer], ...] = (Pointwise, Depthwise, Conv2d, Linear, ReLU, AvgPool)
