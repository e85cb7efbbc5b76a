"""target.toml: what is read of it, and the one line that says what is wrong with it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.targets import COSTS
from tinyclf.base.errors import BadInput
from tinyclf.base.resources import resource_dir
from tinyclf.device.targets.target import find_targets, read_targets
from tinyclf.device.tiles.choose import choose
from tinyclf.device.tiles.kinds import elementwise


@pytest.fixture
def deployers(tmp_path: Path) -> Path:
    """Return a copy of the target.toml of every target."""
    for file in resource_dir("deployers").glob("*/target.toml"):
        (tmp_path / file.parent.name).mkdir()
        shutil.copy(file, tmp_path / file.parent.name)
    return tmp_path


def _changed(deployers: Path, target: str, old: str, new: str) -> Path:
    file = deployers / target / "target.toml"
    text = file.read_text()
    assert re.search(old, text, re.MULTILINE)
    file.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))
    return deployers


def test_all_targets_have_costs_and_those_of_another_are_the_same() -> None:
    targets = find_targets()
    assert targets["pulp"].costs == targets["host"].costs == targets["qemu"].costs == COSTS
    assert COSTS.cores == targets["pulp"].num_cores


@pytest.mark.parametrize(
    ("target", "old", "new", "line"),
    [
        ("pulp", r"^latency = .*\n", "", "pulp/target.toml [costs] [dma]: the key 'latency' is missing"),
        ("pulp", r"^latency", "latncy", "pulp/target.toml [costs] [dma]: unknown key 'latncy': one of bytes_per_cycle, "
         "latency, row, change, copy"),
        ("pulp", r"^latency = 90", 'latency = "90"', "pulp/target.toml [costs] [dma]: 'latency' is '90': it must be a "
         "number"),
        ("pulp", r"^latency = 90", "latency = -90", "pulp/target.toml [costs] [dma]: 'latency' is -90: it must be 0 or "
         "more"),
        ("pulp", r"^cores = 8", "cores = 8.5", "pulp/target.toml [costs]: 'cores' is 8.5: it must be a whole number"),
        ("pulp", r"^cores = 8", "cores = true", "pulp/target.toml [costs]: 'cores' is True: it must be a whole number"),
        ("qemu", r'^costs = "pulp".*\n', "", "qemu/target.toml: the key 'costs' is missing"),
        ("qemu", r'^costs = "pulp"', 'costs = "host"', "qemu/target.toml: 'costs' is 'host': it must be a target that "
         "has costs of its own"),
        ("qemu", r'^costs = "pulp"', "costs = 3", "qemu/target.toml: 'costs' is 3: it must be a section or a text"),
        ("qemu", r"^bytes = .*", 'bytes = "much"', "qemu/target.toml [regions] [RAM]: 'bytes' is 'much': it must be a "
         "whole number"),
        ("pulp", r'^region = "L1"', 'region = "L3"', "pulp/target.toml [tiles]: 'region' is 'L3': it must be a region "
         "with 'bytes'"),
        ("host", r"^num_cores = 8\n", "", "host/target.toml: the key 'num_cores' is missing"),
        ("host", r"^num_cores = 8\n", "num_cores = \n", "host/target.toml: is no TOML: Invalid value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(deployers: Path, target: str, old: str, new: str, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_targets(_changed(deployers, target, old, new))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_change_of_a_figure_changes_what_is_chosen(deployers: Path) -> None:
    """An operation that moves more than it computes takes larger tiles where each tile costs more."""
    slow = read_targets(_changed(deployers, "pulp", r"^bytes_per_cycle = .*", "bytes_per_cycle = 0.5"))["pulp"].costs
    assert slow == replace(COSTS, dma=replace(COSTS.dma, bytes_per_cycle=0.5))
    work = elementwise("tcl_tile_relu_fw", (0,), 20_000, loads=[("X", "x")], stores=[("Y", "y")])
    usual, slower = choose(work, 1 << 16, COSTS), choose(work, 1 << 16, slow)
    assert usual is not None
    assert slower is not None
    assert slower.cycles > 2 * 20_000 * 4 / 0.5 > 2 * usual.cycles
