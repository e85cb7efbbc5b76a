"""The run directory: what a training run leaves behind, each file written whole; and how it is read back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyclf import __version__
from tinyclf.base.errors import BadInput
from tinyclf.base.files import write_text, write_whole
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.data import Preprocessing
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze, load_state
from tinyclf.workstation.runs.config import TrainConfig, from_dict, to_dict, to_yaml

CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"
BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
CARD_FILE = "card.md"


@dataclass(frozen=True)
class RunConfig:
    """What a run directory and each of its checkpoints say: the resolved options, and what the model needs to be used.

    `start` says which weights it started from; `dataset` is the sha256 of the dataset's manifest; `world` is the number
    of processes.
    """

    train: TrainConfig
    classes: tuple[str, ...]
    multi_label: bool
    preprocessing: Preprocessing
    start: str
    dataset: str
    threads: int
    world: int = 1
    tinyclf: str = __version__

    @property
    def arch(self) -> str:
        """Return the name of the architecture."""
        assert self.train.arch is not None
        return self.train.arch

    @property
    def variant(self) -> Variant:
        """Return what was trained."""
        return self.train.variant

    @property
    def data(self) -> Path:
        """Return the dataset folder, absolute."""
        assert self.train.data is not None
        return self.train.data

    @property
    def size(self) -> int:
        """Return the width and height of the net's input in pixels."""
        return self.preprocessing.size

    @property
    def num_classes(self) -> int:
        """Return the number of classes, or of labels where an image has several."""
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"train": to_dict(self.train), "preprocessing": self.preprocessing.to_dict()}
        return {**values, "classes": list(self.classes)}

    @staticmethod
    def from_dict(given: Mapping[str, Any]) -> RunConfig:
        """Undo `to_dict`; what is wrong raises TypeError, LookupError, ValueError or BadInput."""
        values = {f.name: given[f.name] for f in fields(RunConfig)}
        values["train"] = from_dict(given["train"])
        values["preprocessing"] = Preprocessing.from_dict(given["preprocessing"])
        return RunConfig(**{**values, "classes": tuple(str(name) for name in given["classes"])})


@dataclass(frozen=True)
class EpochRow:
    """One row of train_log.csv; `lr` is that of the epoch's last step, accuracies are shares in 0 .. 1."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float

    def better_than(self, other: EpochRow) -> bool:
        """Say whether this epoch is the better one: by accuracy, then by loss, on the validation split."""
        return (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


def create_run_dir(out: Path | None, *, variant: str, arch: str, root: Path = Path("runs")) -> Path:
    """Create and return `out`, or the next numbered directory in `root`, for instance runs/007-FT-mobilenet_wd4.

    Raises:
        BadInput: `out` exists and is not an empty directory.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out}: exists already and is not empty: remove it, or choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        return out
    root.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(match[1]) for path in root.iterdir() if (match := re.match(r"(\d{3,})-", path.name))]
        path = root / f"{max(taken, default=0) + 1:03d}-{variant}-{re.sub(r'[^A-Za-z0-9_]', '-', arch)}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue  # another run took the number in this very moment


def write_config(run_dir: Path, run: RunConfig) -> None:
    """Write run.json, the options as config.yaml, and all of it as a table of name and value in hyperparams.csv."""
    content = run.to_dict()
    write_text(run_dir / CONFIG_FILE, to_yaml(run.train))
    write_text(run_dir / RUN_FILE, json.dumps(content, indent=1) + "\n")
    flat = {**content, **content["preprocessing"], **content["train"]}
    flat |= {"size": run.size, "mean": content["preprocessing"]["mean"], "std": content["preprocessing"]["std"]}
    rows = [
        [name, " ".join(map(str, value)) if isinstance(value, list) else value]
        for name, value in flat.items()
        if not isinstance(value, dict)
    ]
    write_text(run_dir / "hyperparams.csv", _csv([["name", "value"], *rows]))


def write_log(run_dir: Path, rows: Sequence[EpochRow]) -> None:
    """Write train_log.csv, one row per epoch; it holds no times, so that the same training gives the same file."""
    header = [field.name for field in fields(EpochRow)]
    write_text(run_dir / "train_log.csv", _csv([header, *([f"{v:.6g}" for v in asdict(r).values()] for r in rows)]))


