"""What a finished run says of itself: the model card with all its numbers, and the pictures that belong to it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyclf import __version__
from tinyclf.base.files import write_text
from tinyclf.workstation.data import Dataset, open_dataset
from tinyclf.workstation.nets.build import num_macs, num_parameters
from tinyclf.workstation.results.card import CardFacts, Measured, model_card
from tinyclf.workstation.results.evaluate import LEVEL, Assessment, assess_run
from tinyclf.workstation.results.plots import write_plots
from tinyclf.workstation.runs.config import to_dict
from tinyclf.workstation.runs.directory import CARD_FILE, RunConfig, best_of, load_run, read_rows

NUM_RESAMPLES = 1000
# Said elsewhere in the card, or nothing about how the model was trained.
NOT_LISTED = {
    *("variant", "arch", "data", "epochs", "seed", "from_run"),
    *("weights", "size", "mean", "std", "channels"),
    *("feature_dir", "feature_limit", "save_steps", "save_seconds", "log_steps", "tensorboard"),
}


def write_report(run_dir: Path) -> None:
    """Measure the best weights of a run on its validation split, and on test if there is one; write them down.

    Writes the model card, and confusion.png, pr_roc.png and reliability.png of the test (else validation) split.
    """
    model, run = load_run(run_dir)
    dataset = open_dataset(run.data)
    found: dict[str, Assessment] = {
        split: assess_run(run_dir, split=split, num_resamples=NUM_RESAMPLES, loaded=(model, run))
        for split in ("validation", "test")
        if split in dataset.manifest.splits
    }
    shown = found.get("test") or found["validation"]
    write_plots(run_dir, shown.metrics, shown.logits, shown.split.labels)
    write_text(run_dir / CARD_FILE, model_card(_facts(run_dir, run, model, dataset, found)))


def _facts(
    run_dir: Path, run: RunConfig, model: nn.Module, dataset: Dataset, found: dict[str, Assessment]
) -> CardFacts:
    rows = read_rows(run_dir)
    best = best_of(rows)
    assert best is not None, "a run that is reported on has finished an epoch"
    manifest = dataset.manifest
    return CardFacts(
        name=f"{run_dir.name}: {run.arch}, {run.variant.label}",
        arch=run.arch,
        variant=run.variant.label,
        num_parameters=num_parameters(model),
        num_trained=num_parameters(model, trained=True),
        num_macs=num_macs(model, run.size),
        classes=run.classes,
        multi_label=run.multi_label,
        preprocessing=_preprocessing(run),
        data=str(run.data),
        training_split=dataset.training_split,
        num_images={name: split.num_images for name, split in manifest.splits.items()},
        counts=manifest.counts,
        provenance=manifest.provenance,
        hyperparameters={name: value for name, value in to_dict(run.train).items() if _is_listed(name, value)},
        epochs=len(rows),
        best_epoch=best.epoch,
        seed=run.train.seed,
        start=run.start,
        validation=_measured("validation", found["validation"]),
        test=_measured("test", found["test"]) if "test" in found else None,
        commands=_commands(run_dir, run),
        versions={
            "tinyclf": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "Python": platform.python_version(),
        },
    )


def _is_listed(name: str, value: Any) -> bool:
    return name not in NOT_LISTED and value not in (None, "", [])


def _preprocessing(run: RunConfig) -> dict[str, Any]:
    given = run.preprocessing
    resized = {} if given.stored == given.size else {"stored size": f"{given.stored}x{given.stored}"}
    return {
        "made square by": given.crop,
        **resized,
        "size": f"{given.size}x{given.size}",
        "channels": given.channels,
        "mean": given.mean,
        "std": given.std,
    }


def _measured(split: str, found: Assessment) -> Measured:
    return Measured(
        split=split,
        metrics=found.metrics.to_dict(),
        intervals=found.intervals,
        level=LEVEL,
        fine_grained=found.fine_grained.to_dict() if found.fine_grained else None,
    )


def _commands(run_dir: Path, run: RunConfig) -> dict[str, str]:
    commands = {
        "classify images": f"tinyclf predict --run {run_dir} IMAGE...",
        "measure it again": f"tinyclf eval {run_dir} --split test",
        "get an ONNX file": f"tinyclf export {run_dir} --format onnx",
    }
    if not run.multi_label:
        commands["go on learning on a device"] = f"tinyclf deploy --target pulp --from {run_dir} --variant LP"
    return commands
