"""The command line: parse, call one function, print; the only package that prints or exits.

Imports of torch, numpy and the rest of the package stay inside the commands, so that help is there at once.
"""

from tinyclf.cli import (
    datasets,
    demo,
    device,
    device_training,
    memory,
    networks,
    results,
    training,
    tuning,
    workstation,
)
from tinyclf.cli.program import main

__all__ = [
    "datasets",
    "demo",
    "device",
    "device_training",
    "main",
    "memory",
    "networks",
    "results",
    "training",
    "tuning",
    "workstation",
]
