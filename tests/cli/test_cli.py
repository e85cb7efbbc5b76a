"""The command line: the whole way on real data, exit codes, one-line errors, and help that imports nothing heavy."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tinyclf import __version__, cli
from tinyclf.base.errors import CheckFailed


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def check_refusal(result: Result, *, code: int, message: str, folder: Path) -> None:
    """Assert the exit code, one line on stderr, nothing on stdout, and that `folder` is as empty as before."""
    assert (result.exit_code, result.stdout) == (code, "")
    assert re.search(message, result.stderr), result.stderr
    assert code == 2 or len(result.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


def parse(line: str) -> None:
    """Parse a command line that begins with `tinyclf`, without running it."""
    command: click.Command = cli.main
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        child = command.get_command(click.Context(command), arguments.pop(0))
        assert child is not None, line
        command = child
    # With the program's settings: click keeps the help option that a command's first context gives it.
    parent = click.Context(cli.main, help_option_names=cli.main.context_settings["help_option_names"])
    command.make_context("x", arguments, parent=parent)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every command and group."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += commands(child, (*path, name))
    return found


@pytest.fixture(scope="module")
def trained(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a run directory of two epochs, and what the command printed."""
    out = tmp_path_factory.mktemp("runs") / "clean"
    result = run("train", "--data", digits_dir, "--out", out, "--epochs", 2, "--threads", 1, "--batch-size", 64)
    assert result.exit_code == 0, result.output
    return out, result.stdout


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", commands(cli.main), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    for flag in ("-h", "--help"):
        result = run(*path, flag)
        assert result.exit_code == 0
        assert re.search(r"^ +tinyclf " + " ".join(path), result.output, re.MULTILINE), result.output


