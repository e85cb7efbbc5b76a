"""From an nn.Module to the Graph of one training step: forward, loss, backward and update calls.

What is trained decides everything: on every path the backward pass ends at the first layer with a trained parameter,
and frozen layers before it have no backward calls, so that nothing keeps their activations alive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from torch import fx, nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.device.graph.ir import BlobOf, Call, DataOf, Graph, Node, Phase, Role, Tensor, check, gradient_name
from tinyclf.device.graph.kernels import FW, IG, find
from tinyclf.device.lowering.backward import Backward, shared_tensors, values_with_gradient
from tinyclf.device.lowering.layers import LAYERS, Lowered
from tinyclf.device.lowering.tracing import Add, Product, as_module_calls, shapes
from tinyclf.device.lowering.updates import Updates
from tinyclf.recipe.update_rule import UpdateRule

PLAIN = UpdateRule(0.01)  # SGD after each sample; no byte depends on the rate

# What only gives a tensor another shape, or nothing in use. In CHW layout a flattened tensor is the same bytes.
_SHAPE_METHODS = {"view", "reshape", "flatten", "contiguous", "unsqueeze"}
_SHAPE_MODULES = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)


def training_graph(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int],
    rule: UpdateRule = PLAIN,
) -> Graph:
    """Lower one training step on one sample (C, H, W); parameters with `requires_grad` are trained as `rule` says.

    Of a layer that is noted as trained in part (`channels`) only the leading channels have gradients and state.
    The model must be made of layers and sums, end in logits (N, classes), and have its BatchNorm folded.

    Raises:
        Unsupported: a layer that no class of `layers` accepts, by name, or another computation.
        BadInput: nothing is trained.
    """
    updates = Updates(rule)
    image = Tensor("input", input_shape, Role.INPUT)
    layers = lower_layers(model, image)
    needed = values_with_gradient(layers)
    if layers[-1].output.name not in needed:
        raise BadInput("no parameter of the model is trained: nothing to lower (see --variant)")
    place = shared_tensors(layers, needed)
    backward = Backward(needed, place)
    last = replace(layers[-1].output, shape=(layers[-1].output.num_elements,))
    logits = replace(last, name=place[last.name])
    label = Tensor("label", logits.shape, Role.LABEL)
    loss = Tensor("loss", (1,), Role.ACTIVATION)

    tensors = {t.name: t for t in (image, label, loss)}
    nodes = {"loss": _loss_node(rule.loss, logits, label, loss)}
    calls: list[Call] = []
    for layer in layers:
        tensors |= {t.name: t for t in (*layer.parameters, layer.output) if place.get(t.name, t.name) == t.name}
        nodes |= {node.name: node for node in backward.forward_nodes(layer)}
        calls += backward.forward(layer)
    tensors[logits.name] = logits
    calls += _loss_calls(updates.rule, logits, label, loss, backward.start(last))
    for layer in reversed([layer for layer in layers if layer.output.name in needed]):
        calls += backward.through(layer)
        if layer.trained:
            tensors |= {name: Tensor(name, p.trained_shape, Role.GRADIENT) for name, p in _parameter_gradients(layer)}
            # The input gradient needs the weights of this step: the update comes last.
            calls += updates.after(layer)
    calls += updates.at_end()
    tensors |= backward.tensors | updates.tensors
    nodes |= updates.nodes | backward.nodes
    outputs = (logits.name, loss.name)
    graph = Graph(tuple(tensors.values()), tuple(nodes.values()), tuple(calls), outputs, updates.rule)
    check(graph)
    return graph


def _parameter_gradients(layer: Lowered) -> list[tuple[str, Tensor]]:
    return [(gradient_name(p.name), p) for p in layer.trained]


def lower_layers(model: nn.Module, image: Tensor) -> list[Lowered]:
    """Lower the layers of `model` in forward order; each value has a tensor of its own.

    Raises:
        Unsupported: see `training_graph`.
    """
    traced = as_module_calls(model)
    sizes = shapes(traced, image.shape)
    values: dict[fx.Node, Tensor] = {}
    layers: list[Lowered] = []
    result = image
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            if values:
                raise Unsupported(f"the net takes several inputs: '{node.name}' is one too many")
            values[node] = image
        elif node.op == "output":
            result = _result(node, values, sizes)
        elif node.name not in sizes:
            continue  # a number, such as the size of a dimension
        elif _only_reshapes(traced, node):
            values[node] = _reshaped(node, values, sizes)
        else:
            layers.append(_lower_call(traced, node, values, sizes))
            values[node] = layers[-1].output
    if not layers:
        raise Unsupported(f"{type(model).__name__} has no layers to lower")
    _check_uses(traced, layers, result)
    return layers


def _only_reshapes(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _SHAPE_MODULES)
    return node.op == "call_method" and node.target in _SHAPE_METHODS


def _reshaped(node: fx.Node, values: Mapping[fx.Node, Tensor], sizes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Return the tensor that `node` gives the same or a flat shape."""
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node) or x not in values:
        raise Unsupported(f"'{node.name}' cannot be lowered: its input is not the output of a layer")
    before, after = sizes[x.name], sizes[node.name]
    is_factor = {before, after} == {before[:2], (*before[:2], 1, 1)}  # one number for each channel
    if after not in (before, (1, prod(before))) and not is_factor:
        raise Unsupported(f"'{node.name}' cannot be lowered: it changes the shape from {before} to {after}, not flat")
    return values[x]


