"""The targets that emitted C can be built for, as deployers/ describes them."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclf.base.errors import BadInput, ToolFailed
from tinyclf.base.resources import resource_dir
from tinyclf.base.sizes import parse_bytes
from tinyclf.device.graph.dtypes import BLOCK_ALIGNMENT, MOST_TILE_BYTES

if TYPE_CHECKING:
    pass


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

L1_ALIGNMENT = BLOCK_ALIGNMENT
TILE_TABLE = "tiles.json"  # of a target's folder


@dataclass(frozen=True)
class Region:
    """A memory of a target. The first one of a target holds everything but the stacks that others name."""

    name: str
    origin: int | None  # first address; None: the system places what it likes where it likes
    num_bytes: int | None  # None: as much as wanted
    stack_bytes: int  # of stacks that are there once
    core_stack_bytes: int  # of each core's stack


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
    macs_per_cycle: float | None = None  # at most, on all cores; None: not cycle-accurate
    file_bytes: int | None = None  # the most of a file that its programs can read; None: as much as wanted
    tile_table: Path | None = None  # which tiles were measured to be best; None: those of the cost model

    @property
    def memory_bytes(self) -> int | None:
        """Return the bytes for code, parameters, arena and samples; None: as much as wanted."""
        return self.regions[0].num_bytes

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


@cache
def find_targets() -> dict[str, Target]:
    """Return every target by name: each folder of deployers/ with a target.toml is one."""
    found = {}
    for file in sorted(resource_dir("deployers").glob("*/target.toml")):
        table: dict[str, Any] = tomllib.loads(file.read_text())
        found[file.parent.name] = Target(
            name=file.parent.name,
            folder=file.parent,
            description=table["description"],
            num_cores=table["num_cores"],
            most_cores=table["most_cores"],
            counts_cycles=table["cycles"],
            regions=tuple(_region(name, region) for name, region in table["regions"].items()),
            tile_region=table.get("tiles", {}).get("region"),
            l1_bytes=table["regions"][table["tiles"]["region"]]["bytes"] if "tiles" in table else None,
            code=_code_bound(table["code"]) if "code" in table else None,
            upstream_code=_upstream_bound(table["code"]) if "upstream" in table.get("code", {}) else None,
            shared=tuple(table.get("shared", ())),
            tools=table.get("tools", {}),
            files=table.get("files", {}),
            macs_per_cycle=table.get("macs_per_cycle"),
            file_bytes=table.get("file_bytes"),
            tile_table=file.with_name(TILE_TABLE) if file.with_name(TILE_TABLE).is_file() else None,
        )
    return found


def _code_bound(table: dict[str, Any]) -> CodeBound:
    tiles = table.get("tiles")
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    return CodeBound(**plain, tiles=TileCodeBound(**tiles) if tiles else None)


def _upstream_bound(table: dict[str, Any]) -> CodeBound:
    """Return the bound of programs with upstream's kernels; what else they have is bounded as without."""
    return replace(_code_bound({**table, **table["upstream"]}), tiles=None)


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


def _region(name: str, table: dict[str, int]) -> Region:
    return Region(
        name=name,
        origin=table.get("origin"),
        num_bytes=table.get("bytes"),
        stack_bytes=table.get("stack_bytes", 0),
        core_stack_bytes=table.get("core_stack_bytes", 0),
    )


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
