"""The bytes of the tables in an emitted program on a 32-bit target: what templates write of calls, layers and tiles."""

from __future__ import annotations

from collections.abc import Iterable

from tinyclf.device.graph.dtypes import WORD_BYTES
from tinyclf.device.graph.headers import struct_members
from tinyclf.device.graph.ir import BlobOf, Graph, Node, Role
from tinyclf.device.graph.kernels import TILES, args_struct
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.trained_pieces import trained_pieces
from tinyclf.device.tiles.choose import Work
from tinyclf.device.tiles.fusion import Fusion

# Structs whose members are not all words.
CALL_BYTES, OP_BYTES, OPERAND_BYTES = 20, 60, 40  # tcl_call, tcl_op, tcl_operand
HEADER_BYTES, TENSOR_BYTES, DIMENSION_BYTES = 512, 48, 6  # at most, of the text at the start of a weights file


def plain_bytes(graph: Graph, plan: MemoryPlan, *, is_run: bool) -> int:
    """Return the bytes of the tables of a program that computes where the tensors lie; `is_run`: of a training run."""
    return CALL_BYTES * len(graph.calls) + _args_bytes(graph.nodes) + _reporting_bytes(graph, plan, is_run=is_run)


def tile_bytes(graph: Graph, plan: MemoryPlan, *, is_run: bool) -> int:
    """Return the same of a program on tiles; only what no tile does needs arguments. They are the same for any L1."""
    works = _works(graph, plan, is_run=is_run)
    tiled = [work for _, several in works for work in several]
    num_operands = sum(len(w.uses) + len(w.scratch((1,) * len(w.sizes))) for w in tiled)
    direct = {graph.calls[calls[0]].node for calls, several in works if not several}
    num_rows = sum(max(len(several), 1) for _, several in works)
    tables = CALL_BYTES * num_rows + OP_BYTES * len(tiled) + OPERAND_BYTES * num_operands
    rest = _args_bytes(node for node in graph.nodes if node.name in direct)
    return tables + rest + _reporting_bytes(graph, plan, is_run=is_run)


def tile_bodies(graph: Graph, plan: MemoryPlan, *, is_run: bool) -> frozenset[str]:
    """Return the bodies of tiles that a step calls, and those that these call."""
    bodies = {w.body for _, several in _works(graph, plan, is_run=is_run) for w in several}
    return frozenset(bodies.union(*(TILES[body].calls for body in bodies)))


def _works(graph: Graph, plan: MemoryPlan, *, is_run: bool) -> list[tuple[tuple[int, ...], list[Work]]]:
    """Return the operations of a step. A training run reports no gradients: more of its calls become one operation."""
    return Fusion(graph, plan, frozenset() if is_run else traced_tensors(graph)).works()


def _args_bytes(nodes: Iterable[Node]) -> int:
    """Return the bytes of the arguments of some nodes, and of the blobs that they point to."""
    kept = list(nodes)
    blobs = {value for node in kept for _, value in node.attributes if isinstance(value, BlobOf)}
    return len(blobs) * struct_bytes("blob") + sum(struct_bytes(args_struct(node.kind)) for node in kept)


def _reporting_bytes(graph: Graph, plan: MemoryPlan, *, is_run: bool) -> int:
    """Return the bytes of what says where to find what is reported: tensors after each step, or trained weights."""
    if not is_run:
        return struct_bytes("tcl_trace") * len(traced_tensors(graph))
    trained = [t for t in graph.tensors_of(Role.PARAMETER) if t.trained]
    header = HEADER_BYTES + sum(TENSOR_BYTES + len(t.name) + DIMENSION_BYTES * len(t.shape) for t in trained)
    return header + struct_bytes("tcl_segment") * len(trained_pieces(graph, plan))


def struct_bytes(name: str) -> int:
    """Return the size of a struct of the kernel library whose members are all words: pointers, int and float."""
    return WORD_BYTES * len(struct_members()[name])
