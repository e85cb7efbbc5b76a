"""Tuning of tiles: what is measured ends in a table that makes a step no slower; what cannot be measured is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.commands import refused, run
from tests.kit.targets import on_targets
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.table import read_table


@on_targets("pulp")
def test_a_tuned_step_is_no_slower(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    step = ("--target", target.name, "--arch", "mobilenet_wd4", "--size", 32)
    result = run("tune", *step, "--candidates", 2, "--tiles", "model", "--out", file)
    assert result.exit_code == 0, result.output
    table = read_table(file, target=target.name)
    assert len(table.entries) > 10
    assert all(entry.cycles > 0 for entry in table.entries.values())
    measured = re.search(r"took ([\d,]+) cycles and takes ([\d,]+)", result.stdout)
    assert measured
    untuned, tuned = (
        _cycles(*step, "--steps", 1, "--tiles", tiles, "--out", tmp_path / "p") for tiles in ("model", file)
    )
    assert tuned <= 1.01 * untuned
    for said, here in zip(measured.groups(), (untuned, tuned), strict=True):
        assert abs(int(said.replace(",", "")) - here) <= 0.01 * here
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["tiles.json"]


def _cycles(*options: object) -> int:
    """Return the cycles of the one step that deploy runs."""
    result = run("deploy", *options, "--execute")
    assert result.exit_code == 0, result.output
    row = re.search(r"^ +0 .* ([\d,]+)$", result.stdout, re.MULTILINE)
    assert row, result.stdout
    return int(row[1].replace(",", ""))


@pytest.mark.parametrize("name", ["host", "qemu"])
def test_a_target_without_a_chips_clock_is_refused(name: str, tmp_path: Path) -> None:
    refused(run("tune", "--target", name, "--out", tmp_path / "t.json"), "is not cycle-accurate")
    assert not list(tmp_path.iterdir())


def test_nothing_to_choose_among_is_refused(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "t.json")
    refused(run("tune", "--target", "pulp", "--candidates", 1, *out), "at least 2")
    refused(run("tune", "--target", "pulp", "--l1", "off", *out), "no tiles to tune")
    (tmp_path / "t.json").write_text("{")
    refused(run("tune", "--target", "pulp", *out), "is damaged")
