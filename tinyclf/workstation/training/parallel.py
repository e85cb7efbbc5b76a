"""Devices, precision and processes: Lightning Fabric set up from a configuration, and BatchNorm over processes."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.workstation.runs.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(config: TrainConfig) -> Fabric:
    """Return Fabric with its processes running; under torchrun or SLURM, this process is one of those.

    Raises:
        BadInput: there is no such accelerator or device here.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    accelerator = config.accelerator
    if accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        accelerator = "cpu"
    devices, num_nodes = _places(config, on_cpu=accelerator == "cpu")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if accelerator == "cpu" and _several(devices, num_nodes) else "auto",
            precision=_precision(config.precision),
        )
        fabric.launch()
    except (ValueError, TypeError, RuntimeError) as error:  # Fabric's own kinds derive from these
        reason = " ".join(str(error).split())[:160]
        where = f"accelerator {config.accelerator}, devices {config.devices}"
        raise BadInput(f"{where}: cannot be used here ({reason})") from error
    if fabric.world_size > 1:
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Leave the other processes in order: gloo's threads, if they outlive the interpreter, end it by an abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _places(config: TrainConfig, *, on_cpu: bool) -> tuple[int | str, int]:
    """Return the devices of this machine and the number of machines, from the launcher where there is one."""
    if config.devices != "auto":
        return int(config.devices) if config.devices.isdigit() else config.devices, config.num_nodes
    if on_cpu and "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if on_cpu and os.environ.get("SLURM_NTASKS_PER_NODE", "").isdigit() and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ.get("SLURM_NNODES", config.num_nodes))
    return 1 if on_cpu else "auto", config.num_nodes


def _several(devices: int | str, num_nodes: int) -> bool:
    return num_nodes > 1 or (isinstance(devices, int) and devices > 1)


def _precision(name: str) -> Any:
    """Choose the precision; on a CPU float32, since bf16 is slower on those without instructions for it."""
    if name == "auto" and torch.cuda.is_available():
        name = "bf16" if torch.cuda.is_bf16_supported() else "16"
    return {"auto": "32-true", "64": "64-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[name]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics are those of all processes' images, on any device (torch's own needs a GPU).

    (n, C, H, W) -> the same shape; n may differ between processes.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise with the statistics of all processes while training, with the running ones otherwise."""
        if not self.training:
            return super().forward(images)
        count = torch.tensor(float(images.numel() // images.shape[1]), device=images.device)
        sums = images.sum(dim=(0, 2, 3), dtype=torch.float64)
        everywhere = _summed(torch.cat([sums, count.double()[None]]))
        total, everything = everywhere[:-1], everywhere[-1]
        mean = total / everything
        centred = images - mean.to(images.dtype)[None, :, None, None]
        variance = _summed(centred.double().square().sum(dim=(0, 2, 3))) / everything
        self._take_in(mean.detach(), variance.detach(), everything.detach())
        scale = torch.rsqrt(variance + self.eps).to(images.dtype) * self.weight
        return centred * scale[None, :, None, None] + self.bias[None, :, None, None]

    @torch.no_grad()
    def _take_in(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum over all processes; each of them uses it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def _summed(values: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def is_first_process() -> bool:
    """Say whether this is the process that speaks for all."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def sum_over_processes(fabric: Fabric, values: Sequence[float]) -> list[float]:
    """Return the sum of each value over all processes, in double precision."""
    if fabric.world_size == 1:
        return list(values)
    total = fabric.all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return [float(value) for value in total]


def synchronise_batchnorm(model: nn.Module) -> None:
    """Let the BatchNorms of `model` that may be trained take their statistics over all processes, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # parameters, buffers and names stay as they are
