"""Everything that training works with, set up from a configuration: data, model, loss, optimiser, kept features."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.base.plugins import load_object
from tinyclf.workstation.data import (
    MEAN,
    STD,
    Dataset,
    Loader,
    Position,
    Preprocessing,
    Split,
    make_loader,
    open_dataset,
    parse_augmentations,
    verify_files,
)
from tinyclf.workstation.nets.build import (
    build_model,
    fold_batchnorm,
    freeze,
    load_pretrained,
    load_state,
    load_weights,
    require_trained_head,
    set_train_mode,
)
from tinyclf.workstation.runs.config import TrainConfig, resolve
from tinyclf.workstation.runs.directory import BEST_FILE, RunConfig, empty_model, read_run, read_state
from tinyclf.workstation.training.features import FeatureLoader, Parts, cut, kept_features, to_tensor
from tinyclf.workstation.training.losses import Loss, make_loss, plain_loss
from tinyclf.workstation.training.optim import Average, keep_frozen_channels, make_optimizer
from tinyclf.workstation.training.parallel import make_fabric, synchronise_batchnorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Session:
    """What training works with.

    `model` is the whole net; `bare` is what is called: the net, or its trained part where the features of the frozen
    part are kept; `net` is the same, as Fabric wraps it for training. `inputs` yields (inputs of `bare`, labels) of
    this process's share of the validation split.
    """

    fabric: Fabric
    run: RunConfig
    model: nn.Module
    bare: nn.Module
    net: nn.Module
    optimizer: Any
    loss: Loss
    plain: Loss
    loader: Loader | FeatureLoader
    inputs: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]
    average: Average | None
    is_random: bool
    notes: tuple[str, ...]


def open_session(
    config: TrainConfig, *, resumed: RunConfig | None = None, weights: Mapping[str, torch.Tensor] | None = None
) -> Session:
    """Set everything up; `resumed`: as it was in that run, with its saved `weights` if it had saved any.

    Raises:
        BadInput: the dataset, the starting weights, or options that do not go with them.
        Unsupported: what is asked for cannot be done with this net.
    """
    config = resumed.train if resumed else inherit(config)
    dataset = _open(config)
    training, validation = dataset.split(dataset.training_split), dataset.split("validation")
    preprocessing = resumed.preprocessing if resumed else _preprocessing(config, dataset)
    loss = make_loss(config, training.labels, num_classes=len(dataset.classes), multi_label=dataset.multi_label)
    if resumed and weights is not None:
        model, start = _saved_model(resumed, weights), resumed.start
    else:
        model, start = _starting_model(config, dataset, preprocessing)
    make_optimizer(model, config)  # refuses options that do not fit before anything starts
    loader = _loader(config, training, preprocessing)
    verify_files(dataset.path, dataset.manifest, splits=(training.name, "validation"))
    fabric = make_fabric(config)
    loader = replace(loader, sampler=replace(loader.sampler, rank=fabric.global_rank, world=fabric.world_size))
    _check_batchnorm(model, num_images=loader.sampler.num_images_of(0))
    model = model.to(memory_format=torch.channels_last).to(fabric.device)  # type: ignore[call-overload]
    threads = config.threads or (resumed.threads if resumed else 0)
    threads = fabric.broadcast(threads or fastest_threads(model, loader, loss, bn=config.bn))
    run = resumed or RunConfig(
        config, dataset.classes, dataset.multi_label, preprocessing, start, _digest(dataset), threads, fabric.world_size
    )
    _check_same(run, dataset, fabric.world_size)
    return _assemble(fabric, run, model, loss=loss, loader=loader, validation=validation)


def _assemble(
    fabric: Fabric, run: RunConfig, model: nn.Module, *, loss: Loss, loader: Loader, validation: Split
) -> Session:
    """Keep features if that is asked for, and hand model and optimiser to Fabric."""
    config = run.train
    with using_threads(run.threads):
        kept, notes = _keep_features(fabric, config, model, loader, validation)
    feature_loader, inputs, bare = kept or (None, _images(loader, validation), model)
    if fabric.world_size > 1:
        synchronise_batchnorm(model)
    is_random = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in bare.modules())
    average = Average(model, decay=config.ema) if config.ema else None
    plain_optimizer = make_optimizer(model, config)
    keep_frozen_channels(model, plain_optimizer)
    net, optimizer = fabric.setup(bare, plain_optimizer)
    return Session(
        fabric=fabric,
        run=run,
        model=model,
        bare=bare,
        net=net,
        optimizer=optimizer,
        loss=loss,
        plain=plain_loss(multi_label=run.multi_label),
        loader=feature_loader or loader,
        inputs=inputs,
        average=average,
        is_random=is_random,
        notes=tuple(notes),
    )


# --- data -----------------------------------------------------------------------------------------------------------


def _open(config: TrainConfig) -> Dataset:
    if config.data is None:
        raise BadInput("no dataset: give --data DIR, a folder that tinyclf data build has written")
    return open_dataset(config.data)


def _digest(dataset: Dataset) -> str:
    return hashlib.sha256(dataset.manifest.to_json().encode()).hexdigest()


def _check_same(run: RunConfig, dataset: Dataset, world: int) -> None:
    """Refuse to go on with a run under other conditions than it began with: it would not be the same run."""
    if run.dataset != _digest(dataset):
        raise BadInput(f"{dataset.path}: has changed since the run began: train anew")
    if run.world != world:
        raise BadInput(f"the run began with {run.world} process(es), now there are {world}: go on with as many")


def inherit(config: TrainConfig) -> TrainConfig:
    """Fill in defaults; what is None and part of a run comes from the run that is started from."""
    if config.from_run is None:
        return resolve(config)
    source = read_run(config.from_run)
    before = source.preprocessing
    inherited = {"size": before.size, "mean": before.mean, "std": before.std, "channels": before.channels}
    missing: dict[str, Any] = {key: value for key, value in inherited.items() if getattr(config, key) is None}
    config = replace(config, **missing, small_input=config.small_input or source.train.small_input)
    if source.train.bn == "folded":  # there is no BatchNorm left in its net
        config = replace(config, bn="folded")
    return resolve(config, inherited_arch=source.arch)


def _preprocessing(config: TrainConfig, dataset: Dataset) -> Preprocessing:
    crop = dataset.manifest.provenance.get("options", {}).get("crop", "squash")
    mean, std = (config.mean or MEAN), (config.std or STD)
    return Preprocessing(
        size=config.size or dataset.size,
        stored=dataset.size,
        crop=crop,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        channels=config.channels or "RGB",
    )


def _loader(config: TrainConfig, training: Split, preprocessing: Preprocessing) -> Loader:
    if config.sampler == "balanced" and training.labels.ndim > 1:
        raise BadInput("--sampler balanced: the images have several labels each: use class_weights=balanced")
    return make_loader(
        training,
        preprocessing,
        batch_size=config.batch_size,
        seed=config.seed,
        order=config.sampler,
        augmentations=parse_augmentations(config.augment),
        transform=load_object(config.transform, what="transform") if config.transform else None,
        window_mib=config.window,
        merge_single=True,
    )


def _images(loader: Loader, split: Split) -> Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Return a function that yields (images, labels) of this process's share of `split`."""

    def inputs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for indices in _share(loader, len(split)):
            yield loader.preprocessing.apply(split.gather(indices)), torch.from_numpy(split.labels[indices])

    return inputs


