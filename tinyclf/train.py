"""Training on the workstation: defaults per variant, starting weights, one small explicit loop."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tinyclf.data import (
    MEAN,
    STD,
    Dataset,
    Loader,
    Position,
    Split,
    batches,
    make_loader,
    open_dataset,
    parse_augmentations,
    verify_files,
)
from tinyclf.errors import BadInput, TinyclfError, Unsupported
from tinyclf.evaluate import evaluate
from tinyclf.models import build_model, freeze, load_pretrained, load_state, load_weights, set_train_mode
from tinyclf.runs import (
    BEST_FILE,
    LAST_FILE,
    EpochRow,
    RunConfig,
    TrainConfig,
    create_run_dir,
    load_run,
    read_config,
    read_state,
    write_checkpoint,
    write_config,
    write_curves,
    write_log,
)
from tinyclf.variants import Variant

__all__ = ["DEFAULTS", "EpochRow", "RunConfig", "TrainConfig", "configure", "load_run", "train"]


@dataclass(frozen=True)
class Defaults:
    """Hyperparameters of a variant that hold where the user gives none."""

    epochs: int
    lr: float
    weight_decay: float


BATCH_SIZE = 32
MOMENTUM = 0.9
WARMUP = 0.1  # share of all steps; a full-sized first step leaves channels dead, and 5 points of accuracy with them

DEFAULTS = {
    "scratch": Defaults(epochs=20, lr=0.05, weight_decay=2e-3),
    "full": Defaults(epochs=15, lr=0.01, weight_decay=2e-3),
    "LP": Defaults(epochs=15, lr=0.1, weight_decay=0.0),
    "FD": Defaults(epochs=15, lr=0.1, weight_decay=0.0),
    "FT": Defaults(epochs=20, lr=0.1, weight_decay=5e-4),
}


def configure(
    *,
    variant: Variant,
    data: Path,
    arch: str | None = None,
    from_run: Path | None = None,
    weights: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    augment: str = "",
    sampler: str = "shuffled",
    window: int | None = None,
) -> TrainConfig:
    """Return the whole configuration: what is None takes the default of the variant, or of the run started from.

    Raises:
        BadInput: values that cannot be used, or that contradict each other.
    """
    defaults = DEFAULTS[variant.name]
    config = TrainConfig(
        variant=variant,
        arch=_arch(variant, arch=arch, from_run=from_run),
        data=data.absolute(),
        epochs=defaults.epochs if epochs is None else epochs,
        batch_size=BATCH_SIZE if batch_size is None else batch_size,
        lr=defaults.lr if lr is None else lr,
        momentum=MOMENTUM,
        weight_decay=defaults.weight_decay if weight_decay is None else weight_decay,
        seed=seed,
        threads=threads,
        from_run=from_run and from_run.absolute(),
        weights=weights and weights.absolute(),
        augment=augment,
        sampler=sampler,
        window=window,
    )
    _check(config)
    return config


def _arch(variant: Variant, *, arch: str | None, from_run: Path | None) -> str:
    """Choose the architecture: the one asked for, else that of the run started from, else the variant's own."""
    inherited = read_config(from_run).arch if from_run else None
    if arch and inherited and arch != inherited:
        raise BadInput(f"--arch {arch} contradicts --from {from_run}, which holds {inherited}: leave out --arch")
    chosen = arch or inherited or variant.default_arch
    if variant.name == "FD" and not chosen.startswith("fdmobilenet"):
        raise BadInput(f"FD trains the linear layer of an FD-MobileNet: for {chosen} use --variant LP")
    return chosen


