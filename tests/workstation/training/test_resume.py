"""Stopping and going on: killed anywhere, a run ends as if nothing had been; errors leave the last good files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kit.sessions import made_once
from tests.kit.targets import LONG
from tinyclf.base.errors import BadInput, Interrupted, TinyclfError
from tinyclf.workstation.data import Item, write_dataset
from tinyclf.workstation.results.evaluate import evaluate_run
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.runs.directory import load_run, read_rows
from tinyclf.workstation.training.loop import Observer, Progress, resume, train

SAME = ("best.safetensors", "last.safetensors", "train_log.csv", "state.pt", "run.json", "card.md")

# Trains or goes on, and kills itself without warning at a step, or just before a file takes its place.
KILLED = """
import os, signal, sys
from pathlib import Path
from tinyclf.workstation.training import loop as training
from tinyclf.workstation.runs.config import config_from

how, at, run, overrides = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
count = 0

def deadly(real):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

if how == "step":
    training._Training._step = deadly(training._Training._step)
if how == "write":
    os.replace = deadly(os.replace)
if (run / "run.json").is_file():
    training.resume(run)
else:
    for file in run.glob("*"):
        file.unlink()
    training.train(config_from(overrides=overrides), out=run)
"""


def launch(how: str, at: int, run: Path, overrides: list[str]) -> int:
    return subprocess.run(
        [sys.executable, "-c", KILLED, how, str(at), str(run), *overrides], capture_output=True, check=False
    ).returncode


def bytes_of(run: Path) -> dict[str, bytes]:
    files = {name: (run / name).read_bytes() for name in SAME}
    return files | {"card.md": files["card.md"].replace(str(run).encode(), b"RUN").replace(run.name.encode(), b"RUN")}


@pytest.mark.parametrize(
    ("kills", "options"),
    [
        (
            10 if LONG else 2,
            ["variant=scratch", "optimizer=adamw", "ema=0.99", "augment=flip,shift=2", "precision=bf16"],
        ),
        (5 if LONG else 1, ["arch=efficientnet_b0", "variant=FT", "k=1", "clip=1"]),  # with dropout, from kept features
    ],
    ids=["scratch", "FT"],
)
def test_killed_many_times_and_never_killed_are_the_same(
    digits_dir: Path, tmp_path: Path, kills: int, options: list[str]
) -> None:
    seed = time.time_ns() % 10_000
    print(f"seed of this test: {seed}")
    rng = random.Random(seed)
    base = [f"data={digits_dir}", "size=32", f"epochs={4 if LONG else 2}", "batch_size=64", "threads=1", "seed=3"]
    base.append("save_steps=3")
    if "variant=FT" in options:
        start = [f"data={digits_dir}", options[0], "epochs=1", "threads=1", "batch_size=128", "lr=0.01"]
        train(config_from(overrides=start), out=tmp_path / "start")
        options = [*options[1:], f"from_run={tmp_path / 'start'}"]
    assert launch("never", 0, tmp_path / "whole", base + options) == 0
    killed = 0
    while killed < kills:
        how = rng.choice(["step", "step", "write"])
        code = launch(how, rng.randint(1, 12 if how == "step" else 8), tmp_path / "parts", base + options)
        assert code in (0, -signal.SIGKILL)
        if code == 0:  # it came to its end before: kill it while it writes down the end once more
            code = launch("write", 1, tmp_path / "parts", base + options)
        killed += code == -signal.SIGKILL
    assert launch("never", 0, tmp_path / "parts", base + options) == 0
    whole, parts = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "parts")
    assert [name for name in SAME if whole[name] != parts[name]] == []


# --- asked to stop --------------------------------------------------------------------------------------------------


def overrides_of(data: Path, *more: str) -> list[str]:
    return [f"data={data}", "epochs=3", "batch_size=64", "threads=1", *more]


def stop_after(num: int) -> tuple[Observer, Any]:
    steps: list[Progress] = []
    return Observer(on_step=steps.append), lambda: len(steps) + 1 >= num


@pytest.fixture(scope="module")
def whole(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three epochs that nothing stopped."""
    config = config_from(overrides=overrides_of(digits_dir))
    return made_once(tmp_path_factory, "whole", lambda folder: train(config, out=folder / "unstopped")) / "unstopped"


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 40])  # in the midst, and at the end of an epoch of 20 steps
def test_stopped_and_gone_on_with(whole: Path, digits_dir: Path, tmp_path: Path, steps: int) -> None:
    config = config_from(overrides=overrides_of(digits_dir))
    observer, should_stop = stop_after(steps)
    with pytest.raises(Interrupted, match=rf"stopped after step {steps}: go on with tinyclf train --resume .*parts"):
        train(config, out=tmp_path / "parts", observer=observer, should_stop=should_stop)
    notes: list[str] = []
    assert resume(tmp_path / "parts", observer=Observer(on_note=notes.append)) == tmp_path / "parts"
    assert notes == [f"going on in epoch {steps // 20 + 1} after step {steps}"]
    assert bytes_of(whole) == bytes_of(tmp_path / "parts")


def test_a_complete_run_stays_as_it_is(digits_dir: Path, tmp_path: Path) -> None:
    run = train(config_from(overrides=overrides_of(digits_dir, "epochs=1")), out=tmp_path / "run")
    before = bytes_of(run)
    notes: list[str] = []
    resume(run, observer=Observer(on_note=notes.append))
    assert notes == ["nothing is left to do: the run is complete"]
    assert bytes_of(run) == before