def _share(loader: Loader, num: int) -> Iterator[Any]:
    """Yield the indices of this process's part of 0 .. num, a batch at a time."""
    import numpy as np

    mine = np.arange(loader.sampler.rank, num, loader.sampler.world)
    yield from (mine[first : first + EVALUATION_BATCH] for first in range(0, len(mine), EVALUATION_BATCH))


# --- model ----------------------------------------------------------------------------------------------------------


def _starting_model(config: TrainConfig, dataset: Dataset, preprocessing: Preprocessing) -> tuple[nn.Module, str]:
    """Build the model with its starting weights, frozen and folded as asked for; say where the weights come from."""
    assert config.arch is not None
    model = build_model(
        config.arch,
        num_classes=len(dataset.classes),
        size=preprocessing.size,
        seed=config.seed,
        small_input=config.small_input,
    )
    freeze(model, config.variant)
    if not config.variant.needs_weights:
        return model, f"random weights, seed {config.seed}"
    folded_before = bool(config.from_run) and read_run(config.from_run).train.bn == "folded"  # type: ignore[arg-type]
    if folded_before:
        model = fold_batchnorm(model)
    source, with_head = _load(model, config)
    if not with_head:
        require_trained_head(model, config.variant)
    if config.bn == "folded" and not folded_before:
        model = fold_batchnorm(model)
    return model, f"{source}, {'with its' if with_head else 'with a new'} last layer"


