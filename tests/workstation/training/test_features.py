"""Kept features: the same weights with and without, for what changes they are made anew, and when they are not kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.data import Preprocessing, make_loader, open_dataset
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, freeze, set_train_mode
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.runs.directory import load_run, read_rows
from tinyclf.workstation.training.features import cut, feature_bytes, kept_features
from tinyclf.workstation.training.loop import Observer, train

PLAIN = Preprocessing(32, 32)
FAMILIES = (
    *("mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_w7d20", "shufflenetv2_wd2"),
    *("squeezenet_v1_1", "mnasnet_small", "efficientnet_b0", "regnetx002", "resnet18_wd4", "resnet8", "dscnn"),
)


@pytest.fixture(scope="module")
def start(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_from(options={"data": digits_dir, "epochs": 2, "threads": 1})
    return train(config, out=tmp_path_factory.mktemp("runs") / "start")


def trained(variant: str, data: Path, start: Path, out: Path, **options: Any) -> tuple[Path, list[str]]:
    notes: list[str] = []
    given = {"variant": variant, "data": data, "from_run": start, "epochs": 3, "threads": 1, "lr": 0.02, **options}
    return train(config_from(options=given), out=out, observer=Observer(on_note=notes.append)), notes


@pytest.mark.parametrize("variant", ["LP", "FT"])
@pytest.mark.parametrize("bn", ["frozen", "folded"])
def test_the_weights_are_the_same_with_and_without(
    variant: str, bn: str, shifted_dir: Path, start: Path, tmp_path: Path
) -> None:
    with_cache, notes = trained(variant, shifted_dir, start, tmp_path / "a", bn=bn)
    assert notes[0].startswith("features of the frozen part are kept (exact)")
    without, notes = trained(variant, shifted_dir, start, tmp_path / "b", bn=bn, keep_features="off")
    assert notes == []
    first, second = load_run(with_cache)[0].state_dict(), load_run(without)[0].state_dict()
    before = load_run(start)[0].state_dict()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=0, atol=1e-5), name
    assert not torch.equal(first["output.weight"], before["output.weight"])
    for a, b in zip(read_rows(with_cache), read_rows(without), strict=True):
        assert a.val_loss == pytest.approx(b.val_loss, abs=1e-4)


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("k", [0, 2])
def test_a_net_cut_in_two_is_the_net(arch: str, k: int) -> None:
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    model = build_model(arch, num_classes=3, size=48, seed=1)
    calibrate_batchnorm(model, images)
    freeze(model, Variant("FT", k=k))
    set_train_mode(model)
    parts = cut(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    assert not [name for name, p in parts.frozen.named_parameters() if p.requires_grad]
    trained_names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained_names <= {name for name, _ in parts.trained.named_parameters()}
    features = parts.frozen(images)
    assert torch.equal(parts.trained(features), model(images))


def test_dropout_of_the_head_is_not_frozen() -> None:
    model = nn.Sequential()
    model.features = nn.Conv2d(3, 4, 3)
    model.features.requires_grad_(False)
    model.output = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    frozen = cut(model).frozen
    assert not any(isinstance(module, nn.Dropout) for module in frozen.modules())


class TwoPaths(nn.Module):
    """Two tensors cross from its frozen to its trained part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.first.requires_grad_(False)
        self.second.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.output(self.first(images)) + self.output(self.second(images))


class Branching(nn.Module):
    """Its way depends on the values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TwoPaths(), "2 tensors cross"),
        (Branching(), "Branching cannot be traced"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), "nothing is frozen"),
    ],
)
def test_nets_that_cannot_be_cut(model: nn.Module, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        cut(model.train())


# --- the shards -------------------------------------------------------------------------------------------------------


class Setting:
    """A frozen part, and the data whose features are kept."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.folder = folder
        self.dataset = open_dataset(data)
        self.model = build_model("mobilenet_wd4", num_classes=10, size=32)
        freeze(self.model, Variant("LP"))
        self.frozen = cut(self.model.eval()).frozen
        self.limit = 1e9

    def loader(self, **options: Any) -> Any:
        return make_loader(self.dataset.split("train"), options.pop("prep", PLAIN), batch_size=32, **options)

    def keep(self, num_views: int = 1, **options: Any) -> tuple[Any, Any, Path, bool]:
        return kept_features(
            self.frozen,
            self.loader(**options),
            self.dataset.split("validation"),
            num_views=num_views,
            folder=self.folder,
            limit=self.limit,
        )


@pytest.fixture
def setting(digits_dir: Path, tmp_path: Path) -> Setting:
    return Setting(digits_dir, tmp_path / "cache")


