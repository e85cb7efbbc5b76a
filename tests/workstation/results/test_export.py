"""Export: every architecture gives the same logits in ONNX Runtime; what is written says how it is to be used."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tests.kit.short_runs import noisy_squares, train_briefly
from tinyclf import cli
from tinyclf.base.errors import BadInput, CheckFailed, TinyclfError, Unsupported
from tinyclf.workstation.data import Preprocessing, open_dataset
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm
from tinyclf.workstation.results import onnx_graph
from tinyclf.workstation.results.classifiers import OnnxClassifier, TorchClassifier, resized
from tinyclf.workstation.results.evaluate import evaluate_run
from tinyclf.workstation.results.export import export_onnx, export_torch
from tinyclf.workstation.runs.directory import BEST_FILE, load_run

FAMILIES = (
    "mobilenet_wd4",
    "fdmobilenet_wd4",
    "mobilenetv2_wd4",
    "mobilenetv2b_wd4",
    "mobilenetv3_small_w7d20",
    "mobilenetv3_large_w7d20",
    "shufflenetv2_wd2",
    "squeezenet_v1_0",
    "squeezenet_v1_1",
    "mnasnet_small",
    "mnasnet_a1",
    "efficientnet_b0",
    "regnetx002",
    "regnety002",
    "resnet10",
    "resnet50",
    "resnet8",
    "dscnn",
)
SIZES = (32, 96, 128, 224)
# The nets of a family differ in one kind of layer at most: these are not tried at every size.
ONE_SIZE = ("mobilenetv2b_wd4", "mobilenetv3_large_w7d20", "squeezenet_v1_1", "mnasnet_a1", "regnety002", "resnet10")
CASES = [(arch, size) for arch in FAMILIES for size in (SIZES[:1] if arch in ONE_SIZE else SIZES)]


@pytest.fixture(scope="module")
def resized_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose images are stored with 40x40 pixels, and whose net takes 32x32, blue first."""
    folder = tmp_path_factory.mktemp("resized")
    return train_briefly(folder, stored=40, size=32, channels="BGR", mean="0.1,0.3,0.5", std="0.2,0.4,1")


def run_raw(content: bytes, images: Any) -> Any:
    """Run a model in ONNX Runtime without any of our code."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def error_of(actual: Any, expected: Any) -> float:
    return float(np.abs(actual - expected).max() / max(1, np.abs(expected).max()))


def torch_logits(run: Path, pixels: Any) -> Any:
    model, config = load_run(run)
    with torch.no_grad():
        return model(config.preprocessing.apply(pixels)).numpy()


# --- the graph --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "size"), CASES)
def test_every_family_gives_the_same_logits(arch: str, size: int) -> None:
    model = build_model(arch, num_classes=3, size=size)
    generator = torch.Generator().manual_seed(1)
    calibrate_batchnorm(model, torch.randn(8 if size == 32 else 2, 3, size, size, generator=generator))
    net, folded = onnx_graph.fold_for_export(model)
    graph = onnx_graph.to_onnx(net, size=size)
    assert folded
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    for num in (1, 3):
        images = torch.randn(num, 3, size, size, generator=generator)
        with torch.no_grad():
            expected = model(images).numpy()
        assert np.abs(expected).max() > 1e-3
        actual = run_raw(graph.SerializeToString(), images.numpy())
        assert actual.shape == (num, 3)
        # Statistics over maps of one pixel are those of no trained net: there PyTorch itself is further than 1e-4 from
        # double precision.
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(images.double()).numpy()
        assert error_of(actual, expected) <= max(1e-4, 4 * error_of(expected, exact))


class NormFirst(nn.Module):
    """A net that normalises before it convolves: nothing can be folded."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.output = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.output(torch.relu(self.conv(self.norm(x))).mean((2, 3)))
        return result


def norm_first(*, num_classes: int, in_size: tuple[int, int]) -> nn.Module:
    return NormFirst(num_classes)


def test_a_net_that_cannot_be_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_briefly(tmp_path, arch="tests.workstation.results.test_export:norm_first")
    exported = export_onnx(run)
    assert [note for note in exported.notes if "cannot be folded" in note]
    assert "BatchNormalization" in {node.op_type for node in onnx.load(exported.file).graph.node}
    assert exported.comparison.error <= 1e-4


