"""Training: what is frozen stays, seeds decide everything, run directories are whole, wrong input is one line."""

from __future__ import annotations

import csv
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn

from tinyclf import train as training
from tinyclf.data import Item, check_dataset, open_dataset, write_dataset
from tinyclf.errors import BadInput, TinyclfError, Unsupported
from tinyclf.evaluate import evaluate_run
from tinyclf.models import build_model, freeze, num_parameters
from tinyclf.runs import EpochRow, create_run_dir, read_config
from tinyclf.train import DEFAULTS, TrainConfig, configure, fastest_threads, load_run, train
from tinyclf.variants import VARIANTS, Variant

SHARED = Path(__file__).parent.parent.parent / "shared"
IMAGENET = SHARED / "weights" / "mobilenet_wd4_imagenet_128.safetensors"
FACES = SHARED / "data" / "caltech_faces128"


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 33 + 9 + 9 noisy squares, dark or bright: two classes, 32x32."""
    rng = np.random.default_rng(0)
    out = tmp_path_factory.mktemp("data") / "tiny"

    def square(label: int) -> NDArray[np.uint8]:
        return rng.integers(100 * label, 100 * label + 100, (32, 32, 3)).astype(np.uint8)

    samples = [
        Item(s, square(i % 2), i % 2) for s, n in (("train", 33), ("validation", 9), ("test", 9)) for i in range(n)
    ]
    write_dataset(samples, out=out, classes=["dark", "bright"], source="test", size=32)
    return out


@pytest.fixture(scope="module")
def scratch_run(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short scratch run on the tiny dataset."""
    return train(config_of(tiny_dir, epochs=2), out=tmp_path_factory.mktemp("runs") / "scratch")


def config_of(data: Path, variant: str = "scratch", *, k: int = 2, **options: Any) -> TrainConfig:
    return configure(variant=Variant(variant, k=k), data=data, **{"epochs": 1, "threads": 1, **options})


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return load_run(run)[0].state_dict()


# --- the loop ---------------------------------------------------------------------------------------------------


def test_scratch_learns_the_digits_and_the_shift_hurts(digits_dir: Path, shifted_dir: Path, tmp_path: Path) -> None:
    run = train(configure(variant=Variant("scratch"), data=digits_dir, threads=1, epochs=12), out=tmp_path / "run")
    clean, shifted = evaluate_run(run, split="test"), evaluate_run(run, split="test", data=shifted_dir)
    assert clean.accuracy > 0.93
    assert shifted.accuracy < clean.accuracy - 0.2
    config = configure(variant=Variant("FT", k=2), data=shifted_dir, from_run=run, threads=1, epochs=6)
    adapted = train(config, out=tmp_path / "ft")
    assert evaluate_run(adapted, split="test").accuracy > shifted.accuracy + 0.2


