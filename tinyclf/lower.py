"""From an nn.Module to the Graph of one training step: forward, loss, backward and update calls.

What is trained decides everything: the backward pass ends at the first layer with a trained parameter, and frozen
layers have no backward calls, so that nothing keeps their activations alive.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from tinyclf.errors import BadInput, Unsupported
from tinyclf.ir import BlobOf, Call, DataOf, Field, Graph, Node, Phase, Role, Tensor, check, gradient_name
from tinyclf.layers import LAYERS, Lowered

# What fx sees of x.view(x.size(0), -1) and its kin. In CHW layout a flattened tensor is the same bytes.
_SHAPE_METHODS = {"size", "view", "reshape", "flatten"}
_SHAPE_MODULES = (nn.Identity, nn.Flatten, nn.Dropout)


def training_graph(
    model: nn.Module, *, input_shape: tuple[int, int, int], learning_rate: float, weight_decay: float = 0.0
) -> Graph:
    """Lower one SGD step on one sample (C, H, W) with cross entropy; parameters with `requires_grad` are trained.

    The model must be a chain of layers ending in logits, with BatchNorm folded.

    Raises:
        Unsupported: a layer that no class of `layers` accepts, by name, or a net that is not a chain.
        BadInput: nothing is trained.
    """
    image = Tensor("input", input_shape, Role.INPUT)
    layers = lower_layers(model, image)
    trained = [i for i, layer in enumerate(layers) if _is_trained(layer)]
    if not trained:
        raise BadInput("no parameter of the model is trained: nothing to lower (see --variant)")
    logits = layers[-1].output
    label = Tensor("label", logits.shape, Role.LABEL)
    loss = Tensor("loss", (1,), Role.ACTIVATION)
    logits_grad = Tensor(gradient_name(logits.name), logits.shape, Role.GRADIENT)

    tensors = {t.name: t for t in (image, label, loss, logits_grad)}
    nodes = [_loss_node(logits, label, loss)]
    calls: list[Call] = []
    for layer in layers:
        tensors.update({t.name: t for t in (*layer.parameters, layer.output)})
        nodes += layer.nodes
        calls += layer.forward
    calls += _loss_calls(logits, label, loss)
    for i in reversed(range(trained[0], len(layers))):
        layer = layers[i]
        if i > trained[0]:
            grad = Tensor(gradient_name(layer.input.name), layer.input.shape, Role.GRADIENT)
            tensors[grad.name] = grad
            calls += layer.backward_input
        if _is_trained(layer):
            grads = [Tensor(gradient_name(p.name), p.shape, Role.GRADIENT) for p in layer.parameters]
            tensors.update({g.name: g for g in grads})
            node, update = _update(layer, learning_rate, weight_decay)
            nodes.append(node)
            # The input gradient above needs the weights of this step: the update comes last.
            calls += [*layer.backward_parameters, update]
    graph = Graph(tuple(tensors.values()), tuple(nodes), tuple(calls), outputs=(logits.name, loss.name))
    check(graph)
    return graph


def lower_layers(model: nn.Module, image: Tensor) -> list[Lowered]:
    """Lower the layers of `model`, a chain, in forward order."""
    layers: list[Lowered] = []
    x = image
    for name, module in _chain(model):
        kind = next((k for k in LAYERS if k.accepts(module)), None)
        if kind is None:
            raise Unsupported(f"layer '{name}' cannot be lowered: {module} (no kernel for it)")
        layers.append(kind.lower(name, module, x))
        x = layers[-1].output
    if not layers:
        raise Unsupported(f"{type(model).__name__} has no layers to lower")
    return layers


def _chain(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of the computing layers in forward order.

    Raises:
        Unsupported: the net branches, or computes outside its modules.
    """
    modules = dict(model.named_modules())
    main: fx.Node | None = None  # the node whose value the next layer must take
    for node in fx.symbolic_trace(model).graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            main = node
        elif node.op == "call_method" and node.target in _SHAPE_METHODS:
            main = node if node.target != "size" else main
        elif node.op != "call_module":
            raise Unsupported(f"'{node.name}' cannot be lowered: {node.target} is computed outside of a layer")
        elif node.args != (main,):
            raise Unsupported(
                f"layer '{node.target}' cannot be lowered: its input is not the output of the layer before"
            )
        else:
            main = node
            if not isinstance(modules[node.target], _SHAPE_MODULES):
                yield node.target, modules[node.target]


def _is_trained(layer: Lowered) -> bool:
    return any(p.trained for p in layer.parameters)


def _loss_node(logits: Tensor, label: Tensor, loss: Tensor) -> Node:
    fields: tuple[tuple[str, Field], ...] = (
        ("output", BlobOf(logits.name)),
        ("target", DataOf(label.name)),
        ("wr_loss", DataOf(loss.name)),
    )
    return Node("loss", "loss_args", fields)


def _loss_calls(logits: Tensor, label: Tensor, loss: Tensor) -> list[Call]:
    reads, grad = (logits.name, label.name), gradient_name(logits.name)
    return [
        Call("pulp_CrossEntropyLoss", "loss", Phase.LOSS, reads, (loss.name,)),
        Call("pulp_CrossEntropyLoss_backward", "loss", Phase.BACKWARD, reads, (grad,)),
    ]


def _update(layer: Lowered, learning_rate: float, weight_decay: float) -> tuple[Node, Call]:
    """Return the node and the call that update a layer's parameters where they are."""
    weight, *bias = layer.parameters
    bias_fields: tuple[tuple[str, Field], ...] = (("biases", BlobOf(bias[0].name)), ("use_biases", 1)) if bias else ()
    node = Node(
        f"{layer.name}.sgd",
        "optim_args",
        (
            ("weights", BlobOf(weight.name)),
            ("learning_rate", learning_rate),
            ("weight_decay_lambda", weight_decay),
            *bias_fields,
        ),
    )
    names = tuple(p.name for p in layer.parameters)
    reads = (*names, *(gradient_name(n) for n in names))
    return node, Call("pulp_gradient_descent_fp32", node.name, Phase.UPDATE, reads, names, fork=True)
