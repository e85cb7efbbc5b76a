"""The table of architectures, one row each; it needs no torch."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from tinyclf.base.errors import BadInput


@dataclass(frozen=True)
class Architecture:
    """One row: what the net is and who builds it.

    pytorchcv builds it under the row's name or, where `ours` is set, the function of that name in `tiny_nets`. `paper`
    is its number at arXiv. `published`: pytorchcv offers weights trained on ImageNet. Whether it can be deployed stands
    nowhere here: `jobs.network_facts` finds out by lowering it.
    """

    family: str
    detail: str
    paper: str
    published: bool = True
    ours: bool = False

    @property
    def description(self) -> str:
        """Return what the net is, for instance "MobileNetV1, width 0.25"."""
        return f"{self.family}, {self.detail}"


ARCHITECTURES: dict[str, Architecture] = {
    "mobilenet_w1": Architecture("MobileNetV1", "width 1.0", paper="1704.04861"),
    "mobilenet_w3d4": Architecture("MobileNetV1", "width 0.75", paper="1704.04861"),
    "mobilenet_wd2": Architecture("MobileNetV1", "width 0.5", paper="1704.04861"),
    "mobilenet_wd4": Architecture("MobileNetV1", "width 0.25", paper="1704.04861"),
    "fdmobilenet_w1": Architecture("FD-MobileNet", "width 1.0", paper="1802.03750"),
    "fdmobilenet_w3d4": Architecture("FD-MobileNet", "width 0.75", paper="1802.03750"),
    "fdmobilenet_wd2": Architecture("FD-MobileNet", "width 0.5", paper="1802.03750"),
    "fdmobilenet_wd4": Architecture("FD-MobileNet", "width 0.25", paper="1802.03750"),
    "mobilenetv2_w1": Architecture("MobileNetV2", "width 1.0", paper="1801.04381"),
    "mobilenetv2_w3d4": Architecture("MobileNetV2", "width 0.75", paper="1801.04381"),
    "mobilenetv2_wd2": Architecture("MobileNetV2", "width 0.5", paper="1801.04381"),
    "mobilenetv2_wd4": Architecture("MobileNetV2", "width 0.25", paper="1801.04381"),
    "mobilenetv2b_w1": Architecture("MobileNetV2, first unit without expansion", "width 1.0", paper="1801.04381"),
    "mobilenetv2b_w3d4": Architecture("MobileNetV2, first unit without expansion", "width 0.75", paper="1801.04381"),
    "mobilenetv2b_wd2": Architecture("MobileNetV2, first unit without expansion", "width 0.5", paper="1801.04381"),
    "mobilenetv2b_wd4": Architecture("MobileNetV2, first unit without expansion", "width 0.25", paper="1801.04381"),
    "mobilenetv3_small_w1": Architecture("MobileNetV3-Small", "width 1.0", paper="1905.02244", published=False),
    "mobilenetv3_small_w5d4": Architecture("MobileNetV3-Small", "width 1.25", paper="1905.02244", published=False),
    "mobilenetv3_small_w3d4": Architecture("MobileNetV3-Small", "width 0.75", paper="1905.02244", published=False),
    "mobilenetv3_small_wd2": Architecture("MobileNetV3-Small", "width 0.5", paper="1905.02244", published=False),
    "mobilenetv3_small_w7d20": Architecture("MobileNetV3-Small", "width 0.35", paper="1905.02244", published=False),
    "mobilenetv3_large_w1": Architecture("MobileNetV3-Large", "width 1.0", paper="1905.02244"),
    "mobilenetv3_large_w5d4": Architecture("MobileNetV3-Large", "width 1.25", paper="1905.02244", published=False),
    "mobilenetv3_large_w3d4": Architecture("MobileNetV3-Large", "width 0.75", paper="1905.02244", published=False),
    "mobilenetv3_large_wd2": Architecture("MobileNetV3-Large", "width 0.5", paper="1905.02244", published=False),
    "mobilenetv3_large_w7d20": Architecture("MobileNetV3-Large", "width 0.35", paper="1905.02244", published=False),
    "shufflenetv2_wd2": Architecture("ShuffleNetV2", "width 0.5", paper="1807.11164"),
    "shufflenetv2_w1": Architecture("ShuffleNetV2", "width 1.0", paper="1807.11164"),
    "shufflenetv2_w3d2": Architecture("ShuffleNetV2", "width 1.5", paper="1807.11164"),
    "shufflenetv2_w2": Architecture("ShuffleNetV2", "width 2.0", paper="1807.11164"),
    "squeezenet_v1_0": Architecture("SqueezeNet", "version 1.0", paper="1602.07360"),
    "squeezenet_v1_1": Architecture("SqueezeNet", "version 1.1", paper="1602.07360"),
    "mnasnet_small": Architecture("MnasNet", "small", paper="1807.11626", published=False),
    "mnasnet_a1": Architecture("MnasNet", "A1, with squeeze and excitation", paper="1807.11626"),
    "mnasnet_b1": Architecture("MnasNet", "B1", paper="1807.11626"),
    "efficientnet_b0": Architecture("EfficientNet", "B0", paper="1905.11946"),
    "regnetx002": Architecture("RegNetX", "200 MFLOP at 224 pixels", paper="2003.13678"),
    "regnetx004": Architecture("RegNetX", "400 MFLOP at 224 pixels", paper="2003.13678"),
    "regnetx008": Architecture("RegNetX", "800 MFLOP at 224 pixels", paper="2003.13678"),
    "regnety002": Architecture("RegNetY", "200 MFLOP at 224 pixels, with squeeze and excitation", paper="2003.13678"),
    "regnety004": Architecture("RegNetY", "400 MFLOP at 224 pixels, with squeeze and excitation", paper="2003.13678"),
    "regnety008": Architecture("RegNetY", "800 MFLOP at 224 pixels, with squeeze and excitation", paper="2003.13678"),
    "resnet10": Architecture("ResNet", "10 layers", paper="1512.03385"),
    "resnet18_wd4": Architecture("ResNet", "18 layers, width 0.25", paper="1512.03385"),
    "resnet18_wd2": Architecture("ResNet", "18 layers, width 0.5", paper="1512.03385"),
    "resnet18_w3d4": Architecture("ResNet", "18 layers, width 0.75", paper="1512.03385"),
    "resnet18": Architecture("ResNet", "18 layers", paper="1512.03385"),
    "resnet34": Architecture("ResNet", "34 layers", paper="1512.03385"),
    "resnet50": Architecture("ResNet", "50 layers", paper="1512.03385"),
    # TinyML's own, which pytorchcv lacks.
    "resnet8": Architecture(
        "ResNet",
        "8 layers, of MLPerf Tiny's image classification",
        paper="2106.07597",
        published=False,
        ours=True,
    ),
    "dscnn": Architecture(
        "DS-CNN",
        "64 channels, after MLPerf Tiny's keyword spotting",
        paper="1711.07128",
        published=False,
        ours=True,
    ),
}


def is_import_path(name: str) -> bool:
    """Tell whether `name` is an import path `package.module:function` of the user's own net, not a row of the table."""
    return ":" in name


def find_architecture(name: str) -> Architecture:
    """Return the row called `name`.

    Raises:
        BadInput: there is none; the message names the closest ones.
    """
    if name not in ARCHITECTURES:
        raise _unknown(name)
    return ARCHITECTURES[name]


def select_architectures(patterns: Sequence[str]) -> list[str]:
    """Return the names that `patterns` select, each once: names, globs ("mobilenet*") and import paths; none: all rows.

    Raises:
        BadInput: a pattern selects nothing.
    """
    selected: dict[str, None] = {}
    for pattern in patterns or ["*"]:
        names = [pattern] if is_import_path(pattern) else fnmatch.filter(ARCHITECTURES, pattern)
        if not names:
            raise _unknown(pattern)
        selected.update(dict.fromkeys(names))
    return list(selected)


def _unknown(name: str) -> BadInput:
    close = difflib.get_close_matches(name, ARCHITECTURES, n=4, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return BadInput(f"unknown architecture '{name}': {meant}`tinyclf models` lists all {len(ARCHITECTURES)}")
