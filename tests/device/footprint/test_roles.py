"""Regions with roles: on a chip with flash and RAM frozen weights are counted in flash, trained ones in RAM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.kit.steps import training_graph
from tinyclf.base.errors import BadInput, DoesNotFit, Unsupported
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.footprint.fitting import Surroundings, bytes_needed, num_fitting_samples
from tinyclf.device.footprint.regions import RegionUse
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, INT8
from tinyclf.device.memory.plan import Placed
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.samples import Linked
from tinyclf.device.memory.sums import summed
from tinyclf.device.memory.trained_pieces import trained_block_bytes
from tinyclf.device.run.program import program_regions, require_fit
from tinyclf.device.targets.target import Target, read_targets
from tinyclf.recipe.update_rule import UpdateRule

FLASH, RAM = 1 << 20, 1 << 18
TARGET = """
description = "made up: flash and RAM"
num_cores = 1
most_cores = 1
cycles = false
costs = "pulp"

[regions.RAM]
holds = ["state"]
origin = 0x20000000
bytes = 0x40000
core_stack_bytes = 4096

[regions.flash]
holds = ["code", "constants"]
origin = 0x08000000
bytes = 0x100000

[code]
base = 2000
training_run = 7000
rule = 1000
kernel = 400

[tools]
"""


@pytest.fixture
def chip(tmp_path: Path) -> Target:
    """Return the target that is made up."""
    return _read(tmp_path, TARGET)


def _read(folder: Path, text: str) -> Target:
    pulp = (Path(__file__).parents[3] / "deployers" / "pulp" / "target.toml").read_text()
    for name, content in (("pulp", pulp), ("chip", text)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "target.toml").write_text(content)
    return read_targets(folder)["chip"]


def _model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1),
                          nn.Flatten(), nn.Linear(6, 3))  # fmt: skip
    model[0].requires_grad_(False)
    return model


def _program(*, num_samples: int = 2) -> Program:
    model = _model()
    graph = training_graph(model, input_shape=(3, 8, 8), rule=UpdateRule(0.1, momentum=0.9))
    values = {name: p.detach().numpy() for name, p in model.named_parameters()}
    samples, labels = np.zeros((num_samples, 3, 8, 8), np.float32), np.zeros((num_samples, 3), np.float32)
    return Program(graph, plan_memory(graph), values, samples, labels, 1, frozenset())


def _regions(program: Program, chip: Target) -> tuple[dict[str, int | None], dict[str, int | None]]:
    ram, flash = program_regions(program, chip)
    assert (ram.name, flash.name) == ("RAM", "flash")
    return dict(ram.parts), dict(flash.parts)


def test_frozen_weights_are_counted_in_flash_and_trained_ones_in_ram(chip: Target) -> None:
    program = _program()
    ram, flash = _regions(program, chip)
    frozen = 4 * (8 * 3 * 9 + 8)
    trained = 4 * (6 * 8 + 6 + 3 * 6 + 3)
    assert flash["parameters, frozen"] == frozen
    assert ram["parameters, frozen"] == 0
    assert ram["parameters, trained"] == ram["optimizer state"] == trained
    assert "parameters, trained" not in flash
    assert flash["samples"] == 2 * 4 * (3 * 8 * 8 + 3)
    assert flash["first values"] == trained_block_bytes(program.graph, program.plan) >= trained
    assert flash["code and constants"]
    assert "code and constants" not in ram
    assert ram["stack"] == 4096


def test_nothing_is_lost_or_counted_twice(chip: Target) -> None:
    """The two regions together hold what one does, and the first values besides."""
    program = _program()
    whole = replace(chip, regions=(replace(chip.regions[0], holds=("code", "constants", "state")),))
    (one,) = program_regions(program, whole)
    ram, flash = program_regions(program, chip)
    assert ram.total + flash.total == one.total + trained_block_bytes(program.graph, program.plan)
    assert bytes_needed(Placed(program.graph, program.plan), Surroundings(chip, Linked(2))) == ram.total


def test_what_is_frozen_within_a_trained_parameter_lies_in_ram(chip: Target) -> None:
    program = _program()
    tensors = tuple(replace(t, trained_channels=2) if t.name == "2.weight" else t for t in program.graph.tensors)
    graph = replace(program.graph, tensors=tensors)
    ram, flash = _regions(replace(program, graph=graph, plan=plan_memory(graph)), chip)
    assert ram["parameters, frozen"] == 4 * 4 * 8
    assert flash["parameters, frozen"] == 4 * (8 * 3 * 9 + 8)


def test_frozen_weights_of_other_types_begin_where_a_block_of_their_own_can() -> None:
    graph = _program().graph
    tensors = tuple(replace(t, dtype=INT8) if t.name.endswith("bias") else t for t in graph.tensors)
    graph = replace(graph, tensors=tensors)
    plan = plan_memory(graph)
    assert trained_block_bytes(graph, plan) % BLOCK_ALIGNMENT == 0
    assert summed(graph, plan).parameters_frozen == 4 * 8 * 3 * 9 + 8


@pytest.mark.parametrize("name", ["RAM", "flash"])
def test_does_not_fit_names_the_region_that_is_too_small(chip: Target, name: str) -> None:
    program = _program()
    require_fit(program, chip)

    def with_bytes(num_bytes: int) -> Target:
        regions = tuple(replace(r, num_bytes=num_bytes) if r.name == name else r for r in chip.regions)
        return replace(chip, regions=regions)

    use: RegionUse = next(r for r in program_regions(program, chip) if r.name == name)
    require_fit(program, with_bytes(use.total))
    what = {"RAM": "parameters, trained 300", "flash": "parameters, frozen 896"}[name]
    with pytest.raises(DoesNotFit, match=rf"needs {use.total:,} bytes of {name} \(.*{what}.*has {use.total - 1:,}"):
        require_fit(program, with_bytes(use.total - 1))


def test_no_program_is_written_whose_frozen_weights_would_lie_elsewhere_than_counted(chip: Target) -> None:
    with pytest.raises(Unsupported, match="target chip keeps constants in a region of their own"):
        emit(_program(), target=chip, num_cores=1, command="tests")


def test_samples_fill_the_region_of_constants(chip: Target) -> None:
    program = _program(num_samples=0)
    step = Placed(program.graph, program.plan)
    num = num_fitting_samples(step, Surroundings(chip))
    assert num > FLASH // (4 * (3 * 8 * 8 + 3)) // 2
    totals = [program_regions(_program(num_samples=n), chip)[1].total for n in (num, num + 1)]
    assert totals[0] <= FLASH < totals[1]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            '["state"]',
            '["state", "constants"]',
            "'constants' is in 'holds' of RAM and flash: it must be in that of one",
        ),
        ('["state"]', "[]", "'state' is in 'holds' of none: it must be in that of one region"),
        ('["state"]', '["state", "heap"]', r"\[RAM\]: 'holds' names 'heap': it must be of code, constants, state"),
        ('["state"]', '"state"', r"\[RAM\]: 'holds' is 'state': it must be a list, each a text"),
    ],
)
def test_roles_are_checked(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert old in TARGET
    with pytest.raises(BadInput, match=rf"^chip/target.toml \[regions\].*{line}"):
        _read(tmp_path, TARGET.replace(old, new))


def test_sizes_of_the_chip_are_those_of_its_file(chip: Target) -> None:
    assert (chip.memory_bytes, chip.region_of("constants").num_bytes) == (RAM, FLASH)
    assert chip.is_split