def test_examples_in_the_help_can_be_parsed() -> None:
    """Parse each example without running it: a renamed option must not live on in the help."""
    examples = {
        line.strip()
        for path in commands(cli.main)
        for line in run(*path, "--help").output.splitlines()
        if line.startswith("  ") and line.strip().startswith("tinyclf ")
    }
    assert len(examples) >= 6
    for example in examples:
        parse(example)


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "train --help",
        "eval -h",
        "memory -h",
        "deploy -h",
        "doctor -h",
        "models -h",
        "data check -h",
        "data info -h",
        "--version",
        "data -h",
    ],
)
def test_help_imports_nothing_heavy(arguments: str) -> None:
    code = (
        "import sys\n"
        "from tinyclf import cli\n"
        f"try: cli.main({arguments.split()!r})\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn', 'pytorchcv', 'jinja2', 'safetensors'}\n"
        "heavy = (heavy | {'pyarrow', 'PIL', 'datasets'}) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_of_a_source_does_not_import_torch() -> None:
    code = (
        "import sys; from tinyclf import cli\ntry: cli.main(['data', 'build', 'digits', '-h'])\nexcept SystemExit: pass"
    )
    code += "\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--shifted" in done.stdout


def test_help_shows_defaults_alike() -> None:
    shown = {
        path: " ".join(run(*path, "--help").output.split()) for path in (("deploy",), ("memory",), ("data", "show"))
    }
    assert "Number of classes, where there is no --from. [default: 2]" in shown["deploy",]
    assert "Number of classes. [default: 2]" in shown["memory",]
    assert "[default: the first]" in shown["data", "show"]
    assert not [text for text in shown.values() if "Default:" in text or "[default: (" in text or "\\" in text]


def test_a_folder_is_refused_where_a_file_is_meant(tmp_path: Path) -> None:
    for arguments in (
        ("memory", "--csv"),
        ("memory", "--plot"),
        ("train", "--weights"),
        ("data", "show", ".", "--out"),
    ):
        result = run(*arguments, tmp_path)
        assert result.exit_code == 2, arguments
        assert "is a directory" in result.output


def test_help_names_the_architectures() -> None:
    assert "as tinyclf models lists them" in " ".join(run("train", "--help").output.split())
    listed = run("models", "mobilenet*", "resnet8").output
    assert all(name in listed for name in ("mobilenet_wd4", "mobilenetv2_w1", "resnet8"))


def test_version() -> None:
    assert run("--version").output == f"tinyclf, version {__version__}\n"


# --- commands ---------------------------------------------------------------------------------------------------------


def test_build_and_check(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    built = run("data", "build", "digits", "--out", out, "--size", 40, "--seed", 3, "--shifted")
    assert built.exit_code == 0
    assert built.output.splitlines()[-2:] == [
        f"{out}: 10 classes, 40x40 pixels",
        f"next: tinyclf train --variant scratch --data {out}",
    ]
    checked = run("data", "check", out)
    assert (checked.exit_code, checked.output) == (0, f"{out}: 13 files, 1,797 images, all sound\n")
    options = json.loads((out / "manifest.json").read_text())["provenance"]["options"]
    assert (options["size"], options["seed"], options["shifted"]) == (40, 3, True)
    again = run("data", "build", "digits", "--out", out)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == f"error: {out}: exists already: remove it, or choose another --out\n"


def test_check_exits_with_3_on_damage_and_1_without_a_dataset(tmp_path: Path) -> None:
    run("data", "build", "digits", "--out", tmp_path / "d")
    shard = tmp_path / "d" / "test-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    (tmp_path / "d" / "junk").touch()
    damaged = run("data", "check", tmp_path / "d")
    assert damaged.exit_code == 3
    assert [line.split(":")[:2] for line in damaged.stderr.splitlines()] == [
        ["error", f" {shard}"],
        ["error", f" {tmp_path / 'd' / 'junk'}"],
    ]
    nothing = run("data", "check", tmp_path)
    assert nothing.exit_code == 1
    assert "not a tinyclf dataset" in nothing.stderr


def test_train_reports(trained: tuple[Path, str]) -> None:
    out, text = trained
    lines = text.splitlines()
    assert lines[0] == "scratch of mobilenet_wd4: 215,642 of 215,642 parameters are trained"
    assert lines[1] == "start: random weights, seed 0; threads: 1"
    assert [line.split()[:2] for line in lines[2:4]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert lines[-2:] == [f"run directory: {out}", f"next: tinyclf eval {out} --split test"]


def test_eval(trained: tuple[Path, str], shifted_dir: Path) -> None:
    out, _ = trained
    table = run("eval", out, "--split", "validation")
    assert table.exit_code == 0
    assert re.match(r"accuracy \d+\.\d%, loss \d+\.\d{4}, 270 images\n", table.output)
    metrics = json.loads(run("eval", out, "--split", "test", "--data", shifted_dir, "--json").stdout)
    assert metrics["num_images"] == sum(metrics["support"]) == 269
    assert metrics["accuracy"] < json.loads(run("eval", out, "--json").stdout)["accuracy"]


def test_eval_with_intervals_and_plots(trained: tuple[Path, str], tmp_path: Path) -> None:
    options = ("eval", trained[0], "--bootstrap", 50, "--plots", tmp_path / "plots")
    table = run(*options)
    assert table.exit_code == 0, table.output
    assert "95% intervals from 50 bootstrap resamples:\n  accuracy " in table.output
    assert table.output.endswith(f"plots: {tmp_path / 'plots'}\n")
    assert sorted(f.name for f in (tmp_path / "plots").iterdir()) == ["confusion.png", "pr_roc.png", "reliability.png"]
    content = json.loads(run(*options, "--json").stdout)
    low, high = content["intervals"]["accuracy"]
    assert low <= content["accuracy"] <= high
    assert "fine_grained" not in content
    assert run("eval", trained[0], "--bootstrap", 0).exit_code == 2


def test_eval_shows_the_fine_grained_subsets(trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyclf.workstation.results.finegrained import CLASSES, TAGS

    tags = {tag: np.array([1, 0, 1, 0]) for tag in TAGS}
    split = SimpleNamespace(labels=np.array([1, 0, 0, 1]), classes=CLASSES, tags=tags)
    logits = np.array([[0, 1], [1, 0], [0, 1], [0, 1]], dtype=np.float32)
    monkeypatch.setattr("tinyclf.workstation.results.evaluate.predict_run", lambda *_, **__: (split, logits))
    assert re.search(r"\nage +young +1 +2 +100.0% +50.0% +80.0%\n", run("eval", trained[0]).output)
    content = json.loads(run("eval", trained[0], "--json").stdout)
    assert content["fine_grained"]["lighting"]["dark"]["fp_rate"] == 1.0


def test_adapting_a_run(trained: tuple[Path, str], shifted_dir: Path, tmp_path: Path) -> None:
    arguments = ("train", "--variant", "ft", "--k", 1, "--from", trained[0], "--data", shifted_dir)
    result = run(*arguments, "--epochs", 1, "--threads", 1, "--out", tmp_path / "ft")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("FT K=1 of mobilenet_wd4: ")
    assert json.loads((tmp_path / "ft" / "run.json").read_text())["train"]["variant"] == "FT K=1"


def test_the_configuration_is_printed_and_read_back(digits_dir: Path, tmp_path: Path) -> None:
    given = ("--variant", "LP", "--data", digits_dir, "schedule=step", "ema=0.9")
    printed = run("train", *given, "--print-config")
    assert printed.exit_code == 0
    assert "schedule: step" in printed.output
    assert re.search(r"^lr: 0\.1 +# highest learning rate", printed.output, re.MULTILINE)
    (tmp_path / "c.yaml").write_text(printed.stdout)
    again = run("train", "--config", tmp_path / "c.yaml", "--epochs", 3, "--print-config")
    assert again.stdout == printed.stdout.replace("epochs: 15", "epochs: 3 ")
    assert not list(tmp_path.glob("runs*"))


def test_what_comes_from_a_run_is_printed_too(trained: tuple[Path, str]) -> None:
    printed = run("train", "--variant", "LP", "--from", trained[0], "--print-config").output
    assert "size: 32 " in printed
    assert f"from_run: {trained[0]}" in printed


def test_going_on_with_a_run(trained: tuple[Path, str]) -> None:
    result = run("train", "--resume", trained[0])
    assert result.exit_code == 0
    assert "nothing is left to do: the run is complete" in result.stdout
    assert result.stdout.splitlines()[-1] == f"next: tinyclf eval {trained[0]} --split test"


def test_finding_a_learning_rate(digits_dir: Path, tmp_path: Path) -> None:
    result = run("train", "--data", digits_dir, "--threads", 1, "--find-lr", "--out", tmp_path / "lr")
    assert re.match(r"the loss falls fastest at a learning rate of [\d.e-]+: --lr", result.stdout)
    assert sorted(file.name for file in (tmp_path / "lr").iterdir()) == ["lr_finder.csv", "lr_finder.png"]


def test_logs_for_tensorboard(digits_dir: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    options = ("--epochs", 2, "--threads", 1, "--arch", "fdmobilenet_wd4", "--tensorboard", "--out", out)
    assert run("train", "--data", digits_dir, *options).exit_code == 0
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("epoch/val_accuracy")] == [1, 2]
    assert len(events.Scalars("step/loss")) == 80


def test_runs_are_numbered(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "--data", digits_dir, "--epochs", 1, "--threads", 1, "--arch", "fdmobilenet_wd4")
    assert "run directory: runs/001-scratch-fdmobilenet_wd4\n" in result.stdout
    assert (tmp_path / "runs" / "001-scratch-fdmobilenet_wd4" / "best.safetensors").is_file()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("train --data nowhere", 1, "error: .*nowhere: no such folder: write a dataset with tinyclf data build"),
        ("train --data nowhere --arch vgg", 1, "error: "),
        ("train --data nowhere --variant FT --k -1", 1, "error: k is -1"),
        ("train --data nowhere --epochs 0", 1, "error: --epochs 0: must be 1 or more"),
        ("train --data nowhere --variant LP --from none", 1, "error: none: not a run directory"),
        ("train --data nowhere --variant LP --weights w --from none", 1, "error: --from and --weights both name"),
        ("train --data nowhere --resume none", 1, "error: --resume goes on with the run's own configuration: leave"),
        ("train --resume none", 1, "error: none: not a run directory"),
        ("train --data nowhere lr=fast", 1, "error: lr: 'fast' is not a number"),
        ("train --config none.yaml", 1, "error: none.yaml: cannot be read"),
        ("train --data nowhere --devices 0", 1, "error: "),
        ("eval nowhere", 1, "error: nowhere: not a run directory"),
        ("data check nowhere", 1, "error: nowhere: no such folder"),
        ("train --data nowhere --augment blur", 1, "error: --augment blur: unknown or twice: choose from flip"),
        ("train --data nowhere --window 0", 1, "error: --window 0: must be 1 or more"),
        ("train --data nowhere --window 9 --sampler balanced", 1, "error: --sampler balanced draws from all images"),
        ("data info nowhere", 1, "error: nowhere: no such folder"),
        ("data build nowhere:make --out x", 1, "error: source 'nowhere:make': cannot import nowhere"),
        ("data build digits --out x --size 4", 1, "error: digits of 4x4 pixels"),
        ("train", 1, "error: no dataset: give --data DIR, a folder that tinyclf data build has written"),
        ("train --data x --variant adapter", 2, "Invalid value for '--variant'"),
        ("train --data x --epochs many", 2, "Invalid value for '--epochs'"),
        ("data build mnist --out x", 2, "No such command 'mnist'"),
        ("data build digits", 2, "Missing option '--out'"),
        ("nonsense", 2, "No such command 'nonsense'"),
    ],
)
def test_errors(arguments: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run(*arguments.split()), code=code, message=message, folder=tmp_path)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (CheckFailed("a\nb"), 3, "error: a\nerror: b\n"),
        (OSError(28, "No space left on device", "x.npy"), 1, "error: x.npy: No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_one_place_turns_errors_into_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **how: object) -> None:
        raise error

    monkeypatch.setattr("tinyclf.workstation.data.check_dataset", fail)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # click replaces it on a broken pipe
    result = CliRunner().invoke(cli.main, ["data", "check", "x"])
    assert (result.exit_code, result.stderr) == (code, text)
