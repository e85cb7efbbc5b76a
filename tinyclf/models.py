"""Architectures (which net) as torch modules, frozen as a variant says; folding of BatchNorm; weights files."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path

import torch
from pytorchcv.model_provider import get_model
from pytorchcv.models.common import DwsConvBlock
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyclf.errors import BadInput, Unsupported
from tinyclf.variants import Variant

# pytorchcv name -> what it is. Its pretrained weights carry the same name.
ARCHITECTURES = {
    "mobilenet_w1": "MobileNetV1, width 1.0",
    "mobilenet_w3d4": "MobileNetV1, width 0.75",
    "mobilenet_wd2": "MobileNetV1, width 0.5",
    "mobilenet_wd4": "MobileNetV1, width 0.25",
    "fdmobilenet_w1": "FD-MobileNet, width 1.0",
    "fdmobilenet_w3d4": "FD-MobileNet, width 0.75",
    "fdmobilenet_wd2": "FD-MobileNet, width 0.5",
    "fdmobilenet_wd4": "FD-MobileNet, width 0.25",
}


def build_model(arch: str, *, num_classes: int, size: int, seed: int = 0) -> nn.Module:
    """Build `arch` with random weights for RGB images (N, 3, size, size) -> logits (N, num_classes).

    The weights depend on `seed` alone; the global random state of torch is left as it was.

    Raises:
        BadInput: unknown architecture, a size below 32 or fewer than two classes.
    """
    if arch not in ARCHITECTURES:
        raise BadInput(f"unknown architecture '{arch}': choose one of {', '.join(ARCHITECTURES)}")
    if size < 32:
        raise BadInput(f"images of {size}x{size} are too small for {arch}, which halves them five times: use --size 32")
    if num_classes < 2:
        raise BadInput(f"{num_classes} class(es): a classifier needs at least 2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = get_model(arch, num_classes=num_classes, in_size=(size, size))
        # pytorchcv's head starts with weights of deviation sqrt(2 / classes), which saturates the softmax: use torch's.
        head = model.get_submodule("output")
        assert isinstance(head, nn.Linear)
        head.reset_parameters()
    # pytorchcv ends in AvgPool2d(7), which is the global average at 224 pixels and fails below.
    model.get_submodule("features").final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the depthwise-separable blocks of `model` as (name, module), in forward order."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, DwsConvBlock)]


def freeze(model: nn.Module, variant: Variant) -> None:
    """Set `requires_grad` of every parameter of `model` as `variant` says.

    Raises:
        BadInput: FT asks for more blocks than there are.
        Unsupported: the model has no linear layer named "output".
    """
    if variant.trains_everything:
        model.requires_grad_(True)
        return
    names = [name for name, _ in blocks(model)]
    k = variant.k if variant.name == "FT" else 0
    if k > len(names):
        raise BadInput(
            f"FT with k={k}: the net has {len(names)} depthwise-separable blocks, use --k {len(names)} or less"
        )
    if not isinstance(getattr(model, "output", None), nn.Linear):
        raise Unsupported(f"{type(model).__name__} has no linear layer named 'output' that {variant.label} could train")
    model.requires_grad_(False)
    model.get_submodule("output").requires_grad_(True)
    for name in names[len(names) - k :]:
        model.get_submodule(name).requires_grad_(True)


def set_train_mode(model: nn.Module) -> None:
    """Put layers with trainable parameters into train mode and all others into eval mode.

    BatchNorm of frozen layers so keeps its statistics.
    """
    model.eval()
    for module in model.modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            module.train()


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, in eval mode, with every BatchNorm folded into the convolution before it.

    The convolution gets a bias, which is trained where its weight is; the BatchNorm becomes an identity.

    Raises:
        Unsupported: a BatchNorm that does not directly follow a convolution of its own.
    """
    folded = copy.deepcopy(model).eval()
    modules = dict(folded.named_modules())
    for node in fx.symbolic_trace(folded).graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or len(before.users) > 1:
            raise Unsupported(f"BatchNorm '{node.target}' cannot be folded: it does not directly follow a convolution")
        trained = conv.weight.requires_grad
        folded.set_submodule(before.target, fuse_conv_bn_eval(conv, modules[node.target]).requires_grad_(trained))
        folded.set_submodule(node.target, nn.Identity())
    return folded


def calibrate_batchnorm(model: nn.Module, images: torch.Tensor) -> None:
    """Set every BatchNorm's running statistics to those of `images` (N, 3, H, W), normalised.

    A net with random weights so keeps its activations in a natural range, as a trained net does.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: one batch sets the statistics
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def num_parameters(model: nn.Module, *, trained: bool | None = None) -> int:
    """Count parameters: all, only the trained ones, or only the frozen ones."""
    return sum(p.numel() for p in model.parameters() if trained is None or p.requires_grad == trained)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a .safetensors or a torch file."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file: --weights takes a .safetensors or .pth file in pytorchcv names")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise BadInput(f"{path}: not a readable weights file ({type(error).__name__}: {reason[:120]})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadInput(f"{path}: holds no state dict (a table of name and tensor)")
    return state


def load_state(model: nn.Module, state: dict[str, torch.Tensor], *, source: str, keep_head: bool = False) -> bool:
    """Copy `state` into `model`; return whether the linear head came with it.

    A head for another number of classes is left out (the model keeps its random one) unless `keep_head` is set.

    Raises:
        BadInput: tensors are missing, unknown or of another shape; `source` says where they came from.
    """
    own = model.state_dict()
    head_differs = any(k in own and own[k].shape != v.shape for k, v in state.items() if k.startswith("output."))
    if head_differs and not keep_head:
        state = {k: v for k, v in state.items() if not k.startswith("output.")}
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    if head_differs and not keep_head:
        missing = [k for k in missing if not k.startswith("output.")]
    wrong = [k for k, v in state.items() if k not in own or own[k].shape != v.shape]
    if missing or wrong:
        first = (missing + wrong)[0]
        raise BadInput(
            f"{source}: does not fit {type(model).__name__} with these options: {len(missing)} tensors missing, "
            f"{len(wrong)} unknown or of another shape (first: {first}); check --arch and the number of classes"
        )
    model.load_state_dict(state, strict=False)
    return not head_differs or keep_head


def load_weights(model: nn.Module, path: Path) -> bool:
    """Load a weights file in pytorchcv names into `model`; return whether the head came with it."""
    return load_state(model, _read_state(path), source=str(path))


def load_pretrained(model: nn.Module, arch: str) -> bool:
    """Load pytorchcv's own ImageNet weights of `arch`, which it fetches from its releases.

    Raises:
        BadInput: they cannot be fetched; the message says what to do instead.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its attempts there
            state = get_model(arch, pretrained=True).state_dict()
    except Exception as error:
        raise BadInput(
            f"the pretrained weights of {arch} could not be fetched ({type(error).__name__}): give --weights FILE "
            "(.safetensors or .pth in pytorchcv names), --from RUN, or train with --variant scratch first"
        ) from error
    return load_state(model, state, source=f"pytorchcv's weights of {arch}")
