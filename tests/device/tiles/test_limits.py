"""What C and the DMA can hold of a tiling: as large as the headers say, kept by choices, checker and ports."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tests.kit.targets import COSTS, on_targets
from tinyclf.base.errors import DoesNotFit, ToolFailed
from tinyclf.base.resources import resource_dir
from tinyclf.device import targets
from tinyclf.device.emit.project import emit
from tinyclf.device.graph import kernels
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, MOST_TILE_BYTES
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program
from tinyclf.device.run.project import write_project
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets import results
from tinyclf.device.targets.target import Target, find_target, with_l1
from tinyclf.device.tiles.check import check_tiles
from tinyclf.device.tiles.choose import choose
from tinyclf.device.tiles.kinds import elementwise
from tinyclf.device.tiles.limits import FIELD_TYPES, MOST_COPY_BYTES, MOST_OPERANDS, op_fault
from tinyclf.device.tiles.plan import NUM_LOOPS, STATE_BYTES, Op, Operand, TilePlan
from tinyclf.recipe.update_rule import UpdateRule

KIB = 1024
INCLUDE = resource_dir("external/pulp-trainlib") / "include"


def _text(header: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)


def _enum(header: Path) -> dict[str, int]:
    """Return the numbers that a header's enums give, those without one counted."""
    values: dict[str, int] = {}
    for body in re.findall(r"enum \w*\s*\{(.*?)\}", _text(header), flags=re.DOTALL):
        number = -1
        for entry in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = (word.strip() for word in entry.partition("="))
            number = int(value) if value else number + 1
            values[name] = number
    return values


# --- numbers that stand twice -------------------------------------------------------------------------------------


def test_fields_have_the_types_that_the_planner_counts_with() -> None:
    text = _text(INCLUDE / "tcl_tile.h")
    others = {"slot", "flags"}  # of an enum, and bits
    for struct, types in FIELD_TYPES.items():
        (body,) = re.findall(rf"struct {struct} \{{(.*?)\n\}};", text, flags=re.DOTALL)
        declared = {
            re.sub(r"\[.*\]", "", name.strip()): kind
            for kind, names in re.findall(r"(u?int\d+_t)\s+([^;*]*);", body)
            for name in names.split(",")
        }
        assert {name: kind for name, kind in declared.items() if name not in others} == types, struct


def test_constants_are_those_of_the_headers() -> None:
    tiles, records = _enum(INCLUDE / "tcl_tile.h"), _enum(INCLUDE / "tcl_run.h")
    assert tiles["TCL_TILE_LOOPS"] == NUM_LOOPS
    assert tiles["TCL_TILE_STATE_BYTES"] == STATE_BYTES
    assert tiles["TCL_TILE_ALIGNMENT"] * 4 == BLOCK_ALIGNMENT == targets.L1_ALIGNMENT
    assert tiles["TCL_TILE_OPERANDS"] == MOST_OPERANDS
    assert _enum(INCLUDE / "port_dma.h")["PORT_DMA_MOST_BYTES"] == MOST_COPY_BYTES
    acts = {name: getattr(kernels, name.removeprefix("TCL_")) for name in _enum(INCLUDE / "tcl_fast_fp32.h")}
    assert acts == _enum(INCLUDE / "tcl_fast_fp32.h")
    assert len(acts) == 3
    assert {name: getattr(results, name.removeprefix("TCL_")) for name in records} == records
    assert len(records) == 5


# --- choices ------------------------------------------------------------------------------------------------------


def test_no_copy_is_larger_than_the_dma_can_do() -> None:
    work = elementwise("tcl_tile_relu_fw", (0,), 200_000, loads=[("X", "x")], stores=[("Y", "y")])
    op = choose(work, 1 << 20, COSTS)
    assert op is not None
    assert max(o.num_bytes for o in op.operands) <= MOST_COPY_BYTES
    whole = replace(work, sizes=((200_000, 200_000),))
    assert choose(whole, 1 << 21, COSTS) is None
    assert choose(replace(whole, sizes=((200_000, 100_000),)), 1 << 21, COSTS) is None
    assert choose(replace(whole, sizes=((200_000, 25_000),)), 1 << 21, COSTS) is not None


def _job(model: nn.Module, *shape: int) -> Job:
    rng = np.random.default_rng(5)
    samples, labels = rng.standard_normal((2, *shape)).astype(np.float32), np.eye(3, dtype=np.float32)[:2]
    return Job(model, samples, labels, 2, UpdateRule(0.01), "tests")


