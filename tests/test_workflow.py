"""The whole way with the same commands for every kind of data: build, train, evaluate, predict, export, bench."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.kit.archives import cifar10_files, write_tar
from tests.kit.commands import run
from tests.kit.paths import SHARED
from tests.kit.wake_vision import row, write_parquet
from tinyclf.workstation.data import open_dataset
from tinyclf.workstation.results.classifiers import OnnxClassifier
from tinyclf.workstation.results.evaluate import predict_run

NUM_LABELS = 40


def picture(number: int, *, bright: bool, size: int = 40) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(100 * bright, 100 * bright + 150, (size, size, 3)).astype(np.uint8))


def cifar(folder: Path) -> list[object]:
    return ["cifar10", "--from", write_tar(folder / "cifar-10-python.tar.gz", cifar10_files())]


def celeba(folder: Path) -> list[object]:
    """Write pictures with 40 labels: the first says whether it is bright, the others are at random."""
    rng = np.random.default_rng(0)
    names = [f"label_{i:02d}" for i in range(NUM_LABELS)]
    with (folder / "table.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "split", *names])
        for number in range(60):
            labels = [number % 2, *rng.integers(0, 2, NUM_LABELS - 1).tolist()]
            picture(number, bright=bool(labels[0])).save(folder / f"{number}.png")
            table.writerow(
                [f"{number}.png", ("train", "train", "train", "validation", "test")[number // 2 % 5], *labels]
            )
    return ["csv", "--from", folder / "table.csv"]


def wake_vision(folder: Path) -> list[object]:
    for split, num in (("train_quality", 24), ("validation", 8), ("test", 8)):
        rows = [row(i, person=i % 2, filled=not split.startswith("train")) for i in range(num)]
        write_parquet(folder / f"{split}-00000-of-00001.parquet", rows)
    return ["wake-vision", "--from", folder]


def photographs(folder: Path) -> list[object]:
    for name in ("bright", "dark"):
        (folder / name).mkdir()
        for number in range(20):
            picture(number, bright=name == "bright").save(folder / name / f"{number}.jpg")
    return ["folder", "--from", folder]


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("kind", [cifar, celeba, wake_vision, photographs])
def test_the_same_commands_for_every_kind_of_data(kind: Callable[[Path], list[object]], tmp_path: Path) -> None:
    raw, data, out = tmp_path / "raw", tmp_path / "data", tmp_path / "run"
    raw.mkdir()
    done("data", "build", *kind(raw), "--size", 32, "--out", data)
    done("train", "--data", data, "--epochs", 1, "--threads", 1, "--batch-size", 8, "arch=dscnn", "--out", out)
    adapted = tmp_path / "adapted"
    done("train", "--variant", "LP", "--from", out, "--data", data, "--epochs", 2, "--threads", 1, "--out", adapted)

    measured = json.loads(done("eval", adapted, "--json", "--bootstrap", 50, "--plots", tmp_path / "plots"))
    split = open_dataset(data).split("test")
    several = split.labels.ndim > 1
    assert measured["num_images"] == len(split)
    assert len(measured["classes"]) == len(split.classes)
    assert ("exact_match" in measured) == several
    assert ("fine_grained" in measured) == (kind is wake_vision)
    assert done("eval", adapted).startswith("accuracy ") or several
    assert (adapted / "card.md").read_text().count("\n## ") == 7

    exported = done("export", adapted, "--format", "onnx", "--out", tmp_path / "m.onnx")
    assert "100.0% same answers" in exported
    done("export", adapted, "--format", "onnx", "--int8", "--out", tmp_path / "m8.onnx")
    check_same_everywhere(adapted, tmp_path / "m.onnx", split.gather(range(len(split))), tmp_path / "images")

    assert adapted.name in done("bench", adapted)


def check_same_everywhere(trained: Path, onnx: Path, pixels: NDArray[np.uint8], folder: Path) -> None:
    """Compare predict, eval and ONNX Runtime on the images of a test split, written as PNG."""
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    predicted = json.loads(done("predict", "--run", trained, folder, "--format", "json"))["predictions"]
    through_onnx = json.loads(done("predict", "--onnx", onnx, folder, "--format", "json"))["predictions"]
    _, expected = predict_run(trained, split="test")
    scale = max(1.0, float(np.abs(expected).max()))
    for found in (
        np.array([entry["logits"] for entry in predicted]),
        np.array([entry["logits"] for entry in through_onnx]),
        OnnxClassifier.open(onnx).logits(pixels),
    ):
        assert np.abs(found - expected).max() <= 1e-4 * scale
        assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert [entry["labels"] for entry in predicted] == [entry["labels"] for entry in through_onnx]


def test_several_labels_are_learnt(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    done("data", "build", *celeba(raw), "--size", 32, "--out", tmp_path / "d")
    options: list[Any] = ["--epochs", 40, "--threads", 1, "--batch-size", 12, "arch=dscnn", "class_weights=balanced"]
    done("train", "--data", tmp_path / "d", *options, "--out", tmp_path / "run")
    measured = json.loads(done("eval", tmp_path / "run", "--json"))
    assert measured["label_auc"][0] == 1.0, "the label that can be seen"
    assert measured["label_accuracy"][0] == 1.0
    result = run("deploy", "--target", "host", "--from", tmp_path / "run", "--out", tmp_path / "p")
    assert result.exit_code == 1
    assert "was trained on several labels per image, the device trains on one class" in result.stderr
    result = run("train", "--data", tmp_path / "d", "--sampler", "balanced", "--out", tmp_path / "no")
    assert "have several labels each: use class_weights=balanced" in result.stderr


PHOTOGRAPHS = SHARED / "data" / "caltech_faces128"
IMAGENET = SHARED / "weights" / "mobilenet_wd4_imagenet_128.safetensors"


@pytest.mark.skipif(
    not (IMAGENET.is_file() and PHOTOGRAPHS.is_dir()), reason=f"{SHARED} has no weights and photographs"
)
def test_real_photographs(tmp_path: Path) -> None:
    data = tmp_path / "d"
    done("data", "build", "folder", "--from", PHOTOGRAPHS, "--num-workers", 2, "--out", data)
    done("data", "check", data)
    for name, least, options in (("LP", 0.97, ("LP",)), ("FT", 0.98, ("FT", "--k", 2))):
        out = tmp_path / name
        done("train", "--variant", *options, "--weights", IMAGENET, "--data", data, "--threads", 1, "--out", out)
        assert json.loads(done("eval", out, "--json"))["accuracy"] >= least
