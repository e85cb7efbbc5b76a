"""What deploy does with --profile: it refuses what has no profile, and shows where the cycles of a step went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tinyclf.device.emit.program import Program
    from tinyclf.device.targets.target import Target


def check_profile(target: Target, *, run_it: bool, is_training_run: bool) -> None:
    """Refuse --profile where there are no cycles to show.

    Raises:
        BadInput: `target` is not cycle-accurate, nothing is run, or it is a whole training run.
    """
    from tinyclf.base.errors import BadInput
    from tinyclf.device.run.profiling import require_clock

    require_clock(target)
    if is_training_run:
        raise BadInput("--profile shows single steps: leave out --epochs")
    if not run_it:
        raise BadInput("--profile shows what a run took: add --execute")


def show_profile(program: Program, target: Target, project: Path, *, num_cores: int) -> None:
    """Print the profile of the run that was done in `project`, and write its files there."""
    from tinyclf.cli.deploy_kernels import show_slow_calls
    from tinyclf.device.run.profiling import JSON_FILE, PICTURE_FILE, make_profile, table_lines, write_profile
    from tinyclf.device.targets.results import read_records

    profile = make_profile(program, target, read_records(project), num_cores=num_cores)
    click.echo("\n".join(["", *table_lines(profile)]))
    show_slow_calls(program, [op.cycles for op in profile.ops])
    write_profile(profile, project)
    click.echo(f"profile: {project / JSON_FILE}, {project / PICTURE_FILE}")