def _net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@on_targets("host")
def test_a_large_l1_is_used_as_far_as_buffers_can_be_numbered(target: Target, tmp_path: Path) -> None:
    target = with_l1(target, "2MiB")
    assert target.tile_bytes == MOST_TILE_BYTES
    job = _job(_net(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), 3, 20, 20)
    program = emit_project(job, target, tmp_path / "p")
    assert program.tiles is not None
    numbers = [b // BLOCK_ALIGNMENT for op in program.tiles.ops for o in op.operands for b in o.buffers]
    assert 1 << 15 < max(numbers) < 1 << 16
    assert execute(job, program, target, tmp_path / "p").passed


@on_targets("host")
def test_a_mean_over_more_than_255_rows(target: Target, tmp_path: Path) -> None:
    target = with_l1(target, "64KiB")
    job = _job(_net(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), 3, 301, 4)
    program = emit_project(job, target, tmp_path / "p")
    assert execute(job, program, target, tmp_path / "p").passed


@pytest.mark.target("host")
def test_what_no_field_holds_is_refused_in_one_line(tmp_path: Path) -> None:
    job = _job(_net(nn.Conv2d(3, 4, 1, padding=(300, 0))), 3, 4, 4)
    message = r"cannot be cut into tiles: pad_top is 300, tiles can do 0 to 255: compute on L2 with --l1 off"
    with pytest.raises(DoesNotFit, match=message):
        emit_project(job, with_l1(find_target("host"), "64KiB"), tmp_path / "p")
    assert not (tmp_path / "p").exists()


# --- the checker --------------------------------------------------------------------------------------------------


def _operand(op: Op, change: Callable[[Operand], Operand]) -> Op:
    return replace(op, operands=(change(op.operands[0]), *op.operands[1:]))


def _rows(op: Op, **change: int) -> Op:
    return _operand(op, lambda o: replace(o, rows=replace(o.rows, **change)))


FAULTS: dict[str, tuple[Callable[[Op], Op], str]] = {
    "operands": (lambda op: replace(op, operands=op.operands * 6), "operands, tiles can do 10"),
    "counts": (lambda op: replace(op, counts=(1 << 16, 1, 1)), "counts is 65536"),
    "before": (lambda op: _rows(op, before=1 << 15), "before is 32768"),
    "more": (lambda op: _rows(op, loop=0, step=1, extent=129), "more is 128, tiles can do -128 to 127"),
    "size": (lambda op: _rows(op, size=1 << 31), "size is"),
    "step": (lambda op: _rows(op, loop=0, step=1 << 31, extent=1 << 31), "step is"),
    "unit": (lambda op: _operand(op, lambda o: replace(o, unit=1 << 16)), "unit is 65536|a copy"),
    "stride": (lambda op: _operand(op, lambda o: replace(o, stride=1 << 31)), "stride is"),
    "buffers": (lambda op: _operand(op, lambda o: replace(o, buffers=(1 << 20, 1 << 20))), "buffers is"),
    "copy": (lambda op: _operand(op, lambda o: replace(o, unit=1 << 15)), "a copy of .* is .* bytes"),
    "kernel": (lambda op: replace(op, layer=(("kernel_width", 1 << 16),)), "kernel_width is 65536"),
    "pad": (lambda op: replace(op, layer=(("pad_left", 256),)), "pad_left is 256"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checker_refuses_what_does_not_fit(fault: str) -> None:
    job = _job(_net(nn.Conv2d(3, 4, 1), nn.ReLU()), 3, 8, 8)
    program = make_program(job, with_l1(find_target("host"), "16KiB"))
    assert program.tiles is not None
    change, message = FAULTS[fault]
    number = next(n for n, op in enumerate(program.tiles.ops) if op.body == "tcl_tile_pw_fw")
    ops = list(program.tiles.ops)
    assert op_fault(ops[number]) is None
    ops[number] = change(ops[number])
    with pytest.raises(AssertionError, match=message):
        check_tiles(program.graph, program.plan, TilePlan(tuple(ops), program.tiles.num_bytes))


# --- the walk and its bodies --------------------------------------------------------------------------------------


@on_targets("host")
@pytest.mark.parametrize(("file", "change"), [
    ("tile_pw", lambda op: replace(op, operands=tuple(o for o in op.operands if o.slot != "W"))),
    ("tcl_tile", lambda op: replace(op, operands=op.operands * 6)),
])  # fmt: skip
def test_a_wrong_table_ends_the_program(target: Target, file: str, change: Callable[[Op], Op], tmp_path: Path) -> None:
    target = with_l1(target, "16KiB")
    program = make_program(_job(_net(nn.Conv2d(3, 4, 1), nn.ReLU()), 3, 8, 8), target)
    assert program.tiles is not None
    ops = tuple(change(op) if op.body == "tcl_tile_pw_fw" else op for op in program.tiles.ops)
    wrong = replace(program, tiles=replace(program.tiles, ops=ops))
    write_project(emit(wrong, target=target, num_cores=2, command="tests"), tmp_path / "p")
    targets.build(tmp_path / "p", target)
    with pytest.raises(ToolFailed, match=rf"{file}\.c:\d+: check failed"):
        targets.start(tmp_path / "p")


# --- the ports ----------------------------------------------------------------------------------------------------

COPY = """
#include "port_dma.h"

static float l1[40000] __attribute__((aligned(16))), l2[40000];

static void copy(void *unused)
{
    int const group = port_dma_open();
    (void)unused;
    if (port_core_id() == 0)
        port_dma_load(l1, l2, %s);
    port_dma_wait(group);
}

void tcl_main(void)
{
    char const done = 1;
    port_fork(copy, NULL);
    port_write(&done, 1);
}
"""


def _copies(target: Target, project: Path, arguments: str) -> None:
    files = {f"port/{name}": content for name, content in target.port_files().items()}
    files |= {f"trainlib/include/{name}": (INCLUDE / name).read_bytes() for name in ("port.h", "port_dma.h")}
    files["src/copy.c"] = (COPY % arguments).encode()
    files["Makefile"] = f"NUM_CORES ?= {target.num_cores}\ninclude port/build.mk\n".encode()
    write_project(files, project)
    targets.build(project, target)
    targets.start(project)


@on_targets()
def test_a_port_refuses_a_copy_that_its_dma_cannot_do(target: Target, tmp_path: Path) -> None:
    _copies(target, tmp_path / "most", "32764, 4, 32768")
    wrong = ("32768, 4, 32768", "4, 0, 4", "-4, 1, 4", "6, 1, 8", "4, 2, 6")
    for number, arguments in enumerate(wrong if target.name == "host" else wrong[:1]):
        with pytest.raises(ToolFailed, match=r"port_dma\.h:\d+: check failed"):
            _copies(target, tmp_path / str(number), arguments)
