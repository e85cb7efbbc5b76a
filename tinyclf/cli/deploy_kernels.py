"""What deploy says of the calls that no fast kernel does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tinyclf.device.emit.program import Program


def show_slow_calls(program: Program, cycles: Sequence[int] | None = None) -> None:
    """Print which calls are done in plain C where there are tiles, with their shares; `cycles`: of each operation."""
    from tinyclf.device.tiles.slow import slow_calls

    if program.tiles is None:
        return
    rows = slow_calls(program.graph, program.tiles, cycles)
    if rows:
        click.echo("\n  ".join(["calls in plain C, without a fast kernel:", *(row.line() for row in rows)]))
