"""Folding: the folded net is the net, for every family; what cannot be folded is named."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.kit.nets import FAMILIES
from tinyclf.base.errors import Unsupported
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, fold_batchnorm, freeze

# Families that fold; none is left out so far. In single precision a net whose last map is one pixel, calibrated on
# four images, divides by deviations near zero: the comparison is made in double precision.
FOLDING = [*FAMILIES]


def net(arch: str = "mobilenet_wd4", *, num_classes: int = 2, size: int = 32) -> nn.Module:
    return build_model(arch, num_classes=num_classes, size=size)


@pytest.mark.parametrize("arch", FOLDING)
def test_folded_model_equals_unfolded(arch: str) -> None:
    model = net(arch, num_classes=5, size=64).double()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    calibrate_batchnorm(model, images)
    with torch.no_grad():
        expected = model(images)
        folded = fold_batchnorm(model)
        assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
        assert expected.std() > 1e-3
        assert (folded(images) - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert torch.equal(model(images), expected), "folding changed the original"


def test_calibration_draws_nothing_and_restores_momentum() -> None:
    model = net("efficientnet_b0")  # it has Dropout
    state = torch.get_rng_state()
    calibrate_batchnorm(model, torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert not any(m.training for m in model.modules())


def test_folding_keeps_what_is_trained() -> None:
    model = net()
    freeze(model, Variant("FT", k=1))
    trained = [name for name, p in fold_batchnorm(model).named_parameters() if p.requires_grad]
    unit = "features.stage5.unit2"
    assert trained == [
        f"{unit}.dw_conv.conv.weight",
        f"{unit}.dw_conv.conv.bias",
        f"{unit}.pw_conv.conv.weight",
        f"{unit}.pw_conv.conv.bias",
        "output.weight",
        "output.bias",
    ]


def test_folding_refuses_a_batchnorm_without_convolution() -> None:
    with pytest.raises(Unsupported, match="does not directly follow a convolution"):
        fold_batchnorm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


class Twice(nn.Module):
    """One convolution under two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv(self.bn1(self.conv(x))))


class Branching(nn.Module):
    """A net whose path depends on the values it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(3), relu=nn.ReLU(), conv=nn.Conv2d(3, 3, 1))),
            "BatchNorm 'bn' cannot be folded: it does not directly follow a convolution",
        ),
        (Twice(), "BatchNorm 'bn1' cannot be folded: it or its convolution is used twice"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
            "BatchNorm '1' cannot be folded: it keeps no running statistics",
        ),
        (Branching(), "Branching cannot be traced by torch.fx"),
    ],
    ids=["before the convolution", "shared convolution", "no statistics", "branching"],
)
def test_what_cannot_be_folded_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        fold_batchnorm(model)
