"""TinyML's nets: the counts that their sources give, and what their stages do to the image."""

from __future__ import annotations

import torch
from torch import nn

from tinyclf.workstation.nets.build import build_model, fold_batchnorm, num_macs, num_parameters


def test_resnet8_has_the_parameters_of_mlperf_tiny() -> None:
    # The Keras net counts 78,666, with four values per channel of its 240 channels of BatchNorm.
    folded = fold_batchnorm(build_model("resnet8", num_classes=10, size=32))
    assert num_parameters(folded) == 78_666 - 4 * 240


def test_resnet8_has_the_macs_of_mlperf_tiny() -> None:
    stem = 32 * 32 * 16 * 27
    stage1 = 2 * 32 * 32 * 16 * 16 * 9
    stage2 = 16 * 16 * 32 * (16 * 9 + 32 * 9 + 16)
    stage3 = 8 * 8 * 64 * (32 * 9 + 64 * 9 + 32)
    model = build_model("resnet8", num_classes=10, size=32)
    assert num_macs(model, 32) == stem + stage1 + stage2 + stage3 + 640 == 12_501_632


def test_resnet8_adds_the_shortcut() -> None:
    unit = build_model("resnet8", num_classes=10, size=32).get_submodule("features.stage1.unit1").eval()
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(unit.get_parameter("conv2.conv.weight"))
    assert torch.equal(unit(x), x.relu())


def test_dscnn_counts() -> None:
    model = build_model("dscnn", num_classes=12, size=32)
    block = 64 * 9 + 64 * 64
    assert num_parameters(fold_batchnorm(model)) == (64 * 75 + 64) + 4 * (block + 2 * 64) + (64 * 12 + 12)
    assert num_macs(model, 32) == 16 * 16 * (64 * 75 + 4 * block) + 64 * 12


def test_shapes_after_each_stage() -> None:
    for arch, shapes in {
        "resnet8": [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 1, 1)],
        "dscnn": [(64, 16, 16), (64, 16, 16), (64, 1, 1)],
    }.items():
        x = torch.zeros(1, 3, 32, 32)
        seen = []
        for child in build_model(arch, num_classes=2, size=32).eval().get_submodule("features").children():
            x = child(x)
            seen.append(tuple(x.shape[1:]))
        assert seen == shapes, arch
