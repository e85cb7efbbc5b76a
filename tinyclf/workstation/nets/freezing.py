"""The parts of a net, blocks and head, and which of them a variant trains."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.recipe.channels import set_trained_channels, trained_channels
from tinyclf.recipe.variant import Variant

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
    """Set `requires_grad` of every parameter of `model`, and the trained channels of its layers, as `variant` says.

    LP trains the head. FT trains one contiguous end of the net: the last K blocks, what lies behind them (a
    `final_block`) and the head; with K = 0 it is LP. "Behind" is the order in which the net's modules were registered.
    "layers" trains the layers that its globs match, by their own name or that of a module around them. A BatchNorm
    goes with the convolution whose output it takes, where torch.fx can trace the net; named itself it can be alone.

    Raises:
        BadInput: FT asks for more blocks than there are; a glob matches no layer with weights; nothing is left.
        Unsupported: the model has no head, or the layer of a fraction has no output channels.
    """
    norms = _norms(model) if variant.layers or variant.channels else {}
    chosen = _chosen(model, variant, norms)
    if variant.bias_only:
        layers = ", ".join(_overview(name.rpartition(".")[0] for name in chosen))
        chosen = {name for name in chosen if name.rpartition(".")[2] == "bias"}
        if not chosen:
            raise BadInput(f"--bias-only: nothing to train, there is no bias in {layers}")
    channels = _channels(model, variant, norms, chosen)
    for layer in model.modules():
        set_trained_channels(layer, None)
    model.requires_grad_(False)
    for name, parameter in _parameters(model):
        if name in chosen:
            parameter.requires_grad_(True)
    for name, num in channels.items():
        set_trained_channels(model.get_submodule(name), num)


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of `model`, one that several layers share under each of its names."""
    return list(model.named_parameters(remove_duplicate=False))


def _chosen(model: nn.Module, variant: Variant, norms: dict[str, str]) -> set[str]:
    """Return the names of the parameters of the layers that `variant` chooses."""
    names = [name for name, _ in _parameters(model)]
    if variant.reaches_everything:
        return set(names)
    if variant.layers:
        layers = _matching(model, variant.layers)
        layers |= {norm for norm, conv in norms.items() if conv in layers}
        return {name for name in names if name.rpartition(".")[0] in layers}
    units = [name for name, _ in blocks(model)]
    k = variant.k if variant.name == "FT" else 0
    if k > len(units):
        raise BadInput(f"FT with k={k}: the net has {len(units)} blocks, use --k {len(units)} or less")
    head(model)
    first = next(i for i, name in enumerate(names) if name.startswith(f"{units[-k]}.")) if k else len(names)
    return {*names[first:], *(name for name in names if name.startswith(f"{HEAD}."))}


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers with parameters of their own."""
    return [(name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]


def _matches(glob: str, name: str) -> bool:
    """Tell whether `glob` matches the module `name` or one around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), glob) for end in range(1, len(parts) + 1))


def _matching(model: nn.Module, globs: Iterable[str]) -> set[str]:
    """Return the names of the layers with parameters that `globs` match, each at least one."""
    layers = [name for name, _ in _layers(model)]
    found: set[str] = set()
    for glob in globs:
        matching = {name for name in layers if _matches(glob, name)}
        if not matching:
            known = any(_matches(glob, name) for name, _ in model.named_modules() if name)
            what = f"'{glob}' has no weights to train" if known else f"no layer matches '{glob}'"
            raise BadInput(f"--layers: {what}; layers with weights are in {', '.join(_overview(layers))}")
        found |= matching
    return found


