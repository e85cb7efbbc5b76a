"""Data types: graphs that mix them are placed by their own sizes and alignments, and nothing else takes 4 bytes."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from itertools import product

import pytest

from tests.kit.paths import ROOT
from tinyclf.device.graph.dtypes import (
    BLOCK,
    BLOCK_ALIGNMENT,
    BOUNDS,
    FLOAT16,
    FLOAT32,
    INT8,
    RUN_BOUNDS,
    TYPES,
    DataType,
    aligned,
)
from tinyclf.device.graph.ir import Call, Graph, Node, Phase, Role, Tensor, check
from tinyclf.device.memory.check import check_plan
from tinyclf.device.memory.placement import max_live
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.sums import summed

DEVICE, TEMPLATES = ROOT / "tinyclf" / "device", ROOT / "templates"

# Where a 4 or 16 is no element's size, by file and expression.
NO_SIZES = {
    ("run/files.py", "-len(text) % 16"): "the weights file: docs/device-files.md",
    **{
        (f"{name}.py", "'int8'"): "a kind of kept features, as users name it"
        for name in ("memory/kept_features", "run/run_report", "run/training", "emit/project")
    },
    ("tiles/kinds.py", "-m // 4"): "rows of a product that are done together",
}


def _graph(types: tuple[DataType, DataType, DataType]) -> Graph:
    """Return a chain of three steps: image -> a -> b -> c, weighted by a frozen and a trained parameter."""
    a, b, c = types
    tensors = (
        Tensor("image", (3, 5, 1), Role.INPUT, a),
        Tensor("frozen", (7,), Role.PARAMETER, b),
        Tensor("trained", (5,), Role.PARAMETER, c, trained=True),
        Tensor("also frozen", (3,), Role.PARAMETER, a),
        Tensor("velocity", (5,), Role.STATE, c),
        Tensor("a", (3, 5, 1), Role.ACTIVATION, a),
        Tensor("b", (13,), Role.ACTIVATION, b),
        Tensor("c", (3,), Role.ACTIVATION, c),
    )
    nodes = tuple(Node(name, "step", ()) for name in ("one", "two", "three"))
    calls = (
        Call("tcl_add_fp32_cl", "one", Phase.FORWARD, ("image", "frozen"), ("a",)),
        Call("tcl_add_fp32_cl", "two", Phase.FORWARD, ("a", "image", "also frozen"), ("b",)),
        Call("tcl_add_fp32_cl", "three", Phase.FORWARD, ("b", "a", "trained", "velocity"), ("c",)),
    )
    return Graph(tensors, nodes, calls, outputs=("c",))


@pytest.mark.parametrize("types", list(product((FLOAT32, FLOAT16, INT8), repeat=3)), ids=repr)
def test_a_graph_of_mixed_types_is_placed_by_its_own_sizes(types: tuple[DataType, DataType, DataType]) -> None:
    graph = _graph(types)
    check(graph)
    plan = plan_memory(graph)  # checks
    for tensor in graph.tensors:
        assert tensor.num_bytes == tensor.num_elements * {"float32": 4, "float16": 2, "int8": 1}[tensor.dtype.name]
        assert plan.offsets[tensor.name] % tensor.dtype.alignment == 0
    # image and a, with b: what the second call works on, or a, b and c.
    a, b, c = (t.num_bytes for t in graph.tensors[-3:])
    assert plan.max_live == max(a + a + b, a + b + c)
    assert plan.max_live <= plan.peak < plan.max_live + 2 * BLOCK_ALIGNMENT
    assert plan.arena_bytes % BLOCK_ALIGNMENT == plan.parameter_bytes % BLOCK_ALIGNMENT == 0
    assert plan.offsets["trained"] == 0
    sums = summed(graph, plan)
    assert sums.parameters_trained == sums.optimizer_state == 5 * types[2].num_bytes
    assert sums.parameters_frozen == 7 * types[1].num_bytes + 3 * types[0].num_bytes
    assert sums.activations_at_peak == plan.max_live
    assert sums.total == plan.parameter_bytes + plan.state_bytes + plan.arena_bytes


def test_smaller_elements_lie_closer_than_larger_ones() -> None:
    """In rows of their own: five floats take 20 bytes and the next begins at 32; five int8 take 5, the next at 8."""
    ends = {}
    for dtype in TYPES.values():
        tensors = tuple(Tensor(name, (5,), Role.PARAMETER, dtype) for name in ("first", "second"))
        plan = plan_memory(replace(_graph((dtype,) * 3), tensors=(*_graph((dtype,) * 3).tensors, *tensors)))
        ends[dtype] = plan.offsets["second"] - plan.offsets["first"]
    assert ends == {FLOAT32: 32, FLOAT16: 16, INT8: 8}


def test_the_checker_finds_a_tensor_that_is_not_aligned_as_its_type_wants() -> None:
    graph = _graph((FLOAT16, INT8, FLOAT32))
    plan = plan_memory(graph)
    for name in ("a", "b", "c"):
        moved = tuple(replace(p, offset=p.offset + p.tensor.dtype.alignment // 2 * (p.tensor.name == name))
                      for p in plan.placements)  # fmt: skip
        with pytest.raises(AssertionError, match=f"{name} is not aligned"):
            check_plan(graph, replace(plan, placements=moved, arena_bytes=plan.arena_bytes + BLOCK_ALIGNMENT))


def test_types_are_what_the_blocks_in_c_can_hold() -> None:
    for dtype in TYPES.values():
        assert BLOCK_ALIGNMENT % dtype.alignment == 0
        assert dtype.alignment % dtype.num_bytes == 0
        assert aligned(1, dtype.alignment) == dtype.alignment == 4 * dtype.num_bytes
    assert BLOCK is FLOAT32
    assert set(RUN_BOUNDS) <= set(BOUNDS) <= set(TYPES.values())
    assert max_live([]) == 0


def test_nothing_else_takes_four_bytes_for_granted() -> None:
    """No product with 4, no whole part of a fourth, no rest or part of 16, and no type by its name in numpy."""
    found = {}
    for file in DEVICE.rglob("*.py"):
        name = file.relative_to(DEVICE).as_posix()
        if name == "graph/dtypes.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.BinOp) and _is_size(node):
                found[name, ast.unparse(node)] = node.lineno
            if isinstance(node, ast.Constant) and node.value in ("<f4", "<f2", "<i1", "float32", "float16", "int8"):
                found[name, ast.unparse(node)] = node.lineno
    unknown = {key: line for key, line in found.items() if key not in NO_SIZES}
    assert not unknown
    assert set(NO_SIZES) <= set(found), "an exception that is none any more"


def _is_size(node: ast.BinOp) -> bool:
    values = [n.value for n in (node.left, node.right) if isinstance(n, ast.Constant)]
    if isinstance(node.op, ast.Mult):
        return 4 in values
    if isinstance(node.op, ast.FloorDiv | ast.Mod):
        return isinstance(node.right, ast.Constant) and node.right.value in (4, 16)
    return False


def test_no_template_says_a_type_or_an_alignment() -> None:
    said = re.compile(r"\bfloat\b|\bsizeof ?\(float\)|aligned\(\d|\.balign \d|\b4 \*|\* 4\b")
    for template in TEMPLATES.glob("*.j2"):
        assert not said.findall(template.read_text()), template
