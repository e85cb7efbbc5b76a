"""Where the two halves meet for training runs: a run and a dataset become a job; a device's weights become a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.data import Split, open_dataset
from tinyclf.data.sampling import epoch_order
from tinyclf.device_files import Samples, WeightsHeader, number_of, read_weights
from tinyclf.device_run import TrainingJob, net_number
from tinyclf.errors import BadInput, Unsupported
from tinyclf.evaluate import check_classes, predict
from tinyclf.models import fold_batchnorm, freeze
from tinyclf.rules import UpdateRule
from tinyclf.runs import (
    BEST_FILE,
    EpochRow,
    RunConfig,
    create_run_dir,
    load_run,
    read_state,
    write_checkpoint,
    write_config,
)
from tinyclf.targets import Target, l1_option
from tinyclf.update_options import UpdateOptions, options_text
from tinyclf.variants import Variant

MOST_64_BITS = 2**64 - 1


@dataclass(frozen=True)
class TrainingRequest(UpdateOptions):
    """What a user asks for. None: the default; of samples all, of the rest the run's own, or that of `jobs`."""

    target: Target
    from_run: Path | None
    variant: Variant | None
    data: Path | None
    num_samples: int | None
    num_test: int | None
    num_epochs: int
    checkpoint_every: int
    cache: str
    seed: int
    recompute: bool = False


def make_training_job(request: TrainingRequest) -> TrainingJob:
    """Load the run, fold its BatchNorm, and take the samples.

    Raises:
        BadInput: options that do not go together, or a run or dataset that cannot be read.
        Unsupported: the run was trained on several labels per image.
    """
    _check(request)
    run = request.from_run
    if run is None:
        raise BadInput("--epochs needs --from RUN: a training run starts from a trained net")
    model, config = load_run(run)
    if config.multi_label:
        raise Unsupported(f"{run}: was trained on several labels per image, the device trains on one class")
    variant = request.variant or config.variant
    freeze(model, variant)
    dataset = open_dataset(request.data or config.data)
    check_classes(config, dataset.classes, multi_label=dataset.multi_label, run_name=run, data_name=dataset.path)
    config = replace(config, preprocessing=replace(config.preprocessing, stored=dataset.size))
    training, test = dataset.split(dataset.training_split), dataset.split("test")
    samples = Samples(
        *_take(config, training, request.num_samples, option="--samples", seed=request.seed),
        *_take(config, test, request.num_test, option="--test-samples", seed=request.seed),
    )
    rule = _rule(request, variant, len(samples.train_labels))
    return TrainingJob(
        model=fold_batchnorm(model),
        variant=variant,
        samples=samples,
        num_classes=config.num_classes,
        num_epochs=request.num_epochs,
        checkpoint_every=request.checkpoint_every,
        rule=rule,
        seed=request.seed,
        source=source_number(run),
        cache=request.cache,
        recompute=request.recompute,
        command=_command(request, run, variant, samples, rule),
    )


def _check(request: TrainingRequest) -> None:
    if request.num_epochs < 1 or (request.num_samples is not None and request.num_samples < 1):
        raise BadInput("--epochs and --samples must be at least 1")
    if (request.num_test is not None and request.num_test < 0) or request.checkpoint_every < 0:
        raise BadInput("--test-samples and --checkpoint-every must be at least 0")
    if not 0 <= request.seed <= MOST_64_BITS:
        raise BadInput("--seed must be in 0 .. 2^64 - 1")
    # Before anything is read: all that does not depend on the dataset. A run of all its samples is judged later.
    _rule(request, request.variant or Variant("LP"), request.num_samples or max(request.batch, 1))


def _rule(request: TrainingRequest, variant: Variant, num_train: int) -> UpdateRule:
    return request.rule(
        reaches_everything=variant.reaches_everything,
        num_samples=request.num_epochs * num_train,
        asked=f"{request.num_epochs} epochs of {num_train} samples",
    )


