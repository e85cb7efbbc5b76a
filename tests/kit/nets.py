"""The families of architectures."""

from __future__ import annotations

# The smallest net of each family -> its number of blocks, as its paper has them.
FAMILIES = {
    "mobilenet_wd4": 13,
    "fdmobilenet_wd4": 11,
    "mobilenetv2_wd4": 17,
    "mobilenetv2b_wd4": 17,
    "mobilenetv3_small_w7d20": 11,
    "mobilenetv3_large_w7d20": 15,
    "shufflenetv2_wd2": 16,
    "squeezenet_v1_0": 8,
    "squeezenet_v1_1": 8,
    "mnasnet_small": 13,
    "mnasnet_a1": 14,
    "mnasnet_b1": 15,
    "efficientnet_b0": 16,
    "regnetx002": 13,
    "regnety002": 13,
    "resnet10": 4,
    "resnet18_wd4": 8,
    "resnet50": 16,
    "resnet8": 3,
    "dscnn": 4,
}
