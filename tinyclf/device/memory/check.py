"""An independent checker of memory plans: it knows nothing of the planner."""

from __future__ import annotations

from collections.abc import Iterable

from tinyclf.device.graph.ir import PERSISTENT, Graph, Role, Tensor
from tinyclf.device.memory.plan import MemoryPlan


def check_plan(graph: Graph, plan: MemoryPlan) -> None:
    """Assert that `plan` keeps every value of `graph` until its last use.

    Knows nothing of the planner: it runs the step on a model of the memory in which each byte range remembers who wrote
    it last, and looks at every read whether the bytes are still the reader's.
    """
    owner: dict[str, tuple[int, int]] = {}  # tensor -> bytes that still hold its value

    def write(name: str) -> None:
        start = plan.offsets[name]
        tensor = graph.by_name[name]
        stop = start + tensor.num_bytes
        assert start >= 0, f"{name} starts before the arena"
        assert stop <= plan.arena_bytes, f"{name} ends behind the arena"
        assert start % tensor.dtype.alignment == 0, f"{name} is not aligned"
        for other in [o for o, (a, b) in owner.items() if a < stop and start < b]:
            del owner[other]
        owner[name] = (start, stop)

    def read(name: str, reader: str) -> None:
        assert name in owner, f"{reader} reads {name}, whose bytes were overwritten"

    in_arena = {t.name for t in graph.tensors if t.is_in_arena}
    for tensor in graph.tensors_of(Role.INPUT, Role.LABEL):
        write(tensor.name)
        # Samples are loaded before the first call: all of them must hold together.
    for tensor in graph.tensors_of(Role.INPUT, Role.LABEL):
        read(tensor.name, "the first call")
    for call in graph.calls:
        reader = f"{call.kernel} of {call.node}"
        for name in set(call.reads) & in_arena:
            read(name, reader)
        for name in call.writes:
            if name in in_arena:
                write(name)
        for name in (set(call.reads) | set(call.writes)) & in_arena:
            read(name, reader)  # a call's operands must not overlap: kernels read while they write
    for name in graph.outputs:
        read(name, "the end of the step")
    _check_row(plan, graph.tensors_of(Role.PARAMETER), plan.parameter_bytes, what="parameters")
    _check_row(plan, graph.tensors_of(*PERSISTENT), plan.state_bytes, what="tensors of the state")


def _check_row(plan: MemoryPlan, tensors: Iterable[Tensor], block_bytes: int, *, what: str) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda t: (plan.offsets[t.name], t.num_bytes)):
        offset = plan.offsets[tensor.name]
        assert offset >= end, f"two {what} overlap"
        assert offset % tensor.dtype.alignment == 0, f"one of the {what} is not aligned"
        end = offset + tensor.num_bytes
    assert end <= block_bytes, f"the {what} end behind their block"
