"""Layers with a weight: convolutions (full, depthwise, pointwise) and the fully connected layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import ClassVar, TypeGuard

from torch import nn

from tinyclf.device.graph.ir import Attribute, BlobOf, Call, Node, Phase, Role, Tensor, Window, gradient_name
from tinyclf.device.graph.kernels import FW, IG, WG, find
from tinyclf.device.lowering.layer import Case, Layer, Lowered, output_tensor, pair
from tinyclf.recipe.channels import set_trained_channels, trained_channels


def _trained(module: nn.Module, *names: str) -> nn.Module:
    """Return `module` with nothing but the parameters `names` trained."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    return module


def _in_part(module: nn.Module, num: int) -> nn.Module:
    """Return `module` with only its first `num` output channels trained."""
    set_trained_channels(module, num)
    return module


def _parameters(name: str, module: nn.Module) -> tuple[Tensor, ...]:
    """Return the tensors of the weight and, if there is one, the bias."""
    num = trained_channels(module)
    return tuple(
        Tensor(
            f"{name}.{short}",
            tuple(p.shape),
            Role.PARAMETER,
            trained=p.requires_grad,
            trained_channels=num if p.requires_grad else None,
        )
        for short, p in module.named_parameters()
    )


def _leading_channels(node: Node, tensors: Collection[str], num: int) -> Node:
    """Return `node` for the first `num` channels of `tensors`: what the kernel of parameter gradients takes."""
    attributes = tuple(
        (name, replace(value, channels=num) if isinstance(value, BlobOf) and value.tensor in tensors else value)
        for name, value in node.attributes
    )
    return Node(f"{node.name}.trained", node.kind, attributes)