@pytest.mark.parametrize("more", [[], ["variant=FT", "lr=0.01"]], ids=["scratch", "FT"])
def test_before_anything_was_saved_it_begins_anew(digits_dir: Path, tmp_path: Path, more: list[str]) -> None:
    if more:
        start = train(config_from(overrides=overrides_of(digits_dir, "epochs=1")), out=tmp_path / "start")
        more = [*more, f"from_run={start}"]
    part = train(config_from(overrides=overrides_of(digits_dir, *more)), out=tmp_path / "parts")
    whole = bytes_of(part)
    for name in ("state.pt", "best.safetensors", "last.safetensors", "train_log.csv", "card.md"):
        (part / name).unlink()
    assert bytes_of(resume(part)) == whole


def test_early_stopping_is_part_of_the_run(digits_dir: Path, tmp_path: Path) -> None:
    # The rate is so small that nothing becomes better after the first epochs.
    config = config_from(overrides=overrides_of(digits_dir, "epochs=30", "patience=2", "lr=1e-12", "keep_features=off"))
    whole = train(config, out=tmp_path / "whole")
    rows = read_rows(whole)
    best = max(rows, key=lambda row: (row.val_accuracy, -row.val_loss))
    assert len(rows) == best.epoch + 2 < 30
    observer, should_stop = stop_after(25)
    with pytest.raises(Interrupted):
        train(config, out=tmp_path / "parts", observer=observer, should_stop=should_stop)
    assert bytes_of(resume(tmp_path / "parts")) == bytes_of(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_end_with_130(digits_dir: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tinyclf", "train", *overrides_of(digits_dir, "epochs=500"), "--out", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                os.kill(process.pid, number)
                break
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("error: stopped after step ")
    assert errors.endswith(f"go on with tinyclf train --resume {run}\n")
    assert len(errors.splitlines()) == 1
    assert evaluate_run(run, split="test").num_images == 269
    assert "stopped" in (run / "train.log").read_text().splitlines()[-1]


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(digits_dir: Path, tmp_path: Path) -> Path:
    observer, should_stop = stop_after(25)
    with pytest.raises(Interrupted):
        train(
            config_from(overrides=overrides_of(digits_dir)),
            out=tmp_path / "stopped",
            observer=observer,
            should_stop=should_stop,
        )
    return tmp_path / "stopped"


def test_states_that_are_refused(stopped: Path, tmp_path: Path) -> None:
    whole = (stopped / "state.pt").read_bytes()
    for content in (b"", whole[:1000], whole[:-1], b"x" * 100, whole[:5000] + b"\xff" * 8 + whole[5008:]):
        (stopped / "state.pt").write_bytes(content)
        with pytest.raises(BadInput, match=r"state\.pt: damaged, or of another run .*: train anew") as caught:
            resume(stopped)
        assert len(str(caught.value).splitlines()) == 1
    (stopped / "state.pt").write_bytes(whole)
    assert len(read_rows(resume(stopped))) == 3
    with pytest.raises(BadInput, match="not a run directory"):
        resume(tmp_path)
    with pytest.raises(BadInput, match="is a file: --resume takes a run directory"):
        resume(stopped / "best.safetensors")


def test_a_dataset_that_has_changed(tmp_path: Path) -> None:
    def build(value: int) -> None:
        items = [
            Item(split, torch.full((32, 32, 3), value * (i % 2), dtype=torch.uint8).numpy(), i % 2)
            for split in ("train", "validation")
            for i in range(8)
        ]
        write_dataset(items, out=tmp_path / "d", classes=["a", "b"], source="test", size=32)

    build(200)
    run = train(config_from(overrides=[f"data={tmp_path / 'd'}", "epochs=1", "threads=1"]), out=tmp_path / "run")
    (tmp_path / "d").rename(tmp_path / "old")
    build(201)
    with pytest.raises(BadInput, match="has changed since the run began: train anew"):
        resume(run)


# --- what goes wrong while training -----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_keeps_the_best_weights(digits_dir: Path, tmp_path: Path) -> None:
    overrides = overrides_of(digits_dir, "schedule=step", "gamma=1e-9", "milestones=[0.5]", "warmup=0", "lr=1e-3")
    run = tmp_path / "run"
    rows: list[object] = []

    def explode(row: object, *_: object) -> None:
        rows.append(row)
        if len(rows) == 1:
            monkeypatch.setattr("tinyclf.workstation.training.loop.rate_at", lambda *_: 1e30)

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(TinyclfError, match="the loss became") as caught:
        train(config_from(overrides=overrides), out=run, observer=Observer(on_epoch=explode))
    assert "for instance --lr 0.0001" in str(caught.value)
    model, _ = load_run(run)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    logged = read_rows(run)[0].val_accuracy  # six digits
    assert evaluate_run(run, split="validation").accuracy == pytest.approx(logged, abs=5e-7)


FULL = """
import resource, sys
from tinyclf import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
cli.main(sys.argv[1:])
"""


def test_a_file_that_cannot_be_written_is_one_line_and_keeps_the_last_good_files(
    digits_dir: Path, tmp_path: Path
) -> None:
    """The state is larger than the limit on the size of a file, the weights are smaller."""
    run, whole = tmp_path / "parts", tmp_path / "whole"
    config = overrides_of(digits_dir, "save_steps=25")
    command = [sys.executable, "-c", FULL, "train", *config, "--out", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: {run / 'state.pt'}: File too large\n")
    assert not list(run.glob(".*")), "no temporary file is left"
    assert "stopped: OSError" in (run / "train.log").read_text()
    assert read_rows(run)[0].epoch == 1
    assert load_run(run)[1].num_classes == 10
    train(config_from(overrides=config), out=whole)
    assert bytes_of(resume(run)) == bytes_of(whole)
