"""Cycles of the fast kernels on tiles in L1, in GVSoC: rewrites benchmarks/kernels.md and kernels.json.

Run by hand: `python -m benchmarks.kernels`. Simulated cycles are deterministic: a figure that changes has a cause in
the code or the compiler. Every tile's result is compared with the same sums in double.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kernels_cases import (
    Case,
    avgpool_case,
    bias_act_case,
    conv_case,
    dw_case,
    pw_case,
    run_cases,
    write_cases,
)
from tinyclf.errors import TinyclfError
from tinyclf.targets import find_target
from tinyclf.tile import STATE_BYTES

HERE = Path(__file__).parent
TILE_BYTES = ((find_target("pulp").tile_bytes or 0) - STATE_BYTES) // 2  # one of two sets of buffers
DMA_BYTES_PER_CYCLE = 7.5
TOLERANCE = 1e-5
DIRECTIONS = ("fw", "wg", "ig")
TARGETS = {"pw": (3.5, 3.5, 3.5), "dw": (2.6, 2.0, 2.0), "conv": (2.0, 2.0)}

# (channels in, channels out, stride) of the depthwise-separable blocks behind the first convolution, 3 -> 8, stride 2
NETS = {
    "mobilenet_wd4": [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
    + [(128, 128, 1)] * 5
    + [(128, 256, 2), (256, 256, 1)],
    "fdmobilenet_wd4": [(8, 16, 2), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
    + [(128, 128, 1)] * 4
    + [(128, 256, 1)],
}
SIZE = 128


@dataclass(frozen=True)
class Tiles:
    """Equal tiles of one layer."""

    net: str
    layer: str
    kind: str
    direction: str
    case: Case
    count: int


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _pw_estimate(direction: str, tile: tuple[int, int, int], *, accumulate: bool) -> float:
    """Return about how many cycles a pointwise tile (in, out, pixels) takes: a call, its strips, its 4x4 blocks."""
    i, o, p = tile
    m, n, k = {"fw": (o, p, i), "wg": (o, i, p), "ig": (i, p, o)}[direction]
    columns = math.ceil(math.ceil(m / 4) * n / 8)
    return 500 + max(1.0, columns / n) * 90 + columns / 4 * (32 * k + 60 + 40 * accumulate)


def _pw_tile(direction: str, num_in: int, num_out: int, pixels: int, width: int) -> tuple[int, int, int]:
    """Return the tile (in, out, pixels) that fits and takes least time: the longer of computing and of moving it."""
    best: tuple[float, tuple[int, int, int]] | None = None
    ins = _divisors(num_in) if direction != "fw" else [num_in]
    outs = _divisors(num_out) if direction != "ig" else [num_out]
    for i, o, rows in itertools.product(ins, outs, _divisors(pixels // width)):
        p = rows * width
        if 4 * (i * p + o * p + i * o) > TILE_BYTES:
            continue
        n_i, n_o, n_p = num_in // i, num_out // o, pixels // p
        x, y, w = num_in * pixels, num_out * pixels, num_in * num_out
        if direction == "wg":  # the sums stay, or make way to those of other weights
            moved = x * (n_o if n_p * n_i > 1 else 1) + y * (n_i if n_p > 1 else 1) + w
        else:  # either the weights or the pixels stay while the other one changes
            many, read, made = (n_o, x, y) if direction == "fw" else (n_i, y, x)
            moved = made + min(read + w * (n_p if many > 1 else 1), w + read * (many if n_p > 1 else 1))
        num_tiles = n_i * n_o * n_p
        computing = num_tiles * _pw_estimate(direction, (i, o, p), accumulate=direction == "wg" and n_p > 1)
        key = (max(computing, 4 * moved / DMA_BYTES_PER_CYCLE), (i, o, p))
        best = key if best is None else min(best, key)
    assert best is not None
    return best[1]


def _pw_tiles(net: str, name: str, num_in: int, num_out: int, side: int) -> Iterator[Tiles]:
    for direction in DIRECTIONS:
        i, o, p = _pw_tile(direction, num_in, num_out, side * side, side)
        count = num_in * num_out * side * side // (i * o * p)
        more = direction == "wg" and p < side * side
        act = "RELU" if direction == "fw" else "NONE"
        yield Tiles(net, name, "pw", direction, pw_case(direction, i, o, p, accumulate=more, act=act), count)


def _row_ranges(height: int, num_bytes: Callable[[int], float]) -> list[tuple[tuple[int, int], int]]:
    """Return the first, an inner and the last range of as many rows as fit, each with how many there are."""
    rows = max(d for d in _divisors(height) if d > 1 and num_bytes(d) <= TILE_BYTES)
    ranges = [((at, at + rows), 1) for at in range(0, height, rows)]
    return [ranges[0], (ranges[1][0], len(ranges) - 2), ranges[-1]] if len(ranges) > 3 else ranges


def _dw_bytes(direction: str, side: int, stride: int, rows: int) -> float:
    """Return the size of a depthwise tile of 8 channels and `rows` rows of results."""
    if direction == "ig":
        return 4 * 8 * (rows * side + (rows // stride + 3 - stride) * side // stride)
    return 4 * 8 * ((rows * stride + 3 - stride) * side + rows * side // stride)


def _dw_tiles(net: str, name: str, channels: int, side: int, stride: int) -> Iterator[Tiles]:
    out = side // stride
    most = TILE_BYTES // (4 * (side * side + out * out + 40))
    for direction in DIRECTIONS:
        options: dict[str, Any] = {"act": "RELU"} if direction == "fw" else {}
        if most >= 8:  # whole planes
            c = max(d for d in _divisors(channels) if d <= most and d % 8 == 0)
            case = dw_case(direction, c, side, side, stride=stride, **options)
            yield Tiles(net, name, "dw", direction, case, channels // c)
            continue
        height = side if direction == "ig" else out
        for number, (rows, count) in enumerate(_row_ranges(height, partial(_dw_bytes, direction, side, stride))):
            if direction == "wg":
                options = {"accumulate": number > 0}
            case = dw_case(direction, 8, side, side, stride=stride, rows=rows, **options)
            yield Tiles(net, name, "dw", direction, case, count * channels // 8)


def _net_tiles(net: str) -> Iterator[Tiles]:
    side = SIZE // 2
    for direction in ("fw", "wg"):
        for number, (rows, count) in enumerate(
            _row_ranges(side, lambda rows: 4 * (3 * (2 * rows + 1) * SIZE + 8 * rows * side))
        ):
            options: dict[str, Any] = {"act": "RELU"} if direction == "fw" else {"accumulate": number > 0}
            yield Tiles(
                net, "conv", "conv", direction, conv_case(direction, 3, 8, SIZE, SIZE, rows=rows, **options), count
            )
    for number, (num_in, num_out, stride) in enumerate(NETS[net], 1):
        yield from _dw_tiles(net, f"dw{number}", num_in, side, stride)
        side //= stride
        yield from _pw_tiles(net, f"pw{number}", num_in, num_out, side)
    last = NETS[net][-1][1]
    yield Tiles(net, "pool", "pool", "fw", avgpool_case("fw", last, side * side), 1)
    yield Tiles(net, "pool", "pool", "bw", avgpool_case("bw", last, side * side), 1)
    for direction in DIRECTIONS:
        yield Tiles(net, "linear", "linear", direction, pw_case(direction, last, 2, 1), 1)
    yield Tiles(net, "mask and bias", "mask", "bw", bias_act_case(32, 64), 1)
    yield Tiles(net, "bias alone", "mask", "bw", bias_act_case(32, 64, act="NONE"), 1)


def measure() -> list[dict[str, object]]:
    """Run one tile of each kind and return the rows of the table."""
    tiles = [t for net in NETS for t in _net_tiles(net)]
    cases = list({t.case.label: t.case for t in tiles}.values())
    pulp = find_target("pulp")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        write_cases(cases, project, pulp, num_runs=2, in_l1=True)
        outcomes = {o.case.label: o for o in run_cases(cases, project, pulp)}
    rows: list[dict[str, object]] = []
    for t in tiles:
        outcome = outcomes[t.case.label]
        assert outcome.untouched, t.case.label
        assert outcome.error <= TOLERANCE, (t.case.label, outcome.error)
        rows.append(
            {
                "net": t.net,
                "layer": t.layer,
                "kind": t.kind,
                "direction": t.direction,
                "tile": t.case.label,
                "tiles": t.count,
                "macs": t.count * t.case.macs,
                "cycles": t.count * outcome.cycles,
                "macs_per_cycle": round(t.case.macs / outcome.cycles, 2),
                "error": float(f"{outcome.error:.1e}"),
            }
        )
    return rows


def sums_of(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return MACs and cycles over all layers of a kind, direction by direction, with the targets."""
    sums: list[dict[str, object]] = []
    for net, (kind, wanted) in itertools.product(NETS, TARGETS.items()):
        for direction, target in zip(DIRECTIONS, wanted, strict=False):
            own = [r for r in rows if (r["net"], r["kind"], r["direction"]) == (net, kind, direction)]
            macs, cycles = (sum(int(str(r[key])) for r in own) for key in ("macs", "cycles"))
            sums.append(
                {
                    "net": net,
                    "kind": kind,
                    "direction": direction,
                    "macs": macs,
                    "cycles": cycles,
                    "macs_per_cycle": round(macs / cycles, 2),
                    "at least": target if net == "mobilenet_wd4" else "",
                }
            )
    return sums


def _table(rows: list[dict[str, object]]) -> list[str]:
    names = list(rows[0])
    cells = [[f"{r[n]:,}" if isinstance(r[n], int) else str(r[n]) for n in names] for r in rows]
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names), *(f"| {' | '.join(c)} |" for c in cells)]


def main() -> None:
    """Measure and write both files."""
    rows = measure()
    sums = sums_of(rows)
    lines = [
        "# Fast kernels in GVSoC (pulp-open, 8 cores, float32, tiles in L1)",
        "",
        f"Written by `python -m benchmarks.kernels`. Nets at {SIZE}x{SIZE}, tiles of {TILE_BYTES:,} bytes at most.",
        "A call's fork and join (about 100 cycles) is counted, DMA is not. 4 MAC/clk is the most; the MACs of a layer",
        "include those with padding, which are not computed. Of pooling, mask and bias, elements are counted.",
        "",
        *_table(sums),
        "",
        *_table(rows),
    ]
    (HERE / "kernels.md").write_text("\n".join(lines) + "\n")
    (HERE / "kernels.json").write_text(json.dumps({"sums": sums, "layers": rows}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except TinyclfError as error:
        sys.exit(f"error: {error}")
