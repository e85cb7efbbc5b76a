"""Models: counts, seeds, small inputs, nets of the user's own, variants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.recipe.variant import VARIANTS, Variant
from tinyclf.workstation.nets.build import (
    build_model,
    fold_batchnorm,
    freeze,
    head_layer,
    model_size_bytes,
    num_macs,
    num_parameters,
)


def net(arch: str = "mobilenet_wd4", *, num_classes: int = 2, size: int = 32, seed: int = 0) -> nn.Module:
    return build_model(arch, num_classes=num_classes, size=size, seed=seed)


@pytest.mark.parametrize(
    ("arch", "with_batchnorm", "folded"), [("mobilenet_wd4", 213_586, 210_850), ("fdmobilenet_wd4", 126_674, 124_706)]
)
def test_parameter_counts(arch: str, with_batchnorm: int, folded: int) -> None:
    model = net(arch)
    assert num_parameters(model) == with_batchnorm
    assert num_parameters(fold_batchnorm(model)) == folded


OWN_NETS = """
from collections import OrderedDict
from torch import nn

def tiny(*, num_classes, in_size):
    assert in_size[0] == in_size[1]
    conv, pool = nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1)
    features = nn.Sequential(OrderedDict(conv=conv, drop=nn.Dropout(), pool=pool, flat=nn.Flatten()))
    return nn.Sequential(OrderedDict(features=features, output=nn.Linear(4, num_classes)))

def blockless(*, num_classes, in_size):
    features = nn.Sequential(nn.AvgPool2d(in_size), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, output=nn.Linear(3, num_classes)))

def headless(*, num_classes, in_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * in_size[0] * in_size[1], num_classes))

def relu_head(*, num_classes, in_size):
    return nn.Sequential(OrderedDict(features=nn.Conv2d(3, 2, 1), output=nn.ReLU()))

def stubborn(*, num_classes, in_size):
    return tiny(num_classes=7, in_size=in_size)

def narrow(*, num_classes, in_size):
    model = tiny(num_classes=num_classes, in_size=in_size)
    model.features.conv = nn.Conv2d(1, 4, 3)
    return model

def failing(*, num_classes, in_size):
    raise ValueError("only 224 pixels\\nreally")

def dictionary(*, num_classes, in_size):
    return {}

def positional(classes):
    return None
"""


@pytest.fixture
def own_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a module with nets of the user's own into the current directory."""
    (tmp_path / "own_nets.py").write_text(OWN_NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_nets", None)


@pytest.mark.parametrize("arch", ["mobilenet_wd4", "squeezenet_v1_1", "regnetx002", "dscnn", "own_nets:tiny"])
def test_weights_depend_on_the_seed_alone(arch: str, own_nets: None) -> None:
    state = torch.get_rng_state()
    first = net(arch, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state), "building a model used torch's random state"
    with torch.random.fork_rng(devices=[]):
        torch.rand(7)
        second, other = net(arch, seed=5).state_dict(), net(arch, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = [name for name in first if name.endswith("conv.weight") or name == "output.weight"]
    assert weights
    assert not any(torch.equal(first[name], other[name]) for name in weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build_model("resnet81", num_classes=2, size=32),
            "unknown architecture 'resnet81': did you mean resnet8 or",
        ),
        (lambda: build_model("mobilenet_wd4", num_classes=2, size=31), "too small.*--size 32"),
        (lambda: build_model("mobilenet_wd4", num_classes=1, size=32), "at least 2"),
        (lambda: Variant("LoRA"), "unknown variant 'LoRA': choose one of scratch, full, LP, FD, FT"),
        (lambda: Variant("FT", k=-1), "cannot be negative"),
        (lambda: freeze(net(), Variant("FT", k=14)), "the net has 13 blocks, use --k 13 or less"),
    ],
)
def test_error_messages(call: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()  # type: ignore[operator]


def test_labels_of_variants() -> None:
    assert Variant("FT", k=3).label == "FT K=3"
    variants = [Variant(name, layers=("output",) if name == "layers" else ()) for name in VARIANTS]
    assert {variant.name: variant.needs_weights for variant in variants} == {
        "scratch": False,
        "full": True,
        "LP": True,
        "FD": True,
        "FT": True,
        "layers": True,
    }
    assert Variant("FD").default_arch == "fdmobilenet_wd4"


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "size", "millions"),
    [
        ("mobilenet_wd4", 128, 13.31),
        ("fdmobilenet_wd4", 128, 3.85),
        # The paper's net, whose first unit does not expand: 300.8 M at 224 pixels. mobilenetv2_w1 has a 1x1 more there.
        ("mobilenetv2b_w1", 128, 97.80),
        ("mobilenetv2_w1", 128, 97.80 + 64 * 64 * 32 * 32 / 1e6),
        ("resnet50", 224, 3855.93),  # with 1,000 classes 3.86 G, as its paper's table has it
    ],
)
def test_macs(arch: str, size: int, millions: float) -> None:
    with torch.device("meta"):
        model = net(arch, size=size)
    assert num_macs(model, size) / 1e6 == pytest.approx(millions, abs=0.005)


