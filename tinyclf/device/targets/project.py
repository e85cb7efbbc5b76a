"""An emitted project as make sees it: built, run, and its program checked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclf.base.errors import BadInput, ToolFailed

if TYPE_CHECKING:
    pass
from tinyclf.device.targets.results import Results, read_results
from tinyclf.device.targets.target import Target, require_tools

ELF = Path("build/tinyclf.elf")  # of an emitted project
BUILD_TIMEOUT_S, RUN_TIMEOUT_S = 600, 1800


def _make(project: Path, *arguments: str, timeout: int) -> str:
    """Run make in `project`; return what it printed.

    Raises:
        ToolFailed: it failed or did not end; the message holds the last lines of its output.
    """
    command = ["make", "--no-print-directory", *arguments]
    pipe = subprocess.PIPE
    try:  # in a group of its own, so that what make has started can be ended with it
        process = subprocess.Popen(command, cwd=project, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    except FileNotFoundError as error:
        raise ToolFailed("make is not installed (Debian package: make)") from error
    with process:
        try:
            printed, complained = process.communicate(timeout=timeout)
        except BaseException as error:  # Ctrl-C does not reach the group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise ToolFailed(f"'{' '.join(command)}' in {project} did not end within {timeout} s") from error
            raise
    if process.returncode != 0:
        last = (printed + complained).strip().splitlines()[-12:]
        raise ToolFailed(f"'{' '.join(command)}' failed in {project}:\n  " + "\n  ".join(last))
    return printed


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
