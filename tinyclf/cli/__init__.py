"""The command line: parse, call one function, print; the only package that prints or exits.

Imports of torch, numpy and the rest of the package stay inside the commands, so that help is there at once.
"""

from tinyclf.cli import (
    bench,
    data,
    demo,
    deploy,
    deploy_training,
    doctor,
    eval,
    export,
    memory,
    models,
    predict,
    train,
    tune,
)
from tinyclf.cli.program import main

__all__ = [
    "bench",
    "data",
    "demo",
    "deploy",
    "deploy_training",
    "doctor",
    "eval",
    "export",
    "main",
    "memory",
    "models",
    "predict",
    "train",
    "tune",
]
