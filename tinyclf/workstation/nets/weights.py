"""Starting weights: from a file, from a run's state or from pytorchcv's releases, into a model."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.workstation.nets.architectures import find_architecture, is_import_path
from tinyclf.workstation.nets.freezing import head_layer_name
from tinyclf.workstation.nets.zoo import build_from_pytorchcv

_INSTEAD = (
    "give --weights FILE (.safetensors or .pth in pytorchcv names), --from RUN, or train with --variant scratch first"
)


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
    """Copy `state` into `model`; return whether the whole head came with it.

    Where `state` has another number of classes, the head's last layer is left out (the model keeps its random one)
    unless `keep_head` is set: only its shapes depend on that number, so layers of the head before it are copied.

    Raises:
        BadInput: tensors are missing, unknown or of another shape; `source` says where they came from.
        Unsupported: the model has no head.
    """
    own = model.state_dict()
    last = f"{head_layer_name(model)}."
    fits = all(own[k].shape == v.shape for k, v in state.items() if k.startswith(last) and k in own)
    left_out = "" if fits or keep_head else last
    if left_out:
        state = {k: v for k, v in state.items() if not k.startswith(left_out)}
    wanted = [k for k in own if not (left_out and k.startswith(left_out)) and not k.endswith("num_batches_tracked")]
    missing = [k for k in wanted if k not in state]
    wrong = [k for k, v in state.items() if k not in own or own[k].shape != v.shape]
    if missing or wrong:
        first = (missing + wrong)[0]
        raise BadInput(
            f"{source}: does not fit {type(model).__name__} with these options: {len(missing)} tensors missing, "
            f"{len(wrong)} unknown or of another shape (first: {first}); check --arch and the number of classes"
        )
    model.load_state_dict(state, strict=False)
    return not left_out


def load_weights(model: nn.Module, path: Path) -> bool:
    """Load a weights file in pytorchcv names into `model`; return whether the whole head came with it."""
    return load_state(model, _read_state(path), source=str(path))


def load_pretrained(model: nn.Module, arch: str) -> bool:
    """Load pytorchcv's own ImageNet weights of `arch`, which it fetches from its releases.

    Returns whether the whole head came with them.

    Raises:
        BadInput: there are none, or they cannot be fetched; the message says what to do instead.
    """
    if is_import_path(arch) or not find_architecture(arch).published:
        raise BadInput(f"no pretrained weights of {arch} are published: {_INSTEAD}")
    try:
        # pytorchcv reports its attempts on stdout, and draws random weights before it loads these.
        with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
            state = build_from_pytorchcv(arch, pretrained=True).state_dict()
    except Exception as error:
        raise BadInput(
            f"the pretrained weights of {arch} could not be fetched ({type(error).__name__}): {_INSTEAD}"
        ) from error
    return load_state(model, state, source=f"pytorchcv's weights of {arch}")