def test_a_net_that_cannot_be_exported() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.raises(Unsupported, match="Odd cannot be exported to ONNX"):
        onnx_graph.to_onnx(Odd(), size=8)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_preprocessing_inside(channels: str) -> None:
    preprocessing = Preprocessing(size=32, stored=32, channels=channels, mean=(0.1, 0.3, 0.5), std=(0.2, 0.4, 1.0))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model = build_model("dscnn", num_classes=4, size=32)
    calibrate_batchnorm(model, preprocessing.apply(pixels))
    graph = onnx_graph.with_preprocessing(onnx_graph.to_onnx(model, size=32), preprocessing)
    with torch.no_grad():
        expected = model(preprocessing.apply(pixels)).numpy()
    assert error_of(run_raw(graph.SerializeToString(), pixels), expected) <= 1e-5
    assert error_of(run_raw(graph.SerializeToString(), pixels[..., ::-1].copy()), expected) > 1e-2


# --- files ------------------------------------------------------------------------------------------------------------


def test_one_file_that_describes_itself(digits_run: Path, tmp_path: Path) -> None:
    exported = export_onnx(digits_run, out=tmp_path / "new" / "net.onnx")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.onnx"]
    assert exported.num_bytes == exported.file.stat().st_size
    model = onnx.load(exported.file)
    about = {entry.key: entry.value for entry in model.metadata_props}
    _, run = load_run(digits_run)
    assert json.loads(about["classes"]) == [str(digit) for digit in range(10)]
    assert Preprocessing.from_dict(json.loads(about["preprocessing"])) == run.preprocessing
    assert (about["architecture"], about["multi_label"], about["precision"]) == ("mobilenet_wd4", "false", "fp32")
    assert about["tinyclf"] == run.tinyclf
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    sizes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (images, logits)]
    assert sizes == [["N", 3, 32, 32], ["N", 10]]
    assert exported.comparison.error <= 1e-4
    assert exported.comparison.same == 1
    assert exported.comparison.images == "256 of 269 images of test"


def test_same_run_same_bytes(digits_run: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        first, second = (
            export_onnx(digits_run, out=tmp_path / f"{i}-{precision}.onnx", precision=precision, num_calibration=20)
            for i in range(2)
        )
        assert first.file.read_bytes() == second.file.read_bytes()


def test_default_names_and_files_in_the_way(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    before = {path.name for path in run.iterdir()}
    export_onnx(run)
    export_torch(run)
    export_torch(run, precision="fp32")
    assert {p.name for p in run.iterdir()} - before == {"model.onnx", "model-fp16.safetensors", "model.safetensors"}
    content = (run / "model.onnx").read_bytes()
    (run / "model.onnx").write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"model.onnx: exists already: choose another --out, or replace it with --force"):
        export_onnx(run)
    assert (run / "model.onnx").read_bytes() == b"mine"
    export_onnx(run, force=True)
    assert (run / "model.onnx").read_bytes() == content
    with pytest.raises(BadInput, match="is the checkpoint that is exported"):
        export_torch(run, out=run / BEST_FILE, force=True)
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


def test_pixels_of_another_size_than_the_stored_ones(resized_run: Path, tmp_path: Path) -> None:
    exported = export_onnx(resized_run, out=tmp_path / "p.onnx", preprocessing_inside=True)
    assert exported.notes == ("resizing to 32x32 pixels is not inside: give it images of that size",)
    model, run = load_run(resized_run)
    split = open_dataset(run.data).split("test")
    small = resized(split.gather(range(8)), run.preprocessing)
    assert small.shape == (8, 32, 32, 3)
    with torch.no_grad():
        expected = model(run.preprocessing.apply(small)).numpy()
    assert error_of(run_raw(exported.file.read_bytes(), small), expected) <= 1e-4
    through_us = OnnxClassifier.open(exported.file).logits(split.gather(range(8)))
    np.testing.assert_array_equal(through_us, run_raw(exported.file.read_bytes(), small))
    whole = export_onnx(resized_run, out=tmp_path / "f.onnx")
    logits = OnnxClassifier.open(whole.file).logits(split.gather(range(8)))
    assert error_of(logits, torch_logits(resized_run, split.gather(range(8)))) <= 1e-4


def test_several_labels(tmp_path: Path) -> None:
    run = train_briefly(tmp_path, multi_label=True, epochs=2)
    exported = export_onnx(run, precision="int8", num_calibration=24)
    classifier = OnnxClassifier.open(exported.file)
    assert (classifier.multi_label, classifier.classes) == (True, ("bright", "red"))
    split = open_dataset(tmp_path / "data").split("test")
    right = ((classifier.logits(split.gather(range(8))) > 0) == split.labels).mean()
    assert exported.accuracy is not None
    assert exported.accuracy.int8 == right


# --- precision --------------------------------------------------------------------------------------------------------


def test_fp16(digits_run: Path, tmp_path: Path) -> None:
    whole = export_onnx(digits_run, out=tmp_path / "whole.onnx")
    half = export_onnx(digits_run, out=tmp_path / "half.onnx", precision="fp16")
    assert half.num_bytes < 0.6 * whole.num_bytes
    model = onnx.load(half.file)
    assert {t.data_type for t in model.graph.initializer if len(t.dims) > 1} == {TensorProto.FLOAT16}
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert 1e-5 < half.comparison.error < 1e-2
    assert half.comparison.same >= 0.99
    assert "where arithmetic is in fp16 too (tried in PyTorch), " in half.to_lines()[2]


def test_int8_and_what_it_costs(digits_run: Path, tmp_path: Path) -> None:
    exported = export_onnx(digits_run, out=tmp_path / "int8.onnx", precision="int8")
    accuracy = exported.accuracy
    assert accuracy is not None
    assert accuracy.images == "269 images of test"
    assert accuracy.fp32 == pytest.approx(evaluate_run(digits_run, split="test").accuracy)
    split = open_dataset(load_run(digits_run)[1].data).split("test")
    logits = OnnxClassifier.open(exported.file).logits(split.gather(range(len(split))))
    assert accuracy.int8 == pytest.approx((logits.argmax(1) == split.labels).mean())
    assert accuracy.drop == pytest.approx(100 * (accuracy.fp32 - accuracy.int8))
    assert accuracy.drop < 3
    assert accuracy.int8 > 0.85
    assert f"a drop of {accuracy.drop:.1f} points" in exported.to_lines()[2]
    graph = onnx.load(exported.file).graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 27  # 1 + 13 x 2 convolutions
    scales = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    per_channel = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in {t.name for t in weights}]
    assert len(per_channel) == 27
    assert all(scales[n.input[1]].shape == scales[n.input[0]].shape[:1] for n in per_channel)


