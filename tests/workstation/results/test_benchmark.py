"""The benchmark: what it measures is what the other commands say, and a report is replaced between its marks only."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.workstation.results.test_export import train_briefly
from tinyclf import cli
from tinyclf.base.errors import BadInput
from tinyclf.cli.bench import _training_memory
from tinyclf.jobs.memory import MemoryRequest, memory_of
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import num_macs, num_parameters
from tinyclf.workstation.results import benchmark
from tinyclf.workstation.results.benchmark import MARKS, find_runs, latency, measure_run, to_markdown
from tinyclf.workstation.results.evaluate import evaluate_run
from tinyclf.workstation.runs.directory import load_run


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["bench", *map(str, arguments)])


def cells(markdown: str) -> list[list[str]]:
    """Return the rows of the table, header first."""
    rows = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not row[0].strip().startswith("---")]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_briefly(tmp_path_factory.mktemp("small"))


# --- what is measured -------------------------------------------------------------------------------------------------


def test_a_row_agrees_with_the_other_commands(digits_run: Path) -> None:
    threads = torch.get_num_threads()
    row = measure_run(digits_run, split="test", memory=_training_memory, num_calls=5)
    assert torch.get_num_threads() == threads
    metrics = evaluate_run(digits_run, split="test")
    for name in ("accuracy", "macro_f1", "auc"):
        assert getattr(row.metrics, name) == pytest.approx(getattr(metrics, name))
    model, _ = load_run(digits_run)
    assert (row.num_parameters, row.num_macs) == (num_parameters(model), num_macs(model, 32))
    assert row.fp16_bytes == 2 * row.num_parameters
    assert row.pytorch.mean > 0
    assert row.onnx_runtime.mean > 0
    assert list(row.memory) == ["LP", "FT K=1", "FT K=2", "full"]
    for label, variant in (("LP", Variant("LP")), ("FT K=2", Variant("FT", k=2)), ("full", Variant("full"))):
        assert row.memory[label] == memory_of(MemoryRequest(variant, "mobilenet_wd4", 32, 10)).sums.total


def test_memory_of_a_small_input_and_of_nets_that_cannot_be_deployed(small_run: Path) -> None:
    _, config = load_run(small_run)
    plain, small = (
        _training_memory(replace(config, train=replace(config.train, arch="mobilenet_wd4", small_input=value)))["LP"]
        for value in (False, True)
    )
    need = memory_of(MemoryRequest(Variant("LP"), "mobilenet_wd4", 32, small_input=True))
    assert small == need.sums.total
    assert plain == memory_of(MemoryRequest(Variant("LP"), "mobilenet_wd4", 32)).sums.total < small
    several = _training_memory(replace(config, multi_label=True))
    assert list(several.values()) == [None] * 4


def test_latency_is_of_separate_calls_after_a_warm_up() -> None:
    calls = []

    def call() -> None:
        calls.append(None)
        time.sleep(0.1 if len(calls) == 1 else 0.002)

    measured = latency(call, num_calls=10)
    assert len(calls) == 10 + benchmark.NUM_WARM_UP
    assert 2 <= measured.mean < 50
    assert measured.deviation >= 0


def test_several_labels(tmp_path: Path) -> None:
    trained = train_briefly(tmp_path, multi_label=True)
    row = measure_run(trained, split="test", memory=_training_memory, num_calls=1)
    assert row.metrics == evaluate_run(trained, split="test")
    header, cells_of_run = cells(to_markdown([row], split="test"))
    assert cells_of_run[header.index("accuracy")] == f"{row.metrics.accuracy:.1%}"
    assert cells_of_run[-4:] == ["-"] * 4


# --- reports ----------------------------------------------------------------------------------------------------------


def test_the_table(digits_run: Path, small_run: Path) -> None:
    result = run(digits_run, small_run)
    assert (result.exit_code, result.stderr) == (0, "")
    header, first, second = cells(result.stdout)
    assert header[:4] == ["run", "architecture", "trained", "input"]
    assert header[-4:] == ["LP KiB", "FT K=1 KiB", "FT K=2 KiB", "full KiB"]
    assert first[:6] == [str(digits_run), "mobilenet_wd4", "scratch", "32x32", "421", "215,642"]
    assert second[:4] == [str(small_run), "dscnn", "scratch", "32x32"]
    metrics = evaluate_run(digits_run, split="test")
    assert metrics.auc is not None
    expected = [f"{metrics.accuracy:.1%}", f"{metrics.macro_f1:.4f}", f"{metrics.auc:.4f}"]
    assert first[header.index("accuracy") :][:3] == expected
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", first[header.index("PyTorch ms")])
    assert "split test" in result.stdout


def test_a_report_and_an_update(small_run: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Übersicht\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nthe end\n")
    result = run(small_run, "--update", readme, "--out", tmp_path / "new" / "report.md", "--split", "validation")
    assert result.exit_code == 0, result.stderr
    before, _, rest = readme.read_text().partition(MARKS[0])
    inner, _, after = rest.partition(MARKS[1])
    assert (before, after) == ("# Übersicht\n\n", "\n\nthe end\n")
    assert inner == "\n" + result.stdout
    assert (tmp_path / "new" / "report.md").read_text() == "# Benchmark\n\n" + result.stdout
    assert "split validation" in inner
    again = run(small_run, "--update", readme)
    assert again.exit_code == 0
    assert readme.read_text() == f"{before}{MARKS[0]}\n{again.stdout}{MARKS[1]}{after}"


@pytest.mark.parametrize(
    "text", ["", MARKS[0], f"{MARKS[1]}\n{MARKS[0]}\n", f"{MARKS[0]}\n{MARKS[0]}\n{MARKS[1]}\n"], ids=range(4)
)
def test_marks_that_are_missing(small_run: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "README.md"
    file.write_text(text)
    result = run(small_run, "--update", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: --update {file}: needs one line {MARKS[0]} and below it one line {MARKS[1]}: the table goes between\n"
    )
    assert file.read_text() == text


def test_all_runs(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--all")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "runs: no run directory in it" in result.stderr
    for name in ("002-b", "001-a", "group/003-c"):
        shutil.copytree(small_run, Path("runs") / name)
    Path("runs/002-b/best.safetensors").unlink()
    assert find_runs(Path("runs")) == ([Path("runs/001-a"), Path("runs/group/003-c")], [Path("runs/002-b")])
    result = run("--all")
    assert result.exit_code == 0
    assert result.stderr == "runs/002-b: passed over, it has no weights yet\n"
    assert [row[0] for row in cells(result.stdout)[1:]] == ["runs/001-a", "runs/group/003-c"]


def test_a_run_that_cannot_be_measured(small_run: Path, tmp_path: Path) -> None:
    lost = train_briefly(tmp_path)
    shutil.rmtree(tmp_path / "data")
    report = tmp_path / "report.md"
    result = run(lost, small_run, "--out", report)
    assert result.exit_code == 1
    assert [row[0] for row in cells(result.stdout)[1:]] == [str(small_run)]
    first, second = result.stderr.splitlines()
    assert first.startswith(f"{lost}: {tmp_path / 'data'}: no such folder")
    assert second == "error: 1 of 2 runs could not be measured: no file was written"
    assert not report.exists()


def test_names_with_marks_of_a_table(small_run: Path) -> None:
    row = measure_run(small_run, split="test", memory=_training_memory, num_calls=1)
    text = to_markdown([replace(row, path=Path("a|b"))], split="test")
    assert "| a\\|b |" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "Name runs, or give --all."),
        ("--all x", 2, "Name runs, or give --all."),
        ("nowhere", 1, "nowhere: nowhere: not a run directory"),
        ("x --update nowhere.md", 1, "--update nowhere.md: no such file"),
    ],
)
def test_errors(arguments: str, code: int, message: str) -> None:
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_a_split_that_is_not_there(small_run: Path) -> None:
    with pytest.raises(BadInput, match="has no split 'tset'"):
        measure_run(small_run, split="tset", memory=_training_memory)