def _lower_call(
    traced: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Tensor], sizes: Mapping[str, tuple[int, ...]]
) -> Lowered:
    if node.op != "call_module":
        raise Unsupported(f"'{node.name}' cannot be lowered: {_called(node)} is computed outside of a layer")
    name, module = str(node.target), traced.get_submodule(str(node.target))
    if isinstance(module, Add | Product):
        _check_operands(name, module, *(sizes[x.name] for x in node.args if isinstance(x, fx.Node)))
        if isinstance(module, Product) and node.args[0] is node.args[1]:
            raise Unsupported(f"'{name}' cannot be lowered: a product of a tensor with itself")
    kind = next((k for k in LAYERS if k.accepts(module)), None)
    if kind is None:
        raise Unsupported(f"layer '{name}' cannot be lowered: {module} (no kernel for it)")
    inputs = [values[x] for x in node.args if isinstance(x, fx.Node) and x in values]
    if len(inputs) != len(node.args) or node.kwargs:
        raise Unsupported(f"layer '{name}' cannot be lowered: an input of it is not the output of a layer")
    layer = kind.lower(name, module, *inputs)
    if prod(sizes[node.name]) != layer.output.num_elements:
        raise Unsupported(f"layer '{name}' cannot be lowered: {module} gives {sizes[node.name]}: flatten its input")
    return layer


def _check_operands(name: str, module: nn.Module, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """Refuse shapes that do not fit each other, but for a factor for each channel of an image."""
    large, small = (first, second) if prod(first) >= prod(second) else (second, first)
    if large == small or (isinstance(module, Product) and len(large) == 4 and small == (1, large[1], 1, 1)):
        return
    what = "a product" if isinstance(module, Product) else "a sum"
    raise Unsupported(f"'{name}' cannot be lowered: {what} of shapes {first} and {second} (broadcasting)")


def _called(node: fx.Node) -> str:
    """Name what `node` calls, with the operands that are not tensors."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    others = [str(a) for a in (*node.args, *node.kwargs.values()) if not isinstance(a, fx.Node)]
    return f"{name} with {', '.join(others)}" if others else name


def _result(node: fx.Node, values: Mapping[fx.Node, Tensor], sizes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Return what the net returns; refuse one that does not end in logits."""
    result = node.args[0]
    if not isinstance(result, fx.Node) or result not in values:
        raise Unsupported("the net cannot be lowered: it returns something else than the output of a layer")
    if len(sizes[result.name]) != 2:
        raise Unsupported(f"the net cannot be lowered: it returns {sizes[result.name]}, not a number for each class")
    return values[result]


def _check_uses(traced: fx.GraphModule, layers: list[Lowered], result: Tensor) -> None:
    """Refuse what is used in another way than once, or is overwritten in sight of others."""
    users = Counter([result.name, *(x.name for layer in layers for x in layer.inputs)])
    for layer in layers:
        module = traced.get_submodule(layer.name)
        if getattr(module, "inplace", False) and users[layer.inputs[0].name] > 1:
            raise Unsupported(
                f"layer '{layer.name}' cannot be lowered: it works in place on what others use too: set inplace=False"
            )
        if users[layer.output.name] == 0:
            raise Unsupported(f"layer '{layer.name}' cannot be lowered: nothing uses its output")
    owners: dict[int, str] = {}
    for layer in layers:
        if [other.name for other in layers].count(layer.name) > 1:
            raise Unsupported(f"layer '{layer.name}' cannot be lowered: it is called twice")
        for parameter in traced.get_submodule(layer.name).parameters():
            if id(parameter) in owners:
                raise Unsupported(
                    f"layer '{layer.name}' cannot be lowered: '{owners[id(parameter)]}' has its weight too"
                )
            owners[id(parameter)] = layer.name


def _loss_node(kind: str, logits: Tensor, label: Tensor, loss: Tensor) -> Node:
    return Node(
        "loss", kind, (("output", BlobOf(logits.name)), ("target", DataOf(label.name)), ("loss", DataOf(loss.name)))
    )


def _loss_calls(rule: UpdateRule, logits: Tensor, label: Tensor, loss: Tensor, grad: str) -> list[Call]:
    reads = (logits.name, label.name)
    return [
        Call(find(rule.loss, FW).symbol, "loss", Phase.LOSS, reads, (loss.name,)),
        Call(find(rule.loss, IG).symbol, "loss", Phase.BACKWARD, reads, (grad,)),
    ]