def test_more_calibration_images_than_there_are(tmp_path: Path) -> None:
    run = train_briefly(tmp_path)
    few, all_of_them, more = (
        export_onnx(run, out=tmp_path / f"{num}.onnx", precision="int8", num_calibration=num).file.read_bytes()
        for num in (1, 24, 1000)
    )
    assert all_of_them == more
    assert few != more


@pytest.mark.parametrize("whole_run", [True, False])
def test_weights_in_half_precision_are_a_checkpoint(digits_run: Path, tmp_path: Path, whole_run: bool) -> None:
    source = digits_run if whole_run else digits_run / BEST_FILE
    exported = export_torch(source, out=tmp_path / "w.safetensors", precision="fp16")
    stored, before = load_file(exported.file), load_file(digits_run / BEST_FILE)
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    model, run = load_run(exported.file)
    assert run == load_run(digits_run)[1]
    for name, tensor in model.state_dict().items():
        expected = before[name].half().float() if before[name].is_floating_point() else before[name]
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, expected), name
    with safe_open(exported.file, "pt") as half, safe_open(digits_run / BEST_FILE, "pt") as full:
        assert half.metadata() == full.metadata()
    assert 0 < exported.comparison.error < 1e-2
    again = export_torch(exported.file, out=tmp_path / "again.safetensors", precision="fp32")
    assert again.comparison.error == 0


def test_what_half_precision_cannot_hold_stays_float32(tmp_path: Path) -> None:
    run = train_briefly(tmp_path)
    from safetensors.torch import save_file

    with safe_open(run / BEST_FILE, "pt") as opened:
        metadata = opened.metadata()
    state = load_file(run / BEST_FILE)
    name = next(name for name in state if name.endswith("running_var"))
    state[name][0] = 1e6
    save_file(state, run / BEST_FILE, metadata=metadata)
    exported = export_torch(run, precision="fp16")
    assert [n for n, t in load_file(exported.file).items() if t.dtype == torch.float32] == [name]
    assert exported.comparison.error < 1e-2


# --- checks and errors ------------------------------------------------------------------------------------------------