def _saved_model(run: RunConfig, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    model = empty_model(run)
    load_state(model, dict(weights), source="the saved state", keep_head=True)
    return model


def _load(model: nn.Module, config: TrainConfig) -> tuple[str, bool]:
    """Load the starting weights: return where they come from, and whether the last layer's came with them."""
    if config.from_run:
        source = str(config.from_run if config.from_run.is_file() else config.from_run / BEST_FILE)
        return source, load_state(model, read_state(config.from_run), source=source)
    if config.weights:
        return str(config.weights), load_weights(model, config.weights)
    assert config.arch is not None
    return f"pytorchcv's weights of {config.arch}", load_pretrained(model, config.arch)


def _check_batchnorm(model: nn.Module, *, num_images: int) -> None:
    """Refuse batches of one image where BatchNorm would take its statistics from them."""
    trained = any(isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad for m in model.modules())
    if trained and num_images < 2:
        raise BadInput("batches of 1 image: BatchNorm needs 2 or more to train: use --batch-size 2, or --variant LP")


# --- kept features --------------------------------------------------------------------------------------------------

_Kept = tuple[FeatureLoader, Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]], nn.Module]


def _keep_features(
    fabric: Fabric, config: TrainConfig, model: nn.Module, loader: Loader, validation: Split
) -> tuple[_Kept | None, list[str]]:
    """Keep the frozen part's features where that is asked for, or exact; say in words what was done."""
    reason = _why_not(config, loader)
    keep, not_kept = config.keep_features, "features of the frozen part are not kept"
    if keep == "off" or (keep == "auto" and (reason or config.variant.trains_everything)):
        return None, [f"{not_kept}: {reason}"] if keep == "auto" and reason else []
    try:
        if config.bn == "train" or loader.transform:
            raise Unsupported(reason)
        set_train_mode(model, bn=config.bn)
        parts = cut(model)
        return _kept(fabric, config, parts, loader, validation)
    except (BadInput, Unsupported) as error:
        if keep == "on":
            raise BadInput(f"--keep-features on: {error}") from error
        return None, [f"{not_kept}: {error}"]


def _why_not(config: TrainConfig, loader: Loader) -> str:
    """Say why training with kept features would not be the same; empty if it would."""
    if config.bn == "train":
        return "the statistics of its BatchNorms change (--bn train)"
    if loader.transform:
        return "the transform changes images in each epoch"
    if loader.augmentations:
        return f"images are augmented; --keep-features on keeps {config.feature_views} views of each"
    return ""


def _kept(
    fabric: Fabric, config: TrainConfig, parts: Parts, loader: Loader, validation: Split
) -> tuple[_Kept, list[str]]:
    num_views = config.feature_views if loader.augmentations else 1
    folder = config.feature_dir or _default_folder()
    limit = config.feature_limit * 2**30
    begin = time.perf_counter()
    if fabric.global_rank:
        fabric.barrier()  # the first process writes them, if need be
    views, held_out, where, found = kept_features(
        parts.frozen, loader, validation, num_views=num_views, folder=folder, limit=limit
    )
    if not fabric.global_rank:
        fabric.barrier()
    what = f"{num_views} views of each image" if loader.augmentations else "exact"
    how = "found there" if found else f"computed in {time.perf_counter() - begin:.1f} s"
    note = f"features of the frozen part are kept ({what}), {how}: {where}"

    def inputs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for indices in _share(loader, len(held_out)):
            yield to_tensor(held_out.gather(indices)), torch.from_numpy(held_out.labels[indices])

    return (FeatureLoader(views, loader.sampler), inputs, parts.trained), [note]


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyclf" / "features"


# --- threads --------------------------------------------------------------------------------------------------------


def fastest_threads(model: nn.Module, loader: Loader, loss: Loss, *, bn: str = "frozen") -> int:
    """Time a few steps on a copy of `model` with one thread and with all; return the faster number.

    With a core busy elsewhere, two OpenMP threads can train ten times slower than one.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    copied = copy.deepcopy(model)
    trained = [p for p in copied.parameters() if p.requires_grad]
    _, images, labels = next(loader.batches(Position(1)))
    images, labels = images[:32].to(trained[0].device), labels[:32].to(trained[0].device)
    set_train_mode(copied, bn=bn)
    seconds = {}
    for threads in (1, most):
        with using_threads(threads):
            seconds[threads] = _seconds_per_step(lambda: torch.autograd.grad(loss(copied(images), labels), trained))
    return min(seconds, key=lambda threads: seconds[threads])


def _seconds_per_step(step: Callable[[], object], *, budget: float = 0.3) -> float:
    """Return the mean time of a step after a first one, over `budget` seconds or eight steps."""
    step()
    begin = time.perf_counter()
    done = 0
    while done < 8 and time.perf_counter() - begin < budget:
        step()
        done += 1
    return (time.perf_counter() - begin) / done if done else math.inf


@contextlib.contextmanager
def using_threads(num: int) -> Iterator[None]:
    """Let torch use `num` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