def _overview(names: Iterable[str]) -> list[str]:
    """Return the modules that layers lie in, by the first two parts of their names: a net in one line."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in sorted(names)))


def _norms(model: nn.Module) -> dict[str, str]:
    """Return for each BatchNorm that takes the output of a convolution the name of that, as far as fx can tell."""
    modules = dict(model.named_modules())
    try:
        nodes = [node for node in fx.Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # whatever the net's own code does with a stand-in for its input
        return {}
    return {
        str(node.target): str(source.target)
        for node in nodes
        if isinstance(modules[str(node.target)], _BatchNorm)
        for source in node.all_input_nodes
        if source.op == "call_module" and isinstance(modules[str(source.target)], nn.Conv2d)
    }


def _channels(model: nn.Module, variant: Variant, norms: dict[str, str], chosen: set[str]) -> dict[str, int]:
    """Return for each layer that is trained in part how many of its leading output channels are."""
    trained = {name.rpartition(".")[0] for name in chosen}
    # Also a convolution of which only the BatchNorm is trained: its fraction is the BatchNorm's.
    known = trained | {norms[name] for name in trained if name in norms}
    found: dict[str, int] = {}
    for glob, fraction in variant.channels:
        matching = {name for name in known if _matches(glob, name)}
        if not matching:
            where = ", ".join(_overview(trained))
            raise BadInput(f"--train-channels {glob}={fraction:g}: matches no trained layer; trained is {where}")
        matching |= {norm for norm in trained if norms.get(norm) in matching}
        for name in matching & trained:
            num = _num_channels(name, model.get_submodule(name))
            # A fraction such as 1/3 is rounded: ceil must not add a channel for its last bit.
            found[name] = max(1, math.ceil(round(fraction * num, 9)))
    return {name: num for name, num in found.items() if num < _num_channels(name, model.get_submodule(name))}


def _num_channels(name: str, layer: nn.Module) -> int:
    if not isinstance(layer, nn.Conv2d | nn.Linear | _BatchNorm):
        raise Unsupported(f"--train-channels: layer '{name}' is no convolution, linear layer or BatchNorm: {layer}")
    return len(next(layer.parameters(recurse=False)))


def require_trained_head(model: nn.Module, variant: Variant) -> None:
    """Refuse to train with a last layer of random weights of which something stays as it is.

    Raises:
        BadInput: `variant`, after `freeze`, leaves a part of it frozen.
    """
    if not (variant.layers or variant.is_narrowed):
        return
    layer = head_layer(model)
    if not layer.weight.requires_grad or trained_channels(layer) is not None:
        raise BadInput(
            f"the last layer is new, its weights are random, but {variant.label} leaves some of them frozen: train "
            "all of it first (--variant LP)"
        )


def set_train_mode(model: nn.Module, *, bn: str = "frozen") -> None:
    """Put what is trained into train mode and what is frozen into eval mode.

    A module with parameters is in train mode where all of them are trained, in all channels, so that a frozen BatchNorm
    uses and keeps its statistics. One without (Dropout) is where the module around it has trained parameters and
    nothing frozen comes behind it. With `bn` "train" every BatchNorm is in train mode, also a frozen one: it normalises
    by the batch and its statistics adapt, its weight and bias do not. "folded": there is none left, as on the device.

    Raises:
        BadInput: another `bn`.
    """
    if bn not in ("frozen", "train", "folded"):
        raise BadInput(f"unknown mode of BatchNorm '{bn}': choose frozen, train or folded")
    modules = dict(model.named_modules())
    frozen_behind = False
    for name, module in reversed(modules.items()):
        if next(module.parameters(), None) is not None:
            module.training = not _is_frozen_in_part(module)
        else:
            module.training = not frozen_behind and _container_is_trained(modules, name)
        if bn == "train" and isinstance(module, _BatchNorm):
            module.training = True
        own = next(module.parameters(recurse=False), None) is not None
        frozen_behind |= own and _is_frozen_in_part(module)


def _is_frozen_in_part(module: nn.Module) -> bool:
    """Tell whether a parameter of `module`, or a part of one, is frozen."""
    return any(not p.requires_grad for p in module.parameters()) or any(
        trained_channels(layer) is not None for layer in module.modules()
    )


def _container_is_trained(modules: dict[str, nn.Module], name: str) -> bool:
    """Tell whether the innermost module around `name` that has parameters has trained ones."""
    while name:
        name = name.rpartition(".")[0]
        parameters = list(modules[name].parameters())
        if parameters:
            return any(p.requires_grad for p in parameters)
    return False