def test_a_difference_is_found_and_nothing_is_written(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_graph.to_onnx

    def slightly_wrong(model: nn.Module, *, size: int) -> onnx.ModelProto:
        with torch.no_grad():
            list(model.parameters())[-2].mul_(1.01)  # of the last layer: a channel of the first may be dead
        return right(model, size=size)

    monkeypatch.setattr(onnx_graph, "to_onnx", slightly_wrong)
    with pytest.raises(CheckFailed, match=r"on 256 of 269 images of test the logits differ from PyTorch's by "):
        export_onnx(digits_run, out=tmp_path / "x.onnx")
    result = CliRunner().invoke(cli.main, ["export", str(digits_run), "--out", str(tmp_path / "x.onnx")])
    assert result.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_overflow_in_half_precision(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_graph.to_onnx

    def much_too_large(model: nn.Module, *, size: int) -> onnx.ModelProto:
        with torch.no_grad():
            list(model.parameters())[-2].mul_(1e6)  # of the last layer
        return right(model, size=size)

    monkeypatch.setattr(onnx_graph, "to_onnx", much_too_large)
    with pytest.raises(CheckFailed, match="in fp16 some logits overflow: nothing was written"):
        export_onnx(digits_run, out=tmp_path / "x.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_without_the_dataset(tmp_path: Path) -> None:
    run = train_briefly(tmp_path)
    shutil.rmtree(tmp_path / "data")
    exported = export_onnx(run)
    assert exported.comparison.images == "64 random images"
    assert [note for note in exported.notes if "not compared on real images" in note and "no such folder" in note]
    with pytest.raises(BadInput, match="int8 needs training images for its ranges"):
        export_onnx(run, precision="int8")
    with pytest.raises(BadInput, match="nowhere: no such folder"):
        export_onnx(run, data=tmp_path / "nowhere", force=True)


def test_another_dataset(digits_run: Path, shifted_dir: Path, tmp_path: Path) -> None:
    exported = export_onnx(digits_run, out=tmp_path / "x.onnx", precision="int8", data=shifted_dir)
    assert exported.accuracy is not None
    assert exported.accuracy.fp32 == evaluate_run(digits_run, split="test", data=shifted_dir).accuracy
    other = noisy_squares(tmp_path / "other", size=32)
    with pytest.raises(BadInput, match="has other classes "):
        export_onnx(digits_run, out=tmp_path / "y.onnx", data=other)


def test_damaged_onnx_files(digits_run: Path, tmp_path: Path) -> None:
    whole = export_onnx(digits_run, out=tmp_path / "net.onnx").file
    content = whole.read_bytes()
    file = tmp_path / "damaged.onnx"
    for damaged in (b"", b"junk" * 100, content[: len(content) // 2], content[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"damaged.onnx: ") as caught:
            OnnxClassifier.open(file)
        assert len(str(caught.value).splitlines()) == 1
    model = onnx.load(whole)
    del model.metadata_props[:]
    onnx.save(model, file)
    with pytest.raises(BadInput, match="its metadata has no classes and preprocessing: export the run"):
        OnnxClassifier.open(file)
    _, run = load_run(digits_run)
    wrong = json.dumps(replace(run.preprocessing, size=64).to_dict())
    about = {"classes": json.dumps(list(run.classes)), "multi_label": "false", "preprocessing": wrong}
    onnx.save(onnx_graph.with_metadata(model, about), file)
    with pytest.raises(BadInput, match="its input and output are not those its metadata describes"):
        OnnxClassifier.open(file)
    with pytest.raises(BadInput, match=r"none.onnx: no such file"):
        OnnxClassifier.open(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--calibration 0 --int8", 1, "--calibration 0: must be 1 or more"),
        ("--out x.bin", 1, "--out x.bin: --format onnx writes a file whose name ends in .onnx"),
        ("--format torch --out x.onnx", 1, "--format torch writes a file whose name ends in .safetensors"),
        ("--fp16 --int8", 2, "--fp16 and --int8: a file holds one of them"),
        ("--format torch --int8", 2, "need --format onnx"),
        ("--format torch --with-preprocessing", 2, "need --format onnx"),
    ],
)
def test_errors(digits_run: Path, arguments: str, code: int, message: str) -> None:
    before = set(digits_run.iterdir())
    result = CliRunner().invoke(cli.main, ["export", str(digits_run), *arguments.split()])
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert set(digits_run.iterdir()) == before


def test_not_a_run(tmp_path: Path) -> None:
    for write in (export_onnx, export_torch):
        with pytest.raises(TinyclfError, match="not a run directory"):
            write(tmp_path)


def test_the_terminal_shows_our_lines_only(digits_run: Path, tmp_path: Path) -> None:
    """In a process of its own: exporters warn through warnings, loggers and from C++."""
    command = [sys.executable, "-m", "tinyclf", "export", str(digits_run), "--int8", "--out", str(tmp_path / "x.onnx")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["wrote", "against", "accuracy"]


def test_classifiers_take_no_images_and_many(digits_run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)
    onnx_one = OnnxClassifier.open(export_onnx(digits_run, out=tmp_path / "x.onnx").file)
    for classifier in (TorchClassifier.open(digits_run), onnx_one):
        assert classifier.logits(pixels[:0]).shape == (0, 10)
        logits = classifier.logits(pixels)
        assert error_of(logits[100:], classifier.logits(pixels[100:])) <= 1e-5
