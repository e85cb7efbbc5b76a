"""How many of a layer's leading output channels are trained: a note on the layer, as `requires_grad` is on parameters.

Weights and activations have their channels first (CHW), so that what is trained is the beginning of each array.
"""

from __future__ import annotations

from typing import Any

_NOTE = "trained_channels"  # the attribute of the nn.Module; copies of a layer keep it


def set_trained_channels(layer: Any, num: int | None) -> None:
    """Note that only the first `num` output channels of `layer` are trained; None: all."""
    if num is not None:
        setattr(layer, _NOTE, num)
    elif trained_channels(layer) is not None:
        delattr(layer, _NOTE)


def trained_channels(layer: Any) -> int | None:
    """Return how many leading output channels of `layer` are trained; None: all of them, if any."""
    num: int | None = getattr(layer, _NOTE, None)
    return num


def partial_parameters(model: Any) -> dict[str, int]:
    """Return for each parameter of `model` that is trained in part how many of its leading rows are, by name."""
    return {
        f"{prefix}.{name}" if prefix else name: num
        for prefix, layer in model.named_modules()
        if (num := trained_channels(layer)) is not None
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.requires_grad
    }
