"""Wake Vision: parquet files with its exact columns, read as the real ones are; the hub out of reach."""

from __future__ import annotations

import importlib
import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.kit.wake_vision import SIZE, TAGS, encoded, labelled, persons, picture, row, write_parquet
from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import Dataset, Item, build_dataset, check_dataset, load_source, open_dataset


def options_of(**given: Any) -> dict[str, Any]:
    return {**load_source("wake-vision").complete(given), "wants": lambda split: True}


def items(root: Path, **given: Any) -> list[Item]:
    return list(load_source("wake-vision").build(options_of(**{"from": str(root)}, **given)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two test files (images 0-19), one of validation (20-29), two parts of train_quality (30-49)."""
    root = tmp_path_factory.mktemp("wake") / "data"
    for part, first in enumerate((0, 10)):
        rows = [row(first + i, person=p) for i, p in enumerate(persons(first, 10))]
        write_parquet(root / f"test-{part:05}-of-00002.parquet", rows)
    rows = [row(20 + i, person=p) for i, p in enumerate(persons(20, 10))]
    write_parquet(root / "validation" / "0000.parquet", rows)
    for part, first in enumerate((30, 40)):
        rows = [row(first + i, person=i % 2, filled=False) for i in range(10)]
        write_parquet(root / f"train_quality_part_{part}-00000-of-00001.parquet", rows)
    (root / "README.md").write_text("no parquet")
    return root


def built(out: Path, root: Path, **given: Any) -> Dataset:
    build_dataset("wake-vision", out=out, options={"from": str(root), "size": SIZE, **given})
    check_dataset(out)
    return open_dataset(out)


def test_parquet_files_come_back_pixel_exact(folder: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", folder)
    assert dataset.classes == ("no_person", "person")
    assert tuple(dataset.manifest.splits) == ("train_quality", "validation", "test")
    expected = {"train_quality": [*range(30, 50)], "validation": labelled(20, 10), "test": labelled(0, 20)}
    for name, numbers in expected.items():
        split = dataset.split(name)
        images = split.gather(range(len(split)))
        assert np.array_equal(images, np.stack([picture(number) for number in numbers])), name
        assert split.labels.tolist() == [number % 2 for number in numbers]
    tags = dataset.split("test").tags
    assert sorted(tags) == sorted(TAGS)
    for index, tag in enumerate(TAGS):
        assert tags[tag].tolist() == [number // (index + 1) % 2 for number in labelled(0, 20)], tag


def test_tags_that_the_train_splits_do_not_fill(folder: Path) -> None:
    item = items(folder, split=("train_quality",))[3]
    assert item.tags["near"] == item.tags["person_depiction"] == -1
    assert item.tags["body_part"] == 33 // 2 % 2
    assert item.tags["depiction"] == 33 // 5 % 2


def test_images_are_handed_on_as_they_are_stored(folder: Path, tmp_path: Path) -> None:
    found = items(folder, split=("test",))
    assert [item.image for item in found] == [encoded(number) for number in labelled(0, 20)]
    assert found[0].name == "0000000000000000.jpg"
    write_parquet(tmp_path / "test.parquet", [row(1, person=1, kind="JPEG")])
    (jpeg,) = items(tmp_path)
    assert jpeg.image == encoded(1, "JPEG")
    dataset = built(tmp_path / "out", tmp_path, size=8)
    assert isinstance(jpeg.image, bytes)
    resized = Image.open(io.BytesIO(jpeg.image)).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(dataset.split("test").gather([0])[0], np.array(resized))


@pytest.mark.parametrize("done", [0, 1, 7, 8, 9, 15, 16, 20])
def test_resume_is_build_without_what_is_done(folder: Path, done: int) -> None:
    source = load_source("wake-vision")
    assert source.resume is not None
    options = options_of(**{"from": str(folder), "split": ("validation", "test")})
    rest = [item.name for item in source.resume(options, {"test": done, "validation": 3})]
    everything = items(folder, split=("validation", "test"))
    names = {split: [item.name for item in everything if item.split == split] for split in ("validation", "test")}
    assert rest == [*names["validation"][3:], *names["test"][done:]]


def test_an_interrupted_build_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets: Any = importlib.import_module("datasets")  # a plain import finds the folder of that name
    whole = built(tmp_path / "whole", folder, shard_size=3)
    original, calls = datasets.load_dataset, iter(range(100))

    def breaks(*args: Any, **given: Any) -> Any:
        if next(calls) == 4:  # at the second file of test
            raise ConnectionError("the hub went away")
        return original(*args, **given)

    monkeypatch.setattr(datasets, "load_dataset", breaks)
    with pytest.raises(BadInput, match="the hub went away"):
        built(tmp_path / "again", folder, shard_size=3)
    assert not (tmp_path / "again").exists()
    options = {"from": str(folder), "size": SIZE, "shard_size": 3}
    build_dataset("wake-vision", out=tmp_path / "again", options=options, resume=True)
    for file in whole.path.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_files_that_are_done_are_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets: Any = importlib.import_module("datasets")  # a plain import finds the folder of that name
    opened = []
    original = datasets.load_dataset

    def spy(*args: Any, **given: Any) -> Any:
        opened.extend(given["data_files"]["test"])
        return original(*args, **given)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    source = load_source("wake-vision")
    assert source.resume is not None
    assert len(list(source.resume(options_of(**{"from": str(folder), "split": ("test",)}), {"test": 8}))) == 8
    assert [Path(file).name for file in opened] == ["test-00001-of-00002.parquet"]


def test_a_split_that_is_full_is_not_read_on(folder: Path) -> None:
    left = {"validation": 2, "test": 3}

    def wants(split: str) -> bool:
        return left.get(split, 0) > 0

    found = []
    options = {**options_of(**{"from": str(folder)}), "wants": wants}
    for item in load_source("wake-vision").build(options):
        found.append(item.split)
        left[item.split] -= 1
    assert found == ["validation"] * 2 + ["test"] * 3


def test_local_files_are_read_without_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args))
    assert items(folder, split=("test",))
    assert asked == []


def test_limit_and_balance(folder: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", folder, split=("test",), limit=6, balance=True)
    assert dataset.manifest.counts == {"test": (3, 3)}


def test_provenance_of_local_files(folder: Path) -> None:
    told = load_source("wake-vision").provenance(options_of(**{"from": str(folder), "split": ("test",)}))
    assert told["files"] == {"test": ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]}
    assert "CC-BY" in told["licence"]


def changed(number: int, **values: Any) -> dict[str, Any]:
    return {name: value for name, value in {**row(number, person=1), **values}.items() if value != "drop"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.parquet", changed(0, person="drop"), r"test\.parquet: lacks the columns person: not Wake Vision"),
        ("test.parquet", changed(0, near="drop", far="drop"), "lacks the columns near, far"),
        ("train_large-0.parquet", changed(0, body_part="drop"), "lacks the columns body_part"),
        ("test.parquet", {"text": 1}, r"lacks the columns image, person, predominantly_female and \d+ more"),
        ("test.parquet", changed(0, person=2), "row 0: person is 2: must be 0, 1 or -1"),
        ("test.parquet", changed(0, person=None), "row 0: person is None"),
        ("other.parquet", changed(0), "no parquet file that names its split"),
    ],
)
def test_files_that_are_not_wake_vision(tmp_path: Path, name: str, content: dict[str, Any], message: str) -> None:
    write_parquet(tmp_path / name, [content])
    with pytest.raises(BadInput, match=message) as caught:
        items(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    raw = (folder / "test-00000-of-00002.parquet").read_bytes()
    for num_bytes in (0, 3, len(raw) // 2, len(raw) - 1):
        (tmp_path / "test.parquet").write_bytes(raw[:num_bytes])
        with pytest.raises(BadInput, match=r"test\.parquet: cannot be read .*: truncated or damaged") as caught:
            items(tmp_path)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(BadInput, match="no such folder"):
        items(tmp_path / "none")
    with pytest.raises(BadInput, match="has no split 'train_large': choose from train_quality, validation, test"):
        items(folder, split=("train_large",))


def test_corrupt_images_are_left_to_the_builder(tmp_path: Path) -> None:
    broken = {"bytes": encoded(0)[:40], "path": "0.png"}
    write_parquet(tmp_path / "test.parquet", [changed(0, image=broken), row(1, person=1), changed(2, image=broken)])
    assert [item.image for item in items(tmp_path)] == [broken["bytes"], encoded(1), broken["bytes"]]
    dataset = built(tmp_path / "out", tmp_path)
    assert np.array_equal(dataset.split("test").gather([0])[0], picture(1))
    assert len(dataset.split("test")) == 1


def test_an_image_without_content_is_left_to_the_builder(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [row(0, person=1), changed(1, image={"bytes": None, "path": "gone.jpg"})])
    assert items(tmp_path)[1].image == Path("gone.jpg")
    dataset = built(tmp_path / "out", tmp_path)
    assert dataset.manifest.num_images("test") == 1


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send requests for the hub to a port where nobody listens."""
    import huggingface_hub.constants
    import huggingface_hub.hf_api

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.hf_api, "ENDPOINT", "http://127.0.0.1:9", raising=False)


@pytest.mark.usefixtures("nowhere")
def test_a_hub_that_cannot_be_reached_gives_one_line_soon(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(BadInput, match=r"cannot reach the hub for Harvard-Edge/Wake-Vision .*: .* use --from DIR") as e:
        build_dataset("wake-vision", out=tmp_path / "out", options={"limit": 4})
    assert len(str(e.value).splitlines()) == 1
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        BadInput, match="has no split 'train': choose from train_quality, validation, test, train_large"
    ):
        build_dataset("wake-vision", out=tmp_path / "out", options={"split": ("train",)})


class Hub:
    """Stands for the hub's client: two commits, and the files of the local folder."""

    asked: list[tuple[str, str]]

    def __init__(self) -> None:
        Hub.asked = []

    def dataset_info(self, repository: str, *, revision: str, timeout: float) -> Any:
        Hub.asked.append((repository, revision))
        return type("Info", (), {"sha": "c0ffee" if revision == "main" else revision})

    def list_repo_files(self, repository: str, *, repo_type: str, revision: str) -> Iterator[str]:
        yield from ("README.md", "data/test-00001-of-00002.parquet", "data/test-00000-of-00002.parquet")
        yield from ("data/validation-00000-of-00001.parquet", "data/train_large_part_10-00000-of-00001.parquet")


def module_of(function: Any) -> ModuleType:
    import sys

    return sys.modules[function.__module__]


def test_the_revision_is_pinned_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    source = load_source("wake-vision")
    pinned = "19c27e44926386c2dba2561cf71356b71d81a38b"
    small, large = "Harvard-Edge/Wake-Vision", "Harvard-Edge/Wake-Vision-Train-Large"
    assert source.provenance(options_of(split=("test",)))["repositories"] == {small: pinned}
    both = source.provenance(options_of(split=("test", "train_large")))["repositories"]
    assert both == {small: pinned, large: "c0ffee"}
    asked = source.provenance(options_of(split=("test",), revision="main"))["repositories"]
    assert asked == {small: "c0ffee"}
    files = module_of(source.build)._hub_files(options_of(split=("test", "train_large")))
    assert files == {
        "test": [f"hf://datasets/{small}@{pinned}/data/test-0000{part}-of-00002.parquet" for part in (0, 1)],
        "train_large": [f"hf://datasets/{large}@c0ffee/data/train_large_part_10-00000-of-00001.parquet"],
    }
    with pytest.raises(BadInput, match="has no parquet file of split 'train_quality': try --revision main"):
        module_of(source.build)._hub_files(options_of(split=("train_quality",)))
