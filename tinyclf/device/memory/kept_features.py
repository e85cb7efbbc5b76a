"""Memory for what the frozen part of a net gives for each training sample, so that later epochs leave it out."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclf.base.errors import BadInput, DoesNotFit
from tinyclf.device.graph.dtypes import FLOAT32, INT8, WORD_BYTES, num_words
from tinyclf.device.graph.ir import Call, Graph, Phase, Role

KEPT_AS = {"fp32": FLOAT32, "int8": INT8}
CACHES = ("off", *KEPT_AS)
MOST_BYTES = 2**31 - 1  # of one array


@dataclass(frozen=True)
class KeptTensor:
    """A tensor that crosses from the frozen part into the trained one; its value is the output of `layer`.

    `layer` is "" where it is the image.
    """

    name: str
    layer: str
    num_elements: int


@dataclass(frozen=True)
class FeatureMemory:
    """What is kept of each of `num_samples`, as `kind` says: fp32, or int8 with a scale for each tensor.

    The first `num_frozen_calls` calls of a step are the frozen part: those before the layer `first_trained`.
    """

    kind: str
    num_samples: int
    num_frozen_calls: int
    first_trained: str
    tensors: tuple[KeptTensor, ...]

    @property
    def record_words(self) -> int:
        """Count the words of 4 bytes of a sample: its class, then the tensors, those in int8 behind their scale."""
        dtype = KEPT_AS[self.kind]
        sizes = [num_words(t.num_elements * dtype.num_bytes) for t in self.tensors]
        num_scales = len(sizes) if dtype is INT8 else 0
        return 1 + num_scales + sum(sizes)

    @property
    def num_bytes(self) -> int:
        """Count the bytes of all samples."""
        return WORD_BYTES * self.record_words * self.num_samples


def feature_memory(graph: Graph, *, kind: str, num_samples: int) -> FeatureMemory | None:
    """Return what a run of `graph` keeps; None if `kind` is "off".

    Raises:
        BadInput: no such kind, or no layer lies before the first that is trained.
        DoesNotFit: it is more than an address can tell apart.
    """
    if kind not in CACHES:
        raise BadInput(f"unknown cache '{kind}': choose one of {', '.join(CACHES)}")
    if kind == "off":
        return None
    trained = {_layer(t.name) for t in graph.tensors_of(Role.PARAMETER) if t.trained}
    forward = [call for call in graph.calls if call.phase is Phase.FORWARD]
    num = next(i for i, call in enumerate(forward) if call.node in trained)
    if num == 0:
        raise BadInput("--cache keeps what frozen layers give, but the first layer is trained: leave out --cache")
    memory = FeatureMemory(kind, num_samples, num, forward[num].node, _crossing(graph, num))
    if memory.num_bytes > MOST_BYTES:
        raise DoesNotFit(f"--cache {kind} needs {memory.num_bytes:,} bytes, more than {MOST_BYTES:,}: fewer --samples")
    return memory


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _crossing(graph: Graph, num_frozen: int) -> tuple[KeptTensor, ...]:
    """Return the tensors that hold a value before call `num_frozen` which it or a later one reads."""
    source = {t.name: "" for t in graph.tensors_of(Role.INPUT)}
    for call in graph.calls[:num_frozen]:
        source |= dict.fromkeys(call.writes, _layer_of(call, graph))
    crossing: dict[str, None] = {}
    overwritten: set[str] = set()
    for call in graph.calls[num_frozen:]:
        crossing |= dict.fromkeys(name for name in call.reads if name in source and name not in overwritten)
        overwritten.update(call.writes)
    return tuple(KeptTensor(name, source[name], graph.by_name[name].num_elements) for name in crossing)


def _layer_of(call: Call, graph: Graph) -> str:
    """Return the layer that a forward call belongs to: that of its parameters, or its node."""
    parameters = [name for name in call.reads if graph.by_name[name].role is Role.PARAMETER]
    return _layer(parameters[0]) if parameters else call.node
