"""Predictions: the same through predict, eval and ONNX Runtime; any image, and a line for what is none."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.kit.short_runs import train_briefly
from tinyclf import cli
from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import open_dataset
from tinyclf.workstation.results.classifiers import OnnxClassifier, TorchClassifier
from tinyclf.workstation.results.evaluate import evaluate_run, predict
from tinyclf.workstation.results.export import export_onnx
from tinyclf.workstation.results.predictions import Prediction, find_images, predict_files, probabilities
from tinyclf.workstation.runs.directory import BEST_FILE, load_run


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["predict", *map(str, arguments)])


def split_of(run_dir: Path) -> Any:
    return open_dataset(load_run(run_dir)[1].data).split("test")


@pytest.fixture(scope="module")
def images(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the test split of the digits as PNG, in the order of the split."""
    folder = tmp_path_factory.mktemp("images")
    split = split_of(digits_run)
    for i, pixels in enumerate(split.gather(range(len(split)))):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def onnx_file(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(digits_run, out=tmp_path_factory.mktemp("onnx") / "digits.onnx").file


@pytest.fixture(scope="module")
def classifier(digits_run: Path) -> TorchClassifier:
    return TorchClassifier.open(digits_run)


def one(classifier: TorchClassifier, file: Path) -> Prediction:
    (prediction,) = predict_files(classifier, [file])
    return prediction


# --- the promise ------------------------------------------------------------------------------------------------------


def test_predict_eval_and_onnx_runtime_say_the_same(
    digits_run: Path, images: Path, onnx_file: Path, tmp_path: Path
) -> None:
    with_pixels = export_onnx(digits_run, out=tmp_path / "pixels.onnx", preprocessing_inside=True).file
    model, config = load_run(digits_run)
    split = split_of(digits_run)
    expected = predict(model, split, config.preprocessing).numpy()
    scale = max(1, np.abs(expected).max())
    for source in (("--run", digits_run), ("--onnx", onnx_file), ("--onnx", with_pixels)):
        result = run(*source, images, "--format", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        found = json.loads(result.stdout)
        actual = np.array([p["logits"] for p in found["predictions"]])
        assert actual.shape == expected.shape == (269, 10)
        assert np.abs(actual - expected).max() / scale <= 1e-4
        answers = [p["labels"] for p in found["predictions"]]
        assert answers == [[split.classes[c]] for c in expected.argmax(1)]
        assert [Path(p["file"]).name for p in found["predictions"]] == [f"{i:03d}.png" for i in range(269)]
        right = np.mean([[split.classes[label]] == answer for label, answer in zip(split.labels, answers, strict=True)])
        assert right == pytest.approx(evaluate_run(digits_run, split="test").accuracy)


def test_images_of_another_size_than_the_net(tmp_path: Path) -> None:
    """Stored with 40 pixels, resized to 32 for the net; the photographs are larger than both."""
    trained = train_briefly(tmp_path, stored=40, size=32, channels="BGR")
    folder = tmp_path / "images"
    folder.mkdir()
    split = split_of(trained)
    for i, pixels in enumerate(split.gather(range(8))):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    model, config = load_run(trained)
    expected = predict(model, split, config.preprocessing).numpy()
    whole = export_onnx(trained, out=tmp_path / "whole.onnx").file
    for classifier in (TorchClassifier.open(trained), OnnxClassifier.open(whole)):
        actual = np.array([p.logits for p in predict_files(classifier, find_images([folder]))])
        assert np.abs(actual - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_only_the_checkpoint_is_needed(tmp_path: Path) -> None:
    trained = train_briefly(tmp_path)
    file = tmp_path / "image.png"
    Image.new("RGB", (50, 60), "red").save(file)
    before = one(TorchClassifier.open(trained), file)
    shutil.move(trained / BEST_FILE, tmp_path / "alone.safetensors")
    shutil.rmtree(trained)
    shutil.rmtree(tmp_path / "data")
    assert one(TorchClassifier.open(tmp_path / "alone.safetensors"), file) == before


# --- images -----------------------------------------------------------------------------------------------------------


def test_forms_of_images(classifier: TorchClassifier, images: Path, tmp_path: Path) -> None:
    picture = Image.open(images / "003.png").convert("RGB")
    expected = one(classifier, images / "003.png").logits
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("RGBA").save(tmp_path / "opaque.png")
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(tmp_path / "palette.gif")
    picture.save(tmp_path / "lossless.webp", lossless=True)
    picture.save(tmp_path / "large.TIFF")
    for file in find_images([tmp_path]):
        tolerance = 0.5 if file.suffix == ".gif" else 0
        np.testing.assert_allclose(one(classifier, file).logits, expected, atol=tolerance, err_msg=file.name)
    assert len(find_images([tmp_path])) == 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "not-noted.png")
    assert one(classifier, tmp_path / "not-noted.png").logits != expected


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (333, 77)])
def test_any_size(classifier: TorchClassifier, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "navy").save(tmp_path / "x.png")
    assert sum(one(classifier, tmp_path / "x.png").probabilities) == pytest.approx(1)