def test_they_are_kept_and_found_again(setting: Setting) -> None:
    views, held_out, where, found = setting.keep()
    assert not found
    split = setting.dataset.split("train")
    assert views[0].shards[0].shape == (len(split), 256)
    some = np.array([3, 500, 1000])
    due = setting.frozen(PLAIN.apply(split.gather(some))).detach().numpy()
    assert np.abs(views[0].gather(some) - due).max() < 1e-5 * np.abs(due).max()
    assert len(held_out) == len(setting.dataset.split("validation"))
    assert np.array_equal(views[0].labels, split.labels)
    assert setting.keep()[2:] == (where, True)


def test_what_changes_them_makes_them_anew(setting: Setting, shifted_dir: Path) -> None:
    places = {setting.keep()[2]}
    places.add(setting.keep(prep=Preprocessing(32, 32, channels="BGR"))[2])
    places.add(setting.keep(prep=Preprocessing(40, 32))[2])
    places.add(setting.keep(augmentations={"flip": (0.5,)}, num_views=2)[2])
    places.add(setting.keep(augmentations={"flip": (0.5,)}, num_views=2, seed=1)[2])
    places.add(setting.keep(augmentations={"flip": (0.6,)}, num_views=2)[2])
    with torch.no_grad():
        next(setting.frozen.parameters()).mul_(1.001)
    places.add(setting.keep()[2])
    setting.dataset = open_dataset(shifted_dir)
    places.add(setting.keep()[2])
    assert len(places) == 8


def test_views_are_augmented_and_validation_is_not(setting: Setting) -> None:
    plain, held_out, _, _ = setting.keep()
    views, same, _, _ = setting.keep(augmentations={"flip": (1.0,), "brightness": (0.5,)}, num_views=3)
    assert len(views) == 3
    assert np.array_equal(same.gather([0, 1]), held_out.gather([0, 1]))
    arrays = [view.gather([0, 1, 2]) for view in (*plain, *views)]
    assert all(not np.allclose(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :])


def test_the_oldest_go_when_there_is_no_room(setting: Setting) -> None:
    first, second = setting.keep()[2], setting.keep(prep=Preprocessing(40, 32))[2]
    size = sum(file.stat().st_size for file in first.iterdir())
    setting.limit = 2.5 * size
    third = setting.keep(prep=Preprocessing(48, 32))[2]
    assert [place.exists() for place in (first, second, third)] == [False, True, True]
    setting.limit = 1000
    with pytest.raises(BadInput, match=r"the features take 0\.0 GiB, feature_limit is 0\.0"):
        setting.keep(prep=Preprocessing(56, 32))


def test_a_damaged_set(setting: Setting) -> None:
    where = setting.keep()[2]
    next(where.glob("train-0-*.npy")).unlink()
    with pytest.raises(BadInput, match="damaged, it holds 0 of 1258 images: remove this folder"):
        setting.keep()


def test_bytes_of_an_image(setting: Setting) -> None:
    assert feature_bytes(setting.frozen, setting.loader()) == 256 * 4


def test_an_interrupted_build_leaves_nothing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device", "x.npy")

    monkeypatch.setattr(np, "save", broken)
    with pytest.raises(OSError, match="No space left"):
        setting.keep()
    assert list(setting.folder.iterdir()) == []


# --- when they are kept ---------------------------------------------------------------------------------------------


def test_what_is_said_and_done(shifted_dir: Path, start: Path, tmp_path: Path) -> None:
    def notes(name: str, variant: str = "LP", **options: Any) -> list[str]:
        return trained(variant, shifted_dir, start, tmp_path / name, epochs=1, **options)[1]

    assert "exact" in notes("plain")[0]
    assert "images are augmented; --keep-features on keeps 4 views" in notes("augmented", augment="flip")[0]
    assert "2 views of each image" in notes("views", augment="flip", keep_features="on", feature_views=2)[0]
    assert "BatchNorms change" in notes("bn", bn="train")[0]
    assert notes("full", variant="full") == []
    assert "GiB" in notes("small", feature_limit=1e-6, size=40)[0]
    with pytest.raises(BadInput, match="--keep-features on: the statistics of its BatchNorms change"):
        notes("refused", bn="train", keep_features="on")
    with pytest.raises(BadInput, match="--keep-features on: nothing is frozen"):
        notes("refused2", variant="full", keep_features="on")


def test_the_folder_can_be_chosen(shifted_dir: Path, start: Path, tmp_path: Path) -> None:
    trained("LP", shifted_dir, start, tmp_path / "run", epochs=1, feature_dir=tmp_path / "here")
    assert len(list((tmp_path / "here").iterdir())) == 1
    shutil.rmtree(tmp_path / "here")