def _check(config: TrainConfig) -> None:
    if config.from_run and config.weights:
        raise BadInput("--from and --weights both name the weights to start from: give one of them")
    if not config.variant.needs_weights and (config.from_run or config.weights):
        raise BadInput(
            f"{config.variant.name} starts from random weights: leave out --from and --weights, or use --variant full"
        )
    for name, value, least in (
        ("epochs", config.epochs, 1),
        ("batch-size", config.batch_size, 1),
        ("seed", config.seed, 0),
        ("threads", 1 if config.threads is None else config.threads, 1),
        ("weight-decay", config.weight_decay, 0),
        ("window", 1 if config.window is None else config.window, 1),
    ):
        if not least <= value < math.inf:
            raise BadInput(f"--{name} {value}: must be {least} or more")
    if not 0 < config.lr < math.inf:
        raise BadInput(f"--lr {config.lr}: must be more than 0")
    if config.sampler == "balanced" and config.window is not None:
        raise BadInput("--sampler balanced draws from all images at any time: leave out --window")
    parse_augmentations(config.augment)


def train(
    config: TrainConfig,
    *,
    out: Path | None = None,
    on_start: Callable[[RunConfig, nn.Module], None] | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> Path:
    """Train and return the run directory: `out`, or the next numbered one in runs/.

    `on_start` is called once before the first step, `on_epoch` after each epoch. Depends on `config` alone: the same
    seed and number of threads give the same weights, and torch's random state is neither read nor changed.

    Raises:
        BadInput: dataset, starting weights or `out` cannot be used.
        TinyclfError: the loss stopped being a number.
    """
    dataset = open_dataset(config.data)
    if dataset.multi_label:
        raise Unsupported(
            f"{dataset.path}: has {len(dataset.classes)} labels per image: train takes one class per image"
        )
    training, validation = dataset.split(dataset.training_split), dataset.split("validation")
    loader = _loader(config, training)
    verify_files(dataset.path, dataset.manifest, splits=(training.name, "validation"))
    model, start = _starting_model(config, dataset)
    freeze(model, config.variant)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _check_batchnorm(model, num_images=min(config.batch_size, len(training)))
    threads = config.threads or fastest_threads(model, training, batch_size=config.batch_size)
    run = RunConfig(config, dataset.classes, dataset.size, MEAN, STD, start, threads)
    run_dir = create_run_dir(out, variant=config.variant.name, arch=config.arch)
    write_config(run_dir, run)
    if on_start:
        on_start(run, model)
    rows: list[EpochRow] = []
    with _threads(threads):
        for row in _epochs(model, config, loader=loader, validation=validation):
            _save(run_dir, model, run=run, rows=rows, row=row)
            if on_epoch:
                on_epoch(row)
    write_curves(run_dir, rows)
    return run_dir


def _loader(config: TrainConfig, training: Split) -> Loader:
    return make_loader(
        training,
        batch_size=config.batch_size,
        seed=config.seed,
        order=config.sampler,
        augmentations=parse_augmentations(config.augment),
        window_mib=config.window,
        merge_single=True,
    )


def _starting_model(config: TrainConfig, dataset: Dataset) -> tuple[nn.Module, str]:
    """Build the model with its starting weights; say in words where they come from."""
    model = build_model(config.arch, num_classes=len(dataset.classes), size=dataset.size, seed=config.seed)
    if not config.variant.needs_weights:
        return model, f"random weights, seed {config.seed}"
    if config.from_run:
        source = str(config.from_run / BEST_FILE)
        with_head = load_state(model, read_state(config.from_run), source=source)
    elif config.weights:
        source, with_head = str(config.weights), load_weights(model, config.weights)
    else:
        source, with_head = f"pytorchcv's weights of {config.arch}", load_pretrained(model, config.arch)
    return model, f"{source}, {'with its' if with_head else 'with a new'} linear layer"


def _check_batchnorm(model: nn.Module, *, num_images: int) -> None:
    """Refuse batches of one image where BatchNorm would take its statistics from them."""
    trained = any(isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad for m in model.modules())
    if trained and num_images < 2:
        raise BadInput("batches of 1 image: BatchNorm needs 2 or more to train: use --batch-size 2, or --variant LP")


def _epochs(model: nn.Module, config: TrainConfig, *, loader: Loader, validation: Split) -> Iterator[EpochRow]:
    """Train epoch by epoch; the model is in eval mode whenever a row comes out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )
    num_steps = len(loader)
    for epoch in range(1, config.epochs + 1):
        begin = time.perf_counter()
        rates = [_rate(config.lr, done=(epoch - 1 + (s + 0.5) / num_steps) / config.epochs) for s in range(num_steps)]
        loss, accuracy = _train_epoch(model, optimizer, config=config, loader=loader, epoch=epoch, rates=rates)
        train_seconds = time.perf_counter() - begin
        result = evaluate(model, validation)
        yield EpochRow(
            epoch=epoch,
            lr=rates[-1],
            train_loss=loss,
            train_accuracy=accuracy,
            val_loss=result.loss,
            val_accuracy=result.accuracy,
            seconds=time.perf_counter() - begin,
            images_per_s=len(loader.split) / train_seconds,
        )


def _rate(lr: float, *, done: float) -> float:
    """Return the learning rate when the share `done` of all steps is behind: a linear rise, under a cosine to 0."""
    return lr * min(1.0, done / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    config: TrainConfig,
    loader: Loader,
    epoch: int,
    rates: list[float],
) -> tuple[float, float]:
    """Run one epoch, step `i` at `rates[i]`; return mean loss and accuracy over its images as they were trained."""
    set_train_mode(model)
    total_loss, hits = 0.0, 0
    for rate, (_, images, labels) in zip(rates, loader.batches(Position(epoch)), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        logits, loss = _step(model, optimizer, images=images, labels=labels)
        if not math.isfinite(loss):
            raise TinyclfError(
                f"the loss became {loss} in epoch {epoch} at learning rate {rate:.3g}: "
                f"lower it, for instance --lr {config.lr / 10:.3g}"
            )
        total_loss += loss * len(labels)
        hits += int((logits.argmax(1) == labels).sum())
    return total_loss / len(loader.split), hits / len(loader.split)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Do one step of training; return the logits (n, classes) and the loss before it."""
    optimizer.zero_grad()
    logits = model(images)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return logits.detach(), loss.item()


def _save(run_dir: Path, model: nn.Module, *, run: RunConfig, rows: list[EpochRow], row: EpochRow) -> None:
    """Append `row` to `rows`, and write the log, the last and, if it is, the best weights."""
    best = all((row.val_accuracy, -row.val_loss) > (r.val_accuracy, -r.val_loss) for r in rows)
    rows.append(row)
    if best:
        write_checkpoint(run_dir / BEST_FILE, model, config=run, row=row)
    write_checkpoint(run_dir / LAST_FILE, model, config=run, row=row)
    write_log(run_dir, rows)


def fastest_threads(model: nn.Module, split: Split, *, batch_size: int) -> int:
    """Time a few steps on a copy of `model` with one thread and with all; return the faster number.

    With a core busy elsewhere, two OpenMP threads can train ten times slower than one.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    copied = copy.deepcopy(model)
    optimizer = torch.optim.SGD([p for p in copied.parameters() if p.requires_grad], lr=0.0)
    num_images = min(batch_size, len(split), 32)
    images, labels = next(batches(split, batch_size=num_images))
    set_train_mode(copied)
    seconds = {}
    for threads in (1, most):
        with _threads(threads):
            seconds[threads] = _seconds_per_step(lambda: _step(copied, optimizer, images=images, labels=labels))
    return min(seconds, key=lambda threads: seconds[threads])


def _seconds_per_step(step: Callable[[], object], *, budget: float = 0.3) -> float:
    """Return the mean time of a step after a first one, over `budget` seconds or eight steps."""
    step()
    begin = time.perf_counter()
    done = 0
    while done < 8 and time.perf_counter() - begin < budget:
        step()
        done += 1
    return (time.perf_counter() - begin) / done


@contextlib.contextmanager
def _threads(num: int) -> Iterator[None]:
    """Let torch use `num` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
