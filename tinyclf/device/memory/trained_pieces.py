"""What of the parameters goes into the weights file of a training run: the trained pieces, one behind the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tinyclf.device.graph.ir import Graph, Role
from tinyclf.device.memory.plan import MemoryPlan


@dataclass(frozen=True)
class Piece:
    """A piece of the block of parameters, in bytes."""

    offset: int
    num_bytes: int


def trained_pieces(graph: Graph, plan: MemoryPlan) -> list[Piece]:
    """Return all that is trained in whole as one piece, then the trained part of each parameter that is not."""
    parameters = graph.tensors_of(Role.PARAMETER)
    parts = [Piece(plan.offsets[t.name], t.trained_bytes) for t in parameters if t.trained_channels is not None]
    rest = [plan.offsets[t.name] for t in parameters if not t.trained or t.trained_channels is not None]
    whole = Piece(0, min(rest, default=plan.parameter_bytes))
    return [*([whole] if whole.num_bytes else []), *sorted(parts, key=lambda s: s.offset)]


def trained_block_bytes(graph: Graph, plan: MemoryPlan) -> int:
    """Return the bytes of the block that holds every trained parameter and nothing frozen: the parameters' start."""
    parameters = graph.tensors_of(Role.PARAMETER)
    end = min((plan.offsets[t.name] for t in parameters if not t.trained), default=plan.parameter_bytes)
    assert all(plan.offsets[t.name] + t.num_bytes <= end for t in parameters if t.trained), "a frozen one lies between"
    return end


def file_offset(pieces: Iterable[Piece], offset: int) -> int:
    """Return where among the weights of the file that begins which lies at `offset` of the parameters."""
    end = 0
    for piece in pieces:
        if piece.offset <= offset < piece.offset + piece.num_bytes:
            return end + offset - piece.offset
        end += piece.num_bytes
    raise AssertionError(f"no piece holds the offset {offset}")
