"""What is known of an architecture: its counts, and whether it can be deployed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tinyclf.base.errors import Unsupported
from tinyclf.device.run.step import plan_step
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import (
    blocks,
    build_model,
    fold_batchnorm,
    freeze,
    model_size_bytes,
    num_macs,
    num_parameters,
)


@dataclass(frozen=True)
class NetworkFacts:
    """What `tinyclf models` shows of an architecture at a size and a number of classes.

    `num_parameters` are PyTorch's, with BatchNorm; `num_macs` is of one image, forward; `num_blocks` is the most that
    FT can unfreeze; `published`: pytorchcv offers weights. `obstacle`: why the device half cannot lower it, or "".
    """

    name: str
    description: str
    num_parameters: int
    num_macs: int
    fp32_bytes: int
    fp16_bytes: int
    num_blocks: int
    published: bool
    obstacle: str


def network_facts(arch: str, *, size: int, num_classes: int, small_input: bool = False) -> NetworkFacts:
    """Return the facts of `arch` for images of `size` pixels; built from shapes alone, without weights.

    Raises:
        BadInput, Unsupported: it cannot be built, see `build_model`.
    """
    with torch.device("meta"):
        model = build_model(arch, num_classes=num_classes, size=size, small_input=small_input)
    row = ARCHITECTURES.get(arch)
    deployed, obstacle = _lowered(model, size=size)
    return NetworkFacts(
        name=arch,
        description=row.description if row else type(model).__name__,
        num_parameters=num_parameters(model),
        num_macs=num_macs(deployed, size),
        fp32_bytes=model_size_bytes(model, 4),
        fp16_bytes=model_size_bytes(model, 2),
        num_blocks=len(blocks(model)),
        published=row is not None and row.published,
        obstacle=obstacle,
    )


def _lowered(model: nn.Module, *, size: int) -> tuple[nn.Module, str]:
    """Fold `model` and lower its LP step; return what was lowered, unfolded where folding fails, and the obstacle."""
    try:
        freeze(model, Variant("LP"))
        model = fold_batchnorm(model)
        plan_step(model, image=(3, size, size))
    except Unsupported as error:
        return model, str(error)
    return model, ""
