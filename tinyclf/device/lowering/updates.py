"""The update of each trained parameter as calls: in the backward pass, or behind it for a batch or a clipped gradient.

Nothing is kept that the rule does not need: plain SGD has no state, a batch of one accumulates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyclf.device.graph.ir import Attribute, BlobOf, Call, DataOf, Node, Phase, Role, RuleOf, Tensor, gradient_name
from tinyclf.device.graph.kernels import UPDATE, find
from tinyclf.device.lowering.layer import Lowered
from tinyclf.recipe.optimizers import OPTIMIZERS
from tinyclf.recipe.update_rule import UpdateRule

NUM_NORM_BLOCKS = 16  # TCL_NORM_BLOCKS of tcl_update_fp32.h

_STATES = ("first", "second")  # attributes of the node of an update


def state_names(rule: UpdateRule, parameter: str) -> tuple[str, ...]:
    """Return the names of the tensors that the optimizer keeps for a parameter."""
    return tuple(f"{parameter}.{state.name}" for state in OPTIMIZERS[rule.optimizer].kept(rule))


def _trained_part(parameter: Tensor, gradient: str | None = None) -> BlobOf:
    """Return the blob of what is trained of a parameter: its leading channels, or all of it."""
    return BlobOf(parameter.name, gradient, parameter.trained_channels)


class Updates:
    """The updates of a net, written layer by layer as its gradients come."""

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.tensors: dict[str, Tensor] = {}  # states, accumulated gradients and sums of squares, by name
        self.nodes: dict[str, Node] = {}
        self._waiting: list[Tensor] = []  # parameters whose update comes last
        self._scale = (Tensor("gradient_scale", (), Role.RULE),) if rule.clip else ()  # that clipping changes
        self.tensors |= {t.name: t for t in self._scale}

    def after(self, layer: Lowered) -> list[Call]:
        """Return the calls that follow the backward pass of `layer`, whose input gradient needs the old weights."""
        if self.rule.is_plain:
            return [self._descend(layer)]
        if not self.rule.updates_at_end:
            return [self._update(p, gradient_name(p.name)) for p in layer.trained]
        self._waiting += layer.trained
        return [self._accumulate(p) for p in layer.trained if self.rule.batch > 1]

    def at_end(self) -> list[Call]:
        """Return the calls that follow the last gradient of a batch."""
        gradients = [self._waiting_gradient(p) for p in self._waiting]
        pairs = list(zip(self._waiting, gradients, strict=True))
        return [*self._clip(pairs), *(self._update(p, gradient) for p, gradient in pairs)]

    def _waiting_gradient(self, parameter: Tensor) -> str:
        return f"{parameter.name}.accumulated" if self.rule.batch > 1 else gradient_name(parameter.name)

    def _node(self, name: str, kind: str, *attributes: tuple[str, Attribute]) -> str:
        self.nodes[name] = Node(name, kind, attributes)
        return name

    def _call(self, node: str, reads: tuple[str, ...], writes: tuple[str, ...], phase: Phase = Phase.UPDATE) -> Call:
        """Return the call of a node."""
        return Call(find(self.nodes[node].kind, UPDATE).symbol, node, phase, reads, writes)

    def _descend(self, layer: Lowered) -> Call:
        """Update all trained parameters of a layer with upstream's function."""
        first, *second = layer.trained  # to the kernel any parameter can be the weights or the biases
        more = [("bias", _trained_part(parameter)) for parameter in second]
        node = self._node(
            f"{layer.name}.sgd",
            "descent",
            ("weight", _trained_part(first)),
            ("learning_rate", self.rule.learning_rate),
            ("weight_decay", self.rule.weight_decay),
            *more,
        )
        names = tuple(p.name for p in layer.trained)
        reads = (*names, *(gradient_name(n) for n in names))
        return self._call(node, reads, names)

    def _accumulate(self, parameter: Tensor) -> Call:
        total = self._waiting_gradient(parameter)
        self.tensors[total] = Tensor(total, parameter.trained_shape, Role.ACCUMULATED)
        node = self._node(
            f"{parameter.name}.accumulate",
            "accumulate",
            ("weight", _trained_part(parameter)),
            ("sum", DataOf(total)),
            ("rule", RuleOf()),
        )
        reads = (gradient_name(parameter.name), total)
        return self._call(node, reads, (total,), Phase.BACKWARD)

    def _clip(self, pairs: Sequence[tuple[Tensor, str]]) -> list[Call]:
        """Return the calls that lower the rule's scale of gradients where their norm is too large."""
        if not self.rule.clip:
            return []
        sums = Tensor("squared_norms", (len(pairs), NUM_NORM_BLOCKS), Role.SCRATCH)
        self.tensors[sums.name] = sums
        calls = []
        for i, (parameter, gradient) in enumerate(pairs):
            blob = _trained_part(parameter, gradient)
            name = f"{parameter.name}.norm"
            node = self._node(name, "norm", ("weight", blob), ("sums", DataOf(sums.name)), ("index", i))
            calls.append(self._call(node, (gradient,), (sums.name,)))
        all_sums = (("sums", DataOf(sums.name)), ("num_sums", sums.num_elements), ("rule", RuleOf()))
        node = self._node("update.clip", "clip", *all_sums)
        scale = tuple(t.name for t in self._scale)
        return [*calls, self._call(node, (sums.name, *scale), scale)]

    def _update(self, parameter: Tensor, gradient: str) -> Call:
        """Update one parameter by `gradient`, which may be a batch's sum."""
        states = state_names(self.rule, parameter.name)
        self.tensors |= {name: Tensor(name, parameter.trained_shape, Role.STATE) for name in states}
        node = self._node(
            f"{parameter.name}.update",
            self.rule.optimizer,
            ("weight", _trained_part(parameter, gradient)),
            *((field, DataOf(name)) for field, name in zip(_STATES, states, strict=False)),
            ("rule", RuleOf()),
        )
        reads = (parameter.name, gradient, *states, *(t.name for t in self._scale))
        return self._call(node, reads, (parameter.name, *states))
