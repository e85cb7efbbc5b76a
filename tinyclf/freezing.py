"""The parts of a net, blocks and head, and which of them a variant trains."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tinyclf.errors import BadInput, Unsupported
from tinyclf.variants import Variant

HEAD = "output"
_UNIT = re.compile(r"features\.stage\d+\.unit\d+")


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks of `model` as (name, module), in forward order.

    A block is a unit of a stage, `features.stageN.unitM`: a depthwise-separable block, an inverted bottleneck, a fire
    unit, a residual unit. What comes before the first stage (`init_block`) or behind the last (`final_block`) is none.
    In a net without stages the blocks are the children of `features` that have parameters.
    """
    units = [(name, module) for name, module in model.named_modules() if _UNIT.fullmatch(name)]
    if units:
        return units
    features = getattr(model, "features", None)
    children = features.named_children() if isinstance(features, nn.Module) else ()
    return [(f"features.{name}", child) for name, child in children if next(child.parameters(), None) is not None]


def head(model: nn.Module) -> nn.Module:
    """Return the head of `model`: its child `output`, a layer or several.

    Raises:
        Unsupported: there is no such child, or it has no weights.
    """
    module = getattr(model, HEAD, None)
    if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
        raise Unsupported(f"{type(model).__name__} has no layer with weights named '{HEAD}', the head to train")
    return module


def head_layer_name(model: nn.Module) -> str:
    """Return the name of the last linear or convolution layer of the head, whose outputs are the classes.

    Raises:
        Unsupported: the head has neither.
    """
    layers: list[str] = [
        name for name, layer in head(model).named_modules(prefix=HEAD) if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    if not layers:
        raise Unsupported(f"'{HEAD}' of {type(model).__name__} has no linear layer and no convolution")
    return layers[-1]


def head_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the layer `head_layer_name` names; its weight is (num_classes, ...).

    Raises:
        Unsupported: the head has neither a linear layer nor a convolution.
    """
    layer = model.get_submodule(head_layer_name(model))
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer


def freeze(model: nn.Module, variant: Variant) -> None:
    """Set `requires_grad` of every parameter of `model` as `variant` says.

    LP trains the head. FT trains one contiguous end of the net: the last K blocks, what lies behind them (a
    `final_block`) and the head; with K = 0 it is LP. "Behind" is the order in which the net's modules were registered.

    Raises:
        BadInput: FT asks for more blocks than there are.
        Unsupported: the model has no head.
    """
    if variant.trains_everything:
        model.requires_grad_(True)
        return
    names = [name for name, _ in blocks(model)]
    k = variant.k if variant.name == "FT" else 0
    if k > len(names):
        raise BadInput(f"FT with k={k}: the net has {len(names)} blocks, use --k {len(names)} or less")
    trained = head(model)
    model.requires_grad_(False)
    trained.requires_grad_(True)
    if k:
        parameters = list(model.named_parameters())
        first = next(i for i, (name, _) in enumerate(parameters) if name.startswith(f"{names[-k]}."))
        for _, parameter in parameters[first:]:
            parameter.requires_grad_(True)


def set_train_mode(model: nn.Module, *, bn: str = "frozen") -> None:
    """Put what is trained into train mode and what is frozen into eval mode.

    A module with parameters is in train mode where all of them are trained, so that a frozen BatchNorm uses and keeps
    its statistics. One without (Dropout) is where the module around it has trained parameters and nothing frozen comes
    behind it. With `bn` "train" every BatchNorm is in train mode, also a frozen one: it normalises by the batch and
    its statistics adapt, its weight and bias do not. "folded": there is none left, as on the device.

    Raises:
        BadInput: another `bn`.
    """
    if bn not in ("frozen", "train", "folded"):
        raise BadInput(f"unknown mode of BatchNorm '{bn}': choose frozen, train or folded")
    modules = dict(model.named_modules())
    frozen_behind = False
    for name, module in reversed(modules.items()):
        parameters = list(module.parameters())
        if parameters:
            module.training = all(p.requires_grad for p in parameters)
        else:
            module.training = not frozen_behind and _container_is_trained(modules, name)
        if bn == "train" and isinstance(module, _BatchNorm):
            module.training = True
        frozen_behind |= any(not p.requires_grad for p in module.parameters(recurse=False))


def _container_is_trained(modules: dict[str, nn.Module], name: str) -> bool:
    """Tell whether the innermost module around `name` that has parameters has trained ones."""
    while name:
        name = name.rpartition(".")[0]
        parameters = list(modules[name].parameters())
        if parameters:
            return any(p.requires_grad for p in parameters)
    return False