def _output_shape(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Return the output shape of a layer with a weight."""
    if isinstance(module, nn.Linear):
        return (module.out_features,)
    assert isinstance(module, nn.Conv2d)
    return module.out_channels, *_window(module).outputs(x.shape[1:])


def _window(conv: nn.Conv2d) -> Window:
    return Window(pair(conv.kernel_size), pair(conv.stride), _padding(conv), pair(conv.dilation))


def _padding(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return the padding (top, bottom, left, right); of an odd number in all, "same" puts the rest behind."""
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if isinstance(conv.padding, str):  # "same": the stride is 1
        extents = [d * (kernel - 1) for d, kernel in zip(conv.dilation, conv.kernel_size, strict=True)]
        (top, height), (left, width) = ((extent // 2, extent) for extent in extents)
        return top, height - top, left, width - left
    above, beside = pair(conv.padding)
    return above, above, beside, beside


def _is_plain_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether `module` is a 2D convolution with zero padding and without dilation."""
    return isinstance(module, nn.Conv2d) and module.dilation == (1, 1) and module.padding_mode == "zeros"


class _Weighted(Layer):
    """A layer with a weight and perhaps a bias: input, weight and output, one kernel a direction."""

    has_window: ClassVar[bool] = False
    has_bias: ClassVar[bool] = False  # its kernels add a bias; otherwise that is a node of its own
    by_channel: ClassVar[bool] = False  # an output channel depends on the input channel of the same number alone

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower to one node, and a second for a bias that its kernels do not add.

        Where only leading channels are trained, a further node describes a layer with no more than these: the usual
        kernel, called with it, writes the gradients of the beginning of weight and bias.
        """
        (x,) = inputs
        y = output_tensor(name, _output_shape(module, x))
        weight, *bias = _parameters(name, module)
        attributes: list[tuple[str, Attribute]] = [
            ("input", BlobOf(x.name)),
            ("weight", BlobOf(weight.name)),
            ("output", BlobOf(y.name)),
        ]
        if isinstance(module, nn.Conv2d) and cls.has_window:
            attributes.append(("window", _window(module)))
        attributes += cls._more(module)
        own = [weight]
        if bias and cls.has_bias:
            attributes.append(("bias", BlobOf(bias[0].name)))
            own += bias
        x_grad, y_grad = gradient_name(x.name), gradient_name(y.name)
        forward, inputs_back = find(cls.kind, FW).symbol, find(cls.kind, IG).symbol
        lowered = Lowered(
            name=name,
            inputs=inputs,
            output=y,
            parameters=tuple(own),
            nodes=(Node(name, cls.kind, tuple(attributes)),),
            forward=(Call(forward, name, Phase.FORWARD, (x.name, *(p.name for p in own)), (y.name,)),),
            backward_input=(Call(inputs_back, name, Phase.BACKWARD, (y_grad, weight.name), (x_grad,)),),
        )
        lowered = cls._with_parameter_grads(lowered)
        return lowered if len(own) == 1 + len(bias) else _with_bias(lowered, bias[0])

    @classmethod
    def _more(cls, module: nn.Module) -> list[tuple[str, Attribute]]:
        """Return what else describes the layer."""
        return []

    @classmethod
    def _with_parameter_grads(cls, lowered: Lowered) -> Lowered:
        """Add the call that writes the gradients of the node's parameters that are trained, if any is.

        The kernel leaves out a gradient that has no place. That of a bias needs no input: nothing keeps it alive then.
        """
        if not lowered.trained:
            return lowered
        (node,) = nodes = lowered.nodes
        num = lowered.trained[0].trained_channels
        if num is not None:
            parts = [lowered.output.name, *(p.name for p in lowered.parameters)]
            node = _leading_channels(node, [*parts, *(x.name for x in lowered.inputs if cls.by_channel)], num)
            nodes = (*nodes, node)
        reads = [gradient_name(lowered.output.name)]
        if lowered.parameters[0].trained:
            reads += [x.name for x in lowered.inputs]
        grads = tuple(gradient_name(p.name) for p in lowered.trained)
        call = Call(find(cls.kind, WG).symbol, node.name, Phase.BACKWARD, tuple(reads), grads)
        return replace(lowered, nodes=nodes, backward_parameters=(call,))


def _with_bias(lowered: Lowered, bias: Tensor) -> Lowered:
    """Add the node and the calls of a bias that the layer's own kernels do not add."""
    name, y = f"{lowered.name}.bias", lowered.output.name
    node = Node(name, "bias", (("bias", BlobOf(bias.name)), ("output", BlobOf(y))))
    add = Call(find("bias", FW).symbol, name, Phase.FORWARD, (y, bias.name), (y,))
    nodes = [node]
    if bias.trained_channels is not None:
        nodes.append(_leading_channels(node, [bias.name, y], bias.trained_channels))
    grads = (gradient_name(y),), (gradient_name(bias.name),)
    grad = Call(find("bias", WG).symbol, nodes[-1].name, Phase.BACKWARD, *grads)
    return replace(
        lowered,
        parameters=(*lowered.parameters, bias),
        nodes=(*lowered.nodes, *nodes),
        forward=(*lowered.forward, add),
        backward_parameters=(*lowered.backward_parameters, *((grad,) if bias.trained else ())),
    )


class Pointwise(_Weighted):
    """Convolution with a 1x1 kernel, stride 1, no padding; the bias is a second node."""

    torch_type = nn.Conv2d
    kind = "pointwise"

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a pointwise convolution."""
        return (
            _is_plain_conv(module)
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
        yield Case("pw 4->7 3x5 first 3", _in_part(nn.Conv2d(4, 7, 1), 3), (4, 3, 5))
        yield Case("pw 4->5 3x2 first 1 no bias", _in_part(nn.Conv2d(4, 5, 1, bias=False), 1), (4, 3, 2))


class Depthwise(_Weighted):
    """Convolution with one filter a channel; the bias is a second node."""

    torch_type = nn.Conv2d
    kind = "depthwise"
    has_window = True
    by_channel = True

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a depthwise convolution with as many outputs as inputs."""
        return (
            _is_plain_conv(module) and module.groups == module.in_channels == module.out_channels and module.groups > 1
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
        yield Case("dw 2 5x6 4x2 same", nn.Conv2d(2, 2, (4, 2), padding="same", groups=2), (2, 5, 6))
        yield Case("dw 3 5x6 weight only", _trained(nn.Conv2d(3, 3, 3, groups=3), "weight"), (3, 5, 6))
        yield Case("dw 3 5x6 bias only", _trained(nn.Conv2d(3, 3, 3, groups=3), "bias"), (3, 5, 6))
        yield Case("dw 7 5x6 s2 p1 first 3", _in_part(nn.Conv2d(7, 7, 3, 2, 1, groups=7), 3), (7, 5, 6))
        bias = _trained(nn.Conv2d(5, 5, 3, groups=5), "bias")
        yield Case("dw 5 4x5 bias only first 2", _in_part(bias, 2), (5, 4, 5))


class Conv2d(_Weighted):
    """Full convolution, but for pointwise ones."""

    torch_type = nn.Conv2d
    kind = "convolution"
    has_window = True
    has_bias = True

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a convolution in one group."""
        return _is_plain_conv(module) and module.groups == 1 and not Pointwise.accepts(module)

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("conv 3->8 9x7 s2 p1", nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 7))
        yield Case("conv 3->5 8x8 s2 p1", nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 8, 8))
        yield Case("conv 2->3 7x5 s1 p1", nn.Conv2d(2, 3, 3, padding=1), (2, 7, 5))
        yield Case("conv 4->2 6x9 s1 p0", nn.Conv2d(4, 2, 3, bias=False), (4, 6, 9))
        yield Case("conv 2->4 11x8 5x3 s2x1 p2x0", nn.Conv2d(2, 4, (5, 3), (2, 1), (2, 0)), (2, 11, 8))
        yield Case("conv 3->6 7x7 1x1 s2", nn.Conv2d(3, 6, 1, stride=2), (3, 7, 7))
        yield Case("conv 3->6 8x5 1x1 s2 p1", nn.Conv2d(3, 6, 1, stride=2, padding=1), (3, 8, 5))
        yield Case("conv 2->3 4x4 3x3 s2 p4", nn.Conv2d(2, 3, 3, stride=2, padding=4), (2, 4, 4))
        yield Case("conv 2->3 5x6 4x2 same", nn.Conv2d(2, 3, (4, 2), padding="same"), (2, 5, 6))
        yield Case("conv 2->3 5x6 weight only", _trained(nn.Conv2d(2, 3, 3), "weight"), (2, 5, 6))
        yield Case("conv 2->3 5x6 bias only", _trained(nn.Conv2d(2, 3, 3), "bias"), (2, 5, 6))
        yield Case("conv 3->5 6x5 s2 p1 first 3", _in_part(nn.Conv2d(3, 5, 3, 2, 1), 3), (3, 6, 5))
        yield Case("conv 2->4 5x5 bias only first 3", _in_part(_trained(nn.Conv2d(2, 4, 3), "bias"), 3), (2, 5, 5))


class Grouped(_Weighted):
    """Convolution in groups of channels, with any number of outputs a group, or with dilation; a second bias node."""

    torch_type = nn.Conv2d
    kind = "grouped"
    has_window = True

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether `module` is a convolution that none of the others is for."""
        is_conv = isinstance(module, nn.Conv2d) and module.padding_mode == "zeros"
        return is_conv and not any(other.accepts(module) for other in (Pointwise, Depthwise, Conv2d))

    @classmethod
    def _more(cls, module: nn.Module) -> list[tuple[str, Attribute]]:
        assert isinstance(module, nn.Conv2d)
        return [
            ("group_inputs", module.in_channels // module.groups),
            ("group_outputs", module.out_channels // module.groups),
        ]

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases: groups, a channel multiplier, dilation, windows that are not square."""
        yield Case("group 6->4 in 2 7x9 s2 p1", nn.Conv2d(6, 4, 3, 2, 1, groups=2), (6, 7, 9))
        yield Case("group 9->6 in 3 1x1", nn.Conv2d(9, 6, 1, groups=3, bias=False), (9, 4, 3))
        yield Case("group 3->6 multiplier 2 5x6 p1", nn.Conv2d(3, 6, 3, padding=1, groups=3), (3, 5, 6))
        yield Case("group 4->8 in 2 6x5 3x1 s2x1 p1x0", nn.Conv2d(4, 8, (3, 1), (2, 1), (1, 0), groups=2), (4, 6, 5))
        yield Case("dilated 2->3 9x8 d2 p2", nn.Conv2d(2, 3, 3, padding=2, dilation=2), (2, 9, 8))
        yield Case("dilated dw 4 11x7 1x3 s2 d1x3 p0x3", nn.Conv2d(4, 4, (1, 3), 2, (0, 3), (1, 3), 4), (4, 11, 7))
        yield Case("dilated 2->2 7x6 4x2 same d2", nn.Conv2d(2, 2, (4, 2), padding="same", dilation=2), (2, 7, 6))
        yield Case("group 4->6 in 2 first 4", _in_part(nn.Conv2d(4, 6, 3, padding=1, groups=2), 4), (4, 5, 4))
        yield Case("group 4->6 in 2 bias only", _trained(nn.Conv2d(4, 6, 3, groups=2), "bias"), (4, 5, 4))


class Linear(_Weighted):
    """Fully connected layer; its input is any tensor, flattened."""

    torch_type = nn.Linear
    kind = "linear"
    has_bias = True

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases."""
        yield Case("linear 13->2", nn.Linear(13, 2), (13,))
        yield Case("linear 6->11", nn.Linear(6, 11), (6,))
        yield Case("linear 9->3 no bias", nn.Linear(9, 3, bias=False), (9,))
        yield Case("linear 5->4 weight only", _trained(nn.Linear(5, 4), "weight"), (5,))
        yield Case("linear 5->4 bias only", _trained(nn.Linear(5, 4), "bias"), (5,))
        yield Case("linear 6->5 first 3", _in_part(nn.Linear(6, 5), 3), (6,))
