"""A net as calls of modules, each call of a module of its own: what the device half lowers and its reference runs."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from tinyclf.base.errors import Unsupported


class Add(nn.Module):
    """The sum of two tensors; `inplace` says that the net's own code overwrites the first."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return first + second."""
        return first + second


class Product(nn.Module):
    """The product of two tensors, one of which may be a factor for each channel; `inplace` as that of `Add`."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return first * second."""
        return first * second


class Concat(nn.Module):
    """Tensors (N, C, ...) behind one another along their channels."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return them as one."""
        return torch.cat(tensors, 1)


class Slice(nn.Module):
    """Some channels of a tensor (N, C, ...): part `index` of `num` parts as torch.chunk cuts them, or of `sizes`."""

    def __init__(self, *, index: int, num: int | None = None, sizes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.index, self.num, self.sizes = index, num, sizes

    def bounds(self, channels: int) -> tuple[int, int]:
        """Return the first channel and the one behind the last."""
        each = -(-channels // self.num) if self.num else 0
        sizes = self.sizes or [min(each, channels - first) for first in range(0, channels, each)]
        first = sum(sizes[: self.index])
        return first, first + sizes[self.index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the part."""
        parts = torch.chunk(x, self.num, 1) if self.num else torch.split(x, list(self.sizes), 1)
        return parts[self.index]


# Modules that pytorchcv writes with functions -> the one of torch that computes the same.
_SAME: dict[str, Callable[[Any], nn.Module]] = {
    "pytorchcv.models.common.HSigmoid": lambda module: nn.Hardsigmoid(),
    "pytorchcv.models.common.HSwish": lambda module: nn.Hardswish(),
    "pytorchcv.models.common.Swish": lambda module: nn.SiLU(),
    "pytorchcv.models.common.ChannelShuffle": lambda module: nn.ChannelShuffle(module.groups),
}


def _padding(pad: tuple[int, ...], mode: str, value: float | None) -> nn.Module:
    """Return the module that pads as torch.nn.functional.pad does, by (left, right) or those and (top, bottom)."""
    if mode != "constant" or len(pad) not in (2, 4):
        raise TypeError(f"no module pads by {pad} in mode {mode}")
    left, right, top, bottom = (*pad, 0, 0)[:4]
    return nn.ConstantPad2d((left, right, top, bottom), value or 0.0)


# What a function or method of a tensor is as a module; keyword arguments go to the module.
_MODULES: dict[Any, Callable[..., nn.Module]] = {
    operator.add: Add,
    operator.iadd: lambda: Add(inplace=True),
    torch.add: Add,
    "add": Add,
    "add_": lambda: Add(inplace=True),
    torch.relu: nn.ReLU,
    nn.functional.relu: nn.ReLU,
    nn.functional.relu6: nn.ReLU6,
    "relu": nn.ReLU,
    "relu_": lambda: nn.ReLU(inplace=True),
    operator.mul: Product,
    operator.imul: lambda: Product(inplace=True),
    torch.mul: Product,
    "mul": Product,
    "mul_": lambda: Product(inplace=True),
    torch.sigmoid: nn.Sigmoid,
    nn.functional.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    nn.functional.silu: nn.SiLU,
    nn.functional.hardsigmoid: nn.Hardsigmoid,
    nn.functional.hardswish: nn.Hardswish,
    nn.functional.leaky_relu: nn.LeakyReLU,
    nn.functional.avg_pool2d: nn.AvgPool2d,
    nn.functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    nn.functional.max_pool2d: nn.MaxPool2d,
    nn.functional.pad: lambda pad, mode="constant", value=None: _padding(pad, mode, value),
    torch.flatten: lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
}


def as_module_calls(model: nn.Module) -> fx.GraphModule:
    """Return `model` as a graph of module calls, whose modules are the model's own under their own names.

    A function that a module does the same as becomes a call of that module, named like fx's node; a module without
    parameters that is called again becomes another one ("relu", "relu_2"). All other calls stay as they are.

    Raises:
        Unsupported: the net cannot be traced, for instance because it branches on values.
    """
    traced = _trace(model)
    called: set[str] = set()
    for node in list(traced.graph.nodes):
        if node.op in ("call_function", "call_method"):
            found = _as_module(node)
            if found is not None:
                _call(traced, node, _unused(traced, node.name), *found)
        elif node.op == "call_module":
            module = traced.get_submodule(node.target)
            if same := _SAME.get(_class_name(module)):
                module = same(module).train(traced.training)
                traced.set_submodule(node.target, module)
            if node.target in called and next(module.parameters(), None) is None:
                _call(traced, node, _unused(traced, node.target), copy.deepcopy(module), node.args)
            called.add(node.target)
    for node in reversed(traced.graph.nodes):
        if node.target in _CUTTING and not node.users:  # its parts are slices of its input
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


class _Tracer(fx.Tracer):
    """Looks into all modules but torch's own and those that compute the same as one of these."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _class_name(m) in _SAME or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:  # whatever the net's own code does with a stand-in for its input
        raise Unsupported(f"{type(model).__name__} cannot be traced by torch.fx: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _as_module(node: fx.Node) -> tuple[nn.Module, tuple[fx.Node, ...]] | None:
    """Return the module that does the same as a function's call, and its operands, or None if there is none."""
    if node.target in (torch.cat, torch.concat):
        return _as_concat(node)
    if node.target is operator.getitem:
        return _as_slice(node)
    make = _MODULES.get(node.target)
    others = [a for a in node.args if not isinstance(a, fx.Node)]
    if make is None:
        return None
    try:
        module = make(*others, **node.kwargs)
    except TypeError:  # an argument that the module has none for
        return None
    num_operands = 2 if isinstance(module, Add | Product) else 1
    operands = tuple(a for a in node.args if isinstance(a, fx.Node))
    return (module, operands) if len(operands) == num_operands else None


_CHANNELS = (1, -3)  # the dimension of channels of images


def _as_concat(node: fx.Node) -> tuple[nn.Module, tuple[fx.Node, ...]] | None:
    """Return a call of torch.cat along the channels as a module."""
    tensors, dim = (*node.args, *node.kwargs.values(), 0)[:2]
    if not isinstance(tensors, list | tuple) or dim not in _CHANNELS:
        return None
    operands = tuple(x for x in tensors if isinstance(x, fx.Node))
    return (Concat(), operands) if len(operands) == len(tensors) else None


_CUTTING = {torch.chunk: "num", torch.split: "sizes", "chunk": "num", "split": "sizes"}


def _as_slice(node: fx.Node) -> tuple[nn.Module, tuple[fx.Node, ...]] | None:
    """Return one part of a tensor that torch.chunk or torch.split cut along the channels as a module."""
    whole, index = node.args
    if not isinstance(whole, fx.Node) or whole.target not in _CUTTING or not isinstance(index, int):
        return None
    x, how, dim = (*whole.args, *whole.kwargs.values(), 0)[:3]
    if dim not in _CHANNELS or not isinstance(x, fx.Node) or index < 0:
        return None
    if _CUTTING[whole.target] == "num" and isinstance(how, int):
        return Slice(index=index, num=how), (x,)
    sizes = [size for size in how if isinstance(size, int)] if isinstance(how, list | tuple) else []
    return (Slice(index=index, sizes=tuple(sizes)), (x,)) if sizes else None


def _unused(traced: fx.GraphModule, name: str) -> str:
    """Return a name that no module has yet."""
    names = {n for n, _ in traced.named_modules()}
    holder = traced.get_submodule(name.rpartition(".")[0])
    candidate, number = name, 2
    while candidate in names or hasattr(holder, candidate.rpartition(".")[2]):
        candidate = f"{name}_{number}"
        number += 1
    return candidate


def _call(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, operands: tuple[Any, ...]) -> None:
    """Put a call of `module`, added as `name`, in the place of `node`."""
    traced.add_submodule(name, module.train(traced.training))
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(name, operands)
    node.replace_all_uses_with(call)
    traced.graph.erase_node(node)


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of each tensor, by the name of its node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result


def shapes(traced: fx.GraphModule, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each node's tensor, with a batch of one, by the node's name; nothing is computed.

    Raises:
        Unsupported: the net does not run on an input of `input_shape`.
    """
    interpreter = _Shapes(copy.deepcopy(traced).to("meta"))
    try:
        interpreter.run(torch.empty(1, *input_shape, device="meta"))
    except Exception as error:  # whatever the net's layers say of shapes that they do not take
        size = "x".join(str(n) for n in input_shape)
        raise Unsupported(f"the net does not run on an input of {size}: {_first_line(error)}") from error
    return interpreter.shapes
