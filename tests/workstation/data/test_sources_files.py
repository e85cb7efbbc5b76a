"""Sources of loose files: folders of images, tables (CSV, CelebA), and how both are split by a seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.kit.paths import SHARED
from tests.kit.sources import class_names, items
from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import Dataset, build_dataset, check_dataset, open_dataset
from tinyclf.workstation.data.splits import assign_splits, choose_splits, interleave, parse_shares, split_in

SIZE = 8


def built(out: Path, name: str, **given: Any) -> Dataset:
    build_dataset(name, out=out, options={"size": SIZE, **given})
    check_dataset(out)
    return open_dataset(out)


def picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def save(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number)).save(file)


def assert_same_pixels(dataset: Dataset, split: str, numbers: list[int]) -> None:
    images = dataset.split(split).gather(range(len(numbers)))
    assert np.array_equal(images, np.stack([picture(number) for number in numbers]))


# --- splits -----------------------------------------------------------------------------------------------------------


def test_every_class_is_divided_in_the_same_shares() -> None:
    labels = [0] * 100 + [1] * 40
    shares = parse_shares("80/10/10")
    assigned = assign_splits(labels, shares=shares, seed=3)
    assert Counter(zip(labels, assigned.tolist(), strict=True)) == {
        **{(0, "train"): 80, (0, "validation"): 10, (0, "test"): 10},
        **{(1, "train"): 32, (1, "validation"): 4, (1, "test"): 4},
    }
    assert np.array_equal(assigned, assign_splits(labels, shares=shares, seed=3))
    assert not np.array_equal(assigned, assign_splits(labels, shares=shares, seed=4))
    assert np.array_equal(assigned[:100], assign_splits(labels[:100], shares=shares, seed=3)), "class by class"


def test_the_division_is_the_same_on_every_machine() -> None:
    assigned = assign_splits([0] * 6 + [1] * 6, shares=parse_shares("50/25/25"), seed=0)
    assert "".join(split[1] for split in assigned) == "eerrararerre"


def test_interleaved_classes_are_mixed_in_proportion() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    order = interleave(labels)
    assert sorted(order.tolist()) == list(range(40))
    assert [int(labels[order[i : i + 8]].sum()) for i in range(0, 40, 8)] == [2] * 5
    assert [int(i) for i in order if labels[i] == 1] == list(range(30, 40))


@pytest.mark.parametrize("text", ["80/20", "a/b/c", "0/0/0", "-1/1/1", "nan/1/1", "inf/1/1", ""])
def test_bad_shares(text: str) -> None:
    with pytest.raises(BadInput, match="give three numbers"):
        parse_shares(text)


def test_names_of_splits() -> None:
    assert [split_in(n) for n in ("train-0003", "shard_val.2", "testing", "contest", "train_test")] == [
        *("train", "validation", "test", None, None)
    ]
    assert choose_splits(["test", "train"], available=("train", "validation", "test"), where="x") == ("train", "test")
    with pytest.raises(BadInput, match="x: has no split 'dev': choose from train"):
        choose_splits(["dev"], available=("train",), where="x")


# --- folder -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return two classes in folders of splits: six train images, two of validation; `owl` is only in validation."""
    root = tmp_path / "photos"
    for number in range(4):
        save(root / "train" / "cat" / f"{number}.png", number)
    save(root / "train" / "dog" / "deep" / "4.PNG", 4)
    save(root / "train" / "dog" / "5.bmp", 5)
    save(root / "val" / "cat" / "6.png", 6)
    save(root / "val" / "owl" / "7.png", 7)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / "._0.png").write_text("of a Mac")
    return root


