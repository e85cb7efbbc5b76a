"""CIFAR-10: 60,000 images of 32x32 pixels in 10 classes, from the official python archive on your disk.

--from is cifar-10-python.tar.gz or the folder cifar-10-batches-py. The 50,000 train images are divided into train and
validation by --seed, class by class. --positive dog --positive cat makes two classes of the ten; the original class is
then kept as the tag `fine`. Pickles are read with nothing but numpy arrays allowed.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no licence is stated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyclf.workstation.data.sources import Item, load_file

_cifar = load_file(Path(__file__).with_name("_cifar.py"))

OPTIONS = _cifar.OPTIONS
SIZE = _cifar.SIDE
KIND = _cifar.Kind(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels={"fine": (b"labels", b"label_names")},
)


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the ten classes, or the two groups."""
    names: list[str] = _cifar.class_names(KIND, options, by="fine")
    return names


def provenance(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return where the images come from."""
    return {"origin": "CIFAR-10, python version, cs.toronto.edu/~kriz/cifar.html", "licence": "none stated"}


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield train, validation and test in the order of the archive.

    Raises:
        BadInput: no such file; a damaged archive; a pickle that holds more than arrays; a wrong label or option.
    """
    yield from _cifar.items(KIND, options, by="fine")
