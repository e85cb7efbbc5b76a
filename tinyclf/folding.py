"""BatchNorm: its statistics from images, and its folding into the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyclf.errors import Unsupported


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, in eval mode, with every BatchNorm folded into the convolution before it.

    The convolution gets a bias, which is trained where its weight is; the BatchNorm becomes an identity.

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
        trained = conv.weight.requires_grad
        folded.set_submodule(before.target, fuse_conv_bn_eval(conv, norm).requires_grad_(trained))
        folded.set_submodule(node.target, nn.Identity())
    return folded


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
