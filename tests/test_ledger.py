"""The ledger of device cycles: what benchmarks/device.json says is still so, and what is required holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import kernels
from benchmarks.device import JSON_FILE, LEDGER, Step, measure, shortfalls
from tests.kit.targets import on_targets
from tinyclf.device.targets.target import Target

SLACK = 0.02  # more cycles than the ledger says are a regression


def _rows() -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows of the ledger by net and size."""
    return {(row["net"], row["size"]): row for row in json.loads(JSON_FILE.read_text())}


def _kernel_sums() -> list[dict[str, Any]]:
    sums: list[dict[str, Any]] = json.loads(kernels.JSON_FILE.read_text())
    return sums


def regression(row: dict[str, Any], ledger: dict[str, Any]) -> str:
    """Say by how much a measured row takes more cycles than the ledger's; "" if by no more than the slack."""
    ratio = row["cycles"] / ledger["cycles"]
    if ratio <= 1 + SLACK:
        return ""
    return (
        f"{row['net']} {row['size']}: {row['cycles']:,} cycles are {ratio - 1:.1%} more than the {ledger['cycles']:,} "
        f"of benchmarks/device.json: find out why, or run make bench-device and say so"
    )


def test_the_ledger_has_every_step_with_its_requirement() -> None:
    rows = _rows()
    assert set(rows) == {(step.net, step.size) for step in LEDGER}, "run make bench-device"
    for step in LEDGER:
        row = rows[step.net, step.size]
        assert (row["most_cycles"], row["least_macs_per_cycle"]) == (step.most_cycles, step.least_rate)
        assert row["macs_per_cycle"] == round(row["macs"] / row["cycles"], 3)


def test_what_is_required_holds_in_the_ledgers() -> None:
    assert [text for row in _rows().values() for text in shortfalls(row)] == []
    assert kernels.shortfalls(_kernel_sums()) == []


def test_shortfalls_and_regressions_are_named() -> None:
    row = {"net": "net LP", "size": 96, "macs": 2_000_000, "cycles": 1_030_000}
    ledger = {**row, "cycles": 1_000_000}
    assert "net LP 96: 1,030,000 cycles are 3.0% more than the 1,000,000" in regression(row, ledger)
    assert "make bench-device" in regression(row, ledger)
    assert regression({**row, "cycles": 1_020_000}, ledger) == ""
    limits = {"most_cycles": 1_029_999, "least_macs_per_cycle": 2.0}
    slow, weak = shortfalls({**row, **limits})
    assert slow == "net LP 96: 1,030,000 cycles, at most 1,029,999 are required"
    assert weak == "net LP 96: 1.942 MAC/clk, at least 2 are required"
    assert shortfalls({**row, "most_cycles": 1_030_000, "least_macs_per_cycle": 1.9}) == []


@on_targets("pulp")
@pytest.mark.parametrize("step", LEDGER, ids=lambda step: f"{step.net} {step.size}")
def test_a_step_takes_no_more_cycles_than_the_ledger_says(target: Target, step: Step) -> None:
    row = measure(step)
    assert row["macs"] == _rows()[step.net, step.size]["macs"]
    assert shortfalls(row) == []
    assert regression(row, _rows()[step.net, step.size]) == ""


@on_targets("pulp")
def test_kernels_take_no_more_cycles_than_the_ledger_says(target: Target) -> None:
    measured = kernels.sums_of(kernels.measure())
    assert kernels.shortfalls(measured) == []
    for now, then in zip(measured, _kernel_sums(), strict=True):
        assert {**now, "cycles": 0, "macs_per_cycle": 0} == {**then, "cycles": 0, "macs_per_cycle": 0}
        assert now["cycles"] <= (1 + SLACK) * then["cycles"], now


def test_a_kernel_that_misses_its_figure_is_named() -> None:
    row = {"net": "net", "kind": "pw", "direction": "fw", "macs": 345, "cycles": 100, "at least": 3.5}
    assert kernels.shortfalls([row]) == ["net pw fw: 3.450 MAC/clk, at least 3.5 are required"]
    assert kernels.shortfalls([{**row, "at least": None}, {**row, "macs": 350}]) == []
