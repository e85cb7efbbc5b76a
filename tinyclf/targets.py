"""The targets that emitted C can be built for: found in deployers/, built, run, and read back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.errors import BadInput, ToolFailed
from tinyclf.resources import resource_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECORD_CYCLES, RECORD_END, RECORD_REFUSED, RECORD_RESUMED = -1, -2, -3, -4  # ids of tcl_run.h
BUILD_TIMEOUT_S, RUN_TIMEOUT_S = 600, 1800


@dataclass(frozen=True)
class Target:
    """One folder of deployers/, as its target.toml describes it."""

    name: str
    folder: Path
    description: str
    num_cores: int
    most_cores: int
    counts_cycles: bool  # its clock is the chip's, so that figures mean something
    memory_bytes: int | None  # for code, parameters, arena and samples; None: as much as wanted
    shared: tuple[str, ...]  # files of deployers/ that the port is built with
    tools: dict[str, str]  # command -> what brings it
    files: dict[str, str]  # absolute path -> what brings it

    def missing(self) -> list[str]:
        """Return what is not on this machine, each with what brings it."""
        commands = [f"{c} (from: {package})" for c, package in self.tools.items() if not find_tool(c)]
        return commands + [f"{f} (from: {package})" for f, package in self.files.items() if not Path(f).exists()]

    def port_files(self) -> dict[str, bytes]:
        """Return the files of the port by name, as they stand in an emitted project's port/."""
        own = [f for f in self.folder.iterdir() if f.is_file() and f.name != "target.toml"]
        shared = [self.folder.parent / name for name in ("build.mk", "port.h", *self.shared)]
        return {f.name: f.read_bytes() for f in sorted([*own, *shared])}


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
            memory_bytes=table.get("memory_bytes"),
            shared=tuple(table.get("shared", ())),
            tools=table.get("tools", {}),
            files=table.get("files", {}),
        )
    return found


def find_target(name: str) -> Target:
    """Return a target by name.

    Raises:
        BadInput: there is none of that name.
    """
    targets = find_targets()
    if name not in targets:
        raise BadInput(f"unknown target '{name}': choose one of {', '.join(targets)}")
    return targets[name]


@dataclass(frozen=True)
class Results:
    """What a run wrote: the traced tensors and the cycles of each step."""

    steps: tuple[dict[str, NDArray[np.float32]], ...]
    cycles: tuple[int, ...]


def _make(project: Path, *arguments: str, timeout: int) -> str:
    """Run make in `project`; return what it printed.

    Raises:
        ToolFailed: it failed or did not end; the message holds the last lines of its output.
    """
    command = ["make", "--no-print-directory", *arguments]
    try:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise ToolFailed("make is not installed (Debian package: make)") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"'{' '.join(command)}' in {project} did not end within {timeout} s") from error
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-12:]
        raise ToolFailed(f"'{' '.join(command)}' failed in {project}:\n  " + "\n  ".join(last))
    return done.stdout


def require_cores(target: Target, num_cores: int | None) -> None:
    """Raise BadInput if `target` does not have `num_cores` cores (None: its default, which it has)."""
    if num_cores is not None and not 1 <= num_cores <= target.most_cores:
        raise BadInput(f"--cores {num_cores}: target {target.name} runs on 1 to {target.most_cores} cores")


def require_tools(target: Target) -> None:
    """Raise ToolFailed, naming what brings it, if a tool of `target` is missing."""
    missing = target.missing()
    if missing:
        raise ToolFailed(f"target {target.name} cannot be built or run here; missing: {', '.join(missing)}")


def build(project: Path, target: Target, *variables: str) -> None:
    """Build an emitted project. `variables` go to make, for instance "NUM_CORES=1" or "SANITIZE=address"."""
    require_tools(target)
    _make(project, f"-j{os.cpu_count() or 1}", "all", *variables, timeout=BUILD_TIMEOUT_S)


def run(project: Path, *variables: str) -> Results:
    """Run a built project, with the variables that it was built with, and read its results back."""
    start(project, *variables)
    return read_results(project)


def start(project: Path, *variables: str, timeout_s: int = RUN_TIMEOUT_S) -> None:
    """Run a built project, with the variables that it was built with, to its end.

    Raises:
        ToolFailed: the program ended with a failure, or not within `timeout_s`.
    """
    _make(project, "run", *variables, timeout=timeout_s)


def check_elf(project: Path, target: Target) -> None:
    """Refuse a program that was built for another target than `target`.

    Raises:
        BadInput: it was, or there is none, or it is no emitted project's.
    """
    elf = project / "build" / "tinyclf.elf"
    if not elf.is_file():
        raise BadInput(f"{elf}: does not exist: run make -C {project}")
    _, mark, behind = elf.read_bytes().partition(b"tinyclf target: ")
    name = behind.partition(b"\0")[0].decode(errors="replace") if mark else ""
    if name != target.name:
        made_for = f"was built for target {name[:20]}" if name else "is not the program of an emitted project"
        raise BadInput(f"{elf}: {made_for}, this is target {target.name}: run make -C {project} clean all")


def read_records(project: Path) -> list[tuple[int, int, NDArray[np.int32]]]:
    """Return the records of build/results.bin, (id, step, words), up to the first that is not whole."""
    file = project / "build" / "results.bin"
    words = np.fromfile(file, dtype="<i4") if file.is_file() else np.zeros(0, dtype=np.int32)
    records = []
    position = 0
    while position + 3 <= len(words):
        record, step, num_words = (int(w) for w in words[position : position + 3])
        payload = words[position + 3 : position + 3 + max(num_words, 0)]
        if num_words < 0 or len(payload) < num_words:
            break
        records.append((record, step, payload))
        position += 3 + num_words
    return records


def read_results(project: Path) -> Results:
    """Read build/results.bin of a project: records as tcl_run.h describes them.

    Raises:
        ToolFailed: the stream is missing, cut or not the program's.
    """
    file = project / "build" / "results.bin"
    if not file.is_file():
        raise ToolFailed(f"{file}: the run left no results")
    traces = json.loads((project / "trace.json").read_text())
    steps: list[dict[str, NDArray[np.float32]]] = []
    cycles: list[int] = []
    for record, step, payload in read_records(project):
        if record == RECORD_END:
            return Results(tuple(steps), tuple(cycles))
        if not RECORD_CYCLES <= record < len(traces):
            break
        if record == RECORD_CYCLES:
            cycles.append(int(payload.view("<u8")[0]))
            continue
        steps.extend({} for _ in range(step + 1 - len(steps)))
        steps[step][traces[record]["tensor"]] = payload.view("<f4").reshape(traces[record]["shape"])
    raise ToolFailed(f"{file}: the results end early, after {len(cycles)} steps: the run did not complete")
