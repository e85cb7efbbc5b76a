"""Profiles of a step: figures of fabricated records, what is refused, and the sums of a real run."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from torch import nn

from tests.kit.commands import check_refusal, run
from tests.kit.targets import on_targets
from tinyclf.base.errors import BadInput, ToolFailed
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.run.job import Job
from tinyclf.device.run.profiling import Profile, make_profile, moved_bytes, plot_profile, table_lines, write_profile
from tinyclf.device.run.program import make_program
from tinyclf.device.targets.results import RECORD_CALL, RECORD_CYCLES
from tinyclf.device.targets.target import Target, find_target
from tinyclf.device.tiles.plan import Op, Operand, Span
from tinyclf.recipe.update_rule import UpdateRule

WAIT_COST = 300  # cycles, more than two barriers and two readings of the clock take


def _program(*, batch: int = 1, target: Target | None = None) -> Program:
    """Return a step of a convolution 2 -> 4 with a window of 3x3 on 6x5, 1x1 4 -> 8, and a linear layer 96 -> 3."""
    torch.manual_seed(3)
    model = nn.Sequential(
        OrderedDict(first=nn.Conv2d(2, 4, 3), relu=nn.ReLU(), conv=nn.Conv2d(4, 8, 1), flat=nn.Flatten())
    )
    model.append(nn.Linear(8 * 4 * 3, 3))
    model.first.requires_grad_(False)
    job = Job(
        model=model,
        samples=np.zeros((1, 2, 6, 5), dtype=np.float32),
        labels=np.eye(3, dtype=np.float32)[:1],
        num_steps=2 * batch,
        rule=UpdateRule(0.05, batch=batch),
        command="tests",
    )
    return make_program(job, target or find_target("pulp"))


def _words(cycles: int, waited: int) -> np.ndarray:
    return np.array([cycles, waited], dtype="<u8").view("<i4")


def _records(num_ops: int, *, step: int = 0) -> list[tuple[int, int, np.ndarray]]:
    """Return what a step reports in which operation i took 1000 + i cycles, and more than 32 bits hold in the first."""
    cycles = [2**33 if i == 0 else 1000 + i for i in range(num_ops)]
    calls = [(RECORD_CALL, step, _words(c, 10 * i)) for i, c in enumerate(cycles)]
    return [*calls, (RECORD_CYCLES, step, np.array([sum(cycles)], dtype="<u8").view("<i4"))]


def _profile(program: Program) -> Profile:
    assert program.tiles is not None
    return make_profile(program, find_target("pulp"), _records(len(program.tiles.ops)), num_cores=8)


def test_figures_are_those_of_the_records() -> None:
    program = _program()
    profile = _profile(program)
    num = len(profile.ops)
    total = profile.total
    assert total.cycles == 2**33 + sum(1000 + i for i in range(1, num))
    assert total.stall_cycles == sum(10 * i for i, op in enumerate(profile.ops) if op.num_tiles)
    assert [op.cycles for op in profile.ops[1:]] == [1000 + i for i in range(1, num)]
    forward = 4 * 12 * 18 + 8 * 12 * 4 + 96 * 3
    weights_only, both = 8 * 12 * 4, 2 * 96 * 3  # the first layer is frozen: nobody wants conv's input gradient
    assert total.macs == forward + weights_only + both == num_macs(program.graph)
    second = profile.ops[1]
    assert profile.share(second) == pytest.approx(second.macs / 1001 / 4)
    assert {op.layer for op in profile.ops} >= {"first", "conv", "4", "loss"}
    assert all((op.predicted_cycles is None) == (op.num_tiles == 0) for op in profile.ops)


def test_a_call_without_tiles_has_no_bytes_and_no_prediction() -> None:
    target = replace(find_target("pulp"), l1_bytes=None)
    program = _program(target=target)
    profile = make_profile(program, target, _records(len(program.graph.calls)), num_cores=1)
    assert [op.kernels for op in profile.ops] == [(call.kernel,) for call in program.graph.calls]
    assert profile.peak == 1, "MACs per cycle of one core"
    assert {(op.loaded_bytes, op.stored_bytes, op.predicted_cycles, op.stall_cycles) for op in profile.ops} == {
        (0, 0, None, None)
    }
    assert (profile.total.predicted_cycles, profile.total.stall_cycles) == (None, None)


def test_bytes_are_counted_when_a_tile_is_another_one() -> None:
    whole = Span(-1, 0, 3, 0, 3)
    halo = Operand("INPUT", "x", Span(0, 2, 4, 1, 6), whole, unit=5, stride=15, load=True)
    weights = Operand("WEIGHTS", "w", Span(1, 4, 4, 0, 10), Span(-1, 0, 1, 0, 1), unit=7, stride=7, load=True)
    result = Operand("OUTPUT", "y", Span(0, 2, 2, 0, 5), whole, unit=1, stride=3, store=True)
    scratch = Operand("SCRATCH1", None, whole, whole, unit=9, stride=27)
    op = Op((0,), "tcl_tile_pw_fw", counts=(3, 3, 1), operands=(halo, weights, result, scratch))
    rows_of_x = 3 + 4 + 3  # [0, 3), [1, 5), [3, 6): what lies outside is not loaded
    loads = rows_of_x * 3 * 5 + 3 * 10 * 7  # w again for each tile of x
    assert moved_bytes(op) == (4 * loads, 4 * 5 * 3)
    assert moved_bytes(replace(op, counts=(3, 1, 1))) == (4 * (rows_of_x * 15 + 4 * 7), 4 * 5 * 3)
    assert moved_bytes(Op((0,))) == (0, 0)


def test_a_step_in_one_tile_each_moves_every_operand_once() -> None:
    program = _program()
    assert program.tiles is not None
    for op in program.tiles.ops:
        if op.num_tiles == 1:
            operands = [o for o in op.operands if o.tensor]
            sizes = [4 * o.rows.size * o.columns.size * o.unit for o in operands]
            assert sum(moved_bytes(op)) == sum(n * (o.load + o.store) for n, o in zip(sizes, operands, strict=True))


def test_of_a_batch_the_step_with_the_update_is_shown() -> None:
    program = _program(batch=2)
    assert program.tiles is not None
    num = len(program.tiles.ops)
    records = [*_records(num - 1), *_records(num, step=1)]
    profile = make_profile(program, find_target("pulp"), records, num_cores=8)
    assert (profile.step, len(profile.ops)) == (1, num)
    with pytest.raises(ToolFailed, match=f"did not report the cycles of a step's {num} operations"):
        make_profile(program, find_target("pulp"), _records(num - 1), num_cores=8)


def test_table_and_files(tmp_path: Path) -> None:
    profile = _profile(_program())
    lines = table_lines(profile)
    assert len(lines) == len(profile.ops) + 3
    assert f"{profile.total.cycles:,}" in lines[-2]
    assert "peak: 4 MAC/clk" in lines[-1]
    write_profile(profile, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["profile.json", "profile.png"]
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "profile.json").read_text())
    assert sum(op["cycles"] for op in saved["operations"]) == saved["total"]["cycles"] == profile.total.cycles
    assert saved["peak"] == 4
    bars = [patch.get_width() for patch in plot_profile(profile).axes[0].patches if isinstance(patch, Rectangle)]
    assert bars[: len(profile.ops)] == [op.cycles / 1000 for op in profile.ops]


@pytest.mark.parametrize("name", ["host", "qemu"])
def test_a_clock_that_is_not_the_chips_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=f"target {name} is not cycle-accurate"):
        make_profile(_program(), find_target(name), [], num_cores=1)
    monkeypatch.chdir(tmp_path)
    message = f"--profile: target {name} is not cycle-accurate: profile on --target pulp"
    result = run("deploy", "--target", name, "--profile", "--execute")
    check_refusal(result, code=1, message=message, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--profile shows what a run took: add --execute"),
        ("--epochs 1", "--profile shows single steps: leave out --epochs"),
    ],
)
def test_what_has_no_profile_is_refused(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("deploy", "--target", "pulp", "--profile", *arguments.split())
    check_refusal(result, code=1, message=message, folder=tmp_path)


@on_targets("pulp")
def test_the_operations_of_a_run_add_up(target: Target, tmp_path: Path) -> None:
    options = ("--target", target.name, "--variant", "FT", "--k", 1, "--size", 32, "--steps", 1, "--execute")
    result = run("deploy", *options, "--profile", "--out", tmp_path / "p")
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "p" / "profile.json").read_text())
    total, ops = saved["total"], saved["operations"]
    cycles = json.loads((tmp_path / "p" / "report.json").read_text())["cycles"][0]
    assert sum(op["cycles"] for op in ops) == total["cycles"] == cycles
    targets.build(tmp_path / "p", target)
    unmeasured = targets.run(tmp_path / "p").cycles[0]
    assert abs(cycles - unmeasured) <= WAIT_COST * (total["num_tiles"] + len(ops)), "measuring takes too much"
    memory = json.loads(run("memory", "--variant", "FT", "--k", 1, "--size", 32, "--json").stdout)
    assert sum(op["macs"] for op in ops) == total["macs"] == memory["macs"]
    assert 0 < total["stall_cycles"] < total["cycles"] / 2
    assert all(op["stall_cycles"] < op["cycles"] for op in ops if op["stall_cycles"] is not None)
    assert (tmp_path / "p" / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert f"{cycles:,}" in result.stdout
