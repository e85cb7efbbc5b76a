"""Cycles of the fast kernels on tiles in L1, in GVSoC: rewrites benchmarks/kernels.md and kernels.json.

Run by `make bench-device`. The tiles are those that a full training step is cut into, by the shipped table. Simulated
cycles are deterministic: a figure that changes has a cause in the code or the compiler. Every tile's result is compared
with the same sums in double.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kernels_cases import Case, conv_case, dw_case, pw_case, run_cases, write_cases
from tinyclf.base.errors import TinyclfError
from tinyclf.device.footprint.fitting import Surroundings
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.run.step import plan_step
from tinyclf.device.targets.target import find_target
from tinyclf.device.tiles.plan import Op
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

HERE = Path(__file__).parent
JSON_FILE = HERE / "kernels.json"
TOLERANCE = BOUNDS[FLOAT32].layer
DIRECTIONS = ("fw", "wg", "ig")
NETS = ("mobilenet_wd4", "fdmobilenet_wd4")
REQUIRED = {"pw": (3.5, 3.5, 3.5), "dw": (2.6, 2.0, 2.0), "conv": (None, None)}  # MAC/clk, of the first net
SIZE = 128
_ACTS = ("NONE", "RELU", "RELU6")  # enum tcl_act


@dataclass(frozen=True)
class Tiles:
    """Equal tiles of one layer: `kind` pw, dw, conv or linear."""

    net: str
    layer: str
    kind: str
    direction: str
    case: Case
    count: int


def _case(op: Op, kind: str, direction: str, index: Sequence[int]) -> Case:
    """Return the kernel's call on the tile at `index`."""
    by_slot = {o.slot: o for o in op.operands}
    layer: dict[str, Any] = dict(op.layer)
    inputs, outputs = by_slot["DX" if direction == "ig" else "X"], by_slot["Y" if direction == "fw" else "DY"]
    (first_in, stop_in, at, end), (first_out, stop_out, start, stop) = inputs.ranges(index), outputs.ranges(index)
    num_in, num_out = stop_in - first_in, stop_out - first_out
    summing = index[op.num_outer :]
    options: dict[str, Any] = {"accumulate": any(summing)}
    if direction == "fw":
        is_last = all(i == n - 1 for i, n in zip(summing, op.counts[op.num_outer :], strict=True))
        options["act"] = _ACTS[int(layer.get("act", 0)) if is_last else 0]
    if kind == "pw":
        return pw_case(direction, num_in, num_out, stop - start, **options)
    if direction != "wg":
        options.pop("accumulate")
    options |= {"stride": layer["stride_h"], "pad": layer["pad_top"]}
    image = (layer["in_height"], layer["in_width"])
    if kind == "conv":
        return conv_case(direction, num_in, num_out, *image, rows=(start, stop), **options)
    return dw_case(direction, num_out, *image, rows=(at, end) if direction == "ig" else (start, stop), **options)


def _net_tiles(net: str) -> Iterator[Tiles]:
    """Yield the tiles of a full training step whose gradients are looked at: a kernel does nothing but its gradient."""
    pulp = find_target("pulp")
    model = build_model(net, num_classes=2, size=SIZE)
    freeze(model, Variant("full"))
    step = plan_step(
        fold_batchnorm(model),
        image=(3, SIZE, SIZE),
        rule=UpdateRule(0.01, batch=2),
        around=Surroundings(pulp),
        traces=traced_tensors,
    )
    assert step.tiles is not None
    for op in step.tiles.ops:
        kind, _, direction = (op.body or "").removeprefix("tcl_tile_").partition("_")
        kind = "conv" if kind == "conv3" else kind
        if kind not in REQUIRED or direction not in DIRECTIONS:
            continue
        call = step.graph.calls[op.calls[0]]
        counts = Counter(_case(op, kind, direction, index).label for index in op.indices())
        cases = {case.label: case for case in (_case(op, kind, direction, index) for index in op.indices())}
        named = "linear" if "linear" in call.kernel else kind
        for label, count in counts.items():
            yield Tiles(net, call.node, named, direction, cases[label], count)


def measure() -> list[dict[str, Any]]:
    """Run one tile of each shape and return the rows of the table."""
    tiles = [t for net in NETS for t in _net_tiles(net)]
    cases = list({t.case.label: t.case for t in tiles}.values())
    pulp = find_target("pulp")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        write_cases(cases, project, pulp, num_runs=2, in_l1=True)
        outcomes = {o.case.label: o for o in run_cases(cases, project, pulp)}
    rows: list[dict[str, Any]] = []
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


def sums_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return MACs and cycles over all layers of a kind, direction by direction, with what is required, if anything."""
    sums: list[dict[str, Any]] = []
    for net, (kind, wanted) in itertools.product(NETS, REQUIRED.items()):
        for direction, least in zip(DIRECTIONS, wanted, strict=False):
            own = [r for r in rows if (r["net"], r["kind"], r["direction"]) == (net, kind, direction)]
            macs, cycles = (sum(int(r[key]) for r in own) for key in ("macs", "cycles"))
            sums.append(
                {
                    "net": net,
                    "kind": kind,
                    "direction": direction,
                    "macs": macs,
                    "cycles": cycles,
                    "macs_per_cycle": round(macs / cycles, 2),
                    "at least": least if net == NETS[0] else None,
                }
            )
    return sums


def shortfalls(sums: list[dict[str, Any]]) -> list[str]:
    """Return the requirements that are not met, in words; none is well."""
    return [
        f"{s['net']} {s['kind']} {s['direction']}: {s['macs'] / s['cycles']:.3f} MAC/clk, at least {s['at least']} are "
        f"required"
        for s in sums
        if s["at least"] is not None and s["macs"] < s["at least"] * s["cycles"]
    ]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    texts = [[r[n] for n in names] for r in rows]
    cells = [["" if v is None else f"{v:,}" if isinstance(v, int) else str(v) for v in row] for row in texts]
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names), *(f"| {' | '.join(c)} |" for c in cells)]


def main() -> None:
    """Measure and write both files."""
    rows = measure()
    sums = sums_of(rows)
    lines = [
        "# Fast kernels in GVSoC (pulp-open, 8 cores, float32, tiles in L1)",
        "",
        f"Written by `make bench-device`. The tiles of a full training step at {SIZE}x{SIZE}, by the shipped table. A",
        "call's fork, set-up and join (some 600 cycles) are counted, DMA is not. 4 MAC/clk is the most; the MACs of a",
        "layer include those with padding, which are not computed.",
        "",
        *_table(sums),
        "",
        *_table(rows),
    ]
    (HERE / "kernels.md").write_text("\n".join(lines) + "\n")
    JSON_FILE.write_text(json.dumps(sums, indent=1) + "\n")
    print("\n".join(lines[: 8 + len(sums)]), *shortfalls(sums), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except TinyclfError as error:
        sys.exit(f"error: {error}")
