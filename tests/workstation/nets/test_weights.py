"""Starting weights: what fits is copied, another number of classes leaves one layer out, the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.kit.paths import SHARED
from tinyclf.base.errors import BadInput
from tinyclf.workstation.nets.build import build_model, load_pretrained, load_state, load_weights

IMAGENET = SHARED / "weights" / "mobilenet_wd4_imagenet_128.safetensors"


def net(arch: str = "mobilenet_wd4", *, num_classes: int = 2, size: int = 32, seed: int = 0) -> nn.Module:
    return build_model(arch, num_classes=num_classes, size=size, seed=seed)


def test_weights_for_other_classes_leave_the_head(tmp_path: Path) -> None:
    file = tmp_path / "ten.pth"
    ten = net(num_classes=10, seed=1)
    torch.save(ten.state_dict(), file)
    model = net(num_classes=2, seed=2)
    head = model.state_dict()["output.weight"].clone()
    assert load_weights(model, file) is False
    assert torch.equal(model.state_dict()["output.weight"], head)
    first = "features.init_block.conv.weight"
    assert torch.equal(model.state_dict()[first], ten.state_dict()[first])
    assert load_weights(net(num_classes=10, seed=3), file) is True
    with pytest.raises(BadInput, match=r"2 unknown or of another shape \(first: output.weight\)"):
        load_state(model, ten.state_dict(), source=str(file), keep_head=True)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b'\x08\0\0\0\0\0\0\0{"a":1}'])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_unreadable_weights(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="not a readable weights file"):
        load_weights(net(), file)


def test_weights_of_another_net(tmp_path: Path) -> None:
    file = tmp_path / "fd.pth"
    torch.save(net("fdmobilenet_wd4").state_dict(), file)
    with pytest.raises(BadInput, match=r"fd\.pth: does not fit .* check --arch"):
        load_weights(net(), file)
    with pytest.raises(BadInput, match="no such file"):
        load_weights(net(), tmp_path / "none.pth")


def test_pretrained_weights_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr("tinyclf.workstation.nets.zoo.get_model", offline)
    with pytest.raises(BadInput, match=r"could not be fetched \(OSError\): give --weights FILE"):
        load_pretrained(nn.Module(), "mobilenet_wd4")


@pytest.mark.skipif(not IMAGENET.is_file(), reason=f"{IMAGENET} is not there")
def test_imagenet_weights_load() -> None:
    model = net(num_classes=1000, size=128)
    assert load_weights(model, IMAGENET) is True
    assert load_weights(net(num_classes=2, size=128), IMAGENET) is False
    with torch.no_grad():
        logits = model.eval()(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(logits).all()
    assert 1 < logits.std() < 20, "trained weights give logits of a natural range"


@pytest.mark.parametrize(
    ("arch", "left_out"),
    [
        ("mobilenetv2_wd4", ["output.weight"]),
        ("mobilenetv3_small_w7d20", ["output.conv2.weight", "output.conv2.bias"]),
        ("squeezenet_v1_1", ["output.final_conv.weight", "output.final_conv.bias"]),
        ("mnasnet_small", ["output.weight", "output.bias"]),
    ],
)
def test_only_the_last_layer_is_left_out(arch: str, left_out: list[str]) -> None:
    ten, two = net(arch, num_classes=10, seed=1), net(arch, num_classes=2, seed=2)
    fresh = {name: value.clone() for name, value in two.state_dict().items()}
    assert load_state(two, ten.state_dict(), source="ten") is False
    expected = {**ten.state_dict(), **{name: fresh[name] for name in left_out}}
    assert all(torch.equal(value, expected[name]) for name, value in two.state_dict().items())
    assert load_state(net(arch, num_classes=10, seed=3), ten.state_dict(), source="ten") is True


def test_weights_fit_with_small_input() -> None:
    model = build_model("resnet10", num_classes=2, size=32, small_input=True, seed=4)
    assert load_state(model, net("resnet10", seed=5).state_dict(), source="large") is True


@pytest.mark.parametrize("arch", ["dscnn", "mobilenetv3_small_w1", "my.nets:Net"])
def test_weights_that_nobody_published(arch: str) -> None:
    with pytest.raises(BadInput, match=f"no pretrained weights of {arch} are published: give --weights FILE"):
        load_pretrained(nn.Module(), arch)


def test_pretrained_weights_leave_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorchcv.model_provider import get_model

    def random_weights(name: str, *, pretrained: bool) -> nn.Module:
        assert pretrained
        return get_model(name)

    model, state = net("regnetx002"), torch.get_rng_state()
    monkeypatch.setattr("tinyclf.workstation.nets.zoo.get_model", random_weights)
    assert load_pretrained(model, "regnetx002") is False, "1,000 classes are not 2"
    assert torch.equal(torch.get_rng_state(), state)
