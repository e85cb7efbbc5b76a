"""Freezing: what each variant trains in every family of nets, and which layers are in train mode."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.kit.nets import FAMILIES
from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import blocks, build_model, freeze, head, head_layer, num_parameters, set_train_mode


def net(arch: str = "mobilenet_wd4") -> nn.Module:
    return build_model(arch, num_classes=2, size=32)


def trained_names(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("variant", "trained"),
    [
        # 256 features to 2 classes: 514; last block 256x256 + 256x9 + 2x2x256 (two BatchNorms).
        (Variant("LP"), 514),
        (Variant("FT", k=0), 514),
        (Variant("FT", k=1), 514 + 256 * 256 + 9 * 256 + 4 * 256),
        (Variant("FT", k=2), 514 + 68_864 + 128 * 256 + 9 * 128 + 2 * 128 + 2 * 256),
        (Variant("full"), 213_586),
        (Variant("scratch"), 213_586),
    ],
)
def test_trained_parameters(variant: Variant, trained: int) -> None:
    model = net()
    freeze(model, variant)
    assert num_parameters(model, trained=True) == trained
    assert num_parameters(model, trained=False) == 213_586 - trained


def test_freeze_undoes_an_earlier_freeze() -> None:
    model = net()
    freeze(model, Variant("LP"))
    freeze(model, Variant("full"))
    assert num_parameters(model, trained=False) == 0


def test_ft_unfreezes_from_the_end() -> None:
    model = net()
    freeze(model, Variant("FT", k=3))
    trained = [name for name, block in blocks(model) if all(p.requires_grad for p in block.parameters())]
    assert trained == [name for name, _ in blocks(model)][-3:]


def test_train_mode_follows_what_is_trained() -> None:
    model = net()
    freeze(model, Variant("FT", k=1))
    set_train_mode(model)
    modes = {name: module.training for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert [name for name, training in modes.items() if training] == [
        "features.stage5.unit2.dw_conv.bn",
        "features.stage5.unit2.pw_conv.bn",
    ]


@pytest.mark.parametrize("output", [None, nn.ReLU()])
def test_linear_probe_needs_a_head_with_weights(output: nn.Module | None) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    if output:
        model.add_module("output", output)
    with pytest.raises(Unsupported, match="Sequential has no layer with weights named 'output'"):
        freeze(model, Variant("LP"))
    assert num_parameters(model, trained=True) == 12, "a refusal changes nothing"


@pytest.mark.parametrize(("arch", "num_blocks"), FAMILIES.items())
def test_blocks_of_every_family(arch: str, num_blocks: int) -> None:
    with torch.device("meta"):
        model = net(arch)
    names = [name for name, _ in blocks(model)]
    assert len(names) == num_blocks
    for name, _ in model.named_parameters():
        in_blocks = [block for block in names if name.startswith(f"{block}.")]
        assert len(in_blocks) == name.startswith("features.stage"), name


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_variant_trains_one_contiguous_end(arch: str) -> None:
    with torch.device("meta"):
        model = net(arch)
    names = [name for name, _ in model.named_parameters()]
    in_head = [name for name in names if name.startswith("output.")]
    for k in (0, 1, 3):
        freeze(model, Variant("FT", k=k))
        trained = trained_names(model)
        assert trained == names[len(names) - len(trained) :]
        start = blocks(model)[-k][0] + "." if k else "output."
        assert trained[0].startswith(start)
        assert not names[len(names) - len(trained) - 1].startswith(start)
    freeze(model, Variant("LP"))
    assert trained_names(model) == in_head != []
    freeze(model, Variant("full"))
    assert trained_names(model) == names


def test_a_final_block_is_trained_with_the_blocks_before_it() -> None:
    model = net("mobilenetv2_wd4")
    freeze(model, Variant("FT", k=1))
    assert "features.final_block.conv.weight" in trained_names(model)
    freeze(model, Variant("LP"))
    assert trained_names(model) == ["output.weight"]


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("variant", [Variant("LP"), Variant("FT", k=2), Variant("scratch")], ids=lambda v: v.name)
def test_train_mode_in_every_family(arch: str, variant: Variant) -> None:
    with torch.device("meta"):
        model = net(arch)
    freeze(model, variant)
    set_train_mode(model)
    for name, module in model.named_modules():
        own = list(module.parameters())
        if own:
            assert module.training == all(p.requires_grad for p in own), name
        if isinstance(module, nn.Dropout):
            in_head = name.startswith("output.")
            assert module.training == (in_head or variant.name != "LP"), name
    set_train_mode(model, bn="train")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.training for m in norms)
    assert bool(norms) == ("squeezenet" not in arch)


def sandwich() -> nn.Module:
    """Return a net with Dropout in each of its parts."""

    def unit() -> nn.Module:
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 1), bn=nn.BatchNorm2d(3), drop=nn.Dropout()))

    stage = nn.Sequential(OrderedDict(unit1=unit(), unit2=unit(), drop=nn.Dropout()))
    features = nn.Sequential(OrderedDict(stage1=stage, drop=nn.Dropout2d(), pool=nn.AdaptiveAvgPool2d(1)))
    output = nn.Sequential(OrderedDict(flat=nn.Flatten(), drop=nn.Dropout(), fc=nn.Linear(3, 2)))
    return nn.Sequential(OrderedDict(features=features, output=output))


@pytest.mark.parametrize(
    ("variant", "active"),
    [
        (Variant("LP"), ["output.drop"]),
        (
            Variant("FT", k=1),
            ["features.stage1.unit2.drop", "features.stage1.drop", "features.drop", "output.drop"],
        ),
        (
            Variant("full"),
            [
                "features.stage1.unit1.drop",
                "features.stage1.unit2.drop",
                "features.stage1.drop",
                "features.drop",
                "output.drop",
            ],
        ),
    ],
    ids=lambda v: v.label if isinstance(v, Variant) else "",
)
def test_dropout_is_active_where_what_is_around_it_is_trained(variant: Variant, active: list[str]) -> None:
    model = sandwich()
    freeze(model, variant)
    model.train()  # whatever was set before
    set_train_mode(model)
    dropping = [name for name, m in model.named_modules() if name.endswith("drop") and m.training]
    assert dropping == active
    assert model.training == (variant.name == "full")


def test_statistics_of_a_frozen_batchnorm_adapt_only_when_asked() -> None:
    model = net("resnet8")
    freeze(model, Variant("LP"))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = model.get_buffer("features.init_block.bn.running_mean")
    before = mean.clone()
    set_train_mode(model)
    model(images)
    assert torch.equal(mean, before)
    set_train_mode(model, bn="train")
    model(images)
    assert not torch.equal(mean, before)
    assert trained_names(model) == ["output.weight", "output.bias"]
    with pytest.raises(BadInput, match="unknown mode of BatchNorm 'adapt': choose frozen, train or folded"):
        set_train_mode(model, bn="adapt")


def test_a_net_without_stages_has_the_children_of_features_as_blocks() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(OrderedDict(features=features, output=nn.Linear(4, 2)))
    assert [name for name, _ in blocks(model)] == ["features.0", "features.2"]
    freeze(model, Variant("FT", k=1))
    assert trained_names(model) == ["features.2.weight", "features.2.bias", "output.weight", "output.bias"]
    bare = nn.Sequential(OrderedDict(output=nn.Linear(4, 2)))
    with pytest.raises(BadInput, match="the net has 0 blocks, use --k 0 or less"):
        freeze(bare, Variant("FT", k=1))


@pytest.mark.parametrize(
    ("arch", "kind", "layer"),
    [
        ("mobilenet_wd4", nn.Linear, "output"),
        ("mobilenetv2_wd4", nn.Conv2d, "output"),
        ("mobilenetv3_small_w7d20", nn.Conv2d, "output.conv2"),
        ("squeezenet_v1_1", nn.Conv2d, "output.final_conv"),
        ("efficientnet_b0", nn.Linear, "output.fc"),
    ],
)
def test_head_and_its_last_layer(arch: str, kind: type[nn.Module], layer: str) -> None:
    with torch.device("meta"):
        model = net(arch)
    assert head(model) is model.get_submodule("output")
    assert head_layer(model) is model.get_submodule(layer)
    assert isinstance(head_layer(model), kind)
