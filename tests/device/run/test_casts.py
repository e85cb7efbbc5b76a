"""Casts between types: a graph that has them is placed, emitted and run as others are, to the codes that are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kit.targets import COSTS, on_targets
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32, INT8
from tinyclf.device.graph.ir import BlobOf, Call, DataOf, Graph, Layout, Node, Phase, Role, Tensor, check
from tinyclf.device.graph.kernels import FW, check_operands, find
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.reference.steps import relative_error
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.planner import plan_tiles

SHAPE = (3, 7, 5)  # no multiple of a word
SEED = 20261201
KIB = 1024


def _cast(node: str, values: str, codes: str) -> Node:
    sizes = (("scale", DataOf(f"{codes}.scale")), ("dim", int(np.prod(SHAPE))))
    return Node(node, "cast", (("values", DataOf(values)), ("codes", DataOf(codes)), *sizes))


def _graph() -> Graph:
    """Return x -> codes -> back, and the sum of x and what came back, in 8 bits too."""
    tensors = [Tensor("x", SHAPE, Role.INPUT)]
    for name in ("codes", "sum codes"):
        tensors.append(Tensor(name, SHAPE, Role.ACTIVATION, INT8, scale=f"{name}.scale"))
        tensors.append(Tensor(f"{name}.scale", (1,), Role.ACTIVATION))
    tensors += [Tensor(name, SHAPE, Role.ACTIVATION) for name in ("back", "sum")]
    nodes = (
        _cast("to", "x", "codes"),
        _cast("from", "back", "codes"),
        Node("add", "add", (("first", BlobOf("x")), ("second", BlobOf("back")), ("output", BlobOf("sum")))),
        _cast("again", "sum", "sum codes"),
    )
    to, back = find("cast", FW, (FLOAT32, INT8)).symbol, find("cast", FW, (INT8, FLOAT32)).symbol
    calls = (
        Call(to, "to", Phase.FORWARD, ("x",), ("codes", "codes.scale")),
        Call(back, "from", Phase.FORWARD, ("codes", "codes.scale"), ("back",)),
        Call(find("add", FW).symbol, "add", Phase.FORWARD, ("x", "back"), ("sum",)),
        Call(to, "again", Phase.FORWARD, ("sum",), ("sum codes", "sum codes.scale")),
    )
    graph = Graph(tuple(tensors), nodes, calls, ("codes", "sum codes", "sum codes.scale"))
    check(graph)
    return graph


def _samples() -> NDArray[np.float32]:
    """Return samples whose codes meet halves, both ends, and nothing but zeros."""
    rng = np.random.default_rng(SEED)
    samples = rng.standard_normal((4, *SHAPE)).astype(np.float32)
    samples[1] = np.resize(np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -127], np.float32), SHAPE)
    samples[2] = 0
    samples[3] *= 1e20
    return samples


def _run(target: Target, project: Path, *variables: str, l1_bytes: int | None = None) -> list[dict[str, NDArray]]:
    graph, samples = _graph(), _samples()
    plan = plan_memory(graph)
    traced = frozenset(name for call in graph.calls for name in call.writes)
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=l1_bytes, traced=traced) if l1_bytes else None
    assert tiles is None or [op.body is None for op in tiles.ops] == [True, True, False, True]
    program = Program(graph, plan, {}, samples, None, len(samples), traced, tiles=tiles)
    write_project(emit(program, target=target, num_cores=target.num_cores, command="tests"), project)
    targets.build(project, target, *variables)
    return list(targets.run(project, *variables).steps)


def _check_codes(values: NDArray, codes: NDArray, scale: NDArray) -> None:
    """Compare with the rounding in double precision, but where float32 may put a value on either side of a half."""
    exact = np.abs(values).max() / 127
    assert relative_error(scale, np.array([exact])) <= BOUNDS[INT8].layer
    beyond = np.abs(codes * exact - values.astype(np.float64)) - exact / 2
    assert (beyond <= BOUNDS[INT8].layer * np.abs(values).max()).all()


def _check_steps(steps: list[dict[str, NDArray]]) -> None:
    for x, step in zip(_samples(), steps, strict=True):
        assert step["codes"].dtype == step["sum codes"].dtype == np.int8
        _check_codes(x, step["codes"], step["codes.scale"])
        back = step["codes"] * step["codes.scale"].astype(np.float64)
        assert relative_error(step["back"], back) <= BOUNDS[FLOAT32].layer
        assert relative_error(step["sum"], back + x) <= BOUNDS[FLOAT32].layer
        _check_codes(step["sum"], step["sum codes"], step["sum codes.scale"])
    halves = np.resize([127, 0, 2, 2, 0, -2, -127], SHAPE)
    np.testing.assert_array_equal(steps[1]["codes"], halves)  # halves to even
    assert not steps[2]["codes"].any()
    assert steps[2]["codes.scale"] == 0


@on_targets()
@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiles"])
def test_codes_are_the_values_rounded_to_eight_bits(target: Target, tiled: bool, tmp_path: Path) -> None:
    variables = ("SANITIZE=address,undefined", "NUM_CORES=3") if target.name == "host" else ()
    _check_steps(_run(target, tmp_path / "p", *variables, l1_bytes=16 * KIB if tiled else None))


@pytest.mark.target("host")
def test_number_of_cores_does_not_change_a_code_and_cores_do_not_race(tmp_path: Path) -> None:
    host = targets.find_target("host")
    runs = [_run(host, tmp_path / n, f"NUM_CORES={n}", *more) for n, more in (("1", ()), ("4", ("SANITIZE=thread",)))]
    for one, other in zip(*runs, strict=True):
        assert {name: value.tobytes() for name, value in one.items()} == {
            name: value.tobytes() for name, value in other.items()
        }


def test_codes_take_a_byte_each_in_the_arena_and_are_named_by_their_type() -> None:
    graph = _graph()
    plan = plan_memory(graph)
    codes = graph.by_name["codes"]
    assert codes.num_bytes == 105
    assert {p.end - p.offset for p in plan.placements if p.tensor is codes} == {105}
    program = Program(graph, plan, {}, _samples(), None, 1, frozenset({"codes", "back"}))
    files = emit(program, target=targets.find_target("host"), num_cores=1, command="tests")
    network = files["src/network.c"].decode()
    assert f".codes = (int8_t *)(void *)arena + {plan.offsets['codes']}," in network
    assert json.loads(files["trace.json"]) == [
        {"tensor": "codes", "shape": [3, 7, 5], "type": "int8"},
        {"tensor": "back", "shape": [3, 7, 5]},
    ]


def test_a_call_on_other_types_than_its_kernel_is_for_is_found() -> None:
    graph = _graph()
    wrong = replace(graph, tensors=tuple(replace(t, dtype=INT8) if t.name == "back" else t for t in graph.tensors))
    check_operands(graph)
    with pytest.raises(AssertionError, match="tcl_cast_int8_fp32_cl of from is for float32, back is of int8"):
        check_operands(wrong)


def test_codes_without_their_scale_are_found() -> None:
    graph = _graph()
    calls = (graph.calls[0], replace(graph.calls[1], reads=("codes",)), *graph.calls[2:])
    with pytest.raises(AssertionError, match="of from takes codes without its scale"):
        check(replace(graph, calls=calls))
    two = tuple(replace(t, shape=(2,)) if t.name == "codes.scale" else t for t in graph.tensors)
    with pytest.raises(AssertionError, match=r"codes.scale is no scale"):
        check(replace(graph, tensors=two))


def test_layout_and_scale_are_told_where_they_are_not_as_usual() -> None:
    """The number of a training run is made of the graph's text: it tells all that matters, and what was stays."""
    plain = Tensor("x", (1, 2, 3), Role.INPUT)
    assert "layout" not in repr(plain)
    assert "scale" not in repr(plain)
    assert "dtype='float32'" in repr(plain)
    texts = {repr(t) for t in (plain, replace(plain, layout=Layout.HWC), replace(plain, layout=Layout.PACKED),
                               replace(plain, scale="x.scale"))}  # fmt: skip
    assert len(texts) == 4
