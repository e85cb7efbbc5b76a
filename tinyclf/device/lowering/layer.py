"""What every layer class has: how it accepts a module, what it lowers it to, and its test cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from tinyclf.device.graph.ir import Call, Node, Role, Tensor


@dataclass(frozen=True)
class Case:
    """A layer to test, with the shape (C, H, W) of its first input, and of each other where it is another.

    `in_place`: its output takes its first input's memory, as far as the layer can work so.
    """

    label: str
    module: nn.Module
    input_shape: tuple[int, ...]
    num_inputs: int = 1
    in_place: bool = False
    other_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each input."""
        return (self.input_shape, *(self.other_shapes or (self.input_shape,) * (self.num_inputs - 1)))


@dataclass(frozen=True)
class Lowered:
    """One layer in C: its nodes, and its calls in each direction, each tensor under a name of its own.

    `backward_input` reads the gradient of `output` and writes those of the inputs; a call that writes only gradients
    which nothing needs is left out. Without it (and with an input that needs one) the gradient of `output` is that of
    each input. `backward_parameters` writes the gradients of those
    `parameters` (weight, then bias) that are trained, of leading channels if only these are. Both may read the inputs,
    `output` and the parameters.

    `in_place`: output and first input may share their memory, and so may their gradients; `backward_input` then may
    read either one's values. With `keeps_input` it reads the first input's own: only the gradients share their memory,
    and the values only where there is no backward pass.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    parameters: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    forward: tuple[Call, ...]
    backward_input: tuple[Call, ...]
    backward_parameters: tuple[Call, ...] = ()
    in_place: bool = False
    keeps_input: bool = False

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """Return the parameters that are trained."""
        return tuple(p for p in self.parameters if p.trained)


class Layer:
    """What every layer class has. Kernels are named in the table of kernels, by `kind` and direction."""

    torch_type: ClassVar[type[nn.Module]]
    kind: ClassVar[str]  # its layer in the table of kernels

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Tell whether this class lowers `module`."""
        return isinstance(module, cls.torch_type)

    @classmethod
    def lower(cls, name: str, module: nn.Module, *inputs: Tensor) -> Lowered:
        """Lower `module`, called `name`."""
        raise NotImplementedError

    @staticmethod
    def cases() -> Iterator[Case]:
        """Yield cases that cover odd sizes, strides, paddings and unequal channels."""
        raise NotImplementedError


def output_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor that the layer `name` writes."""
    return Tensor(f"{name}.output", shape, Role.ACTIVATION)


def pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """Return a size that torch gives as one number or as two (vertical, horizontal) as two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
