"""The targets that emitted C can be built for, as deployers/ describes them."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from tinyclf.base.errors import BadInput, ToolFailed
from tinyclf.base.resources import resource_dir
from tinyclf.base.sizes import parse_bytes
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, MOST_TILE_BYTES
from tinyclf.device.targets.costs import Costs
from tinyclf.device.targets.sections import read_section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

L1_ALIGNMENT = BLOCK_ALIGNMENT
TILE_TABLE = "tiles.json"  # of a target's folder


CODE, CONSTANTS, STATE = "code", "constants", "state"
ROLES = (CODE, CONSTANTS, STATE)  # of regions: what runs, what is only read, what is written


@dataclass(frozen=True)
class Region:
    """A memory of a target. Each of `ROLES` is that of one region; others hold stacks, and tiles where [tiles] says."""

    name: str
    origin: int | None  # first address; None: the system places what it likes where it likes
    num_bytes: int | None  # None: as much as wanted
    stack_bytes: int  # of stacks that are there once
    core_stack_bytes: int  # of each core's stack
    holds: tuple[str, ...] = ()  # of ROLES


@dataclass(frozen=True)
class TileCodeBound:
    """The same of a program that works on tiles; rule and training run as without."""

    base: int
    body: int  # for each body of tiles
    depthwise: int  # for each of them that is depthwise, besides


@dataclass(frozen=True)
class CodeBound:
    """An upper bound of code and constants, tables apart, in bytes, measured by benchmarks/code_size.py."""

    base: int
    training_run: int  # for a program of a whole training run
    rule: int  # where an update reads its settings at run time
    kernel: int  # for each kernel that is called
    tiles: TileCodeBound | None = None


@dataclass(frozen=True)
class Target:
    """One folder of deployers/, as its target.toml describes it."""

    name: str
    folder: Path
    description: str
    num_cores: int
    most_cores: int
    counts_cycles: bool  # it is cycle-accurate
    regions: tuple[Region, ...]
    tile_region: str | None  # where tiles lie, with the stacks of that region; None: among the rest
    l1_bytes: int | None  # for tiles, and what else lies there; None: calls are done where the tensors lie
    code: CodeBound | None  # None: known only once it is built
    upstream_code: CodeBound | None  # the same of programs that are linked with upstream's PULP-TrainLib
    shared: tuple[str, ...]  # files of deployers/ that the port is built with
    tools: dict[str, str]  # command -> what brings it
    files: dict[str, str]  # absolute path -> what brings it
    costs: Costs
    macs_per_cycle: float | None = None  # at most, on all cores; None: not cycle-accurate
    file_bytes: int | None = None  # the most of a file that its programs can read; None: as much as wanted
    tile_table: Path | None = None  # which tiles were measured to be best; None: those of the cost model

    @property
    def memory_bytes(self) -> int | None:
        """Return the bytes of the region that is written, for all that lies there; None: as much as wanted."""
        return self.region_of(STATE).num_bytes

    def region_of(self, role: str) -> Region:
        """Return the region that holds what is of a role."""
        return next(region for region in self.regions if role in region.holds)

    @property
    def is_split(self) -> bool:
        """Tell whether constants, such as frozen weights, lie in another region than what is written."""
        return self.region_of(CONSTANTS) != self.region_of(STATE)

    @property
    def tile_bytes(self) -> int | None:
        """Return the bytes for tiles: what can be used of L1 without the stacks there; None: no tiles."""
        if self.l1_bytes is None:
            return None
        stacks = sum(
            r.stack_bytes + r.core_stack_bytes * self.num_cores for r in self.regions if r.name == self.tile_region
        )
        return max(min(self.l1_bytes - stacks, MOST_TILE_BYTES), 0) // L1_ALIGNMENT * L1_ALIGNMENT

    def missing(self) -> list[str]:
        """Return what is not on this machine, each with what brings it."""
        commands = [f"{c} (from: {package})" for c, package in self.tools.items() if not find_tool(c)]
        return commands + [f"{f} (from: {package})" for f, package in self.files.items() if not Path(f).exists()]

    def port_files(self) -> dict[str, bytes]:
        """Return the files of the port by name, as they stand in an emitted project's port/."""
        own = [f for f in self.folder.iterdir() if f.is_file() and f.name not in ("target.toml", TILE_TABLE)]
        shared = [self.folder.parent / name for name in ("build.mk", *self.shared)]
        return {f.name: f.read_bytes() for f in sorted([*own, *shared])}

    def extra_files(self, name: str) -> dict[str, bytes]:
        """Return the files of the port's folder `name` by path, which begins with it; none if it has no such folder."""
        files = sorted(f for f in (self.folder / name).rglob("*") if f.is_file())
        return {f.relative_to(self.folder).as_posix(): f.read_bytes() for f in files}

    @property
    def takes_upstream(self) -> bool:
        """Tell whether its programs can be built with a checkout of upstream's PULP-TrainLib."""
        return (self.folder / "upstream").is_dir()


