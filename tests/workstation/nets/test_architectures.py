"""Every architecture: found by name, built at any size, trained a step, traced; what the table says is so."""

from __future__ import annotations

import io
import warnings

import numpy
import pytest
import torch
from pytorchcv.models import regnet
from pytorchcv.models.model_store import _model_sha1
from torch import fx, nn

from tests.kit.nets import FAMILIES
from tinyclf.base.errors import BadInput
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES, find_architecture, select_architectures
from tinyclf.workstation.nets.build import build_model, freeze, head_layer, set_train_mode
from tinyclf.workstation.nets.zoo import build_from_pytorchcv


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Name the smallest net of each family in turn."""
    return str(request.param)


def images(num: int, size: int) -> torch.Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_name_selects_a_row_and_a_pattern_several() -> None:
    assert find_architecture("mobilenet_wd4").description == "MobileNetV1, width 0.25"
    assert select_architectures(["dscnn", "mobilenet_*", "dscnn"]) == [
        "dscnn",
        "mobilenet_w1",
        "mobilenet_w3d4",
        "mobilenet_wd2",
        "mobilenet_wd4",
    ]
    assert select_architectures([]) == list(ARCHITECTURES)
    assert select_architectures(["my.nets:Net"]) == ["my.nets:Net"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mobilenet_wd3",
            r"unknown architecture 'mobilenet_wd3': did you mean mobilenet_wd\d or .*\? `tinyclf models`",
        ),
        ("vit_b_16", r"^unknown architecture 'vit_b_16': `tinyclf models` lists all \d+$"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, message: str) -> None:
    for call in (find_architecture, lambda pattern: select_architectures([pattern])):
        with pytest.raises(BadInput, match=message) as raised:
            call(name)
        assert len(str(raised.value)) < 200


def test_the_table_knows_which_weights_are_published() -> None:
    for name, row in ARCHITECTURES.items():
        assert row.published == (name in _model_sha1), name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_row_builds_for_any_size_and_number_of_classes(name: str) -> None:
    with torch.device("meta"):
        for size, num_classes in ((32, 2), (57, 11)):
            model = build_model(name, num_classes=num_classes, size=size)
            assert model.eval()(torch.zeros(2, 3, size, size)).shape == (2, num_classes)
            assert head_layer(model).weight.shape[0] == num_classes


@pytest.mark.parametrize("size", [32, *(pytest.param(size, marks=pytest.mark.long) for size in (96, 128, 224))])
def test_one_step_of_training_at_every_size(family: str, size: int) -> None:
    model = build_model(family, num_classes=3, size=size)
    freeze(model, Variant("scratch"))
    set_train_mode(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of Dropout
        # Over two images of one pixel BatchNorm gives +1 and -1, whatever comes in: no gradient passes.
        num = 4 if size == 32 else 2
        loss = nn.functional.cross_entropy(model(images(num, size)), torch.arange(num) % 3)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    stem = next(name for name in before if name.endswith("conv.weight"))
    for name in (stem, next(name for name in reversed(before) if name.endswith("weight"))):
        assert not torch.equal(model.get_parameter(name), before[name]), f"{name} did not learn"


def test_fx_and_onnx_can_follow_every_family(family: str) -> None:
    model = build_model(family, num_classes=3, size=64).eval()
    x = images(2, 64)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(traced(images(1, 96)), model(images(1, 96))), "tracing fixed the size"
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that writes one file
        torch.onnx.export(model, (x,), stream, dynamo=False, input_names=["image"], dynamic_axes={"image": {0: "n"}})  # type: ignore[arg-type]
    assert len(stream.getvalue()) > 4 * sum(p.numel() for p in model.parameters()) * 0.9


def test_building_a_regnet_leaves_numpy_as_it_was() -> None:
    before = regnet.np
    build_from_pytorchcv("regnetx002", num_classes=2)
    assert regnet.np is before is numpy
    assert "int" not in vars(numpy)
    with pytest.raises(ValueError, match="Unsupported model"):
        build_from_pytorchcv("regnet_of_tomorrow")
    assert regnet.np is before


def test_pools_at_the_end_are_global(family: str) -> None:
    model = build_model(family, num_classes=3, size=32)
    pools = [module for name, module in model.named_modules() if name.endswith("final_pool")]
    assert [type(pool) for pool in pools] == [nn.AdaptiveAvgPool2d]


def test_logits_of_a_squeezenet_can_be_negative_and_learn() -> None:
    model = build_model("squeezenet_v1_1", num_classes=3, size=32).eval()
    head = head_layer(model)
    assert head.bias is not None
    with torch.no_grad():
        head.bias.fill_(-100.0)
    logits = model(images(2, 32))
    assert (logits < 0).all(), "a ReLU behind the logits would give 0, and no gradient"
    nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() > 0
