"""The table of kernels in docs/kernels.md, from the table of kernels: `python -m tests.kit.kernel_docs` writes it."""

from __future__ import annotations

from tests.kit.paths import ROOT
from tinyclf.device.graph.kernels import KERNELS, Kernel

FILE = ROOT / "docs" / "kernels.md"
HEAD = """# Kernels

Each function that a step of training calls, as `tinyclf/device/graph/kernels.py` has it. This file is written by
`python -m tests.kit.kernel_docs`.

- "launched by": on which cores.
- "on tiles": the body that does the work on tiles in L1. Without one it is done where the tensors lie, on PULP in L2.
- "fast form": the function with inner loops in the target's own instructions, and what it asks of a layer. A body
  without one is plain C.

`tinyclf deploy` says which calls of a net are done without a fast form, and with how much of the work.
"""


def text() -> str:
    """Return the file."""
    lines = [
        "| layer | direction | kernel | header | launched by | on tiles | fast form |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([HEAD, *lines, *map(_row, KERNELS.values())]) + "\n"


def _row(row: Kernel) -> str:
    fast = [f"`{form.symbol}`" + (f": {form.condition}" if form.condition else "") for form in row.fast]
    types = " to ".join(type.name for type in row.types)
    cells = [row.layer, row.direction, types, f"`{row.symbol}`", f"`{row.header}`", row.launch.value]
    cells += [", ".join(f"`{tile.symbol}`" for tile in row.tiles) or "-", "; ".join(fast) or "-"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    FILE.write_text(text())
