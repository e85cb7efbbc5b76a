"""The device half's nouns: Tensor, Node, Call and the Graph they make, as plain values; no algorithm, no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from math import prod

from tinyclf.device.graph.dtypes import FLOAT32, DataType
from tinyclf.recipe.update_rule import UpdateRule


class Role(Enum):
    """What a tensor is for; it decides where its bytes are counted."""

    INPUT = "input"
    LABEL = "label"
    PARAMETER = "parameter"
    ACTIVATION = "activation"
    GRADIENT = "gradient"
    SCRATCH = "scratch"
    STATE = "optimizer state"  # kept from step to step, zero before the first
    ACCUMULATED = "accumulated gradient"  # kept from step to step of a batch
    RULE = "state of the update rule"  # set before the first call of each step; a field of the rule, no tensor in C


PERSISTENT = (Role.STATE, Role.ACCUMULATED)  # in a block of their own, not in the arena


class Layout(Enum):
    """In which order the elements of a tensor lie."""

    CHW = "CHW"  # planes one behind the other, as shapes are written; also of weights and vectors
    HWC = "HWC"  # all channels of a pixel side by side
    PACKED = "packed"  # as the kernel that reads it wants it


class Phase(Enum):
    """The part of a training step that a call belongs to."""

    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    UPDATE = "update"


@dataclass(frozen=True, repr=False)
class Tensor:
    """A value in memory. Shapes have no batch dimension: (C, H, W) for images, whatever their layout.

    `scale` names the tensor (1), float32, by which elements are multiplied to be the value: 127 of a scale of 0.5 is
    63.5. None: they are the value.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    dtype: DataType = FLOAT32
    trained: bool = False  # parameters only
    trained_channels: int | None = None  # of a trained parameter: so many of its leading rows; None: all
    part_of: str | None = None  # a block of rows of a gradient that is nowhere whole: the name of the whole
    layout: Layout = Layout.CHW
    scale: str | None = None

    def __repr__(self) -> str:
        """Name the fields, but for a layout and a scale as usual: the number of a training run depends on them all."""
        usual = {"layout": Layout.CHW, "scale": None}
        told = [f for f in fields(self) if f.name not in usual or getattr(self, f.name) != usual[f.name]]
        return f"Tensor({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in told)})"

    @property
    def num_elements(self) -> int:
        """Count elements."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Count bytes, without padding."""
        return self.num_elements * self.dtype.num_bytes

    @property
    def is_in_arena(self) -> bool:
        """Tell whether it lies in the arena."""
        return self.role not in (Role.PARAMETER, Role.RULE, *PERSISTENT)

    @property
    def trained_shape(self) -> tuple[int, ...]:
        """Return the shape of what is trained of a trained parameter: its leading rows, or all of it."""
        return self.shape if self.trained_channels is None else (self.trained_channels, *self.shape[1:])

    @property
    def trained_bytes(self) -> int:
        """Count the bytes that are trained, without padding."""
        return prod(self.trained_shape) * self.dtype.num_bytes if self.trained else 0


@dataclass(frozen=True)
class BlobOf:
    """An attribute of a node: a tensor that a layer works on, and its gradient.

    `gradient` names the tensor that holds it; None: the one called `gradient_name(tensor)`, if the graph has it in
    that size. With `channels` the node works on only so many channels of both, from `first` on: a piece of their
    arrays. A gradient tensor that has only these channels is taken from its beginning.
    """

    tensor: str
    gradient: str | None = None
    channels: int | None = None
    first: int = 0


@dataclass(frozen=True)
class DataOf:
    """An attribute of a node: the values of a tensor, from the channel `first` on."""

    tensor: str
    first: int = 0


@dataclass(frozen=True)
class RuleOf:
    """An attribute of a node: the graph's update rule."""


