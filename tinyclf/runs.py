"""The run directory: what a training run leaves behind, each file written whole; and how it is read back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyclf import __version__
from tinyclf.errors import BadInput
from tinyclf.files import write_text, write_whole
from tinyclf.models import build_model, freeze, load_state
from tinyclf.variants import Variant

CONFIG_FILE = "config.json"
BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """What is to be trained and how; `train.configure` fills in the defaults of the variant.

    `from_run` and `weights` say where the trained weights come from, at most one of them; neither: pytorchcv's own.
    `threads` None: whatever a short trial finds fastest. `augment`: as `data.parse_augmentations` reads it. `sampler`:
    an order of `data.Sampler`. `window`: MiB that images are held in; None: the whole dataset is mapped.
    """

    variant: Variant
    arch: str
    data: Path
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    seed: int = 0
    threads: int | None = None
    from_run: Path | None = None
    weights: Path | None = None
    augment: str = ""
    sampler: str = "shuffled"
    window: int | None = None


@dataclass(frozen=True)
class RunConfig:
    """What a run directory holds: the options, and what the model must be told about its images.

    `size` is in pixels; `mean` and `std` are those of `data.normalise`; `start` says which weights it started from.
    """

    train: TrainConfig
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    start: str
    threads: int
    tinyclf: str = __version__

    @property
    def arch(self) -> str:
        """Return the name of the architecture."""
        return self.train.arch

    @property
    def variant(self) -> Variant:
        """Return what was trained."""
        return self.train.variant

    @property
    def k(self) -> int:
        """Return the number of unfrozen blocks of variant FT."""
        return self.train.variant.k

    @property
    def data(self) -> Path:
        """Return the dataset folder, absolute."""
        return self.train.data

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as one flat table, as config.json holds it."""
        flat = {
            "tinyclf": self.tinyclf,
            "variant": self.variant.name,
            "k": self.k,
            **asdict(self.train),
            **asdict(self),
        }
        del flat["train"]
        flat["variant"] = self.variant.name
        return {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}


@dataclass(frozen=True)
class EpochRow:
    """One row of train_log.csv; `lr` is that of the epoch's last step, accuracies are shares in 0 .. 1."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    images_per_s: float


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
        path = root / f"{max(taken, default=0) + 1:03d}-{variant}-{arch}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue  # another run took the number in this very moment


def write_config(run_dir: Path, config: RunConfig) -> None:
    """Write config.json, and the same as a table of name and value in hyperparams.csv."""
    flat = config.to_dict()
    write_text(run_dir / CONFIG_FILE, json.dumps(flat, indent=1) + "\n")
    rows = [[name, " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v] for name, v in flat.items()]
    write_text(run_dir / "hyperparams.csv", _csv([["name", "value"], *rows]))


def write_log(run_dir: Path, rows: Sequence[EpochRow]) -> None:
    """Write train_log.csv, one row per epoch."""
    header = [field.name for field in fields(EpochRow)]
    write_text(run_dir / "train_log.csv", _csv([header, *([f"{v:.6g}" for v in asdict(r).values()] for r in rows)]))


def write_checkpoint(path: Path, model: nn.Module, *, config: RunConfig, row: EpochRow) -> None:
    """Write the weights of `model`, with everything needed to use them in the metadata: JSON under "tinyclf"."""
    from safetensors.torch import save

    about = {**config.to_dict(), "epoch": row.epoch, "val_accuracy": row.val_accuracy}
    metadata = {"tinyclf": json.dumps(about)}  # one key: safetensors writes several in random order
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, lambda temporary: temporary.write_bytes(save(state, metadata=metadata)))


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


def read_config(run_dir: Path) -> RunConfig:
    """Read the config.json of a run directory.

    Raises:
        BadInput: no run directory, or the file is damaged.
    """
    file = run_dir / CONFIG_FILE
    if not file.is_file():
        raise BadInput(f"{run_dir}: not a run directory, it has no {CONFIG_FILE}: tinyclf train writes one")
    try:
        return _from_dict(json.loads(file.read_text()))
    except (ValueError, LookupError, TypeError, AttributeError, BadInput) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise BadInput(f"{file}: damaged ({reason}): train again") from error


def _from_dict(flat: dict[str, Any]) -> RunConfig:
    """Undo `RunConfig.to_dict`."""
    values = {
        field.name: flat[field.name] for field in fields(TrainConfig) if field.name in flat or field.default is MISSING
    }
    values["variant"] = Variant(flat["variant"], k=flat["k"])
    for name in ("data", "from_run", "weights"):
        values[name] = None if flat[name] is None else Path(flat[name])
    values["threads"] = int(flat["threads"])
    return RunConfig(
        train=TrainConfig(**values),
        classes=tuple(flat["classes"]),
        size=int(flat["size"]),
        mean=tuple(flat["mean"]),
        std=tuple(flat["std"]),
        start=str(flat["start"]),
        threads=int(flat["threads"]),
        tinyclf=str(flat["tinyclf"]),
    )


def read_state(run_dir: Path) -> dict[str, torch.Tensor]:
    """Read the best weights of a run directory.

    Raises:
        BadInput: there are none yet, or the file is damaged.
    """
    from safetensors.torch import load_file

    file = run_dir / BEST_FILE
    if not file.is_file():
        raise BadInput(f"{run_dir}: has no {BEST_FILE}: its training did not finish one epoch, train again")
    try:
        return load_file(file)
    except Exception as error:  # safetensors raises an exception type of its own, which it does not export stably
        raise BadInput(f"{file}: damaged ({type(error).__name__}): train again") from error


def load_run(run_dir: Path) -> tuple[nn.Module, RunConfig]:
    """Return the model of a run directory with its best weights, frozen as its variant says, in eval mode.

    Raises:
        BadInput: no run directory, no finished epoch, or damaged files.
    """
    config = read_config(run_dir)
    model = build_model(config.arch, num_classes=config.num_classes, size=config.size, seed=config.train.seed)
    load_state(model, read_state(run_dir), source=str(run_dir / BEST_FILE), keep_head=True)
    freeze(model, config.variant)
    return model.eval(), config


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
