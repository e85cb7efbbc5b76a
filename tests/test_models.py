"""Models: sizes, what each variant trains, folding of BatchNorm, starting weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tinyclf.errors import BadInput, Unsupported
from tinyclf.models import (
    ARCHITECTURES,
    blocks,
    build_model,
    calibrate_batchnorm,
    fold_batchnorm,
    freeze,
    load_pretrained,
    load_state,
    load_weights,
    num_parameters,
    set_train_mode,
)
from tinyclf.variants import VARIANTS, Variant

IMAGENET = Path(__file__).parent.parent.parent / "shared" / "weights" / "mobilenet_wd4_imagenet_128.safetensors"


def net(arch: str = "mobilenet_wd4", *, num_classes: int = 2, size: int = 32, seed: int = 0) -> nn.Module:
    return build_model(arch, num_classes=num_classes, size=size, seed=seed)


@pytest.mark.parametrize(
    ("arch", "with_batchnorm", "folded"), [("mobilenet_wd4", 213_586, 210_850), ("fdmobilenet_wd4", 126_674, 124_706)]
)
def test_parameter_counts(arch: str, with_batchnorm: int, folded: int) -> None:
    model = net(arch)
    assert num_parameters(model) == with_batchnorm
    assert num_parameters(fold_batchnorm(model)) == folded


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_takes_any_size(arch: str) -> None:
    model = build_model(arch, num_classes=3, size=40).eval()
    assert model(torch.zeros(1, 3, 40, 40)).shape == (1, 3)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(123)
    expected_random = torch.rand(1)
    torch.manual_seed(123)
    first = net(seed=5).state_dict()
    assert torch.equal(torch.rand(1), expected_random), "building a model used torch's random state"
    second, other = net(seed=5).state_dict(), net(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


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


@pytest.mark.parametrize("arch", ["mobilenet_wd4", "fdmobilenet_wd4"])
def test_folded_model_equals_unfolded(arch: str) -> None:
    model = net(arch, num_classes=5, size=64)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    calibrate_batchnorm(model, images)
    expected = model(images)
    folded = fold_batchnorm(model)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (folded(images) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(model(images), expected), "folding changed the original"


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_model("resnet18", num_classes=2, size=32), "unknown architecture 'resnet18': choose one of"),
        (lambda: build_model("mobilenet_wd4", num_classes=2, size=31), "too small.*--size 32"),
        (lambda: build_model("mobilenet_wd4", num_classes=1, size=32), "at least 2"),
        (lambda: Variant("LoRA"), "unknown variant 'LoRA': choose one of scratch, full, LP, FD, FT"),
        (lambda: Variant("FT", k=-1), "cannot be negative"),
        (lambda: freeze(net(), Variant("FT", k=14)), "use --k 13 or less"),
    ],
)
def test_error_messages(call: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()  # type: ignore[operator]


def test_linear_probe_needs_a_linear_layer() -> None:
    with pytest.raises(Unsupported, match="no linear layer named 'output'"):
        freeze(nn.Sequential(nn.ReLU()), Variant("LP"))


def test_labels_of_variants() -> None:
    assert Variant("FT", k=3).label == "FT K=3"
    assert {name: Variant(name).needs_weights for name in VARIANTS} == {
        "scratch": False,
        "full": True,
        "LP": True,
        "FD": True,
        "FT": True,
    }
    assert Variant("FD").default_arch == "fdmobilenet_wd4"


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

    monkeypatch.setattr("tinyclf.models.get_model", offline)
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
