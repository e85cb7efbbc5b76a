"""Which calls no fast kernel does, and their shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.kit.commands import run
from tests.kit.steps import training_graph
from tests.kit.targets import COSTS, on_targets
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.macs import macs_by_call
from tinyclf.device.lowering.lower import PLAIN
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.plan import TilePlan
from tinyclf.device.tiles.planner import plan_tiles
from tinyclf.device.tiles.slow import slow_calls

SLOW_WINDOW, GROUPED = "pulp_conv_dw_fp32_fw_cl", "tcl_conv_group_fp32_fw_cl"


@pytest.fixture(scope="module")
def step() -> tuple[Graph, TilePlan]:
    """Return a step of a net with a fast depthwise layer, a slow one, and one with dilation, which no tiles do."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 5, padding=2, groups=8)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    model = nn.Sequential(*layers, nn.Conv2d(8, 8, 3, groups=2, dilation=2), *head)
    for parameter in model[:4].parameters():
        parameter.requires_grad_(False)
    graph = training_graph(model, input_shape=(3, 8, 8), rule=PLAIN)
    return graph, plan_tiles(graph, plan_memory(graph), costs=COSTS, l1_bytes=65536)


def test_what_has_no_fast_form_is_found_with_its_share(step: tuple[Graph, TilePlan]) -> None:
    graph, tiles = step
    rows = {row.kernel: row for row in slow_calls(graph, tiles)}
    loss = {"pulp_CrossEntropyLoss", "pulp_CrossEntropyLoss_backward"}
    assert set(rows) == {SLOW_WINDOW, GROUPED, "tcl_bias_fp32_fw_cl", *loss}
    macs = 8 * 8 * 8 * (3 + 9 + 25) + 8 * 4 * 4 * 4 * 9 + 2 * 2 * 8  # the linear layer forward, and its weights
    assert sum(macs_by_call(graph)) == macs
    window, grouped = rows[SLOW_WINDOW], rows[GROUPED]
    assert (window.on_tiles, window.num, window.num_all, window.macs) == (True, 1, 2, 8 * 8 * 8 * 25 / macs)
    assert (grouped.on_tiles, grouped.num, grouped.num_all, grouped.macs) == (False, 1, 1, 8 * 4 * 4 * 36 / macs)
    assert window.line() == f"{SLOW_WINDOW} in 1 of 2 calls, on tiles, {window.macs:.1%} of the multiply-accumulates"
    assert rows["pulp_CrossEntropyLoss"].line() == "pulp_CrossEntropyLoss in its call, straight from L2"


def test_cycles_are_shared_out_by_operation(step: tuple[Graph, TilePlan]) -> None:
    graph, tiles = step
    cycles = [30 if op.body == "tcl_tile_dw_fw" else 10 for op in tiles.ops]
    rows = slow_calls(graph, tiles, cycles)
    assert [row.cycles for row in rows] == sorted((row.cycles for row in rows), reverse=True)  # type: ignore[type-var]
    assert rows[0].kernel == SLOW_WINDOW
    assert rows[0].cycles == 30 / sum(cycles)
    assert rows[0].line().endswith(f"{30 / sum(cycles):.1%} of the cycles")


@on_targets("pulp")
def test_deploy_says_them(target: Target, tmp_path: Path) -> None:
    options = ("deploy", "--target", "pulp", "--size", 32, "--steps", 1, "--out", tmp_path / "p")
    said = run(*options).stdout
    assert "calls in plain C, without a fast kernel:\n" in said
    assert "  pulp_CrossEntropyLoss in its call, straight from L2\n" in said
    profiled = run(*options, "--execute", "--profile").stdout
    assert "  pulp_CrossEntropyLoss in its call, straight from L2, " in profiled
    assert "calls in plain C" not in run(*options, "--l1", "off").stdout
