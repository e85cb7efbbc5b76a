"""Recomputation of activations: Graph and segments -> Graph whose backward pass repeats parts of the forward pass.

A full training keeps every activation until its layer's backward call. Here the calls of a segment of the forward pass
keep only what other segments read; just before the backward pass needs the rest, the segment's calls run once more.
Everything behind the repeat keeps its name and node, so that gradients, updates and traces are those of the plain
step, to the bit; what the first pass writes and drops is renamed.

Source of the idea: T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

from tinyclf.device.graph.ir import PERSISTENT, Attribute, BlobOf, Call, DataOf, Graph, Node, Phase, Role, Tensor, check

_PASS = re.compile(r"\.pass\d+$")  # ends the names of tensors and nodes of a pass whose values are dropped


@dataclass(frozen=True)
class Segment:
    """Calls [first, stop) of the forward pass. When they are repeated, the segments `inner` are dropped once more."""

    first: int
    stop: int
    inner: tuple[Segment, ...] = ()


def plain_name(name: str) -> str:
    """Return the name that a tensor or node has in the step without recomputation."""
    return _PASS.sub("", name)


def num_forward_calls(graph: Graph) -> int:
    """Count the calls before the loss; they come first."""
    return next((i for i, call in enumerate(graph.calls) if call.phase is not Phase.FORWARD), len(graph.calls))


def boundaries(graph: Graph) -> tuple[int, ...]:
    """Return where the forward pass can be cut into segments, first and last included.

    A cut between a layer and what works on its output in place (a bias, a ReLU) is none: repeating the one would
    undo the other.
    """
    stop = num_forward_calls(graph)
    writers: dict[str, list[int]] = {}
    for i, call in enumerate(graph.calls[:stop]):
        for name in call.writes:
            writers.setdefault(name, []).append(i)
    inside = {cut for steps in writers.values() for cut in range(steps[0] + 1, steps[-1] + 1)}
    return tuple(cut for cut in range(stop + 1) if cut not in inside)


def recompute(graph: Graph, segments: Sequence[Segment]) -> Graph:
    """Return the step in which the activations of `segments` (disjoint) are computed again instead of kept; checked.

    A segment of which the backward pass needs nothing but its outputs stays as it is.
    """
    result = recompute_unchecked(graph, segments)
    check(result)
    check_recomputed(graph, result)
    return result


def recompute_unchecked(graph: Graph, segments: Sequence[Segment]) -> Graph:
    """Return what `recompute` does without its checks: a search looks at hundreds of choices."""
    step = _Rewriting(graph)
    num_forward = num_forward_calls(graph)
    step.run(_Pass(1, tuple(range(num_forward)), tuple(segments)))
    for call in graph.calls[num_forward:]:
        step.repeat_before(call)
        step.calls.append(call)
    used = {call.node for call in step.calls}  # the plain node of a call that is not repeated has no use
    nodes = tuple(node for node in step.nodes.values() if node.name in used)
    return replace(graph, tensors=(*graph.tensors, *step.tensors), nodes=nodes, calls=tuple(step.calls))


@dataclass(frozen=True)
class _Pass:
    """Forward calls to run, in the order given, and the segments of them to drop again; passes count from 1."""

    number: int
    calls: tuple[int, ...]
    dropped: tuple[Segment, ...]


class _Rewriting:
    """A step being written call by call, with the passes that wait for the backward pass to need them."""

    def __init__(self, plain: Graph) -> None:
        self._plain = plain
        self._waiting: list[_Pass] = []
        self.nodes = {node.name: node for node in plain.nodes}
        self.tensors: list[Tensor] = []
        self.calls: list[Call] = []

    def run(self, this: _Pass) -> None:
        """Write the calls of a pass, what it drops under other names, and remember to repeat that."""
        dropped: set[str] = set()
        for segment in this.dropped:
            repeated = _repeated_calls(self._plain, segment)
            if repeated:
                self._waiting.append(_Pass(this.number + 1, repeated, segment.inner))
                dropped |= self._written(repeated)
        suffix = f".pass{this.number}"
        self.tensors += [replace(self._plain.by_name[n], name=n + suffix) for n in sorted(dropped)]
        for i in this.calls:
            call = self._plain.calls[i]
            if this.number > 1:
                call = replace(call, phase=Phase.BACKWARD)
            if dropped & {*call.reads, *call.writes}:
                node = _renamed_node(self.nodes[call.node], dropped, suffix)
                self.nodes[node.name] = node
                reads, writes = (
                    tuple(_renamed(n, dropped, suffix) for n in names) for names in (call.reads, call.writes)
                )
                call = replace(call, node=node.name, reads=reads, writes=writes)
            self.calls.append(call)

    def repeat_before(self, call: Call) -> None:
        """Run the passes that wait and write what `call` reads."""
        while due := next((p for p in self._waiting if self._written(p.calls) & set(call.reads)), None):
            self._waiting.remove(due)
            self.run(due)

    def _written(self, calls: Iterable[int]) -> set[str]:
        return {name for i in calls for name in self._plain.calls[i].writes}


def _repeated_calls(graph: Graph, segment: Segment) -> tuple[int, ...]:
    """Return which calls of `segment` must run again so that the backward pass finds what the segment does not keep.

    It keeps what calls of the forward pass outside of it, and the loss, read.
    """
    inside = range(segment.first, segment.stop)
    own = {name for i in inside for name in graph.calls[i].writes}
    kept = set(graph.outputs)
    needed: set[str] = set()
    for i, call in enumerate(graph.calls):
        if call.phase not in (Phase.FORWARD, Phase.LOSS):
            needed |= set(call.reads)
        elif i not in inside:
            kept |= {*call.reads, *call.writes}
    needed &= own - kept
    repeated = []
    for i in reversed(inside):
        call = graph.calls[i]
        if needed & set(call.writes):
            repeated.append(i)
            needed |= set(call.reads) & (own - kept)
    return tuple(reversed(repeated))


def _renamed_node(node: Node, dropped: Set[str], suffix: str) -> Node:
    def renamed(value: Attribute) -> Attribute:
        if isinstance(value, BlobOf | DataOf):
            return replace(value, tensor=_renamed(value.tensor, dropped, suffix))
        return value

    return replace(node, name=node.name + suffix, attributes=tuple((name, renamed(v)) for name, v in node.attributes))


def _renamed(name: str, dropped: Set[str], suffix: str) -> str:
    return name + suffix if name in dropped else name


def check_recomputed(plain: Graph, recomputed: Graph) -> None:
    """Assert that both graphs compute the same values, `recomputed` some of them twice.

    Knows nothing of segments: it runs both on symbols. A call's value is its kernel, its node and the values that it
    reads, so that a repeat that read a value overwritten or updated since would show.
    """
    symbols: dict[object, int] = {}
    assert _new_values(plain, symbols) == _new_values(recomputed, symbols), "recomputation changes a value"


def _new_values(graph: Graph, symbols: dict[object, int]) -> list[int]:
    """Return the symbols of the values that calls compute for the first time, and of the outputs."""
    value: dict[str, int] = {}
    for tensor in graph.tensors_of(Role.INPUT, Role.LABEL, Role.PARAMETER, Role.RULE, *PERSISTENT):
        value[tensor.name] = symbols.setdefault(tensor.name, len(symbols))
    order: dict[int, None] = {}
    for call in graph.calls:
        inputs = tuple(value[name] for name in call.reads)
        for i, name in enumerate(call.writes):
            what = (call.kernel, plain_name(call.node), inputs, i)
            value[name] = symbols.setdefault(what, len(symbols))
            order[value[name]] = None
    return [*order, *(value[name] for name in graph.outputs)]
