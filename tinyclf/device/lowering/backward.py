"""The backward pass of a net's layers: what needs a gradient, and which tensor holds it.

Layers come with a name of its own for every value. Here values are put into tensors: a layer that can work in place
takes its input's where nobody else needs what that held, and a gradient goes up through sums without being copied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tinyclf.device.graph.ir import Attribute, BlobOf, Call, Node, Phase, Role, Tensor, gradient_name
from tinyclf.device.graph.kernels import FW, find
from tinyclf.device.lowering.layer import Lowered


def values_with_gradient(layers: Sequence[Lowered]) -> frozenset[str]:
    """Return the values that the backward pass needs a gradient of: a trained layer wrote them or lies before."""
    needed: set[str] = set()
    for layer in layers:
        if layer.trained or needed & {x.name for x in layer.inputs}:
            needed.add(layer.output.name)
    return frozenset(needed)


def shared_tensors(layers: Sequence[Lowered], needed: frozenset[str]) -> dict[str, str]:
    """Return for each value the name of the tensor that holds it.

    A layer that can work in place writes over an input that no other layer takes, if no other layer's backward calls
    read anything that lies there. The image is never written over.
    """
    users = Counter(x.name for layer in layers for x in layer.inputs)
    readers = _backward_readers(layers, needed)
    place = {x.name: x.name for layer in layers for x in layer.inputs if x.role is Role.INPUT}
    held: dict[str, list[str]] = defaultdict(list)  # tensor -> values that have lain in it
    for layer in layers:
        y = layer.output.name
        place[y] = y
        own = set() if layer.keeps_input else {layer.name}
        for x in layer.inputs if layer.in_place else ():
            if x.num_elements != layer.output.num_elements:
                continue
            others = {reader for value in held[place[x.name]] for reader in readers[value]} - own
            if x.role is not Role.INPUT and users[x.name] == 1 and not others:
                place[y] = place[x.name]
                break
        held[place[y]].append(y)
    return place


def _backward_readers(layers: Sequence[Lowered], needed: frozenset[str]) -> dict[str, set[str]]:
    """Return for each value the names of the layers whose backward calls read it."""
    readers: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        if layer.output.name in needed:
            for call in (*_input_calls(layer, needed), *layer.backward_parameters):
                for name in call.reads:
                    readers[name].add(layer.name)
    return readers


def _input_calls(layer: Lowered, needed: frozenset[str]) -> list[Call]:
    """Return the calls that write a gradient of an input which is needed."""
    gradients = {gradient_name(x.name) for x in layer.inputs if x.name in needed}
    return [call for call in layer.backward_input if gradients & {*call.writes}]


class Backward:
    """The backward pass, written layer by layer from the logits up.

    A value's gradient is the sum of what its users give. The first that is given, a tensor, becomes the gradient as it
    is; each further one is added. A tensor may so be the gradient of several values (a sum's output and inputs): it is
    changed only where one value holds it.
    """

    def __init__(self, needed: frozenset[str], place: Mapping[str, str]) -> None:
        self.tensors: dict[str, Tensor] = {}  # the gradients of values, by name
        self.nodes: dict[str, Node] = {}  # by name: those of layers, with their gradients, and of sums
        self._needed = needed
        self._place = place
        self._gradient: dict[str, str] = {}  # value -> tensor with the sum so far
        self._num_holders: Counter[str] = Counter()
        self._num_given: Counter[str] = Counter()

    def start(self, logits: Tensor) -> str:
        """Return the gradient of the logits, which the loss writes."""
        gradient = self._new(logits)
        self._give(logits, gradient)
        return gradient

    def through(self, layer: Lowered) -> list[Call]:
        """Return the layer's backward calls, parameters last; all users of its output must have been here before."""
        given = self._gradient[layer.output.name]
        wanted = [x for x in layer.inputs if x.name in self._needed]
        calls: list[Call] = []
        gradients = {layer.output.name: given}
        if wanted and layer.backward_input:
            is_free = layer.in_place and self._num_holders[given] == 1
            for x in wanted:
                gradients[x.name] = given if is_free and x is layer.inputs[0] else self._new(x)
            calls += self._placed(_input_calls(layer, self._needed), layer, gradients)
        for x in wanted:
            calls += self._give(x, gradients.get(x.name, given))
        calls += self._placed(layer.backward_parameters, layer, gradients)
        self._num_holders[given] -= 1
        self.nodes |= {node.name: self._bound(node, gradients) for node in layer.nodes}
        return calls

    def forward(self, layer: Lowered) -> list[Call]:
        """Return the layer's forward calls."""
        return self._placed(layer.forward, layer, {})

    def forward_nodes(self, layer: Lowered) -> list[Node]:
        """Return the layer's nodes without gradients."""
        return [self._bound(node, {}) for node in layer.nodes]

    def _placed(self, calls: Sequence[Call], layer: Lowered, gradients: Mapping[str, str]) -> list[Call]:
        """Return `calls` with the names of tensors for those of values and their gradients."""
        names = {x.name: self._place[x.name] for x in (*layer.inputs, layer.output)}
        names |= {gradient_name(value): tensor for value, tensor in gradients.items()}

        def renamed(old: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names.get(name, name) for name in old)

        return [replace(call, reads=renamed(call.reads), writes=renamed(call.writes)) for call in calls]

    def _bound(self, node: Node, gradients: Mapping[str, str]) -> Node:
        def bound(value: Attribute) -> Attribute:
            if not isinstance(value, BlobOf) or value.tensor not in self._place:
                return value
            return replace(value, tensor=self._place[value.tensor], gradient=gradients.get(value.tensor))

        return replace(node, attributes=tuple((name, bound(value)) for name, value in node.attributes))

    def _new(self, value: Tensor) -> str:
        """Return a new tensor for a gradient of `value`: the first has the name of the value's tensor."""
        base = name = gradient_name(self._place[value.name])
        while name in self.tensors:
            name = f"{base}.{len(self.tensors)}"
        self.tensors[name] = Tensor(name, value.shape, Role.GRADIENT)
        return name

    def _give(self, value: Tensor, given: str) -> list[Call]:
        """Add the tensor `given` to the gradient of `value`; return the call that does, if one is needed."""
        self._num_given[value.name] += 1
        if value.name not in self._gradient:
            self._gradient[value.name] = given
            self._num_holders[given] += 1
            return []
        so_far = self._gradient[value.name]
        if self._num_holders[so_far] == 1:
            into = so_far
        else:
            into = given if self._num_holders[given] == 0 else self._new(value)
        self._num_holders[so_far] -= 1
        self._num_holders[into] += 1
        self._gradient[value.name] = into
        name = f"{gradient_name(value.name)}.sum{self._num_given[value.name] - 1}"
        terms = (("first", BlobOf(so_far)), ("second", BlobOf(given)), ("output", BlobOf(into)))
        self.nodes[name] = Node(name, "add", terms)
        return [Call(find("add", FW).symbol, name, Phase.BACKWARD, (so_far, given), (into,))]
