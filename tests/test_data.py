"""Datasets: what is written is read back, every kind of damage is found, and one seed gives one set of bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tinyclf.data import (
    MEAN,
    STD,
    Dataset,
    batches,
    build_dataset,
    check_dataset,
    load_source,
    normalise,
    open_dataset,
    source_names,
    write_dataset,
)
from tinyclf.data.batches import batch_bounds, epoch_order
from tinyclf.data.manifest import Manifest, parse_manifest
from tinyclf.data.sources import Source
from tinyclf.errors import BadInput, CheckFailed

CLASSES = ("cat", "dog", "owl")
NUM_TRAIN, NUM_TEST, SHARD = 23, 5, 5


def samples(*, size: int = 6) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    rng = np.random.default_rng(7)
    for index in range(NUM_TRAIN + NUM_TEST):
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        yield "train" if index < NUM_TRAIN else "test", image, index % len(CLASSES)


def write(out: Path, content: Any = None, *, shard_size: int = SHARD) -> Dataset:
    write_dataset(
        samples() if content is None else content,
        out=out,
        classes=CLASSES,
        source="test",
        options={"note": "é"},
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
    images = [image for split, image, _ in samples() if split == "train"]
    train = dataset.split("train")
    assert (dataset.size, dataset.classes, len(train), len(train.shards)) == (6, CLASSES, NUM_TRAIN, 5)
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [index % 3 for index in range(NUM_TRAIN)]
    assert np.array_equal(train.gather(range(NUM_TRAIN)), np.stack(images))
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
    images = [image for split, image, _ in samples() if split == "train"]
    assert np.array_equal(dataset.split("train").gather(range(NUM_TRAIN)), np.stack(images))
    assert len(dataset.split("train").shards) == -(-NUM_TRAIN // shard_size)


def test_existing_folder_is_refused_and_kept(small: Path) -> None:
    before = {file.name: file.read_bytes() for file in small.iterdir()}
    with pytest.raises(BadInput, match="exists already"):
        write(small)
    assert {file.name: file.read_bytes() for file in small.iterdir()} == before


def failing(error: BaseException) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    yield from samples()
    raise error


@pytest.mark.parametrize("error", [RuntimeError("camera gone"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_broken_build(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(tmp_path / "out", failing(error))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (("train", np.zeros((6, 6), np.uint8), 0), r"\(6, 6\) uint8"),
        (("train", np.zeros((6, 5, 3), np.uint8), 0), r"\(6, 5, 3\)"),
        (("train", np.zeros((7, 7, 3), np.uint8), 0), r"all must be \(6, 6, 3\)"),
        (("train", np.zeros((6, 6, 3), np.float32), 0), "float32"),
        (("train", np.zeros((6, 6, 3), np.uint8), 3), "label 3"),
        (("train", np.zeros((6, 6, 3), np.uint8), -1), "label -1"),
        (("../train", np.zeros((6, 6, 3), np.uint8), 0), r"split '\.\./train'"),
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, sample: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        write(tmp_path / "out", [*samples(), sample])
    with pytest.raises(BadInput, match="yields no image"):
        write(tmp_path / "out", [])


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
        for _ in range(30):
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
        (lengthen, "too long, 669 of 668 bytes", False),
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
    rewrite(small, counts={"train": (7, 8, 8), "test": (1, 2, 2)})
    with pytest.raises(CheckFailed, match=r"train\.labels\.npy: the number of images per class"):
        check_dataset(small)
    rewrite(small, counts={"train": (23,), "test": (5,)}, classes=("cat",))
    with pytest.raises(CheckFailed, match=r"labels 0 to 2, there are 1 classes"):
        check_dataset(small)
    rewrite(small, size=7)
    with pytest.raises(CheckFailed, match=r"holds \(5, 6, 6, 3\) uint8, the manifest says \(5, 7, 7, 3\)"):
        check_dataset(small)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(version=2), "format version 2, this tinyclf reads version 1"),
        (lambda m: m.update(format="coco"), "not the manifest of a tinyclf dataset"),
        (lambda m: m.pop("files"), "field is missing or wrong"),
        (lambda m: m.update(shape=[6, 6, 1]), "field is missing or wrong"),
        (lambda m: m.update(shape=[]), "damaged"),
        (lambda m: m.update(splits={"train": {"cat": "many"}}), "field is missing or wrong"),
        (lambda m: m["files"].pop(), "do not match the counts"),
        (lambda m: m["files"][0].update(name="../../etc/passwd"), "do not match the counts"),
        (lambda m: m.update(source="elsewhere"), "was changed since it was written"),
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
            check(tmp_path)  # type: ignore[operator]
        with pytest.raises(BadInput, match="no such folder"):
            check(tmp_path / "none")  # type: ignore[operator]


def test_unknown_split(small: Path) -> None:
    with pytest.raises(BadInput, match="has no split 'validation': choose one of train, test"):
        open_dataset(small).split("validation")


# --- batches --------------------------------------------------------------------------------------------------------


def test_normalise() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    result = normalise(images)
    expected = (images / 255 - np.array(MEAN)) / np.array(STD)
    assert result.shape == (2, 3, 5, 4)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(result.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-6


def test_order_depends_on_seed_and_epoch() -> None:
    order = epoch_order(100, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, epoch_order(100, seed=1, epoch=2))
    assert not np.array_equal(order, epoch_order(100, seed=2, epoch=1))


@pytest.mark.parametrize(
    ("num_images", "merge", "sizes"),
    [
        (8, False, [4, 4]),
        (9, False, [4, 4, 1]),
        (9, True, [4, 5]),
        (10, True, [4, 4, 2]),
        (1, True, [1]),
        (3, False, [3]),
    ],
)
def test_batch_bounds(num_images: int, merge: bool, sizes: list[int]) -> None:
    bounds = batch_bounds(num_images, batch_size=4, merge_single=merge)
    assert [last - first for first, last in bounds] == sizes
    assert [index for first, last in bounds for index in range(first, last)] == list(range(num_images))


def test_batches_cover_the_split(small: Path) -> None:
    train = open_dataset(small).split("train")
    order = epoch_order(NUM_TRAIN, seed=0, epoch=1)
    parts = list(batches(train, batch_size=4, order=order))
    assert [len(labels) for _, labels in parts] == [4, 4, 4, 4, 4, 3]
    assert torch.equal(torch.cat([labels for _, labels in parts]), torch.from_numpy(train.labels[order]))
    assert torch.equal(torch.cat([images for images, _ in parts]), normalise(train.gather(order)))


# --- sources --------------------------------------------------------------------------------------------------------


def test_digits(digits_dir: Path) -> None:
    manifest = check_dataset(digits_dir)
    assert (manifest.size, manifest.classes) == (32, tuple("0123456789"))
    assert manifest.splits == ("train", "validation", "test")
    assert [manifest.num_images(split) for split in manifest.splits] == [1258, 270, 269]
    for counts in manifest.counts.values():
        assert max(counts) - min(counts) <= 6, "every split holds every digit about equally often"


def test_shifted_digits_are_the_same_digits_turned_inverted_and_noisy(digits_dir: Path, shifted_dir: Path) -> None:
    clean, shifted = open_dataset(digits_dir).split("test"), open_dataset(shifted_dir).split("test")
    assert np.array_equal(clean.labels, shifted.labels)
    dark_on_light = shifted.gather(range(len(shifted)))
    assert clean.gather(range(len(clean))).mean() < 100 < 155 < dark_on_light.mean()
    assert 5 < dark_on_light[:, :3, :3].std() < 40, "noise in the corners, where no ink is"


@pytest.mark.parametrize("shifted", [False, True])
def test_same_seed_same_bytes(tmp_path: Path, digits_dir: Path, shifted_dir: Path, shifted: bool) -> None:
    build_dataset("digits", out=tmp_path / "again", options={"shifted": shifted})
    build_dataset("digits", out=tmp_path / "other", options={"shifted": shifted, "seed": 1})
    first = shifted_dir if shifted else digits_dir
    for file in first.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
        assert file.read_bytes() != (tmp_path / "other" / file.name).read_bytes()


def test_options_of_digits(tmp_path: Path) -> None:
    assert build_dataset("digits", out=tmp_path / "d", options={"size": 48}).size == 48
    with pytest.raises(BadInput, match="must be 8 to 512"):
        build_dataset("digits", out=tmp_path / "e", options={"size": 4})
    with pytest.raises(BadInput, match="--seed -1"):
        build_dataset("digits", out=tmp_path / "e", options={"seed": -1})
    with pytest.raises(BadInput, match="has no option 'colour': it has size, seed, shifted"):
        build_dataset("digits", out=tmp_path / "e", options={"colour": True})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


def test_unknown_source() -> None:
    assert "digits" in source_names()
    with pytest.raises(BadInput, match=r"unknown source 'mnist': choose one of .*digits"):
        load_source("mnist")


def test_a_type_for_a_default_means_required() -> None:
    source = Source("x", "", {"path": (str, "Folder.")}, classes=lambda _: [], build=lambda _: iter(()))
    assert source.complete({"path": "a"}) == {"path": "a"}
    with pytest.raises(BadInput, match="source 'x' needs --path"):
        source.complete({})


def test_a_source_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blank.py").write_text(
        '"""Black squares."""\n'
        "import numpy as np\n"
        'OPTIONS = {"num": (2, "How many.")}\n'
        'def classes(options): return ["black", "white"]\n'
        "def build(options):\n"
        '    for _ in range(options["num"]): yield "train", np.zeros((8, 8, 3), np.uint8), 0\n'
    )
    monkeypatch.setattr("tinyclf.data.sources.resource_dir", lambda name: tmp_path)
    assert source_names() == ["blank"]
    manifest = build_dataset("blank", out=tmp_path / "out", options={"num": 3})
    assert manifest.counts == {"train": (3, 0)}
