"""Nets of TinyML that pytorchcv lacks, built of its layers and named in its scheme."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from pytorchcv.models.common import ConvBlock, conv3x3_block, dwsconv3x3_block
from torch import nn


class TinyNet(nn.Module):
    """Features (N, 3, H, W) -> (N, C, 1, 1), then a linear layer to logits (N, num_classes)."""

    def __init__(self, features: nn.Sequential, *, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.features.add_module("final_pool", nn.AdaptiveAvgPool2d(1))
        self.output = nn.Linear(num_channels, num_classes)
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of images (N, 3, H, W)."""
        x = self.features(x)
        logits: torch.Tensor = self.output(x.view(x.size(0), -1))
        return logits


class BasicUnit(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to their input; a 1x1 convolution fits the input where needed."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3_block(in_channels, out_channels, stride=stride)
        self.conv2 = conv3x3_block(out_channels, out_channels, activation=None)
        fits = stride == 1 and in_channels == out_channels
        self.identity_conv = nn.Identity() if fits else nn.Conv2d(in_channels, out_channels, 1, stride=stride)
        self.activ = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, out_channels, H / stride, W / stride)."""
        y: torch.Tensor = self.activ(self.conv2(self.conv1(x)) + self.identity_conv(x))
        return y


def resnet8(*, num_classes: int) -> nn.Module:
    """Build the ResNet of MLPerf Tiny's image classification (CIFAR-10 at 32x32 pixels).

    A 3x3 convolution to 16 channels, three stages of one unit with 16, 32 and 64 channels and strides 1, 2 and 2,
    global average pooling, linear. As in the original the shortcuts have a bias and no BatchNorm. It differs in two
    things: convolutions before BatchNorm have no bias (BatchNorm has one), and strided ones pad both sides alike, as
    PyTorch does, where Keras pads only below and at the right.

    Source: C. Banbury et al., "MLPerf Tiny Benchmark", https://arxiv.org/abs/2106.07597; the net is `resnet_v1_eembc`
    of github.com/mlcommons/tiny, benchmark/training/image_classification.
    """
    features = nn.Sequential(OrderedDict(init_block=conv3x3_block(3, 16)))
    for i, (before, after) in enumerate(pairwise((16, 16, 32, 64)), start=1):
        unit = BasicUnit(before, after, stride=1 if i == 1 else 2)
        features.add_module(f"stage{i}", nn.Sequential(OrderedDict(unit1=unit)))
    return TinyNet(features, num_channels=64, num_classes=num_classes)


def dscnn(*, num_classes: int) -> nn.Module:
    """Build a DS-CNN like that of MLPerf Tiny's keyword spotting, for images.

    A 5x5 convolution with stride 2 to 64 channels (the original's is 10x4, made for spectrograms), four
    depthwise-separable 3x3 blocks with 64 channels, each convolution with BatchNorm and ReLU, global average pooling,
    linear. The original's Dropout is left out.

    Source: Y. Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", https://arxiv.org/abs/1711.07128.
    """
    features = nn.Sequential(OrderedDict(init_block=ConvBlock(3, 64, kernel_size=5, stride=2, padding=2)))
    units = OrderedDict((f"unit{i}", dwsconv3x3_block(64, 64)) for i in range(1, 5))
    features.add_module("stage1", nn.Sequential(units))
    return TinyNet(features, num_channels=64, num_classes=num_classes)