def test_macs_by_hand_leave_no_trace() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # 8 x 8 x 8 outputs of 27 weights
    grouped = nn.Conv2d(8, 16, (3, 5), groups=4, padding=(1, 2), bias=False)  # 16 x 8 x 8 outputs of 2 x 15
    norm = nn.BatchNorm2d(16)
    model = nn.Sequential(conv, grouped, norm, nn.Flatten(), nn.Linear(1024, 5)).train()
    with torch.device("meta"):
        shapes = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1))
    assert num_macs(model, 16) == 512 * 27 + 1024 * 30 + 1024 * 5
    assert num_macs(shapes, 16) == 512 * 27
    assert model.training
    assert grouped.training
    assert norm.num_batches_tracked == 0
    assert not any(module._forward_hooks for module in [*model.modules(), *shapes.modules()])


def test_size_in_bytes() -> None:
    assert model_size_bytes(net(), 4) == 4 * 213_586
    assert model_size_bytes(net(), 2) == 2 * 213_586


# --- small inputs -----------------------------------------------------------------------------------------------------


def last_map(model: nn.Module, size: int) -> tuple[int, ...]:
    """Return height and width of what the last pooling averages."""
    seen: list[tuple[int, ...]] = []
    pool = next(module for name, module in model.named_modules() if name.endswith("final_pool"))
    pool.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[2:])))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return seen[0]


@pytest.mark.parametrize(
    ("arch", "before", "after"),
    [
        ("mobilenet_wd4", 1, 2),
        ("fdmobilenet_wd4", 1, 2),
        ("mobilenetv2_wd4", 1, 2),
        ("mobilenetv3_small_w7d20", 1, 2),
        ("shufflenetv2_wd2", 1, 4),
        ("squeezenet_v1_0", 1, 6),
        ("squeezenet_v1_1", 1, 7),
        ("mnasnet_small", 1, 2),
        ("efficientnet_b0", 1, 2),
        ("regnetx002", 1, 2),
        ("resnet10", 1, 4),
        ("resnet8", 8, 8),
        ("dscnn", 16, 32),
    ],
)
def test_small_input_keeps_the_size_before_the_first_block(arch: str, before: int, after: int) -> None:
    large = build_model(arch, num_classes=2, size=32)
    small = build_model(arch, num_classes=2, size=32, small_input=True)
    assert last_map(large, 32) == (before, before)
    assert last_map(small, 32) == (after, after)
    assert all(torch.equal(large.state_dict()[name], value) for name, value in small.state_dict().items())


# --- nets of the user's own -------------------------------------------------------------------------------------------


def test_a_net_of_the_users_own(own_nets: None) -> None:
    model = net("own_nets:tiny", num_classes=3)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert all(module.training for module in model.modules()), "checking it changed its mode"
    freeze(model, Variant("FT", k=1))
    assert num_parameters(model, trained=False) == 0
    assert head_layer(model) is model.get_submodule("output")
    assert num_macs(model, 32) == 15 * 15 * 4 * 27 + 4 * 3


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("headless", Unsupported, r"Sequential has no layer with weights named 'output', the head to train"),
        ("relu_head", Unsupported, r"Sequential has no layer with weights named 'output'"),
        ("stubborn", Unsupported, r"one image gives \(1, 7\), not logits of shape \(1, 2\)"),
        ("narrow", Unsupported, r"an image of 32x32 raised RuntimeError: "),
        ("dictionary", Unsupported, r"returned a dict, not a torch.nn.Module"),
        ("failing", BadInput, r"in_size=\(32, 32\) it raised ValueError: only 224 pixels$"),
        ("positional", BadInput, r"it raised TypeError: "),
        ("absent", BadInput, r"own_nets has no function 'absent'"),
    ],
)
def test_what_a_net_of_the_users_own_lacks(own_nets: None, name: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^architecture 'own_nets:{name}': .*{message}") as raised:
        net(f"own_nets:{name}")
    assert "\n" not in str(raised.value)


def test_small_input_needs_blocks(own_nets: None) -> None:
    with pytest.raises(Unsupported, match="--small-input: Sequential has no blocks"):
        build_model("own_nets:blockless", num_classes=2, size=32, small_input=True)