@dataclass(frozen=True)
class Window:
    """An attribute of a node: a window that moves over planes; each pair is vertical, horizontal.

    `padding` is (top, bottom, left, right). The taps of a dilated window are `dilation` apart.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def outputs(self, inputs: tuple[int, ...]) -> tuple[int, int]:
        """Return the size of the output plane: floor((size + padding of both sides - extent) / stride) + 1."""
        top, bottom, left, right = self.padding
        extents = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        height, width = (
            (size + pad - extent) // stride + 1
            for size, pad, extent, stride in zip(
                inputs, (top + bottom, left + right), extents, self.stride, strict=True
            )
        )
        return height, width


Attribute = BlobOf | DataOf | RuleOf | Window | int | float | None


@dataclass(frozen=True)
class Node:
    """One layer instance: what it is. `kind` is the layer of its rows in the table of kernels.

    How C is told, in one args struct, is known to `emit` alone. What is not named is zero there.
    """

    name: str
    kind: str
    attributes: tuple[tuple[str, Attribute], ...]

    def __getitem__(self, attribute: str) -> Attribute:
        """Return an attribute, which the node has."""
        return dict(self.attributes)[attribute]

    def get(self, attribute: str) -> Attribute:
        """Return an attribute; None: the node has none of that name."""
        return dict(self.attributes).get(attribute)

    def window(self) -> Window:
        """Return the window of a layer that has one."""
        value = self["window"]
        assert isinstance(value, Window), f"{self.name} has no window"
        return value

    def tensor(self, attribute: str) -> str:
        """Return the name of the tensor that an attribute is."""
        value = self[attribute]
        assert isinstance(value, BlobOf | DataOf), f"{self.name}.{attribute} is no tensor"
        return value.tensor


@dataclass(frozen=True)
class Call:
    """One kernel call: one step of time.

    `kernel` is the symbol of a row of the table of kernels. What is in `reads` and in `writes` is worked on in place.
    """

    kernel: str
    node: str
    phase: Phase
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """One training step. `outputs` can still be read when it is over.

    `rule` is how weights are updated, None where nothing is. If its batch is more than 1, the update calls are the last
    ones, and only every batch-th step does them.
    """

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...] = ()
    rule: UpdateRule | None = None

    @property
    def num_calls_within_batch(self) -> int:
        """Count the calls of a step that does not complete a batch."""
        if self.rule is None or self.rule.batch == 1:
            return len(self.calls)
        return sum(call.phase is not Phase.UPDATE for call in self.calls)

    @property
    def reads_rule(self) -> bool:
        """Tell whether a call reads the settings of the update at run time."""
        return any(isinstance(value, RuleOf) for node in self.nodes for _, value in node.attributes)

    @cached_property
    def by_name(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {t.name: t for t in self.tensors}

    def tensors_of(self, *roles: Role) -> list[Tensor]:
        """Return the tensors of some roles, in order."""
        return [t for t in self.tensors if t.role in roles]


def gradient_name(tensor: str) -> str:
    """Return the name of the tensor that holds the loss's gradient by `tensor`."""
    return f"{tensor}.grad"


def check(graph: Graph) -> None:
    """Assert that names are unique and known, and that nothing is read before it is written.

    Inputs, labels, parameters and what is kept from step to step hold values before the first call.
    """
    assert len(graph.by_name) == len(graph.tensors), "two tensors share a name"
    nodes = {n.name: n for n in graph.nodes}
    assert len(nodes) == len(graph.nodes), "two nodes share a name"
    for node in graph.nodes:
        for field, value in node.attributes:
            if isinstance(value, BlobOf | DataOf):
                assert value.tensor in graph.by_name, f"{node.name}.{field}: unknown tensor {value.tensor}"
            if isinstance(value, BlobOf) and value.gradient:
                assert value.gradient in graph.by_name, f"{node.name}.{field}: unknown tensor {value.gradient}"
            if isinstance(value, BlobOf) and value.channels is not None:
                end = value.first + value.channels
                assert 0 <= value.first < end <= graph.by_name[value.tensor].shape[0], f"{node.name}.{field}: channels"
    sample_calls = graph.calls[: graph.num_calls_within_batch]
    assert len(sample_calls) == len(graph.calls) or all(c.phase is not Phase.UPDATE for c in sample_calls), (
        "an update call stands before the end of the batch"
    )
    _check_scales(graph)
    written = {t.name for t in graph.tensors_of(Role.INPUT, Role.LABEL, Role.PARAMETER, Role.RULE, *PERSISTENT)}
    for call in graph.calls:
        assert call.node in nodes, f"{call.kernel}: unknown node {call.node}"
        for name in (*call.reads, *call.writes):
            assert name in graph.by_name, f"{call.kernel} of {call.node}: unknown tensor {name}"
        for name in call.reads:
            assert name in written, f"{call.kernel} of {call.node} reads {name} before it is written"
        written.update(call.writes)
    assert written >= set(graph.outputs), "an output is never written"
    for tensor in graph.tensors_of(Role.RULE):
        writers = [i for i, call in enumerate(graph.calls) if tensor.name in call.writes]
        readers = [i for i, call in enumerate(graph.calls) if tensor.name in call.reads and i not in writers]
        is_settled = max(writers, default=-1) < min(readers, default=len(graph.calls))
        assert is_settled, f"{tensor.name} changes after a call has read it"


def _check_scales(graph: Graph) -> None:
    """Assert that scales are single floats, and that what a call does to codes it does to their scale."""
    scales = {t.name: t.scale for t in graph.tensors if t.scale is not None}
    for name, scale in scales.items():
        assert scale in graph.by_name, f"{name}: unknown scale {scale}"
        assert (graph.by_name[scale].dtype, graph.by_name[scale].num_elements) == (FLOAT32, 1), f"{scale} is no scale"
    for call in graph.calls:
        for names in (call.reads, call.writes):
            for name in names:
                assert scales.get(name, name) in names, f"{call.kernel} of {call.node} takes {name} without its scale"
