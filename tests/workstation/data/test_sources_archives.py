"""Torch shards, and ImageNet's folders and validation tar, in their original formats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.kit.archives import Malicious, built, pictures, read_all, write_tar
from tests.kit.sources import class_names, items
from tinyclf.base.errors import BadInput

# --- torch shards -----------------------------------------------------------------------------------------------------


def planes(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Return two train shards (tuple; dict with a tag), one of validation in a folder, an old one of test."""
    root = tmp_path / "shards"
    (root / "val").mkdir(parents=True)
    parts = [pictures(5, size=12, seed=seed) for seed in range(4)]
    torch.save((planes(parts[0]), torch.tensor([0, 1, 2, 1, 0])), root / "train_000.pt")
    torch.save((planes(parts[1]), [2, 2, 2, 0, 1]), root / "train_001.pt")
    content = {"images": planes(parts[2]), "targets": torch.ones(5, 1), "near": torch.arange(5), "note": "x"}
    torch.save(content, root / "val" / "0.pt")
    torch.save([planes(parts[3]), torch.zeros(5)], root / "test.pth", _use_new_zipfile_serialization=False)
    return root


def test_torch_shards(shards: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", "pt-shards", **{"from": shards}, size=12, shard_size=4)
    assert dataset.classes == ("0", "1", "2")
    train = np.concatenate([pictures(5, size=12, seed=0), pictures(5, size=12, seed=1)])
    assert np.array_equal(read_all(dataset, "train"), train)
    assert dataset.split("train").labels.tolist() == [0, 1, 2, 1, 0, 2, 2, 2, 0, 1]
    assert np.array_equal(read_all(dataset, "validation"), pictures(5, size=12, seed=2))
    assert dataset.split("validation").tags["near"].tolist() == [*range(5)]
    assert np.array_equal(read_all(dataset, "test"), pictures(5, size=12, seed=3))
    one = items("pt-shards", **{"from": shards / "train_001.pt"}, classes=("a", "b", "c"))
    assert [item.label for item in one] == [2, 2, 2, 0, 1]


def test_grey_and_multi_label_shards(tmp_path: Path) -> None:
    grey = torch.arange(2 * 64, dtype=torch.uint8).reshape(2, 1, 8, 8)
    torch.save({"x": grey, "y": torch.tensor([[0, 1, 1], [0, 0, 0]])}, tmp_path / "a.pt")
    options = {"from": tmp_path, "default_split": "train", "classes": ("hat", "tie", "bow")}
    dataset = built(tmp_path / "out", "pt-shards", **options, size=8)
    assert dataset.multi_label
    assert [item.label for item in items("pt-shards", **options)] == [(0, 1, 1), (0, 0, 0)]
    assert np.array_equal(read_all(dataset, "train"), np.repeat(grey.permute(0, 2, 3, 1).numpy(), 3, axis=3))


IMAGES = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES, r"holds a Tensor: must be \(images, labels\)"),
        ({"images": IMAGES, "names": [1]}, "has the keys images, names: needs one of labels"),
        ((IMAGES.permute(0, 2, 3, 1), [0, 1]), r"images are \(2, 4, 4, 3\) uint8: must be \(N, C, H, W\)"),
        ((IMAGES.float(), [0, 1]), "images are .* float32"),
        (("a", [0, 1]), "images are a str"),
        ((IMAGES, [0]), r"labels are \(1,\) for 2 images"),
        ((IMAGES, "ab"), "labels are not numbers"),
        ((IMAGES, ["a", "b"]), "labels are not numbers"),
        ((IMAGES, [[0], [0, 1]]), "labels are not numbers"),
        ((IMAGES, [0.5, float("nan")]), "labels are not whole numbers"),
        ((IMAGES, torch.tensor([0.5, 1])), "labels are not whole numbers"),
        ((IMAGES, [0, 2]), "labels 0 to 2: must be 0 to 1 for 2 classes"),
        ((IMAGES, [-1, 0]), "labels -1 to 0: must be 0 to 1"),
        ((IMAGES, torch.tensor([[0, 2], [1, 1]])), r"labels \(2, 2\) of 0 to 2: must be 0 or 1 for each of 2 names"),
    ],
)
def test_bad_shards(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "train.pt")
    with pytest.raises(BadInput, match=message):
        items("pt-shards", **{"from": tmp_path}, classes=("a", "b"))


def test_a_label_that_cannot_be_a_class(tmp_path: Path) -> None:
    torch.save((IMAGES, [0, 10**9]), tmp_path / "train.pt")
    with pytest.raises(BadInput, match="a label is 1000000000: that cannot be a class"):
        class_names("pt-shards", **{"from": tmp_path})


