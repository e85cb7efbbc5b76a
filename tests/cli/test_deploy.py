"""The commands of the device half: memory, deploy, doctor; what they print, write and refuse."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import check_refusal, run, trained
from tests.kit.targets import on_targets
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32
from tinyclf.device.targets.target import Target

__all__ = ["trained"]  # a fixture


def test_memory_prints_the_table_and_writes_both_files(tmp_path: Path) -> None:
    result = run("memory", "--variant", "ft", "--k", 1, "--csv", tmp_path / "m.csv", "--plot", tmp_path / "m.png")
    assert result.exit_code == 0, result.output
    assert "mobilenet_wd4 FT K=1, 128x128, 2 classes" in result.stdout
    assert re.search(r"arena: its peak +393,224", result.stdout)
    assert "213,586 parameters, 210,850 once BatchNorm is folded" in result.stdout
    rows = list(csv.DictReader((tmp_path / "m.csv").open()))
    live = [r for r in rows if int(r["first_call"]) <= 4 <= int(r["last_call"])]
    assert sum(int(r["bytes"]) for r in live) <= 393_224
    assert max(int(r["offset"]) + int(r["bytes"]) for r in rows) == 393_224
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.csv", "m.png"]


def test_memory_as_json() -> None:
    figures = json.loads(run("memory", "--variant", "FD", "--json").stdout)
    assert figures["arch"] == "fdmobilenet_wd4"
    assert (figures["parameters"], figures["parameters_folded"]) == (126_674, 124_706)
    assert figures["bytes"]["peak"] <= 1.02 * figures["bytes"]["max_live"]
    assert figures["bytes"]["parameters_trained"] == (256 * 2 + 2) * 4


def test_memory_counts_what_an_update_keeps() -> None:
    options = ("memory", "--variant", "LP", "--size", 32)
    plain = json.loads(run(*options, "--json").stdout)["bytes"]
    adam = json.loads(run(*options, "--optimizer", "adam", "--batch", 8, "--json").stdout)["bytes"]
    trained = plain["parameters_trained"]
    assert (plain["optimizer_state"], plain["accumulated_gradients"]) == (0, 0)
    assert (adam["optimizer_state"], adam["accumulated_gradients"]) == (2 * trained, trained)
    lines = run(*options, "--momentum", 0.9).stdout
    assert re.search(rf"state of the optimizer +{trained:,}\n", lines)
    assert "accumulated" not in lines


@pytest.mark.target("host")
def test_deploy_takes_every_option_of_an_update(tmp_path: Path) -> None:
    update = "--optimizer adam --batch 2 --clip 0.5 --schedule cosine --loss mse"
    options = ("--target", "host", "--size", 32, *update.split(), "--steps", 5, "--out", tmp_path / "p", "--execute")
    result = run("deploy", *options)
    assert result.exit_code == 0, result.output
    errors = json.loads((tmp_path / "p" / "report.json").read_text())["errors"]
    assert [e["step"] for e in errors if e["name"] == "output.bias"] == [1, 3]
    network = (tmp_path / "p" / "src" / "network.c").read_text()
    assert update in network.splitlines()[1]
    assert "--lr 0.001" in network.splitlines()[1]
    for call in ("tcl_adam_fp32", "tcl_accumulate_fp32", "tcl_clip_fp32", "pulp_MSELoss_backward"):
        assert f"{{{call}, " in network
    assert ".num_updates = 2," in network


@on_targets()
def test_deploy_executes_and_reports(
    target: Target, trained: tuple[Path, str], shifted_dir: Path, tmp_path: Path
) -> None:
    options = ("--from", trained[0], "--variant", "FT", "--k", 1, "--data", shifted_dir, "--steps", 2)
    result = run("deploy", "--target", target.name, *options, "--out", tmp_path / "p", "--execute")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert report["passed"]
    assert (report["target"], len(report["losses"])) == (target.name, 2)
    assert (report["cycles"] is not None) == target.counts_cycles
    num = len(report["errors"])
    assert f"{target.name}, {target.num_cores} cores: {num} of {num} values pass" in result.stdout
    assert "features.stage5.unit2.dw_conv.conv.weight.grad" in result.stdout
    samples = np.fromfile(tmp_path / "p" / "data" / "samples.bin", "<f4")
    assert samples.size == 2 * 3 * 32 * 32


@pytest.mark.target("host")
def test_deploy_exits_with_3_when_a_check_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BOUNDS, FLOAT32, replace(BOUNDS[FLOAT32], step=1e-12))
    result = run("deploy", "--target", "host", "--size", 32, "--steps", 1, "--out", tmp_path / "p", "--execute")
    assert result.exit_code == 3
    assert re.search(r"error: \d+ of \d+ values differ from PyTorch by more than 1e-12", result.stderr)
    assert "FAIL" in result.stdout
    assert not json.loads((tmp_path / "p" / "report.json").read_text())["passed"]


@pytest.mark.target("host")
def test_drift_is_no_failure_and_every_comparison_says_its_bound(tmp_path: Path) -> None:
    options = ("--variant", "full", "--size", 32, "--steps", 12, "--samples", 2, "--lr", 0.01, "--seed", 1)
    result = run("deploy", "--target", "host", *options, "--out", tmp_path / "p", "--execute")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert (report["passed"], report["drifted"]) == (True, True)
    assert {e["verdict"] for e in report["errors"]} == {"within bound", "drift"}
    assert all(e["bound"] == 1e-4 and "float32" in e["bound_from"] for e in report["errors"])
    assert re.search(r"drift\n", result.stdout)
    assert "bound 0.0001: requirement: float32 against PyTorch's float64" in result.stdout


@pytest.mark.target("host")
def test_deploy_says_when_the_loss_overflows(tmp_path: Path) -> None:
    options = ("--variant", "full", "--size", 32, "--classes", 10, "--steps", 6, "--lr", 0.1)
    result = run("deploy", "--target", "host", *options, "--out", tmp_path / "p", "--execute")
    assert result.exit_code == 3
    assert "error: the loss overflowed" in result.stderr
    assert "try a smaller --lr" in result.stderr
    json.loads((tmp_path / "p" / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN in JSON


@pytest.mark.target("host")
def test_an_emitted_project_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("deploy", "--target", "host", "--variant", "FT", "--k", 1, "--size", 32, "--steps", 3)
    assert result.exit_code == 0, result.output
    (project,) = (tmp_path / "deployed").iterdir()
    assert f"next: make -C deployed/{project.name} run" in result.stdout
    moved = tmp_path / "elsewhere"
    project.rename(moved)
    done = subprocess.run(["make", "-C", moved, "run", "NUM_CORES=2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (moved / "build" / "results.bin").stat().st_size > 0
    text = (moved / "README.md").read_text()
    assert "tinyclf deploy --target host --variant FT --k 1 --arch mobilenet_wd4 --size 32" in text
    assert str(tmp_path) not in "".join(p.read_text() for p in moved.rglob("*.[ch]"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("deploy --target arduino", 2, r"'arduino' is not one of host, pulp, qemu"),
        ("deploy --target host --steps 0", 1, r"--steps must be in 1 .."),
        ("deploy --target host --lr -1", 1, r"--lr must be above 0"),
        ("deploy --target host --lr nan", 1, r"--lr must be above 0"),
        ("deploy --target host --optimizer adam --momentum 0.9", 1, r"momentum is of sgd, adam has its own"),
        ("deploy --target host --momentum 1", 1, r"momentum is 1: give 0 or more, and less than 1"),
        ("deploy --target host --batch 20", 1, r"--steps 10 are fewer than the 20 samples of a batch"),
        ("deploy --target host --batch 0", 1, r"batch is 0: an update needs at least 1 sample"),
        ("deploy --target host --clip -1", 1, r"clip is -1: give the largest norm"),
        ("deploy --target host --seed -1", 1, r"--seed must be in 0 .. 2\^64 - 1"),
        ("deploy --target host --seed 12345678901234567890123", 1, r"--seed must be in 0 .. 2\^64 - 1"),
        ("deploy --target host --lr 1e39", 1, r"learning_rate is 1e\+39: the device computes in float32"),
        ("deploy --target host --lr 1e-50", 1, r"learning_rate is 1e-50: the device computes in float32"),
        ("deploy --target host --weight-decay 1e-40", 1, r"weight_decay is 1e-40: the device computes in float32"),
        ("deploy --target host --momentum 0.99999999", 1, r"momentum is 0.99999999: float32 makes 1 of that"),
        ("deploy --target host --clip 1e300", 1, r"clip is 1e\+300: the device computes in float32"),
        ("deploy --target host --steps 9223372036854775808", 1, r"--steps must be in 1 .. 2\^63 - 1"),
        ("deploy --target host --loss hinge", 2, r"'hinge' is not one of 'cross-entropy', 'mse'"),
        ("deploy --target host --schedule exponential", 2, r"'exponential' is not one of"),
        ("memory --batch 0", 1, r"batch is 0"),
        (
            "deploy --target host --arch mobilenet_w9",
            1,
            r"unknown architecture 'mobilenet_w9': did you mean mob",
        ),
        ("deploy --target host --size 16", 1, r"16x16 are too small"),
        ("deploy --target host --from nowhere", 1, r"nowhere"),
        ("deploy --target host --from nowhere --size 64", 1, r"--from RUN already says"),
        ("deploy --target host --data nowhere", 1, r"--data needs --from RUN"),
        ("deploy --target pulp --cores 9", 1, r"target pulp runs on 1 to 8 cores"),
        ("deploy --target pulp --variant full", 1, r"training needs [\d,]+ bytes .* target pulp has 1,605,632"),
        ("deploy --target host --variant FT --k 14 --size 32", 1, r"the net has 13 blocks, use --k 13"),
        ("deploy --target host --variant FT --k -1 --size 32", 1, r"k is -1"),
        ("memory --variant XX", 2, r"'XX' is not one of"),
        ("memory --size 31", 1, r"31x31 are too small"),
        ("memory --classes 1", 1, r"a classifier needs at least 2"),
        ("memory --size 32 --plot picture.xyz", 1, r"picture.xyz: unknown kind of picture: end its name in one of"),
        ("memory --size 32 --csv nowhere/m.csv", 1, r"nowhere.*No such file or directory"),
    ],
)
def test_errors(arguments: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run(*arguments.split()), code=code, message=message, folder=tmp_path)


def test_a_dataset_that_does_not_fit_the_run_is_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    from tinyclf.workstation.data import Item, write_dataset

    image = np.zeros((32, 32, 3), np.uint8)
    for name, label, several in (("other", 0, False), ("labels", (0, 1), True)):
        items = [Item(split, image, label) for split in ("train", "validation", "test")]
        write_dataset(items, out=tmp_path / name, classes=["a", "b"], source="test", size=32, multi_label=several)
        out = tmp_path / "p"
        result = run("deploy", "--target", "host", "--from", trained[0], "--data", tmp_path / name, "--out", out)
        assert result.exit_code == 1
        assert re.match(r"error: .*has (other classes \(2: a, b\)|several labels per image)", result.stderr)
        assert not out.exists()


def test_doctor_names_every_target_and_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GVSOC_HOME", raising=False)
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "target host: cannot run here" in result.stdout
    assert "missing: qemu-system-riscv32 (from: qemu-system-misc)" in result.stdout
    assert re.search(r"missing: gvsoc \(from: GVSoC built for pulp-open", result.stdout)
    assert re.search(r"torch +2\.", result.stdout)


def test_demo_refuses_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    result = run("demo", "--out", tmp_path / "mine")
    assert result.exit_code == 1
    assert "is not the demo's" in result.stderr
    assert (tmp_path / "mine" / "notes.txt").exists()