def find_tool(command: str) -> str | None:
    """Return the path of a command on PATH, or in bin/ or install/bin/ of <COMMAND>_HOME (for instance GVSOC_HOME)."""
    home = os.environ.get(f"{command.upper().replace('-', '_')}_HOME")
    folders = [str(Path(home) / sub) for sub in ("bin", "install/bin")] if home else []
    return shutil.which(command, path=os.pathsep.join(folders)) or shutil.which(command)


@dataclass(frozen=True)
class _RegionTable:
    """A region as target.toml has it."""

    origin: int | None = None
    bytes: int | None = None
    stack_bytes: int = 0
    core_stack_bytes: int = 0
    holds: tuple[str, ...] = ()


@dataclass(frozen=True)
class _TilesTable:
    """Where tiles lie."""

    region: str


@dataclass(frozen=True)
class _UpstreamTable:
    """What differs of programs with upstream's kernels."""

    base: int


@dataclass(frozen=True)
class _CodeTable:
    """The bounds of code and constants."""

    base: int
    training_run: int
    rule: int
    kernel: int
    tiles: TileCodeBound | None = None
    upstream: _UpstreamTable | None = None

    @property
    def bound(self) -> CodeBound:
        """Return the bound of programs with our kernels."""
        return CodeBound(self.base, self.training_run, self.rule, self.kernel, self.tiles)

    @property
    def upstream_bound(self) -> CodeBound | None:
        """Return the bound of programs with upstream's kernels; what else they have is bounded as without."""
        return replace(self.bound, base=self.upstream.base, tiles=None) if self.upstream else None


@dataclass(frozen=True)
class _TargetTable:
    """A target.toml; `costs` names another target whose costs are this one's too."""

    description: str
    num_cores: int
    most_cores: int
    cycles: bool
    regions: dict[str, _RegionTable]
    costs: Costs | str
    tools: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    macs_per_cycle: float | None = None
    file_bytes: int | None = None
    tiles: _TilesTable | None = None
    code: _CodeTable | None = None


@cache
def find_targets() -> dict[str, Target]:
    """Return every target by name: each folder of deployers/ with a target.toml is one.

    Raises:
        BadInput: see `read_targets`.
    """
    return read_targets(resource_dir("deployers"))


def read_targets(folder: Path) -> dict[str, Target]:
    """Return the targets of a folder by name.

    Raises:
        BadInput: a target.toml is no TOML, or one of its keys is missing, unknown or wrong.
    """
    files = {file.parent.name: file for file in sorted(folder.glob("*/target.toml"))}
    tables = {name: _read_table(file) for name, file in files.items()}
    return {name: _target(files[name], table, _costs(name, tables)) for name, table in tables.items()}


def _read_table(file: Path) -> _TargetTable:
    where = f"{file.parent.name}/{file.name}"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{where}: is no TOML: {error}") from error
    table = read_section(_TargetTable, content, where)
    if table.tiles and (table.tiles.region not in table.regions or table.regions[table.tiles.region].bytes is None):
        raise BadInput(f"{where} [tiles]: 'region' is '{table.tiles.region}': it must be a region with 'bytes'")
    _check_roles(table, where)
    return table


def _check_roles(table: _TargetTable, where: str) -> None:
    """Raise BadInput if a region holds what is no role, or a role is not that of exactly one region."""
    held = [(role, name) for name, region in table.regions.items() for role in region.holds]
    for role, name in held:
        if role not in ROLES:
            raise BadInput(f"{where} [regions] [{name}]: 'holds' names '{role}': it must be of {', '.join(ROLES)}")
    for role in ROLES:
        names = [name for other, name in held if other == role]
        if len(names) != 1:
            whose = f"of {' and '.join(names)}" if names else "of none"
            raise BadInput(f"{where} [regions]: '{role}' is in 'holds' {whose}: it must be in that of one region")