def test_images_that_cannot_be_read(digits_run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "000.png", tmp_path / "a.png")
    shutil.copy(images / "001.png", tmp_path / "z.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "truncated.png").write_bytes((images / "002.png").read_bytes()[:200])
    result = run("--run", digits_run, tmp_path, tmp_path / "gone.png", "--format", "csv")
    assert result.exit_code == 1
    assert [row["file"] for row in csv.DictReader(io.StringIO(result.stdout))] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "z.png"),
    ]
    lines = result.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        *(str(tmp_path / name) for name in ("empty.png", "text.jpg", "truncated.png", "gone.png")),
        "error",
    ]
    assert "gone.png: cannot be read: no such file" in lines[3]
    assert lines[4] == "error: 4 of 6 images cannot be read, the others are done"


def test_nothing_can_be_read(digits_run: Path, tmp_path: Path) -> None:
    result = run("--run", digits_run, tmp_path / "gone.png", "--sheet", tmp_path / "s.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_language_and_any_bytes(digits_run: Path, images: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/not-\xff-utf8.png"))
    names = [tmp_path / "Äpfel und 猫.png", tmp_path / "два\tслова.png", odd]
    for name in names:
        shutil.copy(images / "000.png", name)
    for form in ("table", "csv", "json"):
        out = tmp_path / f"out.{form}"
        result = run("--run", digits_run, tmp_path, "--format", form, "--out", out, "--sheet", tmp_path / "sheet.PNG")
        assert result.exit_code == 0, result.stderr
        (tmp_path / "sheet.PNG").unlink()
        text = out.read_text()
        shown = [entry["file"] for entry in json.loads(text)["predictions"]] if form == "json" else text
        assert all(part in "".join(shown) for part in ("Äpfel und 猫.png", "слова.png", "not-\ufffd-utf8.png"))


def test_which_images_and_in_which_order(images: Path, tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.PNG", "a/1.jpeg", ".hidden.png", "notes.txt", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / "000.png", tmp_path / name)
    found = find_images([tmp_path / "c.png", tmp_path])
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["c.png", "a/1.jpeg", "b/10.PNG", "b/2.png"]
    assert find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]
    (tmp_path / "d").mkdir()
    with pytest.raises(BadInput, match="/d: no image in this folder or below it"):
        find_images([tmp_path / "d"])


def test_max(digits_run: Path, images: Path) -> None:
    result = run("--run", digits_run, images, "--max", 3)
    assert [line.split()[0] for line in result.stdout.splitlines()] == [str(images / f"00{i}.png") for i in range(3)]
    assert len(run("--run", digits_run, images, "--max", 1000).stdout.splitlines()) == 269


# --- output -----------------------------------------------------------------------------------------------------------


