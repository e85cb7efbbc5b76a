"""Quantised features in PyTorch: the values that the trained part sees, and ties resolved as on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tinyclf.device.reference.quantized import DeviceCodes, QuantizedFeatures


def _net() -> nn.Sequential:
    """Return a net whose frozen part is the identity, and whose trained part a sum."""
    last = nn.Linear(4, 1, bias=False)
    nn.init.ones_(last.weight)
    return nn.Sequential(nn.Identity(), nn.ReLU(), last).double()


def _logit(values: list[float], device: DeviceCodes | None, *, tie: float = 1e-3) -> tuple[float, float]:
    """Return the logit, and how far the device is off."""
    codes = {"1": device} if device else None
    features = QuantizedFeatures(_net(), first_trained="2", device=codes, tie=tie)
    logit = features.logits(0, torch.tensor([values], dtype=torch.float64)).item()
    return logit, features.worst


def _codes(*codes: int, scale: float = 0.01) -> DeviceCodes:
    return DeviceCodes(np.array([scale], dtype=np.float32), np.array([codes], dtype=np.int8))


def test_values_are_rounded_to_127_steps_of_the_largest() -> None:
    logit, _ = _logit([1.27, 0.014, 0.026, 0.0], None)
    assert abs(logit - (1.27 + 0.01 + 0.03)) < 1e-12
    logit, _ = _logit([0.0, 0.0, 0.0, 0.0], None)
    assert logit == 0


def test_a_tie_is_the_devices_and_nothing_else() -> None:
    values = [1.27, 0.0150001, 0.0249999, 0.0]
    logit, worst = _logit(values, _codes(127, 1, 3, 0))  # the other side of both halves
    assert abs(logit - 1.31) < 1e-12
    assert 0 < worst < 1e-6
    logit, worst = _logit(values, _codes(127, 1, 4, 0))  # the third is a whole step off
    assert abs(logit - 1.30) < 1e-12
    assert abs(worst - (4 - 2.49999 - 0.5) / 127) < 1e-6
    _, worst = _logit(values, _codes(127, 2, 2, 0, scale=0.0101))
    assert abs(worst - 0.01) < 1e-6


def test_gradients_end_at_the_cut_and_the_frozen_part_runs_once() -> None:
    first_layer, last = nn.Linear(4, 4), nn.Linear(4, 2)
    net = nn.Sequential(first_layer, nn.ReLU(), last).double()
    features = QuantizedFeatures(net, first_trained="2", device=None, tie=0.0)
    image = torch.ones(1, 4, dtype=torch.float64)
    first = features.logits(3, image)
    torch.autograd.backward(first.sum())
    assert first_layer.weight.grad is None
    assert last.weight.grad is not None
    with torch.no_grad():
        last.weight *= 2
        first_layer.weight.zero_()
    again = features.logits(3, torch.zeros_like(image))
    bias = last.bias.detach()
    torch.testing.assert_close(again.detach() - bias, 2 * (first.detach() - bias))
