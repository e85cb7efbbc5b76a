"""The dataset format: what is written is read back, and every kind of damage is found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput, CheckFailed
from tinyclf.workstation.data import (
    STD,
    Dataset,
    Item,
    Preprocessing,
    batches,
    check_dataset,
    open_dataset,
    write_dataset,
)
from tinyclf.workstation.data.manifest import Manifest, parse_manifest
from tinyclf.workstation.data.sampling import epoch_order

CLASSES = ("cat", "dog", "owl")
NUM_TRAIN, NUM_TEST, SHARD = 23, 5, 5


def samples(*, size: int = 6) -> Iterator[Item]:
    rng = np.random.default_rng(7)
    for index in range(NUM_TRAIN + NUM_TEST):
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        yield Item(
            "train" if index < NUM_TRAIN else "test", image, index % len(CLASSES), {"near": index % 2, "age": index}
        )


def images_of(split: str) -> NDArray[np.uint8]:
    return np.stack([np.asarray(item.image) for item in samples() if item.split == split])


def write(out: Path, content: Any = None, *, shard_size: int = SHARD) -> Dataset:
    write_dataset(
        samples() if content is None else content,
        out=out,
        classes=CLASSES,
        source="tést",
        size=6,
        shard_size=shard_size,
    )
    return open_dataset(out)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a dataset of five train shards and one test shard."""
    return write(tmp_path / "small").path


# --- writing and reading --------------------------------------------------------------------------------------------


def test_round_trip(small: Path) -> None:
    dataset = open_dataset(small)
    train = dataset.split("train")
    assert (dataset.size, dataset.classes, len(train), len(train.shards)) == (6, CLASSES, NUM_TRAIN, 5)
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [index % 3 for index in range(NUM_TRAIN)]
    assert np.array_equal(train.gather(range(NUM_TRAIN)), images_of("train"))
    assert check_dataset(small) == dataset.manifest


def test_images_are_mapped_not_read(small: Path) -> None:
    assert all(isinstance(shard, np.memmap) for shard in open_dataset(small).split("train").shards)


def test_gather_keeps_the_order_asked_for(small: Path) -> None:
    train = open_dataset(small).split("train")
    everything = train.gather(range(NUM_TRAIN))
    rng = np.random.default_rng(0)
    for num in (0, 1, 3, NUM_TRAIN, 40):
        wanted = rng.integers(0, NUM_TRAIN, num)  # with repetitions
        assert np.array_equal(train.gather(wanted), everything[wanted])


@pytest.mark.parametrize("index", [-1, NUM_TRAIN])
def test_gather_refuses_what_is_not_there(small: Path, index: int) -> None:
    with pytest.raises(IndexError, match="has 23 images"):
        open_dataset(small).split("train").gather([0, index])