def test_unreadable_shards(shards: Path, tmp_path: Path) -> None:
    options = {"classes": ("a", "b", "c")}
    (shards / "train_000.pt").write_bytes((shards / "train_001.pt").read_bytes()[:500])
    with pytest.raises(BadInput, match=r"train_000\.pt: cannot be read .*: truncated or damaged"):
        items("pt-shards", **{"from": shards}, **options)
    torch.save(Malicious(tmp_path / "harm"), shards / "train_000.pt")
    with pytest.raises(BadInput, match=r"train_000\.pt: cannot be read .*: it holds more than tensors"):
        items("pt-shards", **{"from": shards}, **options)
    assert not (tmp_path / "harm").exists()
    (shards / "train_000.pt").rename(shards / "0.pt")
    with pytest.raises(BadInput, match=r"0\.pt: names no split: rename it"):
        items("pt-shards", **{"from": shards}, **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"holds no \.pt file"):
        items("pt-shards", **{"from": tmp_path / "empty"}, **options)
    with pytest.raises(BadInput, match="no such file or folder"):
        items("pt-shards", **{"from": tmp_path / "none"}, **options)


# --- ImageNet ---------------------------------------------------------------------------------------------------------

WNIDS = ("n02119789", "n01440764", "n03000000")  # in the order of the numbers of the ground truth
TRUTH = (3, 1, 2, 2, 1)


def png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def val_tar(tmp_path: Path) -> dict[str, Path]:
    """Return the options of a validation tar with five images (PNG content under the official names)."""
    images = pictures(5, size=16)
    members = {f"ILSVRC2012_val_{index + 1:08}.JPEG": png(images[index]) for index in (0, 1, 2, 4, 3)}
    truth, names = tmp_path / "ILSVRC2012_validation_ground_truth.txt", tmp_path / "synsets.txt"
    truth.write_text("".join(f"{number}\n" for number in TRUTH))
    names.write_text("n02119789 kit fox, Vulpes macrotis\nn01440764\nn03000000, thing\n")
    path = write_tar(tmp_path / "ILSVRC2012_img_val.tar", members, mode="w")
    return {"from": path, "ground_truth": truth, "class_list": names}


def test_imagenet_tar(val_tar: dict[str, Path], tmp_path: Path) -> None:
    options = {name: str(value) for name, value in val_tar.items()}
    dataset = built(tmp_path / "out", "imagenet", **options, size=16)
    assert dataset.classes == tuple(sorted(WNIDS))
    assert dataset.split("validation").labels.tolist() == [2, 1, 0, 1, 0]
    assert np.array_equal(read_all(dataset, "validation"), pictures(5, size=16)[[0, 1, 2, 4, 3]])


def test_imagenet_folders(tmp_path: Path) -> None:
    images = pictures(6, size=16)
    for number, (split, wnid) in enumerate([(s, w) for s in ("train", "val") for w in WNIDS]):
        file = tmp_path / "in" / split / wnid / f"{wnid}_{number}.JPEG"
        file.parent.mkdir(parents=True)
        file.write_bytes(png(images[number]))
    dataset = built(tmp_path / "out", "imagenet", **{"from": tmp_path / "in"}, size=16)
    assert dataset.classes == tuple(sorted(WNIDS))
    assert dataset.split("train").labels.tolist() == [0, 1, 2]
    assert np.array_equal(read_all(dataset, "train"), images[[1, 0, 2]])
    assert np.array_equal(read_all(dataset, "validation"), images[[4, 3, 5]])
    (tmp_path / "list").write_text("n01440764\nn00000001\n")
    with pytest.raises(BadInput, match="n02119789 is not in the class list of 2 wnids"):
        items("imagenet", **{"from": tmp_path / "in", "class_list": str(tmp_path / "list")})


def test_bad_imagenet(val_tar: dict[str, Path], tmp_path: Path) -> None:
    options = {name: str(value) for name, value in val_tar.items()}

    def fails(message: str, **given: Any) -> None:
        with pytest.raises(BadInput, match=message):
            items("imagenet", **{**options, **given})

    fails("needs --class-list", class_list="")
    fails("needs --ground-truth", ground_truth="")
    fails("no such file", ground_truth=str(tmp_path / "none"))
    fails("has no split 'train': choose from validation", split=("train",))
    fails("no such file or folder", **{"from": tmp_path / "none"})
    (tmp_path / "empty" / "val").mkdir(parents=True)
    fails("has no folder train or val", **{"from": tmp_path / "empty" / "val"})
    fails(r"no image in <wnid>/\*\.JPEG", **{"from": tmp_path / "empty"})
    fails("no folders named by wnid", **{"from": tmp_path / "empty"}, class_list="")
    val_tar["ground_truth"].write_text("1\n2\n4\n")
    fails("line 3: '4' is not a number from 1 to 3")
    val_tar["ground_truth"].write_text("1\n2\n3\n")
    fails(r"ILSVRC2012_val_00000005\.JPEG: not one of the 3 images")
    val_tar["ground_truth"].write_text("1\n" * 6)
    fails("holds 5 images, the ground truth has 6 lines: truncated")
    val_tar["class_list"].write_text("n02119789\nkit fox\n")
    fails("kit: each line must begin with a wnid")


@pytest.mark.parametrize("num_bytes", [100, 700, 3000, 5000])
def test_a_truncated_tar_is_refused(val_tar: dict[str, Path], num_bytes: int) -> None:
    val_tar["from"].write_bytes(val_tar["from"].read_bytes()[:num_bytes])
    with pytest.raises(BadInput, match="truncated"):
        items("imagenet", **{name: str(value) for name, value in val_tar.items()})
