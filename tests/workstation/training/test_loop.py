"""Training: what is frozen stays, seeds decide everything, run directories are whole, wrong input is one line."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from tests.kit.paths import SHARED
from tinyclf.base.errors import BadInput, TinyclfError, Unsupported
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.data import Item, Preprocessing, check_dataset, make_loader, open_dataset, write_dataset
from tinyclf.workstation.nets.build import build_model, freeze, num_parameters
from tinyclf.workstation.results.evaluate import evaluate_run
from tinyclf.workstation.runs.config import TrainConfig, config_from
from tinyclf.workstation.runs.directory import EpochRow, create_run_dir, load_run, read_run
from tinyclf.workstation.training import session
from tinyclf.workstation.training.loop import Observer, train
from tinyclf.workstation.training.losses import plain_loss
from tinyclf.workstation.training.session import fastest_threads

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


def config_of(data: Path, variant: str = "scratch", **options: Any) -> TrainConfig:
    return config_from(options={"variant": variant, "data": data, "epochs": 1, "threads": 1, **options})


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return load_run(run)[0].state_dict()


# --- the loop ---------------------------------------------------------------------------------------------------


def test_scratch_learns_the_digits_and_the_shift_hurts(digits_dir: Path, shifted_dir: Path, tmp_path: Path) -> None:
    run = train(config_of(digits_dir, epochs=12), out=tmp_path / "run")
    clean, shifted = evaluate_run(run, split="test"), evaluate_run(run, split="test", data=shifted_dir)
    assert clean.accuracy > 0.93
    assert shifted.accuracy < clean.accuracy - 0.2
    config = config_of(shifted_dir, "FT", from_run=run, epochs=6)
    adapted = train(config, out=tmp_path / "ft")
    assert evaluate_run(adapted, split="test").accuracy > shifted.accuracy + 0.2


def test_same_seed_same_bytes(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # must not matter
    before = torch.random.get_rng_state()
    again = train(config_of(tiny_dir, epochs=2), out=tmp_path / "again")
    other = train(config_of(tiny_dir, epochs=2, seed=1), out=tmp_path / "other")
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in ("best.safetensors", "last.safetensors", "run.json", "config.yaml", "train_log.csv"):
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
    run = train(
        config_of(tiny_dir, epochs=4),
        out=tmp_path / "run",
        observer=Observer(on_epoch=lambda row, *_: rows.append(row)),
    )
    best = max(rows, key=lambda row: (row.val_accuracy, -row.val_loss))
    with safe_open(run / "best.safetensors", "pt") as file:
        about = json.loads(file.metadata()["tinyclf"])
    assert (about["epoch"], about["train"]["arch"]) == (best.epoch, "mobilenet_wd4")
    assert about["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert evaluate_run(run, split="validation").accuracy == best.val_accuracy
    assert evaluate_run(run, split="validation").loss == pytest.approx(best.val_loss, rel=1e-4)


def test_a_last_batch_of_one_image(tiny_dir: Path, tmp_path: Path) -> None:
    rows: list[EpochRow] = []
    train(
        config_of(tiny_dir, batch_size=32),
        out=tmp_path / "run",
        observer=Observer(on_epoch=lambda row, *_: rows.append(row)),
    )  # 33 images: one step of 33
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


def test_trying_threads_disturbs_nothing(tiny_dir: Path) -> None:
    model = build_model("mobilenet_wd4", num_classes=2, size=32).eval()
    freeze(model, Variant("FT", k=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    torch.set_num_threads(2)
    loader = make_loader(open_dataset(tiny_dir).split("train"), Preprocessing(32, 32), batch_size=8)
    assert fastest_threads(model, loader, plain_loss(multi_label=False)) in (1, 2)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_faster_number_of_threads_wins(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader(open_dataset(tiny_dir).split("train"), Preprocessing(32, 32), batch_size=8)
    model = build_model("fdmobilenet_wd4", num_classes=2, size=32)
    torch.set_num_threads(2)
    for seconds, fastest in (({1: 0.1, 2: 0.06}, 2), ({1: 0.1, 2: 1.0}, 1)):
        monkeypatch.setattr(session, "_seconds_per_step", lambda step, s=seconds: s[torch.get_num_threads()])
        assert fastest_threads(model, loader, plain_loss(multi_label=False)) == fastest


def test_threads_are_restored(tiny_dir: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    seen: list[int] = []
    watch = Observer(on_epoch=lambda *_: seen.append(torch.get_num_threads()))
    train(config_of(tiny_dir, threads=2), out=tmp_path / "r", observer=watch)
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


def test_augmentation_window_and_sampler_reach_the_loop(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    weights = {}
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "augmented": {"augment": "flip,shift=3"},
        "balanced": {"sampler": "balanced"},
        "window": {"window": 1, "batch_size": 16},
    }
    for name, options in kinds.items():
        run = train(config_of(tiny_dir, "LP", from_run=scratch_run, **options), out=tmp_path / name)
        assert read_run(run).train.augment == options.get("augment", "")
        weights[name] = state_of(run)["output.weight"]
    for name in ("augmented", "balanced", "window"):
        assert not torch.equal(weights[name], weights["plain"]), name


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, the current one, with a module of the user's own."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net(num_classes, in_size):\n"
        "    model = nn.Sequential()\n"
        "    model.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    model.output = nn.Linear(8, num_classes)\n"
        "    return model\n"
        "def wrong_net(num_classes, in_size): return net(num_classes + 1, in_size)\n"
        "def noisy(images, rng): return images + torch.from_numpy(rng.normal(size=images.shape).astype('float32'))\n"
        "def nothing(images, rng): return None\n"
        "def halved(images, rng): return images[:1]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def test_net_and_transform_of_the_users_own(tiny_dir: Path, own_code: Path) -> None:
    given: dict[str, Any] = {"arch": "mine:net", "transform": "mine:noisy", "size": 40}
    run = train(config_of(tiny_dir, **given), out=own_code / "a")
    again = train(config_of(tiny_dir, **given), out=own_code / "b")
    plain = train(config_of(tiny_dir, arch="mine:net", size=40), out=own_code / "c")
    assert (run / "best.safetensors").read_bytes() == (again / "best.safetensors").read_bytes()
    assert not torch.equal(state_of(run)["output.weight"], state_of(plain)["output.weight"])
    assert evaluate_run(run, split="test").num_images == 9
    adapted = train(config_of(tiny_dir, "LP", from_run=run), out=own_code / "d")
    assert read_run(adapted).arch == "mine:net"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "mine:nothing"}, r"the transform gives NoneType, it was given images \(33, 3, 32, 32\)"),
        ({"transform": "mine:halved"}, r"the transform gives \(1, 3, 32, 32\) torch.float32"),
        ({"arch": "mine:wrong_net"}, r"'mine:wrong_net': one image gives \(1, 3\), not logits of shape \(1, 2\)"),
        ({"arch": "mine:no_net"}, "mine has no function 'no_net'"),
        ({"transform": "absent:x"}, "cannot import absent"),
    ],
)
def test_code_of_the_users_that_does_not_fit(
    tiny_dir: Path, own_code: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((BadInput, Unsupported), match=message) as caught:
        train(config_of(tiny_dir, batch_size=32, **options), out=own_code / "run")
    assert len(str(caught.value).splitlines()) == 1


# --- options and the data --------------------------------------------------------------------------------------------


def test_the_architecture_comes_from_the_run(tiny_dir: Path, tmp_path: Path) -> None:
    run = train(config_of(tiny_dir, arch="fdmobilenet_wd4"), out=tmp_path / "fd")
    adapted = train(config_of(tiny_dir, "FT", from_run=run), out=tmp_path / "ft")
    assert read_run(adapted).arch == "fdmobilenet_wd4"
    with pytest.raises(BadInput, match=r"contradicts --from .* which holds fdmobilenet_wd4: leave out --arch"):
        train(config_of(tiny_dir, "FT", from_run=run, arch="mobilenet_wd4"), out=tmp_path / "no")


def test_what_is_part_of_a_run_comes_from_the_run(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    first = config_of(tiny_dir, size=48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels="BGR", small_input=True)
    second = config_of(tiny_dir, "LP", from_run=train(first, out=tmp_path / "first"), size=40)
    run = read_run(train(second, out=tmp_path / "second"))
    due = Preprocessing(40, 32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels="BGR")
    assert run.preprocessing == due
    assert run.train.small_input
    assert evaluate_run(tmp_path / "second", split="test").num_images == 9


def test_a_start_that_is_no_run(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="/nowhere: not a run directory"):
        train(config_of(tiny_dir, "LP", from_run=Path("/nowhere")), out=tmp_path / "run")
    with pytest.raises(BadInput, match="no dataset: give --data DIR"):
        train(config_from(), out=tmp_path / "run")


def test_offline_without_weights(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> bool:
        raise BadInput("could not be fetched")

    monkeypatch.setattr(session, "load_pretrained", offline)
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
    assert read_run(run).start == f"{scratch_run / 'best.safetensors'}, with a new last layer"


def test_a_run_for_the_same_classes_gives_the_head_too(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    run = train(config_of(tiny_dir, "LP", from_run=scratch_run, lr=1e-9, seed=5), out=tmp_path / "run")
    assert torch.allclose(state_of(run)["output.weight"], state_of(scratch_run)["output.weight"], atol=1e-6)
    assert read_run(run).start.endswith("with its last layer")


def test_weights_of_another_net(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    config = config_of(tiny_dir, "FD", weights=scratch_run / "best.safetensors")
    with pytest.raises(BadInput, match=r"best\.safetensors: does not fit .* check --arch"):
        train(config, out=tmp_path / "run")


@pytest.mark.skipif(not (IMAGENET.is_file() and FACES.is_dir()), reason=f"{SHARED} holds no weights and photographs")
def test_linear_probe_on_photographs(tmp_path: Path) -> None:
    from tinyclf.workstation.data import build_dataset

    begin = time.monotonic()
    build_dataset("folder", out=tmp_path / "d", options={"from": str(FACES)}, num_workers=2)
    check_dataset(tmp_path / "d")
    run = train(config_of(tmp_path / "d", "LP", weights=IMAGENET, epochs=4), out=tmp_path / "run")
    assert evaluate_run(run, split="test").accuracy >= 0.95
    assert time.monotonic() - begin < 60


# --- the run directory ----------------------------------------------------------------------------------------------


def test_files_of_a_run(tiny_dir: Path, scratch_run: Path) -> None:
    assert sorted(file.name for file in scratch_run.iterdir()) == [
        *("best.safetensors", "card.md", "config.yaml", "confusion.png", "curves.png", "hyperparams.csv"),
        *("last.safetensors", "pr_roc.png", "reliability.png", "run.json", "state.pt", "train.log", "train_log.csv"),
    ]
    rows = list(csv.DictReader((scratch_run / "train_log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0])[1:] == ["lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert (scratch_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = dict(list(csv.reader((scratch_run / "hyperparams.csv").open()))[1:])
    assert (table["variant"], table["classes"], table["size"]) == ("scratch", "dark bright", "32")
    assert config_from(file=scratch_run / "config.yaml") == read_run(scratch_run).train
    lines = (scratch_run / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2].split("  ")[0] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2"]


def test_load_run(tiny_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    run = train(config_of(tiny_dir, "FT", k=1, from_run=scratch_run), out=tmp_path / "run")
    model, config = load_run(run)
    assert (config.arch, config.num_classes, config.size) == ("mobilenet_wd4", 2, 32)
    assert (config.variant, config.data) == (Variant("FT", k=1), tiny_dir)
    assert read_run(run / "best.safetensors") == config
    from_file = load_run(run / "best.safetensors")[0].state_dict()
    assert all(torch.equal(tensor, from_file[name]) for name, tensor in model.state_dict().items())
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
    for text in ("", "{}", "[]", '{"train": {"k": -1}}', (run / "run.json").read_text()[:100]):
        (run / "run.json").write_text(text)
        with pytest.raises(BadInput, match=r"run\.json: damaged"):
            load_run(run)


# --- evaluation of runs ---------------------------------------------------------------------------------------------


def test_runs_refuse_data_that_is_not_theirs(digits_dir: Path, scratch_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has other classes \(10: 0, 1, 2, 3, 4\)"):
        evaluate_run(scratch_run, split="test", data=digits_dir)
    with pytest.raises(BadInput, match="has no split 'val': choose one of train, validation, test"):
        evaluate_run(scratch_run, split="val")


def test_a_run_is_evaluated_on_images_of_another_size(scratch_run: Path, tmp_path: Path) -> None:
    samples = [Item("test", np.full((48, 48, 3), 220 * label, np.uint8), label) for label in (0, 1, 1)]
    write_dataset(samples, out=tmp_path / "d", classes=["dark", "bright"], source="test", size=48)
    assert evaluate_run(scratch_run, split="test", data=tmp_path / "d").num_images == 3
