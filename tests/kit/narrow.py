"""Narrow twins of nets: all that makes an architecture what it is, with fewer channels, so that small chips hold it."""

from __future__ import annotations

from torch import nn


def narrowed(model: nn.Module, divisor: int) -> nn.Module:
    """Return `model` with every layer's channels divided, rounded up, and new random weights.

    Inputs of 3 channels and the classes stay. A depthwise convolution stays one; other convolutions keep their groups,
    so that `divisor` divides how wide these are. What is joined along the channels divides evenly, too.

    Args:
        model: changed in place.
        divisor: of channels.
    """
    weighted = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    layers = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    last = [module for module in model.modules() if isinstance(module, weighted)][-1]

    def fewer(num: int) -> int:
        return num if num == 3 else -(-num // divisor)

    for parent, name, child in layers:
        if isinstance(child, nn.Conv2d):
            num_out = child.out_channels if child is last else fewer(child.out_channels)
            setattr(parent, name, _convolution(child, fewer(child.in_channels), num_out))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(parent, name, nn.BatchNorm2d(fewer(child.num_features), eps=child.eps))
        elif isinstance(child, nn.Linear):
            num_out = child.out_features if child is last else fewer(child.out_features)
            setattr(parent, name, nn.Linear(fewer(child.in_features), num_out, bias=child.bias is not None))
    return model


def _convolution(old: nn.Conv2d, num_in: int, num_out: int) -> nn.Conv2d:
    groups = num_in if old.groups == old.in_channels else old.groups
    return nn.Conv2d(
        num_in,
        num_out,
        (old.kernel_size[0], old.kernel_size[1]),
        stride=(old.stride[0], old.stride[1]),
        padding=old.padding if isinstance(old.padding, str) else (old.padding[0], old.padding[1]),
        dilation=(old.dilation[0], old.dilation[1]),
        groups=groups,
        bias=old.bias is not None,
    )
