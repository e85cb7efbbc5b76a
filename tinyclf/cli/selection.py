"""The options that say which layers, biases and channels are trained, shared by train, memory and deploy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def selection_options(command: F) -> F:
    """Add --layers, --bias-only and --train-channels; the parameters are layers, bias_only and train_channels."""
    for option in (
        click.option(
            "--train-channels",
            multiple=True,
            metavar="GLOB=FRACTION",
            help="Train only the first output channels of the layers that GLOB matches: this fraction of them, rounded "
            "up. The others stay as they are, to the bit. Repeatable; the last that matches counts.",
        ),
        click.option(
            "--bias-only",
            is_flag=True,
            help="Train only the biases of what is trained, the head's too. Then only ReLU and pooling keep "
            "activations.",
        ),
        click.option(
            "--layers",
            multiple=True,
            metavar="GLOB",
            help="Train only these layers, in place of --variant. GLOB is the name of a layer or of a module around "
            "layers, such as output or features.stage4.*; BatchNorm goes with its convolution. Repeatable.",
        ),
    ):
        command = option(command)
    return command
