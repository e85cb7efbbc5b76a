"""Tiles chosen by measurement: candidates of the cost model are run in the target's simulator, the fastest is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tinyclf.base.errors import BadInput, CheckFailed
from tinyclf.device.memory.plan import Placed
from tinyclf.device.run.job import Job
from tinyclf.device.run.profiling import CYCLES
from tinyclf.device.run.program import make_program
from tinyclf.device.run.step import target_tiles
from tinyclf.device.run.steps import execute, write_steps
from tinyclf.device.targets.results import RECORD_CALL, read_records
from tinyclf.device.targets.target import Target, require_tools
from tinyclf.device.tiles.choose import Choice, Work, candidates
from tinyclf.device.tiles.planner import buffer_bytes, tiled_works
from tinyclf.device.tiles.table import Entry, TileTable, work_key, write_table


@dataclass(frozen=True)
class TunedOp:
    """An operation, how often the step does it, and the cycles of one: as it was cut before, and as it is now."""

    key: str
    count: int
    before: int
    after: int


@dataclass(frozen=True)
class Tuning:
    """What came of tuning a step: the table with the entries that are new, and cycles of the whole step."""

    table: TileTable
    ops: tuple[TunedOp, ...]
    before: int
    after: int


@dataclass(frozen=True)
class _Measured:
    """Cycles of a step's operations, in order, with their keys; None: not tiled."""

    keys: tuple[str | None, ...]
    cycles: tuple[int, ...]

    @property
    def total(self) -> int:
        """Return the cycles of the step."""
        return sum(self.cycles)

    def of(self, key: str) -> int:
        """Return the cycles of all operations of a key."""
        return sum(cycles for k, cycles in zip(self.keys, self.cycles, strict=True) if k == key)


class _Bench:
    """A step that is run again and again, each time with another table."""

    def __init__(self, job: Job, target: Target, table: TileTable) -> None:
        assert target.tile_bytes is not None
        self._job, self._target, self._table = job, target, table
        program = make_program(job, replace(target, tile_table=None))
        self._program = program
        self._num_bytes = buffer_bytes(target.tile_bytes)
        works = tiled_works(
            program.graph, program.plan, l1_bytes=target.tile_bytes, costs=target.costs, traced=program.traced
        )
        self.keys = tuple(work_key(work, self._num_bytes) if work else None for work in works)
        self.works: dict[str, Work] = {key: w for key, w in zip(self.keys, works, strict=True) if key and w}

    def candidates(self, key: str, most: int) -> list[Choice]:
        """Return at most `most` tilings: the one of the table, if it has one, then those of the cost model."""
        work = self.works[key]
        tuned = self._table.choice(work, self._num_bytes)
        best = candidates(work, self._num_bytes, self._target.costs, most)
        return ([tuned, *(c for c in best if c != tuned)] if tuned else best)[:most]

    def run(self, choices: dict[str, Choice]) -> _Measured:
        """Build, run and verify the step with operations cut by `choices`, the others as before.

        Raises:
            CheckFailed: a value differs from PyTorch's.
        """
        with tempfile.TemporaryDirectory() as folder:
            file, project = Path(folder) / "tiles.json", Path(folder) / "project"
            write_table(file, self._table.with_entries({key: Entry(choice, 0) for key, choice in choices.items()}))
            target = replace(self._target, tile_table=file)
            placed, traced = Placed(self._program.graph, self._program.plan), self._program.traced
            program = replace(self._program, tiles=target_tiles(placed, target, traced=traced))
            write_steps(program, self._job, target, project)
            report = execute(self._job, program, target, project, CYCLES)
            cycles = [int(words.view("<u8")[0]) for record, _, words in read_records(project) if record == RECORD_CALL]
        if not report.passed:
            raise CheckFailed("a step differs from PyTorch: no table was written; deploy --execute shows the values")
        return _Measured(self.keys, tuple(cycles))


def tune(
    job: Job,
    target: Target,
    *,
    table: TileTable,
    num_candidates: int,
    notify: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Run one step of `job` with `num_candidates` tilings of every operation; return the table with the fastest.

    Round r runs candidate r of all operations at once, so that as many runs as candidates do. An operation's cycles
    depend a little on the one before it, whose last tile hides the load of its first: the fastest ones are run
    together once more, and one stays only if it makes its operation and the next one faster together.

    Raises:
        BadInput: the target has no tiles, it is not cycle-accurate, or there are too few candidates.
        CheckFailed: a value differs from PyTorch's.
        ToolFailed: a tool is missing, or a build or a run failed.
    """
    check_tunable(target, num_candidates)
    require_tools(target)
    bench = _Bench(replace(job, num_steps=1, gradients=False), target, table)
    offered = {key: bench.candidates(key, num_candidates) for key in bench.works}
    rounds: list[_Measured] = []
    for number in range(max(len(choices) for choices in offered.values())):
        rounds.append(bench.run({key: choices[min(number, len(choices) - 1)] for key, choices in offered.items()}))
        notify(f"candidate {number + 1} of {num_candidates}: {rounds[-1].total:,} cycles")
    first = rounds[0]
    best = {key: min(range(len(choices)), key=lambda r: rounds[r].of(key)) for key, choices in offered.items()}
    changed = {key for key, number in best.items() if number}
    together = bench.run({key: offered[key][number] for key, number in best.items()})
    notify(f"fastest of each: {together.total:,} cycles")
    idle = {key for key in changed if _gain(key, first, together, changed) <= 0}
    if idle:
        best |= dict.fromkeys(idle, 0)
        together = bench.run({key: offered[key][number] for key, number in best.items()})
        notify(f"without {len(idle)} that gain nothing: {together.total:,} cycles")
    if together.total > first.total:
        best, together = dict.fromkeys(best, 0), first
    ops = tuple(
        TunedOp(key, n, round(first.of(key) / n), round(together.of(key) / n))
        for key, n in ((key, bench.keys.count(key)) for key in best)
    )
    entries = {op.key: Entry(offered[op.key][best[op.key]], op.after) for op in ops}
    return Tuning(table.with_entries(entries), ops, first.total, together.total)


def _gain(key: str, before: _Measured, after: _Measured, changed: set[str]) -> int:
    """Return the cycles that a key's operations gained, with those behind them that were not changed themselves."""
    gains = [b - a for b, a in zip(before.cycles, after.cycles, strict=True)]
    behind = (*before.keys[1:], None)
    return sum(
        gain + (next_gain if next_key not in changed else 0)
        for k, gain, next_key, next_gain in zip(before.keys, gains, behind, (*gains[1:], 0), strict=True)
        if k == key
    )


def check_tunable(target: Target, num_candidates: int) -> None:
    """Raise BadInput if nothing can be tuned on `target` or with so few candidates."""
    if not target.counts_cycles:
        raise BadInput(f"target {target.name} is not cycle-accurate, nothing can be measured: tune for pulp")
    if target.tile_bytes is None:
        raise BadInput("there are no tiles to tune with --l1 off")
    if num_candidates < 2:
        raise BadInput(f"--candidates {num_candidates}: give at least 2, to choose among")