def _costs(name: str, tables: dict[str, _TargetTable]) -> Costs:
    """Return the costs of a target: its own, or those of the one that it names."""
    costs = tables[name].costs
    if isinstance(costs, Costs):
        return costs
    others = tables[costs].costs if costs in tables else None
    if not isinstance(others, Costs):
        raise BadInput(f"{name}/target.toml: 'costs' is '{costs}': it must be a target that has costs of its own")
    return others


def _region(name: str, table: _RegionTable) -> Region:
    return Region(name, table.origin, table.bytes, table.stack_bytes, table.core_stack_bytes, table.holds)


def _target(file: Path, table: _TargetTable, costs: Costs) -> Target:
    tile_table = file.with_name(TILE_TABLE)
    return Target(
        name=file.parent.name,
        folder=file.parent,
        description=table.description,
        num_cores=table.num_cores,
        most_cores=table.most_cores,
        counts_cycles=table.cycles,
        regions=tuple(_region(name, region) for name, region in table.regions.items()),
        tile_region=table.tiles.region if table.tiles else None,
        l1_bytes=table.regions[table.tiles.region].bytes if table.tiles else None,
        code=table.code.bound if table.code else None,
        upstream_code=table.code.upstream_bound if table.code else None,
        shared=table.shared,
        tools=table.tools,
        files=table.files,
        costs=costs,
        macs_per_cycle=table.macs_per_cycle,
        file_bytes=table.file_bytes,
        tile_table=tile_table if tile_table.is_file() else None,
    )


def with_l1(target: Target, text: str) -> Target:
    """Return `target` with other bytes of L1, as `parse_bytes` reads them, or "off", to compute where tensors lie.

    Raises:
        BadInput: it is none of these, or more than the target has.
    """
    if text == "off":
        return replace(target, l1_bytes=None)
    try:
        num_bytes = parse_bytes(text)
    except BadInput as error:
        raise BadInput(f"--l1: {error}, or off") from None
    most = next((r.num_bytes for r in target.regions if r.name == target.tile_region), None)
    if most is not None and num_bytes > most:
        raise BadInput(f"--l1 {text}: target {target.name} has {most:,} bytes of {target.tile_region}")
    return replace(target, l1_bytes=num_bytes)


def with_tiles(target: Target, table: Path | None) -> Target:
    """Return `target` with another table of tiles; "model": with none; None: with its own.

    Raises:
        BadInput: it computes without tiles.
    """
    if table is None:
        return target
    if target.l1_bytes is None:
        raise BadInput(f"--tiles: target {target.name} computes where the tensors lie, without tiles: leave it out")
    return replace(target, tile_table=None if str(table) == "model" else table)


def l1_option(target: Target) -> str:
    """Return the options that ask for the target's L1 and tiles as they are, a space before each; "" by default."""
    usual = find_target(target.name)
    name = target.tile_table.name if target.tile_table else "model"
    table = "" if target.tile_table == usual.tile_table else f" --tiles {name}"
    if target.l1_bytes == usual.l1_bytes:
        return table
    return (" --l1 off" if target.l1_bytes is None else f" --l1 {target.l1_bytes}") + table


def find_target(name: str) -> Target:
    """Return a target by name.

    Raises:
        BadInput: there is none of that name.
    """
    targets = find_targets()
    if name not in targets:
        raise BadInput(f"unknown target '{name}': choose one of {', '.join(targets)}")
    return targets[name]


def require_cores(target: Target, num_cores: int | None) -> None:
    """Raise BadInput if `target` does not have `num_cores` cores (None: its default, which it has)."""
    if num_cores is not None and not 1 <= num_cores <= target.most_cores:
        raise BadInput(f"--cores {num_cores}: target {target.name} runs on 1 to {target.most_cores} cores")


def require_tools(target: Target) -> None:
    """Raise ToolFailed, naming what brings it, if a tool of `target` is missing."""
    missing = target.missing()
    if missing:
        raise ToolFailed(f"target {target.name} cannot be built or run here; missing: {', '.join(missing)}")
