"""BatchNorm: its statistics from images, and its folding into the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyclf.base.errors import Unsupported
from tinyclf.recipe.channels import set_trained_channels, trained_channels


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, in eval mode, with every BatchNorm folded into the convolution before it.

    The convolution gets a bias, which is trained where its weight, its bias or the BatchNorm's bias is, and in as many
    channels; the BatchNorm becomes an identity.

    Raises:
        Unsupported: a BatchNorm that does not directly follow a convolution of its own, as in nets that normalise
            before they convolve; or a net whose layers cannot be listed because its `forward` branches on values.
    """
    folded = copy.deepcopy(model).eval()
    modules = dict(folded.named_modules())
    nodes = [node for node in _trace(folded).nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in nodes)
    for node in nodes:
        norm = modules[node.target]
        if not isinstance(norm, _BatchNorm):
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or len(before.users) > 1:
            raise Unsupported(f"BatchNorm '{node.target}' cannot be folded: it does not directly follow a convolution")
        if num_calls[before.target] > 1 or num_calls[node.target] > 1:
            raise Unsupported(f"BatchNorm '{node.target}' cannot be folded: it or its convolution is used twice")
        if norm.running_mean is None:
            raise Unsupported(f"BatchNorm '{node.target}' cannot be folded: it keeps no running statistics")
        fused = fuse_conv_bn_eval(conv, norm)
        fused.weight.requires_grad_(conv.weight.requires_grad)
        biases = (conv.weight, conv.bias, norm.bias)
        assert fused.bias is not None
        fused.bias.requires_grad_(any(p is not None and p.requires_grad for p in biases))
        set_trained_channels(fused, _trained_channels(conv, norm))
        folded.set_submodule(before.target, fused)
        folded.set_submodule(node.target, nn.Identity())
    return folded


def _trained_channels(conv: nn.Module, norm: nn.Module) -> int | None:
    """Return how many leading channels of the two are trained; what is frozen has no say. None: all."""
    layers = [layer for layer in (conv, norm) if any(p.requires_grad for p in layer.parameters())]
    limits = [trained_channels(layer) for layer in layers]
    known = [num for num in limits if num is not None]
    return max(known) if known and len(known) == len(limits) else None


def _trace(model: nn.Module) -> fx.Graph:
    """Return the graph of calls of `model`."""
    try:
        return fx.Tracer().trace(model)  # symbolic_trace also compiles what it found
    except Exception as error:  # whatever the net's own code does with a stand-in for its input
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unsupported(f"{type(model).__name__} cannot be traced by torch.fx: {reason[:120]}") from error


def calibrate_batchnorm(model: nn.Module, images: torch.Tensor) -> None:
    """Set every BatchNorm's running statistics to those of `images` (N, 3, H, W), normalised; leave eval mode set.

    A net with random weights so keeps its activations in a natural range, as a trained net does.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [m.momentum for m in norms]
    model.eval()  # but for BatchNorm: Dropout would change the statistics, and draw from torch's random state
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: one batch sets the statistics
        norm.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
