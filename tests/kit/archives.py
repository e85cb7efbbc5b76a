"""Archives of images: CIFAR's as python 2 wrote the official ones, and pickles that mean harm."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.workstation.data import Dataset, build_dataset, check_dataset, open_dataset


def built(out: Path, name: str, **given: Any) -> Dataset:
    build_dataset(name, out=out, options=given)
    check_dataset(out)
    return open_dataset(out)


def pictures(num: int, *, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return (num, size, size, 3) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def read_all(dataset: Dataset, split: str) -> NDArray[np.uint8]:
    return dataset.split(split).gather(range(dataset.manifest.num_images(split)))


def write_tar(path: Path, content: Mapping[str, bytes], *, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class Malicious:
    """Unpickling it would create the file `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.out,)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def python2_array(array: NDArray[np.uint8]) -> bytes:
    """Return an array as python 2's cPickle wrote it into the official files, without the frame around it."""
    rows, columns = array.shape
    raw: bytes = array.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K"
        + bytes([rows])
        + b"M"
        + columns.to_bytes(2, "little")
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tb"
    )


def python2_strings(names: tuple[str, ...]) -> bytes:
    return b"](" + b"".join(b"U" + bytes([len(name)]) + name.encode() for name in names) + b"e"


def python2_batch(images: NDArray[np.uint8], labels: Mapping[str, list[int]]) -> bytes:
    """Return a pickle of protocol 2 whose keys and names are python 2 strings, as in the official files."""
    data = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    content = b"\x80\x02}(" + b"U\x0bbatch_label" + b"U\x15training batch 1 of 5" + b"U\x04data" + python2_array(data)
    for key, values in labels.items():
        content += b"U" + bytes([len(key)]) + key.encode() + b"](" + b"".join(b"K" + bytes([v]) for v in values) + b"e"
    return content + b"U\x09filenames" + python2_strings(("leptodactylus_pentadactylus_s_000004.png",)) + b"u."


def python2_meta(names: Mapping[str, tuple[str, ...]]) -> bytes:
    pairs = (b"U" + bytes([len(key)]) + key.encode() + python2_strings(value) for key, value in names.items())
    return b"\x80\x02}(" + b"".join(pairs) + b"u."


def cifar10_files() -> dict[str, bytes]:
    """Return the members of the official archive, in its order, with 20 images in each batch."""
    names = (
        "data_batch_4",
        "test_batch",
        "data_batch_3",
        "batches.meta",
        "data_batch_2",
        "data_batch_5",
        "data_batch_1",
    )
    files = {}
    for name in names:
        seed = 6 if name == "test_batch" else int(name[-1]) if name[-1].isdigit() else 0
        batch = python2_batch(pictures(20, size=32, seed=seed), {"labels": [*range(10)] * 2})
        files[f"cifar-10-batches-py/{name}"] = batch if seed else python2_meta({"label_names": CIFAR10})
    return files
