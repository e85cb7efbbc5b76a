"""The fast kernels against the same sums in double, on tiles of odd sizes, on every target and number of cores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.kernels_cases import (
    Case,
    arena_before,
    avgpool_case,
    bias_act_case,
    conv_case,
    descend_case,
    dw_case,
    pw_case,
    run_cases,
    write_cases,
)
from tests.kit.targets import on_targets
from tinyclf.base.errors import ToolFailed
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
from tinyclf.device.targets.target import Target, find_target

TOLERANCE = BOUNDS[FLOAT32].layer
SEED = 20261121
NUM_CORES = (1, 2, 3, 8)
ACTS = ("NONE", "RELU", "RELU6")
UNUSUAL = ((7, 17, 3, 1), (6, 16, 3, 0), (9, 17, 1, 2), (9, 16, 2, 2))  # height, width, stride and padding


def _pw_cases(rng: np.random.Generator) -> Iterator[Case]:
    sizes = [
        (1, 1, 1),
        (4, 4, 4),
        (2, 4, 8),
        (3, 5, 17),
        (8, 16, 12),
        (9, 8, 7),
        (1, 9, 4),
        (6, 2, 1),
        (40, 3, 1),
        (5, 33, 9),
        (24, 12, 9),
    ]
    sizes += [tuple(int(n) for n in rng.integers(1, (10, 10, 18))) for _ in range(15)]
    for number, (num_in, num_out, pixels) in enumerate(sizes):
        for direction in ("fw", "wg", "ig"):
            accumulate = bool(rng.integers(2))
            bias = direction == "fw" and not accumulate and bool(rng.integers(2))
            act = ACTS[number % 3] if direction == "fw" else "NONE"
            gap = int(rng.integers(3))
            options = {"bias": bias, "accumulate": accumulate, "act": act}
            yield pw_case(direction, num_in, num_out, pixels, gap=gap, **options)
            if number % 2:
                yield pw_case(direction, num_in, num_out, pixels, gap=gap, x_gap=gap + 1, **options)
        yield descend_case(num_in, num_out, pixels, gap=int(rng.integers(3)), decay=0.125 * (number % 2))


def _window_options(rng: np.random.Generator, direction: str, number: int) -> dict[str, Any]:
    options: dict[str, Any] = {"gap": int(rng.integers(3))}
    if direction == "fw":
        options |= {"bias": bool(rng.integers(2)), "act": ACTS[number % 3]}
    if direction == "wg":
        options["accumulate"] = bool(rng.integers(2))
    return options


def _windows(rng: np.random.Generator) -> Iterator[tuple[int, int, int, int]]:
    """Yield height, width, stride and padding: the usual, the smallest, and any."""
    yield from [
        (4, 4, 1, 1),
        (2, 2, 1, 1),
        (1, 1, 1, 1),
        (1, 5, 1, 1),
        (8, 8, 2, 1),
        (2, 2, 2, 1),
        (4, 4, 2, 1),
        (3, 3, 1, 0),
    ]
    yield from [(7, 17, 1, 1), (6, 16, 2, 1), (9, 3, 1, 1), (5, 2, 1, 1), (4, 17, 2, 1), (8, 6, 2, 0)]
    for _ in range(12):
        pad = int(rng.integers(2))
        height, width = (int(n) for n in rng.integers(3 - 2 * pad, (10, 18)))
        yield height, width, int(rng.integers(1, 3)), pad


def _dw_cases(rng: np.random.Generator, windows: Iterable[tuple[int, int, int, int]]) -> Iterator[Case]:
    for number, (height, width, stride, pad) in enumerate(windows):
        out = (height + 2 * pad - 3) // stride + 1
        for direction in ("fw", "wg", "ig"):
            most = height if direction == "ig" else out
            first = int(rng.integers(most))
            for rows in (None, (first, int(rng.integers(first, most)) + 1)):
                options = _window_options(rng, direction, number)
                channels = int(rng.integers(1, 10))
                yield dw_case(direction, channels, height, width, stride=stride, pad=pad, rows=rows, **options)


def _conv_cases(rng: np.random.Generator) -> Iterator[Case]:
    for number, (height, width, stride, pad) in enumerate(_windows(rng)):
        out = (height + 2 * pad - 3) // stride + 1
        for direction in ("fw", "wg"):
            options = _window_options(rng, direction, number)
            num_in, num_out = (int(n) for n in rng.integers(1, 6, 2))
            first = int(rng.integers(out))
            rows = (first, out) if number % 2 else None
            yield conv_case(direction, num_in, num_out, height, width, stride=stride, pad=pad, rows=rows, **options)


def _map_cases(rng: np.random.Generator) -> Iterator[Case]:
    for channels, pixels in ((1, 1), (3, 5), (9, 17), (16, 4), (2, 64)):
        for act in ACTS:
            for sums in (True, False) if act != "NONE" else (True,):
                yield bias_act_case(channels, pixels, gap=1, sums=sums, accumulate=bool(rng.integers(2)), act=act)
        yield avgpool_case("fw", channels, pixels, gap=1)
        yield avgpool_case("fw", channels, pixels, accumulate=True)
        yield avgpool_case("bw", channels, pixels, gap=1)


@cache
def _cases() -> tuple[Case, ...]:
    rng = np.random.default_rng(SEED)
    return (
        *_pw_cases(rng),
        *_dw_cases(rng, _windows(rng)),
        *_conv_cases(rng),
        *_map_cases(rng),
        *_dw_cases(rng, UNUSUAL),
    )


@on_targets()
def test_kernels_match_the_sums_in_double_and_touch_nothing_else(target: Target, tmp_path: Path) -> None:
    project = tmp_path / "cases"
    write_cases(_cases(), project, target)
    arenas = set()
    for num_cores in NUM_CORES:
        variables = [f"NUM_CORES={num_cores}"]
        if target.name == "host":
            variables.append("SANITIZE=address,undefined")
        if num_cores == 3:
            variables.append("CHECKS=1")
        outcomes = run_cases(_cases(), project, target, *variables)
        wrong = [(o.case.label, o.error) for o in outcomes if not o.error <= TOLERANCE]
        assert not wrong, f"seed {SEED}, {num_cores} cores: {wrong}"
        touched = [o.case.label for o in outcomes if not o.untouched]
        assert not touched, f"seed {SEED}, {num_cores} cores, written beside the output: {touched}"
        arenas.add(b"".join(o.arena for o in outcomes))
    assert len(arenas) == 1, "a result depends on the number of cores"


@pytest.mark.target("host")
def test_cores_do_not_race(tmp_path: Path) -> None:
    host = find_target("host")
    write_cases(_cases(), tmp_path / "cases", host)
    run_cases(_cases(), tmp_path / "cases", host, "SANITIZE=thread")


def test_a_wrong_result_is_found(tmp_path: Path) -> None:
    host = find_target("host")
    right = pw_case("fw", 3, 5, 7)
    wrong = Case(right.label, right.function, right.arguments, right.buffers, lambda v: {"x": v["x"] + 1}, 1)
    write_cases([wrong], tmp_path / "cases", host)
    (outcome,) = run_cases([wrong], tmp_path / "cases", host)
    assert outcome.error > 0.1
    assert not outcome.untouched


@pytest.mark.parametrize("kind", ["pw fw", "dw fw", "conv fw"])
def test_values_are_clipped_on_both_sides(kind: str) -> None:
    values = []
    for number, case in enumerate(_cases()):
        if case.label.startswith(kind) and case.label.endswith("RELU6"):
            before = arena_before(number, case.num_words).astype(np.float64)
            buffers = {
                name: before[start : start + int(np.prod(case.buffers[name]))].reshape(case.buffers[name])
                for name, start in case.offsets().items()
                if name
            }
            values.append(case.expected(buffers)["y"].ravel())
    clipped = np.concatenate(values)
    assert (clipped == 0).sum() > 10
    assert (clipped == 6).sum() > 10
    assert ((clipped > 0) & (clipped < 6)).sum() > 10


RIGHT_PW, RIGHT_DW = pw_case("fw", 3, 5, 7), dw_case("fw", 2, 4, 4)
WRONG: dict[str, Case] = {
    "no pixels": pw_case("fw", 3, 5, 0),
    "rows overlap": pw_case("ig", 3, 5, 7, gap=-1),
    "planes overlap": dw_case("fw", 2, 4, 4, gap=-1),
    "a bias added again": replace(RIGHT_PW, arguments=(RIGHT_PW.arguments[0], "x", "w", "bias", "y", 1, "0")),
    "no weights": replace(RIGHT_DW, arguments=(RIGHT_DW.arguments[0], "x", "0", "0", "y", "TCL_ACT_NONE")),
}


@pytest.mark.target("host")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_kernel_checks_its_contract(wrong: str, tmp_path: Path) -> None:
    host = find_target("host")
    write_cases([WRONG[wrong]], tmp_path / "cases", host)
    with pytest.raises(ToolFailed, match=r"fast_\w+\.[ch]:\d+: check failed"):
        run_cases([WRONG[wrong]], tmp_path / "cases", host)