def write_checkpoint(path: Path, state: Mapping[str, torch.Tensor], *, run: RunConfig, row: EpochRow) -> None:
    """Write weights, with everything needed to use them in the metadata: JSON under "tinyclf"."""
    from safetensors.torch import save

    about = {**run.to_dict(), "epoch": row.epoch, "val_accuracy": row.val_accuracy}
    metadata = {"tinyclf": json.dumps(about)}  # one key: safetensors writes several in random order
    content = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata=metadata)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def write_curves(run_dir: Path, rows: Sequence[EpochRow]) -> None:
    """Draw loss and accuracy per epoch into curves.png."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [row.epoch for row in rows]
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in ("train", "val"):
            axes.plot(epochs, [getattr(row, f"{split}_{what}") for row in rows], label=split, marker=".")
        axes.set(xlabel="epoch", ylabel=what, yscale="log" if what == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    write_whole(run_dir / "curves.png", lambda temporary: figure.savefig(temporary, format="png"))


def read_run(path: Path) -> RunConfig:
    """Read what a run directory, or a checkpoint of one (.safetensors), says about itself.

    Raises:
        BadInput: neither of the two, or damaged.
    """
    if path.is_file():
        content, source = _read_metadata(path), path
    else:
        source = path / RUN_FILE
        if not source.is_file():
            raise BadInput(f"{path}: not a run directory, it has no {RUN_FILE}: tinyclf train writes one")
        content = source.read_text(errors="replace")
    try:
        return RunConfig.from_dict(json.loads(content))
    except (ValueError, LookupError, TypeError, AttributeError, BadInput) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise BadInput(f"{source}: damaged, or of another version of tinyclf ({reason}): train again") from error


def read_rows(run_dir: Path) -> list[EpochRow]:
    """Read train_log.csv; no file gives no rows."""
    file = run_dir / "train_log.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        tables: list[dict[str, Any]] = [{key: float(value) for key, value in r.items()} for r in csv.DictReader(stream)]
    return [EpochRow(**{**table, "epoch": int(table["epoch"])}) for table in tables]


def best_of(rows: Sequence[EpochRow]) -> EpochRow | None:
    """Return the best epoch, the first of equals; None where there are no rows."""
    best = None
    for row in rows:
        best = row if best is None or row.better_than(best) else best
    return best


def _read_metadata(file: Path) -> str:
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except Exception as error:  # safetensors raises an exception type of its own, which it does not export stably
        raise BadInput(f"{file}: neither a run directory nor a checkpoint of one ({type(error).__name__})") from error
    if "tinyclf" not in metadata:
        raise BadInput(f"{file}: weights of another tool: this needs a run directory, or a checkpoint of one")
    return str(metadata["tinyclf"])


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the best weights of a run directory, or those of a checkpoint; those in half precision become float32.

    Raises:
        BadInput: there are none yet, or the file is damaged.
    """
    from safetensors.torch import load_file

    file = path if path.is_file() else path / BEST_FILE
    if not file.is_file():
        raise BadInput(f"{path}: has no {BEST_FILE}: its training did not finish one epoch, train again")
    try:
        state = load_file(file)
    except Exception as error:  # as in _read_metadata
        raise BadInput(f"{file}: damaged ({type(error).__name__}): train again") from error
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in state.items()}


def empty_model(run: RunConfig) -> nn.Module:
    """Build the model of a run with random weights, frozen as its variant says, in eval mode."""
    config = run.train
    model = build_model(
        run.arch, num_classes=run.num_classes, size=run.size, seed=config.seed, small_input=config.small_input
    )
    freeze(model, run.variant)
    return (fold_batchnorm(model) if config.bn == "folded" else model).eval()


def load_run(path: Path) -> tuple[nn.Module, RunConfig]:
    """Return the model of a run directory with its best weights, or of a checkpoint, as `empty_model` leaves it.

    Raises:
        BadInput: no run directory or checkpoint, no finished epoch, or damaged files.
    """
    run = read_run(path)
    model = empty_model(run)
    load_state(model, read_state(path), source=str(path), keep_head=True)
    return model, run


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