def test_the_formats_agree(digits_run: Path, images: Path) -> None:
    def printed(form: str) -> str:
        return run("--run", digits_run, images, "--max", 5, "--format", form).stdout

    found = json.loads(printed("json"))["predictions"]
    table = printed("table").splitlines()
    rows = list(csv.DictReader(io.StringIO(printed("csv"))))
    for p, line, row in zip(found, table, rows, strict=True):
        (label,), share = p["labels"], max(p["probabilities"])
        assert line == f"{p['file']}  {label} ({share:.1%})"
        assert (row["file"], row["prediction"]) == (p["file"], label)
        assert float(row["probability"]) == pytest.approx(share)
        for digit in range(10):
            assert float(row[f"probability:{digit}"]) == pytest.approx(p["probabilities"][digit])
            assert np.float32(row[f"logit:{digit}"]) == np.float32(p["logits"][digit])


def test_several_labels(tmp_path: Path) -> None:
    trained = train_briefly(tmp_path, multi_label=True, epochs=20)
    split = split_of(trained)
    folder = tmp_path / "images"
    folder.mkdir()
    for i, pixels in enumerate(split.gather(range(8))):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    for source in (("--run", trained), ("--onnx", export_onnx(trained).file)):
        found = json.loads(run(*source, folder, "--format", "json").stdout)
        assert (found["classes"], found["multi_label"]) == (["bright", "red"], True)
        for p in found["predictions"]:
            shares = dict(zip(found["classes"], p["probabilities"], strict=True))
            assert p["labels"] == [name for name, share in shares.items() if share > 0.5]
            assert p["probabilities"] == pytest.approx([1 / (1 + np.exp(-value)) for value in p["logits"]])
        rows = list(csv.DictReader(io.StringIO(run(*source, folder, "--format", "csv").stdout)))
        assert [row["prediction"] for row in rows] == [";".join(p["labels"]) for p in found["predictions"]]
        assert len({row["prediction"] for row in rows}) > 1
    lines = run("--run", trained, folder).stdout.splitlines()
    for p, line in zip(found["predictions"], lines, strict=True):
        assert [part in line for part in ("bright (", "red (")] == [name in p["labels"] for name in ("bright", "red")]


def test_probabilities_of_extreme_logits() -> None:
    logits = np.array([[1000, -1000, 0]], dtype=np.float32)
    np.testing.assert_allclose(probabilities(logits, multi_label=False), [[1, 0, 0]])
    np.testing.assert_allclose(probabilities(logits, multi_label=True), [[1, 0, 0.5]])


def test_the_sheet(digits_run: Path, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "sheet.png"
    result = run("--run", digits_run, images, "--max", 9, "--sheet", file)
    assert result.exit_code == 0
    assert result.stderr == f"wrote {file}: 9 of 9 images\n"
    sheet = Image.open(file)
    assert sheet.size == (8 * 132 + 4, 2 * (128 + 2 * 16 + 4) + 4)  # 32 pixels are enlarged to 128, two lines below
    first = np.asarray(sheet)[4:132, 4:132]
    np.testing.assert_array_equal(first[::4, ::4], np.asarray(Image.open(images / "000.png")))
    caption = np.asarray(sheet)[132:164, 4:132]
    assert (caption < 128).any()
    last_cell = np.asarray(sheet)[170:, 140:]
    assert (last_cell == 255).all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--max 0 --run {run} {images}", 1, "--max 0: must be 1 or more"),
        ("--sheet x.jpg --run {run} {images}", 1, "--sheet x.jpg: a PNG is written"),
        ("--run nowhere {images}", 1, "nowhere: not a run directory"),
        ("--onnx nowhere.onnx {images}", 1, "nowhere.onnx: no such file"),
        ("--onnx {images}/000.png {images}", 1, "000.png: damaged, or no ONNX file"),
        ("--run {run} --onnx x.onnx {images}", 2, "Give either --run RUN or --onnx FILE."),
        ("{images}", 2, "Give either --run RUN or --onnx FILE."),
        ("--run {run}", 2, "Missing argument 'PATH...'"),
    ],
)
def test_errors(digits_run: Path, images: Path, arguments: str, code: int, message: str) -> None:
    result = run(*arguments.format(run=digits_run, images=images).split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert code == 2 or len(result.stderr.splitlines()) == 1
