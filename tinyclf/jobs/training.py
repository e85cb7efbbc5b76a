"""Where the two halves meet for training runs: a run and a dataset become a job; a device's weights become a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.device.run.files import Samples, WeightsHeader, number_of, read_weights
from tinyclf.device.run.job import TrainingJob
from tinyclf.device.run.training import net_number, require_file
from tinyclf.device.targets.target import l1_option
from tinyclf.jobs.request import MOST_64_BITS, TrainingRequest, check_request, load_for
from tinyclf.recipe.update_options import options_text
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.data import open_dataset
from tinyclf.workstation.nets.build import fold_batchnorm, freeze
from tinyclf.workstation.results.evaluate import predict
from tinyclf.workstation.runs.directory import (
    BEST_FILE,
    EpochRow,
    RunConfig,
    create_run_dir,
    load_run,
    read_state,
    write_checkpoint,
    write_config,
)

MOST_EPOCHS = 2**31 - 1  # with at most 2^32 - 1 samples each, steps are counted in 64 bits


def make_training_job(request: TrainingRequest) -> TrainingJob:
    """Load the run, fold its BatchNorm, and take the samples, by default all.

    Raises:
        BadInput: options that do not go together, or a run or dataset that cannot be read.
        DoesNotFit: the samples make a file that the target cannot read.
        Unsupported: the run was trained on several labels per image.
    """
    _check(request)
    run = request.from_run
    if run is None:
        raise BadInput("--epochs needs --from RUN: a training run starts from a trained net")
    loaded = load_for(run, request)
    size = loaded.config.preprocessing.size
    training, test = loaded.training, loaded.dataset.split("test")
    num_train, num_test = (
        len(split) if num is None else min(num, len(split))
        for split, num in ((training, request.num_samples), (test, request.num_test))
    )
    require_file(request.target, num_train=num_train, num_test=num_test, shape=(3, size, size))
    samples = Samples(
        *loaded.take(training, request.num_samples, option="--samples", seed=request.seed),
        *loaded.take(test, request.num_test, option="--test-samples", seed=request.seed),
    )
    rule = _rule(request, loaded.variant, num_train)
    return TrainingJob(
        model=fold_batchnorm(loaded.model),
        variant=loaded.variant,
        samples=samples,
        num_classes=loaded.config.num_classes,
        num_epochs=request.num_epochs,
        checkpoint_every=request.checkpoint_every,
        rule=rule,
        seed=request.seed,
        source=source_number(run),
        cache=request.cache,
        recompute=request.recompute,
        command=_command(request, run, loaded.variant, samples, rule),
    )


def _check(request: TrainingRequest) -> None:
    if not 1 <= request.num_epochs <= MOST_EPOCHS:
        raise BadInput("--epochs must be in 1 .. 2^31 - 1")
    if (request.num_test is not None and request.num_test < 0) or request.checkpoint_every < 0:
        raise BadInput("--test-samples and --checkpoint-every must be at least 0")
    if request.checkpoint_every > MOST_64_BITS:
        raise BadInput("--checkpoint-every must be at most 2^64 - 1")
    check_request(request)
    # Before anything is read: all that does not depend on the dataset. A run of all its samples is judged later.
    _rule(request, request.variant or Variant("LP"), request.num_samples or max(request.batch, 1))


def _rule(request: TrainingRequest, variant: Variant, num_train: int) -> UpdateRule:
    return request.rule(
        reaches_everything=variant.reaches_everything,
        num_samples=request.num_epochs * num_train,
        asked=f"{request.num_epochs} epochs of {num_train} samples",
    )


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
    options = replace(
        config.train,
        variant=header.trained,
        bn="folded",
        from_run=run.absolute(),
        weights=None,
    )
    start = f"{run}, then trained on a device: {file.name}"
    return folded, replace(config, train=options, start=start)


def _check_belongs(header: WeightsHeader, folded: nn.Module, *, run: Path, file: Path) -> None:
    shapes = {name: tuple(p.shape) for name, p in folded.named_parameters()}
    trained = {name for name, p in folded.named_parameters() if p.requires_grad}
    fits = {t.name for t in header.tensors} == trained and all(
        _is_part(t.shape, shapes[t.name]) for t in header.tensors
    )
    if header.net != net_number(folded) or not fits:
        raise BadInput(f"{file}: holds weights of another net than {run}: name the run that was deployed")
    if header.source != source_number(run):
        raise BadInput(
            f"{file}: was trained on top of other weights than those of {run}: name the run that was deployed"
        )


def _is_part(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Tell whether `shape` is that of a parameter, or of leading rows of one."""
    return len(shape) == len(whole) and shape[1:] == whole[1:] and shape[:1] <= whole[:1]


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
