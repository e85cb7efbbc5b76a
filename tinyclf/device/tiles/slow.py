"""Which calls of a step no fast kernel does: where they are done, and their share of the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.kernels import KERNELS
from tinyclf.device.graph.macs import macs_by_call
from tinyclf.device.tiles.plan import Op, TilePlan
from tinyclf.device.tiles.windows import TileWindow


@dataclass(frozen=True)
class SlowCalls:
    """Calls of a kernel that are done in plain C, on tiles or straight from L2.

    `num` of `num_all` calls; `macs` and `cycles` are shares of the step's, None where nothing was measured.
    """

    kernel: str
    on_tiles: bool
    num: int
    num_all: int
    macs: float
    cycles: float | None

    def line(self) -> str:
        """Say it in words."""
        of_all = f"all {self.num} calls" if self.num > 1 else "its call"
        count = of_all if self.num == self.num_all else f"{self.num} of {self.num_all} calls"
        shares = [f"{self.macs:.1%} of the multiply-accumulates"] if self.macs else []
        shares += [f"{self.cycles:.1%} of the cycles"] if self.cycles is not None else []
        where = "on tiles" if self.on_tiles else "straight from L2"
        return ", ".join([f"{self.kernel} in {count}, {where}", *shares])


def slow_calls(graph: Graph, tiles: TilePlan, cycles: Sequence[int] | None = None) -> list[SlowCalls]:
    """Return the calls without a fast kernel, by kernel, those with the largest share first.

    `cycles` are those of each operation, where they were measured.
    """
    macs = macs_by_call(graph)
    groups: dict[tuple[str, bool], list[int]] = {}
    for number, op in enumerate(tiles.ops):
        kernel = graph.calls[_main_call(op, macs)].kernel
        if not is_fast(kernel, op):
            groups.setdefault((kernel, op.body is not None), []).append(number)
    calls = [call.kernel for call in graph.calls]
    found = []
    for (kernel, on_tiles), numbers in groups.items():
        ops = [tiles.ops[number] for number in numbers]
        done = sum(macs[i] for i in {i for op in ops for i in op.calls})
        spent = sum(cycles[number] for number in numbers) / sum(cycles) if cycles else None
        num = len({_main_call(op, macs) for op in ops})
        found.append(SlowCalls(kernel, on_tiles, num, calls.count(kernel), done / max(sum(macs), 1), spent))
    return sorted(found, key=lambda row: (row.cycles or 0.0, row.macs), reverse=True)


def is_fast(kernel: str, op: Op) -> bool:
    """Tell whether an operation's body calls a fast form of the kernel, for a layer that its inner loops do."""
    form = next((form for form in KERNELS[kernel].fast if form.body == op.body), None)
    if form is None:
        return False
    return not form.of_usual_columns or TileWindow.of_fields(dict(op.layer)).has_usual_columns


def _main_call(op: Op, macs: Sequence[int]) -> int:
    """Return the call of an operation that has the most MACs; of equals the first."""
    return max(op.calls, key=lambda i: macs[i])