def test_folders_of_splits(photos: Path, tmp_path: Path) -> None:
    assert class_names("folder", **{"from": photos}) == ["cat", "dog", "owl"]
    found = [(item.split, item.name, item.label) for item in items("folder", **{"from": photos})]
    assert [name for split, name, _ in found if split == "train"] == [
        *("train/cat/0.png", "train/dog/5.bmp", "train/cat/1.png", "train/cat/2.png"),
        *("train/dog/deep/4.PNG", "train/cat/3.png"),
    ]
    assert found[6:] == [("validation", "val/cat/6.png", 0), ("validation", "val/owl/7.png", 2)]
    dataset = built(tmp_path / "out", "folder", **{"from": photos})
    assert_same_pixels(dataset, "train", [0, 5, 1, 2, 4, 3])
    assert_same_pixels(dataset, "validation", [6, 7])


def test_one_folder_split_by_a_seed(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(30):
        save(root / ("cat" if number < 20 else "dog") / f"{number:02}.webp", number)
    options = {"from": root, "shares": "60/20/20"}
    found = items("folder", **options)
    assert Counter((i.split, i.label) for i in found) == Counter(
        {("train", 0): 12, ("train", 1): 6, ("validation", 0): 4, ("validation", 1): 2, ("test", 0): 4, ("test", 1): 2}
    )
    assert found == items("folder", **options)
    assert found != items("folder", **options, seed=1)
    assert {item.split for item in items("folder", **options, split=("test",))} == {"test"}
    with pytest.raises(BadInput, match="has no split 'test'"):
        items("folder", **{**options, "shares": "9/1/0"}, split=("test",))


def test_corrupt_images_are_left_to_the_builder(photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n")
    dataset = built(tmp_path / "out", "folder", **{"from": photos})
    assert_same_pixels(dataset, "train", [0, 5, 2, 4, 3])
    with pytest.raises(BadInput, match=r"1\.png"):
        built(tmp_path / "strict", "folder", **{"from": photos}, strict=True)


def test_bad_folders(photos: Path, tmp_path: Path) -> None:
    def fails(root: Path, message: str, **given: Any) -> None:
        with pytest.raises(BadInput, match=message):
            items("folder", **{"from": root}, **given)

    fails(tmp_path / "none", "no such folder")
    fails(photos / "val" / "owl", "has no class folders")
    fails(photos, "has no split 'test': choose from train, validation", split=("test",))
    save(photos / "val" / "8.png", 8)
    fails(photos, r"1 images lie outside of the class folders \(8\.png\)")
    (photos / "valid" / "cat").mkdir(parents=True)
    fails(photos, "val and valid name the same split")
    (photos / "valid" / "cat").rename(photos / "cat")
    fails(photos, r"has folders of splits \(train\) and others \(cat\)")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    fails(tmp_path / "empty", "no image in the class folders cat: known are .bmp")
    fails(tmp_path / "empty", "--shares 1/2", shares="1/2")


@pytest.mark.skipif(not (SHARED / "data/caltech_faces128").is_dir(), reason="no real photographs at hand")
def test_real_photographs(tmp_path: Path) -> None:
    root = SHARED / "data/caltech_faces128"
    dataset = built(tmp_path / "out", "folder", **{"from": root}, size=128)
    assert dataset.classes == tuple(sorted(path.name for path in (root / "train").iterdir()))
    for split in ("train", "validation", "test"):
        files = sorted((root / split).glob("*/*.jpg"))
        assert dataset.manifest.num_images(split) == len(files)
    first = items("folder", **{"from": root}, split=("test",))[0]
    assert isinstance(first.image, Path)
    assert np.array_equal(dataset.split("test").gather([0])[0], np.array(Image.open(first.image).convert("RGB")))


# --- csv --------------------------------------------------------------------------------------------------------------


def table(root: Path, text: str, name: str = "table.csv") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Return a table of paths, ids without a suffix and tensors; the images lie beside it."""
    root = tmp_path / "animals"
    save(root / "a" / "0.png", 0)
    save(root / "one.png", 1)
    torch.save(torch.from_numpy(picture(2)).permute(2, 0, 1), root / "2.pt")
    torch.save(torch.from_numpy(picture(3)).permute(2, 0, 1).float() / 255, root / "x.y.pt")
    rows = ["a/0.png,owl,train", "one,cat,train", "2,cat,val", 'x.y,"dog, big",TEST']
    return table(root, "\ufeffid,kind,split\n" + "\n".join(rows) + "\n")


def test_table_of_files_and_tensors(animals: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", "csv", **{"from": animals})
    assert dataset.classes == ("cat", "dog, big", "owl")
    assert_same_pixels(dataset, "train", [0, 1])
    assert_same_pixels(dataset, "validation", [2])
    assert_same_pixels(dataset, "test", [3])
    assert dataset.split("train").labels.tolist() == [2, 0]


def test_numbers_as_classes_are_sorted_as_numbers(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "t" / f"{number}.png", number)
    file = table(tmp_path / "t", "class\tfile\n10\t0.png\n9\t1.png\n9\t2.png\n", "t.tsv")
    options = {"from": file, "id_column": "file", "shares": "1/0/0"}
    assert class_names("csv", **options) == ["9", "10"]
    assert [item.label for item in items("csv", **options)] == [1, 0, 0]
    assert class_names("csv", **options, classes=("10", "9", "8")) == ["10", "9", "8"]
    with pytest.raises(BadInput, match=r"image '0\.png' has the unknown label '10' in class: known are 9, 8"):
        items("csv", **options, classes=("9", "8"))


def test_several_label_columns(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "t" / f"{number}.png", number)
    file = table(tmp_path / "t", "id,hat,tie\n0,1,0\n1,0,-1\n")
    dataset = built(tmp_path / "out", "csv", **{"from": file, "shares": "1/0/0"})
    assert dataset.multi_label
    assert dataset.classes == ("hat", "tie")
    assert [item.label for item in items("csv", **{"from": file, "shares": "1/0/0"})] == [(1, 0), (0, 0)]


NAMES = [f"Attribute_{index}" for index in range(40)]


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Return twelve images in CelebA's own format (PNG content, which Pillow goes by), 40 attributes, two files."""
    root = tmp_path / "celeba"
    signs = np.where(np.random.default_rng(5).random((12, 40)) < 0.5, -1, 1)
    signs[:, 7] = [1, -1] * 6
    lines = [f"{number + 1:06}.jpg " + " ".join(f"{sign:2d}" for sign in row) for number, row in enumerate(signs)]
    for number in range(12):
        save(root / "img_align_celeba" / f"{number + 1:06}.png", number)
    for file in (root / "img_align_celeba").iterdir():
        file.rename(file.with_suffix(".jpg"))
    (root / "list_attr_celeba.txt").write_text("\n".join(["12", " ".join(NAMES) + " ", *lines]) + "\n")
    partition = [f"{number + 1:06}.jpg {0 if number < 8 else number // 2 - 3}" for number in range(12)]
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    np.save(root / "signs.npy", signs)
    return root


def test_celeba_one_attribute(celeba: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", "csv", **{"from": celeba / "list_attr_celeba.txt", "labels": ("Attribute_7",)})
    assert dataset.classes == ("not_Attribute_7", "Attribute_7")
    assert not dataset.multi_label
    assert dataset.split("train").labels.tolist() == [1, 0] * 4
    for split, numbers in {"train": [*range(8)], "validation": [8, 9], "test": [10, 11]}.items():
        assert_same_pixels(dataset, split, numbers)


def test_celeba_all_attributes(celeba: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", "csv", **{"from": celeba / "list_attr_celeba.txt"})
    assert dataset.classes == tuple(NAMES)
    signs = np.load(celeba / "signs.npy")
    assert np.array_equal(np.asarray(dataset.split("train").labels), (signs[:8] + 1) // 2)
    assert np.array_equal(np.asarray(dataset.split("test").labels), (signs[10:] + 1) // 2)


def test_celeba_balanced(celeba: Path, tmp_path: Path) -> None:
    options = {"from": celeba / "list_attr_celeba.txt", "labels": ("Attribute_3",), "balance": True}
    dataset = built(tmp_path / "out", "csv", **options, split=("train",))
    zeros, ones = np.bincount(dataset.split("train").labels, minlength=2)
    assert zeros == ones > 0


def test_bad_celeba(celeba: Path) -> None:
    file, partition = celeba / "list_attr_celeba.txt", celeba / "list_eval_partition.txt"

    def fails(message: str, **given: Any) -> None:
        with pytest.raises(BadInput, match=message):
            items("csv", **{"from": file}, **given)

    fails("has no column 'Smiling': it has Attribute_0", labels=("Smiling",))
    lines = partition.read_text().splitlines()
    partition.write_text("\n".join(lines[:-2]))
    fails(r"says nothing of 2 of 12 images, such as 000011\.jpg")
    partition.write_text("\n".join([*lines[:-1], "000012.jpg 3"]))
    fails(r"line 12: '000012\.jpg 3' is not a name and 0, 1 or 2")
    fails("no such file", partition="elsewhere.txt")
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    fails("holds 11 images, its first line says 12: truncated")


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("", {}, "is empty"),
        ("id,kind\n", {}, "has no rows"),
        ("id\na\n", {}, "has no label column beside id"),
        ("id,kind\na,b,c\n", {}, "row 2 has 3 cells, the header has 2"),
        ("id,kind\na,b\na,c\n", {}, "image 'a' is listed 2 times"),
        ("id,kind\na,b\n", {"labels": ("sort",)}, "has no column 'sort': it has id, kind"),
        ("id,kind\na,b\n", {"id_column": "name"}, "has no column 'name'"),
        ("id,kind\na,\n", {}, "image 'a' has the unknown label ''"),
        ("id,hat,tie\na,1,2\n", {}, "image 'a' has tie = '2': must be 0, 1 or -1; choose the label columns"),
        ("id,kind,split\na,b,../x\n", {}, r"'\.\./x' is no name of a split"),
        ("id,kind\na,b\n", {}, "holds none of the 1 images of table.csv: give their --images"),
        ("id,kind\na,b\n", {"images": "/nowhere"}, "/nowhere: no such folder"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        items("csv", **{"from": table(tmp_path / "t", text), "shares": "1/0/0", **given})


def test_missing_table_and_binary_table(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        items("csv", **{"from": tmp_path / "none.csv"})
    (tmp_path / "b.csv").write_bytes(b"id,\xff\xfe\n")
    with pytest.raises(BadInput, match=r"not a text file in UTF-8 \(byte 3\)"):
        items("csv", **{"from": tmp_path / "b.csv"})


class Malicious:
    """Unpickling it would create the file `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.out,)


def test_tensor_files_that_cannot_be_used(animals: Path, tmp_path: Path) -> None:
    file, harm = animals.with_name("2.pt"), tmp_path / "harm"
    for content in (Malicious(harm), b""):
        torch.save(content, file) if content else file.write_bytes(b"PK\x03\x04")
        found = items("csv", **{"from": animals})
        assert found[2].image == file, "handed on for the builder to list"
        with pytest.raises(BadInput, match="split 'validation': none of its 1 images can be read"):
            built(tmp_path / f"out{bool(content)}", "csv", **{"from": animals})
    assert not harm.exists()
    for tensor, message in (
        (torch.randn(3, 4, 4), "floats must be 0 to 1, not normalised"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"holds \(4, 4, 3\): must be a tensor \(3, H, W\)"),
        (torch.zeros(3, 0, 4), r"holds \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "is of torch.int64"),
        ({"image": 1}, "holds dict"),
    ):
        torch.save(tensor, file)
        with pytest.raises(BadInput, match=message):
            items("csv", **{"from": animals})