def test_same_seed_same_bytes(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # must not matter
    before = torch.random.get_rng_state()
    again = train(config_of(tiny_dir, epochs=2), out=tmp_path / "again")
    other = train(config_of(tiny_dir, epochs=2, seed=1), out=tmp_path / "other")
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in ("best.safetensors", "last.safetensors", "config.json"):
        assert (again / name).read_bytes() == (scratch_run / name).read_bytes()
    assert (other / "last.safetensors").read_bytes() != (again / "last.safetensors").read_bytes()


@pytest.mark.parametrize(("variant", "k"), [("LP", 0), ("FT", 1), ("FT", 3)])
def test_frozen_layers_and_their_statistics_stay(
    tiny_dir: Path, scratch_run: Path, tmp_path: Path, variant: str, k: int
) -> None:
    run = train(config_of(tiny_dir, variant, k=k, from_run=scratch_run), out=tmp_path / "run")
    before, model = state_of(scratch_run), load_run(run)[0]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    modules = {name.rpartition(".")[0] for name in trained}
    for name, tensor in model.state_dict().items():
        belongs_to_trained = name.rpartition(".")[0] in modules
        assert torch.equal(tensor, before[name]) != belongs_to_trained, name
    assert num_parameters(model, trained=True) == sum(before[name].numel() for name in trained)


def test_full_trains_everything(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    after = state_of(train(config_of(tiny_dir, "full", from_run=scratch_run), out=tmp_path / "run"))
    assert not [name for name, tensor in state_of(scratch_run).items() if torch.equal(tensor, after[name])]


def test_the_best_epoch_is_kept_and_read_back(tiny_dir: Path, tmp_path: Path) -> None:
    rows: list[EpochRow] = []
    run = train(config_of(tiny_dir, epochs=4), out=tmp_path / "run", on_epoch=rows.append)
    best = max(rows, key=lambda row: (row.val_accuracy, -row.val_loss))
    with safe_open(run / "best.safetensors", "pt") as file:
        about = json.loads(file.metadata()["tinyclf"])
    assert (about["epoch"], about["arch"], about["mean"]) == (best.epoch, "mobilenet_wd4", [0.485, 0.456, 0.406])
    assert evaluate_run(run, split="validation").accuracy == best.val_accuracy
    assert evaluate_run(run, split="validation").loss == pytest.approx(best.val_loss, rel=1e-4)


def test_a_last_batch_of_one_image(tiny_dir: Path, tmp_path: Path) -> None:
    rows: list[EpochRow] = []
    train(config_of(tiny_dir, batch_size=32), out=tmp_path / "run", on_epoch=rows.append)  # 33 images: one step of 33
    assert len(rows) == 1


def test_batches_of_one_image(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="BatchNorm needs 2 or more"):
        train(config_of(tiny_dir, batch_size=1), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(config_of(tiny_dir, "LP", batch_size=1, from_run=scratch_run), out=tmp_path / "lp")


def test_a_loss_that_is_no_number(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TinyclfError, match=r"the loss became (nan|inf) in epoch \d+ .* for instance --lr 1e\+2\d") as e:
        train(config_of(tiny_dir, lr=1e30, epochs=8, batch_size=4), out=tmp_path / "run")
    assert len(str(e.value).splitlines()) == 1


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [training._rate(1.0, done=done / 1000) for done in range(1001)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0)
    assert 0.9 < max(rates) <= 1
    assert rates.index(max(rates)) == pytest.approx(100, abs=1)


def test_trying_threads_disturbs_nothing(tiny_dir: Path) -> None:
    model = build_model("mobilenet_wd4", num_classes=2, size=32).eval()
    freeze(model, Variant("FT", k=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    torch.set_num_threads(2)
    assert fastest_threads(model, open_dataset(tiny_dir).split("train"), batch_size=8) in (1, 2)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_faster_number_of_threads_wins(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_dataset(tiny_dir).split("train")
    model = build_model("fdmobilenet_wd4", num_classes=2, size=32)
    torch.set_num_threads(2)
    for seconds, fastest in (({1: 0.1, 2: 0.06}, 2), ({1: 0.1, 2: 1.0}, 1)):
        monkeypatch.setattr(training, "_seconds_per_step", lambda step, s=seconds: s[torch.get_num_threads()])
        assert fastest_threads(model, split, batch_size=8) == fastest


def test_threads_are_restored(tiny_dir: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    seen: list[int] = []
    train(config_of(tiny_dir, threads=2), out=tmp_path / "r", on_epoch=lambda row: seen.append(torch.get_num_threads()))
    assert seen == [2]
    assert torch.get_num_threads() == 1


def damaged_copy(data: Path, out: Path, name: str) -> Path:
    copy_run(data, out)
    raw = bytearray((out / name).read_bytes())
    raw[-1] ^= 1
    (out / name).write_bytes(raw)
    return out


@pytest.mark.parametrize("name", ["train-00000.npy", "validation-00000.npy", "train.parquet", "manifest.json"])
def test_a_dataset_that_does_not_fit_its_manifest(tiny_dir: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=rf"{name}: .*build the dataset again|{name}: damaged") as caught:
        train(config_of(damaged_copy(tiny_dir, tmp_path / "d", name)), out=tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_training_split_by_another_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def build(name: str, splits: tuple[str, ...]) -> Path:
        items = [Item(s, rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), i % 2) for s in splits for i in range(4)]
        write_dataset(items, out=tmp_path / name, classes=["a", "b"], source="test", size=32)
        return tmp_path / name

    train(config_of(build("one", ("train_quality", "validation"))), out=tmp_path / "run")
    with pytest.raises(BadInput, match="has train_large and train_quality: build a dataset with one of them"):
        train(config_of(build("two", ("train_quality", "train_large", "validation"))), out=tmp_path / "run2")


def test_several_labels_are_refused(tmp_path: Path) -> None:
    items = [Item(split, np.zeros((32, 32, 3), np.uint8), (0, 1)) for split in ("train", "validation", "test")]
    write_dataset(items, out=tmp_path / "d", classes=["a", "b"], source="test", size=32, multi_label=True)
    with pytest.raises(Unsupported, match="has 2 labels per image: train takes one class per image"):
        train(config_of(tmp_path / "d"), out=tmp_path / "run")


def test_augmentation_window_and_sampler_reach_the_loop(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    weights = {}
    for name, options in {
        "plain": {},
        "augmented": {"augment": "flip,shift=3"},
        "balanced": {"sampler": "balanced"},
        "window": {"window": 1, "batch_size": 16},
    }.items():
        run = train(config_of(tiny_dir, "LP", from_run=scratch_run, **options), out=tmp_path / name)
        assert config_of(tiny_dir, "LP", from_run=scratch_run, **options).augment == read_config(run).train.augment
        weights[name] = state_of(run)["output.weight"]
    for name in ("augmented", "balanced", "window"):
        assert not torch.equal(weights[name], weights["plain"]), name


def test_runs_from_before_there_were_augmentations_are_read(scratch_run: Path, tmp_path: Path) -> None:
    run = copy_run(scratch_run, tmp_path / "old")
    config = json.loads((run / "config.json").read_text())
    for name in ("augment", "sampler", "window"):
        del config[name]
    (run / "config.json").write_text(json.dumps(config))
    assert read_config(run).train.sampler == "shuffled"


# --- configuration ------------------------------------------------------------------------------------------------


def test_every_variant_has_defaults(tiny_dir: Path) -> None:
    assert set(DEFAULTS) == set(VARIANTS)
    config = configure(variant=Variant("scratch"), data=tiny_dir)
    assert (config.arch, config.epochs, config.lr) == ("mobilenet_wd4", 20, 0.05)
    assert configure(variant=Variant("FD"), data=tiny_dir).arch == "fdmobilenet_wd4"
    assert configure(variant=Variant("LP"), data=tiny_dir, lr=0.5, weight_decay=0.0).lr == 0.5


def test_the_architecture_comes_from_the_run(tiny_dir: Path, tmp_path: Path) -> None:
    run = train(config_of(tiny_dir, arch="fdmobilenet_wd4"), out=tmp_path / "fd")
    assert config_of(tiny_dir, "FT", from_run=run).arch == "fdmobilenet_wd4"
    with pytest.raises(BadInput, match=r"contradicts --from .* which holds fdmobilenet_wd4: leave out --arch"):
        config_of(tiny_dir, "FT", from_run=run, arch="mobilenet_wd4")


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("scratch", {"weights": Path("x.pth")}, "scratch starts from random weights"),
        ("FD", {"arch": "mobilenet_wd4"}, "for mobilenet_wd4 use --variant LP"),
        ("LP", {"from_run": Path("/nowhere")}, "/nowhere: not a run directory"),
        ("scratch", {"epochs": 0}, "--epochs 0: must be 1 or more"),
        ("scratch", {"batch_size": 0}, "--batch-size 0"),
        ("scratch", {"lr": 0.0}, "--lr 0.0: must be more than 0"),
        ("scratch", {"lr": math.nan}, "--lr nan"),
        ("scratch", {"weight_decay": -1.0}, "--weight-decay -1.0"),
        ("scratch", {"seed": -1}, "--seed -1"),
        ("scratch", {"threads": 0}, "--threads 0"),
    ],
)
def test_options_that_are_refused(tiny_dir: Path, variant: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        config_of(tiny_dir, variant, **options)


def test_two_starts_are_refused(tiny_dir: Path, scratch_run: Path) -> None:
    with pytest.raises(BadInput, match="give one of them"):
        config_of(tiny_dir, "LP", from_run=scratch_run, weights=Path("x.pth"))
    with pytest.raises(BadInput, match="scratch starts from random weights"):
        config_of(tiny_dir, "scratch", from_run=scratch_run)


def test_offline_without_weights(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> bool:
        raise BadInput("could not be fetched")

    monkeypatch.setattr(training, "load_pretrained", offline)
    with pytest.raises(BadInput, match="could not be fetched"):
        train(config_of(tiny_dir, "LP"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dataset_without_validation(tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    samples = [Item("train", image, label) for label in (0, 1)]
    write_dataset(samples, out=tmp_path / "d", classes=["a", "b"], source="test", size=32)
    with pytest.raises(BadInput, match="has no split 'validation'"):
        train(config_of(tmp_path / "d"), out=tmp_path / "run")


# --- starting weights -----------------------------------------------------------------------------------------------


def test_a_run_for_other_classes_gives_all_but_the_head(digits_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    config = config_of(digits_dir, "LP", from_run=scratch_run, lr=1e-9)
    run = train(config, out=tmp_path / "run")
    before, after = state_of(scratch_run), state_of(run)
    assert after["output.weight"].shape == (10, 256)
    assert torch.equal(before["features.init_block.conv.weight"], after["features.init_block.conv.weight"])
    assert read_config(run).start == f"{scratch_run / 'best.safetensors'}, with a new linear layer"


def test_a_run_for_the_same_classes_gives_the_head_too(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    run = train(config_of(tiny_dir, "LP", from_run=scratch_run, lr=1e-9, seed=5), out=tmp_path / "run")
    assert torch.allclose(state_of(run)["output.weight"], state_of(scratch_run)["output.weight"], atol=1e-6)
    assert read_config(run).start.endswith("with its linear layer")


def test_weights_of_another_net(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    config = config_of(tiny_dir, "FD", weights=scratch_run / "best.safetensors")
    with pytest.raises(BadInput, match=r"best\.safetensors: does not fit .* check --arch"):
        train(config, out=tmp_path / "run")


@pytest.mark.skipif(not (IMAGENET.is_file() and FACES.is_dir()), reason=f"{SHARED} holds no weights and photographs")
def test_linear_probe_on_photographs(tmp_path: Path) -> None:
    from tinyclf.data import build_dataset

    begin = time.monotonic()
    build_dataset("folder", out=tmp_path / "d", options={"from": str(FACES)}, num_workers=2)
    check_dataset(tmp_path / "d")
    run = train(config_of(tmp_path / "d", "LP", weights=IMAGENET, epochs=4), out=tmp_path / "run")
    assert evaluate_run(run, split="test").accuracy >= 0.95
    assert time.monotonic() - begin < 60


# --- the run directory ----------------------------------------------------------------------------------------------


def test_files_of_a_run(tiny_dir: Path, scratch_run: Path) -> None:
    assert sorted(file.name for file in scratch_run.iterdir()) == [
        "best.safetensors",
        "config.json",
        "curves.png",
        "hyperparams.csv",
        "last.safetensors",
        "train_log.csv",
    ]
    rows = list(csv.DictReader((scratch_run / "train_log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0])[1:] == [
        *("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds", "images_per_s"),
    ]
    assert (scratch_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = dict(list(csv.reader((scratch_run / "hyperparams.csv").open()))[1:])
    assert (table["variant"], table["classes"], table["size"]) == ("scratch", "dark bright", "32")


def test_load_run(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    run = train(config_of(tiny_dir, "FT", k=1, from_run=scratch_run), out=tmp_path / "run")
    model, config = load_run(run)
    assert (config.arch, config.num_classes, config.size) == ("mobilenet_wd4", 2, 32)
    assert (config.variant, config.k, config.data) == (Variant("FT", k=1), 1, tiny_dir)
    assert config.train == replace(config_of(tiny_dir, "FT", k=1, from_run=scratch_run), threads=1)
    assert not any(module.training for module in model.modules())
    assert not model.get_parameter("features.init_block.conv.weight").requires_grad
    assert model.get_parameter("output.weight").requires_grad


def test_run_directories_are_numbered(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    names = [create_run_dir(None, variant="FT", arch="net", root=root).name for _ in range(2)]
    (root / "041-mine").mkdir()
    (root / "notes").mkdir()
    names.append(create_run_dir(None, variant="LP", arch="net", root=root).name)
    assert names == ["001-FT-net", "002-FT-net", "042-LP-net"]


def test_a_used_run_directory_is_refused(tiny_dir: Path, scratch_run: Path) -> None:
    before = (scratch_run / "best.safetensors").read_bytes()
    with pytest.raises(BadInput, match="exists already and is not empty"):
        train(config_of(tiny_dir), out=scratch_run)
    assert (scratch_run / "best.safetensors").read_bytes() == before


def copy_run(run: Path, out: Path) -> Path:
    out.mkdir()
    for file in run.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    return out


def test_damaged_runs(scratch_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a run directory"):
        load_run(tmp_path)
    run = copy_run(scratch_run, tmp_path / "run")
    weights = (run / "best.safetensors").read_bytes()
    for damaged in (b"", weights[:1000], weights[:-1]):
        (run / "best.safetensors").write_bytes(damaged)
        with pytest.raises(BadInput, match=r"best\.safetensors: damaged"):
            load_run(run)
    (run / "best.safetensors").unlink()
    with pytest.raises(BadInput, match="did not finish one epoch"):
        load_run(run)
    for text in ("", "{}", "[]", '{"variant": "nonsense", "k": 1}', (run / "config.json").read_text()[:100]):
        (run / "config.json").write_text(text)
        with pytest.raises(BadInput, match=r"config\.json: damaged"):
            load_run(run)


def test_nothing_is_half_written(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def interrupt(row: EpochRow) -> None:
        if row.epoch == 1:
            real = nn.Module.state_dict

            def broken(*args: Any, **kwargs: Any) -> Any:
                monkeypatch.setattr(nn.Module, "state_dict", real)
                raise KeyboardInterrupt

            monkeypatch.setattr(nn.Module, "state_dict", broken)

    with pytest.raises(KeyboardInterrupt):
        train(config_of(tiny_dir, epochs=3), out=run, on_epoch=interrupt)
    assert load_run(run)[1].num_classes == 2  # the first epoch is there, whole
    assert len((run / "train_log.csv").read_text().splitlines()) == 2


# --- evaluation of runs ---------------------------------------------------------------------------------------------


def test_runs_refuse_data_that_is_not_theirs(digits_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has other classes \(10: 0, 1, 2, 3, 4\)"):
        evaluate_run(scratch_run, split="test", data=digits_dir)
    with pytest.raises(BadInput, match="has no split 'val': choose one of train, validation, test"):
        evaluate_run(scratch_run, split="val")
    samples = [Item("test", np.zeros((48, 48, 3), np.uint8), 0)]
    write_dataset(samples, out=tmp_path / "d", classes=["dark", "bright"], source="test", size=48)
    with pytest.raises(BadInput, match=r"images of 32x32, .* has 48x48: build the dataset with --size 32"):
        evaluate_run(scratch_run, split="test", data=tmp_path / "d")
