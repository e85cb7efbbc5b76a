"""CIFAR-100: 60,000 images of 32x32 pixels in 100 fine or 20 coarse classes, from the official archive on your disk.

--from is cifar-100-python.tar.gz or the folder cifar-100-python. The 50,000 train images are divided into train and
validation by --seed, class by class. --labels says which labels are the classes; the others are kept as a tag.
--positive people (or --positive man --positive woman: coarse and fine names, also mixed) makes two classes; `fine` and
`coarse` are then both tags. Pickles are read with nothing but numpy arrays allowed.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no licence is stated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.sources import Item, load_file

_cifar = load_file(Path(__file__).with_name("_cifar.py"))

OPTIONS = {**_cifar.OPTIONS, "labels": ("fine", "Which labels are the classes: fine (100) or coarse (20).")}
SIZE = _cifar.SIDE
KIND = _cifar.Kind(
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    labels={"fine": (b"fine_labels", b"fine_label_names"), "coarse": (b"coarse_labels", b"coarse_label_names")},
)


def classes(options: dict[str, Any]) -> Sequence[str]:
    """Return the 100 or 20 classes, or the two groups."""
    names: list[str] = _cifar.class_names(KIND, options, by=_labels(options))
    return names


def provenance(options: dict[str, Any]) -> Mapping[str, Any]:
    """Return where the images come from."""
    return {"origin": "CIFAR-100, python version, cs.toronto.edu/~kriz/cifar.html", "licence": "none stated"}


def build(options: dict[str, Any]) -> Iterator[Item]:
    """Yield train, validation and test in the order of the archive.

    Raises:
        BadInput: no such file; a damaged archive; a pickle that holds more than arrays; a wrong label or option.
    """
    yield from _cifar.items(KIND, options, by=_labels(options))


def _labels(options: dict[str, Any]) -> str:
    if options["labels"] not in KIND.labels:
        raise BadInput(f"--labels {options['labels']}: choose fine or coarse")
    return str(options["labels"])