@pytest.mark.parametrize("shard_size", [1, 22, 23, 24, 4096])
def test_shard_sizes(tmp_path: Path, shard_size: int) -> None:
    dataset = write(tmp_path / "out", shard_size=shard_size)
    check_dataset(dataset.path)
    assert np.array_equal(dataset.split("train").gather(range(NUM_TRAIN)), images_of("train"))
    assert len(dataset.split("train").shards) == -(-NUM_TRAIN // shard_size)


def test_existing_folder_is_refused_and_kept(small: Path) -> None:
    before = {file.name: file.read_bytes() for file in small.iterdir()}
    with pytest.raises(BadInput, match="exists already"):
        write(small)
    assert {file.name: file.read_bytes() for file in small.iterdir()} == before


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (("train", np.zeros((6, 6), np.uint8), 0), r"\(6, 6\) uint8"),
        (("train", np.zeros((6, 6, 4), np.uint8), 0), r"\(6, 6, 4\)"),
        (("train", np.zeros((6, 0, 3), np.uint8), 0), r"\(6, 0, 3\)"),
        (("train", np.zeros((6, 6, 3), np.float32), 0), "float32"),
        (("train", np.zeros((6, 6, 3), np.uint8), 3), "label 3"),
        (("train", np.zeros((6, 6, 3), np.uint8), -1), "label -1"),
        (("train", np.zeros((6, 6, 3), np.uint8), (0, 1, 0)), r"label \(0, 1, 0\)"),
        (("../train", np.zeros((6, 6, 3), np.uint8), 0), r"split '\.\./train'"),
        (
            ("train", np.zeros((6, 6, 3), np.uint8), 0, {"far": 1}),
            "tags that not all images of 'train' have: age, far, near",
        ),
        (
            ("train", np.zeros((6, 6, 3), np.uint8), 0, {"label": 1}),
            "a tag 'label': that is the name of a label column",
        ),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, item: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        write(tmp_path / "out", [*samples(), Item(*item)], shard_size=100)
    with pytest.raises(BadInput, match="yields no image"):
        write(tmp_path / "out", [])
    assert list(tmp_path.iterdir()) == []


def test_tags_come_back(small: Path) -> None:
    test = open_dataset(small).split("test")
    assert {name: values.tolist() for name, values in test.tags.items()} == {
        "near": [index % 2 for index in range(23, 28)],
        "age": list(range(23, 28)),
    }
    assert open_dataset(small).manifest.splits["test"].tags == {"near": 3, "age": 5}


def test_several_labels(tmp_path: Path) -> None:
    rows = [(0, 1, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)]
    items = [Item("train", np.full((6, 6, 3), i, np.uint8), row, {"n": i}) for i, row in enumerate(rows)]
    write_dataset(items, out=tmp_path / "d", classes=CLASSES, source="test", size=6, multi_label=True)
    check_dataset(tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert dataset.multi_label
    assert dataset.split("train").labels.tolist() == [list(row) for row in rows]
    assert dataset.manifest.counts == {"train": (1, 1, 2)}
    assert dataset.manifest.num_images("train") == 4
    for bad in ((0, 1), (0, 1, 2), 1):
        with pytest.raises(BadInput, match="must be 3 of 0 and 1"):
            write_dataset(
                [Item("train", items[0].image, bad)],
                out=tmp_path / "e",
                classes=CLASSES,
                source="test",
                size=6,
                multi_label=True,
            )


def test_mean_and_std_are_those_of_the_pixels(small: Path) -> None:
    for name, split in open_dataset(small).manifest.splits.items():
        pixels = images_of(name).reshape(-1, 3) / 255
        assert split.mean == pytest.approx(pixels.mean(axis=0), abs=1e-6)
        assert split.std == pytest.approx(pixels.std(axis=0), abs=1e-6)


def test_balance_files(small: Path) -> None:
    content = json.loads((small / "train_balance.json").read_text())
    assert content["classes"] == {"cat": 8, "dog": 8, "owl": 7}
    assert content["num_images"] == NUM_TRAIN
    rows = [(index % 2, CLASSES[index % 3]) for index in range(NUM_TRAIN)]
    for value in (0, 1):
        assert content["tags"]["near"][str(value)] == {
            "images": sum(row[0] == value for row in rows),
            "by_class": {name: rows.count((value, name)) for name in CLASSES},
        }
    text = (small / "train_balance.txt").read_text()
    assert "train: 23 images" in text
    assert next(line.split()[:3] for line in text.splitlines() if "cat " in line) == ["cat", "8", "34.8%"]


# --- damage -------------------------------------------------------------------------------------------------------


def flip_bit(file: Path, *, rng: random.Random) -> str:
    raw = bytearray(file.read_bytes())
    position, bit = rng.randrange(len(raw)), rng.randrange(8)
    raw[position] ^= 1 << bit
    file.write_bytes(raw)
    return f"bit {bit} of byte {position} of {file.name}"


def test_every_flipped_bit_is_found(small: Path) -> None:
    rng = random.Random(20)
    for file in sorted(small.iterdir()):
        sound = file.read_bytes()
        for _ in range(16):  # times 13 files: 208
            what = flip_bit(file, rng=rng)
            with pytest.raises(CheckFailed) as caught:
                check_dataset(small)
            assert len(str(caught.value).splitlines()) == 1, what
            assert file.name in str(caught.value), what
            file.write_bytes(sound)
    check_dataset(small)


def remove(folder: Path) -> None:
    (folder / "train-00001.npy").unlink()


def truncate(folder: Path) -> None:
    file = folder / "train-00001.npy"
    file.write_bytes(file.read_bytes()[:-1])


def cut_header(folder: Path) -> None:
    (folder / "train-00001.npy").write_bytes(b"\x93NUMPY\x01\x00v")


def lengthen(folder: Path) -> None:
    file = folder / "train-00001.npy"
    file.write_bytes(file.read_bytes() + b"\0")


def replace_by_pointer(folder: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 668\n"
    (folder / "train-00001.npy").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message", "seen_on_opening"),
    [
        (remove, "missing: run git lfs pull", True),
        (truncate, "truncated, 667 of 668 bytes", True),
        (cut_header, "truncated, 9 of 668 bytes", True),
        (lengthen, "too long, 669 of 668 bytes", True),
        (replace_by_pointer, "a git-lfs pointer .* run git lfs pull", True),
    ],
)
def test_damage_is_named(small: Path, damage: Callable[[Path], None], message: str, seen_on_opening: bool) -> None:
    damage(small)
    with pytest.raises(CheckFailed, match=rf"train-00001\.npy: {message}") as caught:
        check_dataset(small)
    assert len(str(caught.value).splitlines()) == 1
    if seen_on_opening:
        with pytest.raises(BadInput, match=r"train-00001\.npy"):
            open_dataset(small)


@pytest.mark.parametrize("name", ["train.parquet", "manifest.json", "test_balance.json"])
def test_pointers_in_place_of_other_files(small: Path, name: str) -> None:
    (small / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 668\n")
    with pytest.raises(CheckFailed, match=rf"{name}: a git-lfs pointer in place of the data: run git lfs pull"):
        check_dataset(small)
    if name != "test_balance.json":
        with pytest.raises(BadInput, match="run git lfs pull"):
            open_dataset(small)


def test_swapped_shards_give_a_line_each(small: Path) -> None:
    first, second = small / "train-00000.npy", small / "train-00001.npy"
    first.rename(small / "x")
    second.rename(first)
    (small / "x").rename(second)
    with pytest.raises(CheckFailed) as caught:
        check_dataset(small)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [str(first), str(second)]


def test_foreign_file(small: Path) -> None:
    (small / "notes.txt").write_text("hello")
    with pytest.raises(CheckFailed, match=r"notes\.txt: does not belong to the dataset"):
        check_dataset(small)
    open_dataset(small)  # and reading goes on working


def rewrite(folder: Path, **changes: Any) -> None:
    """Replace fields of a manifest and give it the checksum that belongs to them."""
    values = vars(parse_manifest((folder / "manifest.json").read_bytes()))
    (folder / "manifest.json").write_text(Manifest(**{**values, **changes}).to_json())


def test_a_manifest_that_contradicts_the_files(small: Path) -> None:
    splits = open_dataset(small).manifest.splits
    rewrite(small, splits={**splits, "train": replace(splits["train"], counts=(7, 8, 8))})
    with pytest.raises(CheckFailed, match=r"train\.parquet: the number of images per class"):
        check_dataset(small)
    rewrite(small, splits={**splits, "train": replace(splits["train"], tags={"near": 1, "age": 22})})
    with pytest.raises(CheckFailed, match=r"train\.parquet: the number of images per tag"):
        check_dataset(small)
    rewrite(small, splits={**splits, "train": replace(splits["train"], tags={})})
    with pytest.raises(
        CheckFailed, match=r"train\.parquet: holds 23 rows of label, near, age, the manifest says 23 of"
    ):
        check_dataset(small)
    one = {name: replace(split, counts=(split.num_images,)) for name, split in splits.items()}
    rewrite(small, splits=one, classes=("cat",))
    with pytest.raises(CheckFailed, match=r"label is 0 to 2, it must be 0 to 0"):
        check_dataset(small)
    rewrite(small, splits=splits, classes=CLASSES, size=5)
    with pytest.raises(CheckFailed, match=r"holds \(5, 6, 6, 3\) uint8, the manifest says \(5, 5, 5, 3\)"):
        check_dataset(small)


def test_progress_of_a_check(small: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = check_dataset(small, on_file=lambda done, total: seen.append((done, total)))
    assert len(seen) == len(manifest.files)
    assert seen[-1][0] == seen[-1][1] == sum(entry.num_bytes for entry in manifest.files)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(version=1), "format version 1, this tinyclf reads version 2: build the dataset again"),
        (lambda m: m.update(format="coco"), "not the manifest of a tinyclf dataset"),
        (lambda m: m.pop("files"), "field is missing or wrong"),
        (lambda m: m.update(shape=[6, 6, 1]), "field is missing or wrong"),
        (lambda m: m.update(shape=[]), "damaged"),
        (lambda m: m.update(splits={"train": {"num_images": "many"}}), "field is missing or wrong"),
        (lambda m: m["files"].pop(), "do not match the counts"),
        (lambda m: m["files"][0].update(name="../../etc/passwd"), "do not match the counts"),
        (lambda m: m["provenance"].update(source="elsewhere"), "was changed since it was written"),
        (lambda m: m.update(extra=1), "was changed since it was written"),
    ],
)
def test_manifests_that_are_refused(small: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    file = small / "manifest.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(CheckFailed, match=message):
        check_dataset(small)
    with pytest.raises(BadInput, match=message):
        open_dataset(small)


def test_no_dataset_at_all(tmp_path: Path) -> None:
    for check in (check_dataset, open_dataset):
        with pytest.raises(BadInput, match="not a tinyclf dataset"):
            check(tmp_path)
        with pytest.raises(BadInput, match="no such folder"):
            check(tmp_path / "none")


def test_unknown_split(small: Path) -> None:
    with pytest.raises(BadInput, match="has no split 'validation': choose one of train, test"):
        open_dataset(small).split("validation")


# --- batches --------------------------------------------------------------------------------------------------------


def test_preprocessing_normalises() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    for given in (Preprocessing(5, 5), Preprocessing(5, 5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 2.0), channels="BGR")):
        result = given.apply(images)
        pixels = images[..., ::-1] if given.channels == "BGR" else images
        expected = (pixels / 255 - np.array(given.mean)) / np.array(given.std)
        assert result.shape == (2, 3, 5, 5)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert np.abs(result.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("size", [16, 24, 48])
def test_preprocessing_resizes_as_pillow_does(size: int) -> None:
    from PIL import Image

    images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    result = Preprocessing(size, 32).apply(images)
    assert result.shape == (2, 3, size, size)
    assert result.is_contiguous(memory_format=torch.channels_last)
    shrunk = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR)) for i in images])
    expected = Preprocessing(size, size).apply(shrunk)
    assert (result - expected).abs().max() < 0.51 / 255 / min(STD) * 2, "Pillow rounds to whole values, twice"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": "GRB"}, "channels 'GRB': choose one of RGB, BGR"),
        ({"crop": "left"}, "crop 'left': choose one of"),
        ({"size": 0}, "size 0: images need at least 1 pixel"),
        ({"std": (1.0, 0.0, 1.0)}, "must be more than 0"),
        ({"mean": (1.0, float("nan"), 1.0)}, "give three numbers"),
        ({"mean": (1.0, 1.0)}, "give three numbers"),
    ],
)
def test_preprocessing_that_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Preprocessing(**{"size": 32, "stored": 32, **given})


def test_preprocessing_is_kept_as_json() -> None:
    given = Preprocessing(96, 128, crop="centre", mean=(0.1, 0.2, 0.3), channels="BGR")
    assert Preprocessing.from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_batches_cover_the_split(small: Path) -> None:
    train = open_dataset(small).split("train")
    order = epoch_order(NUM_TRAIN, seed=0, epoch=1)
    parts = list(batches(train, Preprocessing(32, 32), batch_size=4, order=order))
    assert [len(labels) for _, labels in parts] == [4, 4, 4, 4, 4, 3]
    assert torch.equal(torch.cat([labels for _, labels in parts]), torch.from_numpy(train.labels[order]))
    assert torch.equal(torch.cat([images for images, _ in parts]), Preprocessing(32, 32).apply(train.gather(order)))
