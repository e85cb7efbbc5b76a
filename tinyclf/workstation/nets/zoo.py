"""Nets as pytorchcv 0.0.67 builds them, with its traps worked around."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy
from pytorchcv.model_provider import get_model
from pytorchcv.models import regnet
from torch import nn


def build_from_pytorchcv(name: str, **options: Any) -> nn.Module:
    """Build pytorchcv's net `name` so that it takes images of any size; `options` go to pytorchcv (num_classes=...).

    Names and shapes of the weights are pytorchcv's. `in_size` is not passed on: pytorchcv only notes it down, and
    EfficientNet refuses any but its own.
    """
    assert "in_size" not in options, name
    with _numpy_with_int():
        model: nn.Module = get_model(name, **options)
    # Most nets end in AvgPool2d(7) or (13), which is the global average at 224 pixels and fails below.
    for path in [path for path, _ in model.named_modules() if path.rpartition(".")[2] == "final_pool"]:
        model.set_submodule(path, nn.AdaptiveAvgPool2d(1))
    # SqueezeNet has a ReLU behind its logits: a negative one gets no gradient, and once all are the net learns nothing
    # more (from random weights it soon is so). Without it the order of positive logits, the prediction, is the same.
    if hasattr(getattr(model, "output", None), "final_activ"):
        model.set_submodule("output.final_activ", nn.Identity())
    return model


class _NumpyWithInt:
    """numpy, with `int` as it was before version 1.24."""

    int = int

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)


@contextlib.contextmanager
def _numpy_with_int() -> Iterator[None]:
    """Let pytorchcv's RegNet find np.int, which it uses to count channels; numpy itself stays as it is."""
    before = regnet.np
    regnet.np = _NumpyWithInt()
    try:
        yield
    finally:
        regnet.np = before
