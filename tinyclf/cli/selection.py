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
            help="Of what is trained in the layers that GLOB matches, train only this fraction of the output channels, "
            "rounded up: the first ones. The rest of the layer is frozen to the bit. Repeatable; the last that "
            "matches counts.",
        ),
        click.option(
            "--bias-only",
            is_flag=True,
            help="Of what is trained, train only biases, the head's too. Then only ReLU and pooling keep activations.",
        ),
        click.option(
            "--layers",
            multiple=True,
            metavar="GLOB",
            help="In place of --variant: train these layers alone. GLOB is the name of a layer or of a module around "
            "layers, such as output or features.stage4.*; BatchNorm goes with its convolution. Repeatable.",
        ),
    ):
        command = option(command)
    return command
