"""Models: an architecture by name, built with random weights for a number of classes and a size; its counts."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.base.plugins import load_object
from tinyclf.recipe.channels import partial_parameters
from tinyclf.workstation.nets import tiny_nets
from tinyclf.workstation.nets.architectures import ARCHITECTURES, find_architecture, is_import_path
from tinyclf.workstation.nets.folding import calibrate_batchnorm, fold_batchnorm
from tinyclf.workstation.nets.freezing import blocks, freeze, head, head_layer, require_trained_head, set_train_mode
from tinyclf.workstation.nets.weights import load_pretrained, load_state, load_weights
from tinyclf.workstation.nets.zoo import build_from_pytorchcv

__all__ = [
    "ARCHITECTURES",
    "blocks",
    "build_model",
    "calibrate_batchnorm",
    "fold_batchnorm",
    "freeze",
    "head",
    "head_layer",
    "load_pretrained",
    "load_state",
    "load_weights",
    "model_size_bytes",
    "num_macs",
    "num_parameters",
    "require_trained_head",
    "set_train_mode",
]


def build_model(arch: str, *, num_classes: int, size: int, seed: int = 0, small_input: bool = False) -> nn.Module:
    """Build `arch` with random weights for RGB images (N, 3, size, size) -> logits (N, num_classes).

    `arch` is a name of ARCHITECTURES, or the import path `package.module:function` of a function of the user's that is
    called as f(num_classes=..., in_size=(size, size)) and returns an nn.Module with a child `output`, its head.

    `small_input`, for images of about 32 pixels: nothing before the first block makes the image smaller. Strides of
    convolutions there become 1 and max pools go, which changes no weight's shape. At 32 pixels the last map of a
    MobileNet, FD-MobileNet, MnasNet, EfficientNet or RegNet is then 2x2 in place of 1x1, of a ResNet or ShuffleNet 4x4,
    of a SqueezeNet 6x6 or 7x7.

    The weights depend on `seed` alone; the global random state of torch is left as it was.

    Raises:
        BadInput: unknown architecture, a size below 32, fewer than two classes, or a function of the user's that fails.
        Unsupported: what the user's function returns cannot be used; the message says what it lacks.
    """
    if not is_import_path(arch):
        find_architecture(arch)
    if size < 32:
        raise BadInput(
            f"images of {size}x{size} are too small for {arch}: nets halve them up to five times: use --size 32 or more"
        )
    if num_classes < 2:
        raise BadInput(f"{num_classes} class(es): a classifier needs at least 2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_import_path(arch):
            model = _build_own(arch, num_classes=num_classes, size=size)
        else:
            model = _build_named(arch, num_classes=num_classes)
    if small_input:
        _keep_size_in_stem(model)
    return model


def _build_named(arch: str, *, num_classes: int) -> nn.Module:
    if ARCHITECTURES[arch].ours:
        model: nn.Module = getattr(tiny_nets, arch)(num_classes=num_classes)
    else:
        model = build_from_pytorchcv(arch, num_classes=num_classes)
    # pytorchcv's heads start with weights of deviation sqrt(2 / classes), which saturates the softmax: use torch's.
    head_layer(model).reset_parameters()
    return model


def _build_own(arch: str, *, num_classes: int, size: int) -> nn.Module:
    """Call the user's function and check what it returns, with one image."""
    function = load_object(arch, what="architecture")
    try:
        model = function(num_classes=num_classes, in_size=(size, size))
    except Exception as error:  # whatever the user's code raises
        raise BadInput(
            f"architecture '{arch}': called with num_classes={num_classes}, in_size=({size}, {size}) it raised "
            f"{_one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise Unsupported(f"architecture '{arch}': returned a {type(model).__name__}, not a torch.nn.Module")
    try:
        head_layer(model)
    except Unsupported as error:
        raise Unsupported(f"architecture '{arch}': {error}") from error
    try:
        logits = _forward(model, size)
    except Exception as error:
        raise Unsupported(f"architecture '{arch}': an image of {size}x{size} raised {_one_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise Unsupported(f"architecture '{arch}': one image gives {got}, not logits of shape (1, {num_classes})")
    return model


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0][:160]}"


def _forward(model: nn.Module, size: int) -> Any:
    """Return what `model` makes of one black image in eval mode; leave its modes as they were."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            return model.eval()(torch.zeros(1, 3, size, size, device=device))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _keep_size_in_stem(model: nn.Module) -> None:
    """Set every stride before the first block to 1, and remove max pools there."""
    names = [name for name, _ in blocks(model)]
    if not names:
        raise Unsupported(f"--small-input: {type(model).__name__} has no blocks named features.stageN.unitM")
    modules = list(model.named_modules())
    first = next(i for i, (name, _) in enumerate(modules) if name == names[0])
    for name, module in modules[:first]:
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(name, nn.Identity())
        elif isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def num_parameters(model: nn.Module, *, trained: bool | None = None) -> int:
    """Count parameters: all, only the trained ones, or only the frozen ones; of a layer trained in part, its parts."""
    if trained is None:
        return sum(p.numel() for p in model.parameters())
    limits = partial_parameters(model)
    names = model.named_parameters()
    num = sum(p[: limits.get(name)].numel() if p.ndim else p.numel() for name, p in names if p.requires_grad)
    return num if trained else num_parameters(model) - num


def model_size_bytes(model: nn.Module, bytes_per_weight: int) -> int:
    """Return the size of all parameters at `bytes_per_weight`: 4 in fp32, 2 in fp16, 1 in int8."""
    return num_parameters(model) * bytes_per_weight


def num_macs(model: nn.Module, size: int) -> int:
    """Count multiply-accumulates of the convolution and linear layers for one image (3, size, size).

    Of a layer: its outputs times the weights each one sums over, C_in / groups * kernel height * kernel width or
    in_features. Nothing is computed: the model, or a copy, runs on the meta device, on shapes alone.
    """
    macs = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module.weight, torch.Tensor)
        macs += output.numel() * module.weight[0].numel()

    shapes = model if next(model.parameters()).is_meta else copy.deepcopy(model).to("meta")
    hooks = [m.register_forward_hook(count) for m in shapes.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        _forward(shapes, size)
    finally:
        for hook in hooks:
            hook.remove()
    return macs
