"""The targets that emitted C can be built for: found in deployers/, built, run, and read back."""

from tinyclf.device.targets.project import ELF, build, check_elf, run, start
from tinyclf.device.targets.results import (
    RECORD_END,
    RECORD_REFUSED,
    RECORD_RESUMED,
    Results,
    read_records,
    read_results,
)
from tinyclf.device.targets.target import (
    L1_ALIGNMENT,
    Target,
    find_target,
    find_targets,
    find_tool,
)

__all__ = [
    "ELF",
    "L1_ALIGNMENT",
    "RECORD_END",
    "RECORD_REFUSED",
    "RECORD_RESUMED",
    "Results",
    "Target",
    "build",
    "check_elf",
    "find_target",
    "find_targets",
    "find_tool",
    "read_records",
    "read_results",
    "run",
    "start",
]