def _take(
    config: RunConfig, split: Split, num: int | None, *, option: str, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return `num` images (num, C, H, W), prepared for the net, and their classes; which ones depends on the seed."""
    if num is not None and num > len(split):
        raise BadInput(f"{option} {num}: the {split.name} split has {len(split):,}")
    order = epoch_order(len(split), seed=seed, epoch=0)[:num]
    images = config.preprocessing.apply(split.gather(order)).contiguous().numpy()
    return images, split.labels[order].astype(np.int64)


def _command(request: TrainingRequest, run: Path, variant: Variant, samples: Samples, rule: UpdateRule) -> str:
    return (
        f"tinyclf deploy --target {request.target.name} --from {run.name} {variant.options} "
        f"--samples {len(samples.train_labels)} --test-samples {len(samples.test_labels)} "
        f"--epochs {request.num_epochs} --checkpoint-every {request.checkpoint_every} --cache {request.cache}"
        f"{options_text(rule)} --seed {request.seed}{' --recompute' if request.recompute else ''}"
        f"{l1_option(request.target)}"
    )


# --- weights come back ------------------------------------------------------------------------------------------------


def source_number(run: Path) -> int:
    """Return the number that names the weights of a run, as they are saved: before BatchNorm is folded."""
    state = read_state(run)
    return number_of(*(part for name in sorted(state) for part in (name, state[name].contiguous().numpy().tobytes())))


def load_device_weights(run: Path, file: Path) -> tuple[nn.Module, RunConfig]:
    """Return the net of `run`, BatchNorm folded, with what a device trained; and its run, as a folded one.

    Raises:
        BadInput: `file` is damaged, of another net, or was trained on top of other weights than those of `run`.
    """
    header, values = read_weights(file)
    model, config = load_run(run)
    freeze(model, header.trained)
    folded = fold_batchnorm(model).eval()
    parameters = dict(folded.named_parameters())
    _check_belongs(header, folded, run=run, file=file)
    with torch.no_grad():
        for name, value in values.items():
            parameters[name][: len(value)].copy_(torch.from_numpy(value.copy()))
    trained = header.trained
    options = replace(
        config.train,
        variant=trained.name,
        k=trained.k,
        layers=trained.layers,
        bias_only=trained.bias_only,
        train_channels=trained.fractions,
        bn="folded",
        from_run=run.absolute(),
        weights=None,
    )
    start = f"{run}, then trained on a device: {file.name}"
    return folded, replace(config, train=options, start=start)


def _check_belongs(header: WeightsHeader, folded: nn.Module, *, run: Path, file: Path) -> None:
    shapes = {name: tuple(p.shape) for name, p in folded.named_parameters()}
    if header.net != net_number(folded) or not all(_is_part(t.shape, shapes.get(t.name)) for t in header.tensors):
        raise BadInput(f"{file}: holds weights of another net than {run}: name the run that was deployed")
    if header.source != source_number(run):
        raise BadInput(
            f"{file}: was trained on top of other weights than those of {run}: name the run that was deployed"
        )


def _is_part(shape: tuple[int, ...], whole: tuple[int, ...] | None) -> bool:
    """Tell whether `shape` is that of a parameter, or of leading rows of one."""
    return whole is not None and shape[1:] == whole[1:] and 0 < shape[0] <= whole[0]


def import_weights(run: Path, file: Path, out: Path | None) -> tuple[Path, float]:
    """Write a run directory with what a device trained; return it, and its accuracy on the validation split.

    Raises:
        BadInput: as `load_device_weights`; the run's dataset cannot be read; `out` holds something.
    """
    model, config = load_device_weights(run, file)
    dataset = open_dataset(config.data)
    validation = dataset.split("validation")
    logits = predict(model, validation, replace(config.preprocessing, stored=dataset.size)).numpy()
    accuracy = float((logits.argmax(1) == validation.labels).mean())
    run_dir = create_run_dir(out, variant=config.variant.kind, arch=config.arch)
    write_config(run_dir, config)
    row = EpochRow(epoch=0, lr=0.0, train_loss=0.0, train_accuracy=0.0, val_loss=0.0, val_accuracy=accuracy)
    write_checkpoint(run_dir / BEST_FILE, model.state_dict(), run=config, row=row)
    return run_dir, accuracy
