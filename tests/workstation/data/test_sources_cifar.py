"""CIFAR-10 and CIFAR-100: archives as python 2 wrote the official ones, and pickles that mean harm."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.archives import (
    CIFAR10,
    Malicious,
    built,
    cifar10_files,
    pictures,
    python2_batch,
    python2_meta,
    read_all,
    write_tar,
)
from tests.kit.sources import class_names, items
from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import build_dataset

# --- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tar(tmp_path_factory.mktemp("cifar10") / "cifar-10-python.tar.gz", cifar10_files())


def test_cifar10(cifar10: Path, tmp_path: Path) -> None:
    dataset = built(tmp_path / "out", "cifar10", **{"from": cifar10})
    assert (dataset.classes, dataset.size) == (CIFAR10, 32)
    assert dataset.manifest.counts == {"train": (9,) * 10, "validation": (1,) * 10, "test": (2,) * 10}
    assert np.array_equal(read_all(dataset, "test"), pictures(20, size=32, seed=6))
    train = np.concatenate([pictures(20, size=32, seed=seed) for seed in range(1, 6)])
    back = {image.tobytes() for split in ("train", "validation") for image in read_all(dataset, split)}
    assert back == {image.tobytes() for image in train}
    order = [int(item.name.split()[1]) for item in items("cifar10", **{"from": cifar10}, split=("train",))]
    assert order == sorted(order)
    assert np.array_equal(read_all(dataset, "train"), train[order])


def test_cifar10_from_a_folder_and_grouped(cifar10: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(cifar10, tmp_path)
    options = {"positive": ("cat", "dog"), "validation_share": 0.0, "split": ("train", "test")}
    found = items("cifar10", **{"from": tmp_path}, **options)
    same = items("cifar10", **{"from": tmp_path / "cifar-10-batches-py"}, **options)
    assert [(i.name, i.label) for i in found] == [(i.name, i.label) for i in same]
    assert class_names("cifar10", **{"from": tmp_path}, **options) == ["not_cat_or_dog", "cat_or_dog"]
    assert [item.label for item in found[:10]] == [0, 0, 0, 1, 0, 1, 0, 0, 0, 0]
    assert [item.tags["fine"] for item in found[:10]] == [*range(10)]


FINE = (*(f"fine_{index}" for index in range(97)), "man", "woman", "lamp")
COARSE = (*(f"coarse_{index}" for index in range(19)), "people")


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fine = [*range(100)]
    coarse = [19 if FINE[label] in ("man", "woman") else label % 19 for label in fine]
    labels = {"coarse_labels": coarse, "fine_labels": fine}
    files = {
        "cifar-100-python/meta": python2_meta({"fine_label_names": FINE, "coarse_label_names": COARSE}),
        "cifar-100-python/test": python2_batch(pictures(100, size=32, seed=8), labels),
        "cifar-100-python/train": python2_batch(pictures(100, size=32, seed=9), labels),
    }
    return write_tar(tmp_path_factory.mktemp("cifar100") / "cifar-100-python.tar.gz", files)


def test_cifar100_fine_coarse_and_people(cifar100: Path, tmp_path: Path) -> None:
    options = {"from": cifar100, "split": ("test",)}
    fine = built(tmp_path / "fine", "cifar100", **options)
    assert fine.classes == FINE
    assert fine.split("test").labels.tolist() == [*range(100)]
    assert fine.split("test").tags["coarse"].tolist()[96:] == [96 % 19, 19, 19, 99 % 19]
    assert np.array_equal(read_all(fine, "test"), pictures(100, size=32, seed=8))
    coarse = built(tmp_path / "coarse", "cifar100", **options, labels="coarse")
    assert coarse.classes == COARSE
    assert coarse.split("test").labels.tolist() == fine.split("test").tags["coarse"].tolist()
    people = built(tmp_path / "people", "cifar100", **options, positive=("people",))
    assert people.classes == ("not_people", "people")
    assert np.flatnonzero(people.split("test").labels).tolist() == [97, 98]
    assert sorted(people.split("test").tags) == ["coarse", "fine"]
    mixed = items("cifar100", **options, positive=("people", "lamp"))
    assert [int(item.name.split()[1]) for item in mixed if item.label] == [97, 98, 99]
    balanced = built(tmp_path / "balanced", "cifar100", **options, positive=("people",), balance=True)
    assert balanced.manifest.counts == {"test": (2, 2)}


def test_bad_cifar(cifar10: Path, cifar100: Path, tmp_path: Path) -> None:
    def fails(message: str, name: str = "cifar10", path: Path = cifar10, **given: Any) -> None:
        with pytest.raises(BadInput, match=message) as caught:
            items(name, **{"from": path}, **given)
        assert len(str(caught.value).splitlines()) == 1

    fails("no such file or folder: download", path=tmp_path / "none")
    fails("has no file batches.meta: not the folder cifar-10-batches-py", path=tmp_path)
    fails("has no member cifar-10-batches-py/batches.meta", path=cifar100)
    fails("--positive people: no such class: choose from airplane", positive=("people",))
    fails("--positive womn: no such class: choose from woman", name="cifar100", path=cifar100, positive=("womn",))
    fails("--labels medium: choose fine or coarse", name="cifar100", path=cifar100, labels="medium")
    fails("--validation-share 1.5: must be", validation_share=1.5)
    fails("has no split 'dev'", split=("dev",))
    (tmp_path / "no.tar.gz").write_bytes(b"hello" * 1000)
    fails("truncated or damaged archive", path=tmp_path / "no.tar.gz")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused(cifar10: Path, tmp_path: Path, share: float) -> None:
    raw = cifar10.read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(BadInput, match=r"truncated|damaged"):
        items("cifar10", **{"from": tmp_path / "cut.tar.gz"})


def replaced(tmp_path: Path, member: str, content: bytes) -> Path:
    files = {**cifar10_files(), f"cifar-10-batches-py/{member}": content}
    return write_tar(tmp_path / "changed.tar", files, mode="w")


def test_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for content in (
        pickle.dumps({b"data": Malicious(harm)}),
        b"cos\nsystem\n(S'touch " + str(harm).encode() + b"'\ntR.",
        b"cbuiltins\neval\n(V1+1\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.mro\x93.",
    ):
        with pytest.raises(BadInput, match=r"it asks for \S+, which no array needs"):
            items("cifar10", **{"from": replaced(tmp_path, "data_batch_2", content)})
    assert not harm.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated|not a sound pickle"),
        (b"\x80\x02}(", "truncated|not a sound pickle"),
        (b"\x80\x02](e.", "holds a list: not a file of CIFAR"),
        (pickle.dumps({"data": np.zeros((3, 3072), np.float32)}, protocol=2), "data_batch_2: holds no images"),
        (python2_batch(pictures(3, size=32), {"label": [0, 1, 2]}), "fine labels: missing"),
        (python2_batch(pictures(3, size=32), {"labels": [0, 1]}), "fine labels: 2 for 3 images"),
        (python2_batch(pictures(3, size=32), {"labels": [0, 1, 10]}), "fine labels: 0 to 10, there are 10 classes"),
    ],
)
def test_damaged_batches(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        items("cifar10", **{"from": replaced(tmp_path, "data_batch_2", content)})


def test_batches_pickled_by_a_new_python(tmp_path: Path) -> None:
    data = pictures(3, size=32).transpose(0, 3, 1, 2).reshape(3, -1)
    for protocol in (2, 4):
        content = pickle.dumps({"data": data, "labels": [7, 8, 9]}, protocol=protocol)
        found = items("cifar10", **{"from": replaced(tmp_path, "test_batch", content)}, split=("test",))
        assert np.array_equal(np.array([item.image for item in found]), pictures(3, size=32))


def test_splits_that_are_not_asked_for_are_not_read(cifar10: Path, tmp_path: Path) -> None:
    path = replaced(tmp_path, "data_batch_2", b"broken")
    assert len(items("cifar10", **{"from": path}, split=("test",))) == 20
    assert Counter(item.split for item in items("cifar10", **{"from": cifar10}, split=("validation",))) == {
        "validation": 10
    }


def test_two_processes_write_the_same_bytes_as_one(cifar10: Path, tmp_path: Path) -> None:
    for num in (1, 2):
        build_dataset("cifar10", out=tmp_path / str(num), options={"from": cifar10, "shard_size": 32}, num_workers=num)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
