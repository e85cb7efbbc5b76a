"""Where the two halves meet: a run, or an architecture with random weights, becomes a job for the device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.architectures import ARCHITECTURES
from tinyclf.data import open_dataset
from tinyclf.data.sampling import epoch_order
from tinyclf.deploy import Job, num_fitting_samples
from tinyclf.errors import BadInput, Unsupported
from tinyclf.evaluate import check_classes
from tinyclf.ir import Graph
from tinyclf.lower import training_graph
from tinyclf.memory import MemoryPlan, MemoryReport, plan_memory, report
from tinyclf.models import (
    blocks,
    build_model,
    calibrate_batchnorm,
    fold_batchnorm,
    freeze,
    head_layer,
    model_size_bytes,
    num_macs,
    num_parameters,
)
from tinyclf.rules import UpdateRule
from tinyclf.runs import load_run
from tinyclf.targets import Target
from tinyclf.variants import Variant

DEFAULT_SAMPLES = 4
# Steps of one sample through all of a net soon diverge at a rate that suits its last layers.
DEFAULT_RATE, DEFAULT_RATE_FULL = 0.01, 0.001
DEFAULT_RATE_ADAM = 0.001  # torch's; an update moves each weight by about as much
NUM_CALIBRATION_IMAGES = 16


# Model (BatchNorm not folded), what is trained, images (N, C, H, W), labels (N,), the command that asks for it.
_Start = tuple[nn.Module, Variant, NDArray[np.float32], NDArray[np.int64], str]


@dataclass(frozen=True)
class Request:
    """What a user asks to deploy. None: the default, which with `from_run` is the run's own.

    Without `from_run` the weights, samples and labels are random, from `seed`; `size` is in pixels.
    """

    target: Target
    variant: Variant | None
    arch: str | None
    size: int | None
    num_classes: int | None
    from_run: Path | None
    data: Path | None
    num_steps: int
    num_samples: int | None
    learning_rate: float | None
    weight_decay: float
    seed: int
    optimizer: str = "sgd"
    momentum: float = 0.0
    batch: int = 1
    clip: float = 0.0
    schedule: str = "constant"
    loss: str = "cross_entropy"


@dataclass(frozen=True)
class Need:
    """What one training step of a net needs: its graph, where everything lies, and the sums.

    `num_parameters` are PyTorch's, with BatchNorm; `num_folded` are those that are deployed.
    """

    arch: str
    graph: Graph
    plan: MemoryPlan
    report: MemoryReport
    num_parameters: int
    num_folded: int


def memory_of(
    variant: Variant,
    *,
    arch: str | None,
    size: int,
    num_classes: int,
    small_input: bool = False,
    rule: UpdateRule | None = None,
) -> Need:
    """Plan the memory of a training step of `arch` (None: the variant's default); no data or training is needed.

    `rule`: how weights are updated; None: by plain SGD.
    """
    arch = arch or variant.default_arch
    model = build_model(arch, num_classes=num_classes, size=size, small_input=small_input)
    freeze(model, variant)
    folded = fold_batchnorm(model)
    graph, plan, sums = _plan(folded, (3, size, size), rule)
    return Need(arch, graph, plan, sums, num_parameters(model), num_parameters(folded))


@dataclass(frozen=True)
class NetworkFacts:
    """What `tinyclf models` shows of an architecture at a size and a number of classes.

    `num_parameters` are PyTorch's, with BatchNorm; `num_macs` is of one image, forward; `num_blocks` is the most that
    FT can unfreeze; `published`: pytorchcv offers weights. `obstacle`: why the device half cannot lower it, or "".
    """

    name: str
    description: str
    num_parameters: int
    num_macs: int
    fp32_bytes: int
    fp16_bytes: int
    num_blocks: int
    published: bool
    obstacle: str


def network_facts(arch: str, *, size: int, num_classes: int, small_input: bool = False) -> NetworkFacts:
    """Return the facts of `arch` for images of `size` pixels; built from shapes alone, without weights.

    Raises:
        BadInput, Unsupported: it cannot be built, see `build_model`.
    """
    with torch.device("meta"):
        model = build_model(arch, num_classes=num_classes, size=size, small_input=small_input)
    row = ARCHITECTURES.get(arch)
    deployed, obstacle = _lowered(model, size=size)
    return NetworkFacts(
        name=arch,
        description=row.description if row else type(model).__name__,
        num_parameters=num_parameters(model),
        num_macs=num_macs(deployed, size),
        fp32_bytes=model_size_bytes(model, 4),
        fp16_bytes=model_size_bytes(model, 2),
        num_blocks=len(blocks(model)),
        published=row is not None and row.published,
        obstacle=obstacle,
    )


def deployability(arch: str, *, size: int, num_classes: int, small_input: bool = False) -> str:
    """Return why `arch` cannot be deployed, as `Unsupported` words it, or "" if it can: tried with variant LP.

    Raises:
        BadInput, Unsupported: it cannot be built, see `build_model`.
    """
    with torch.device("meta"):
        model = build_model(arch, num_classes=num_classes, size=size, small_input=small_input)
    return _lowered(model, size=size)[1]


def _lowered(model: nn.Module, *, size: int) -> tuple[nn.Module, str]:
    """Fold `model` and lower its LP step; return what was lowered, unfolded where folding fails, and the obstacle."""
    try:
        freeze(model, Variant("LP"))
        model = fold_batchnorm(model)
        training_graph(model, input_shape=(3, size, size), learning_rate=DEFAULT_RATE)
    except Unsupported as error:
        return model, str(error)
    return model, ""


def _plan(
    folded: nn.Module, input_shape: tuple[int, int, int], rule: UpdateRule | None = None
) -> tuple[Graph, MemoryPlan, MemoryReport]:
    """Plan a training step; no byte of it depends on the learning rate."""
    graph = training_graph(folded, input_shape=input_shape, rule=rule)
    plan = plan_memory(graph)
    return graph, plan, report(graph, plan)


def default_project(request: Request) -> Path:
    """Return the folder that a project is written to when the user names none."""
    what = (
        request.from_run.name if request.from_run else request.arch or (request.variant or Variant("LP")).default_arch
    )
    variant = "" if request.variant is None else "-" + request.variant.label.replace(" ", "-").replace("=", "")
    return Path("deployed") / f"{request.target.name}-{what.replace(':', '.')}{variant}"


def make_job(request: Request) -> Job:
    """Build the model, fold its BatchNorm, and take the samples.

    Raises:
        BadInput: options that do not go together, or a run or dataset that cannot be read.
    """
    _check(request)
    if request.from_run:
        model, variant, images, labels, command = _from_run(request, request.from_run)
    else:
        model, variant, images, labels, command = _random(request)
    rule = _rule(request, variant)
    folded = fold_batchnorm(model)
    num_classes = head_layer(folded).weight.shape[0]
    num = _num_samples(request, folded, images, rule)
    return Job(
        model=folded,
        samples=images[:num],
        labels=np.eye(num_classes, dtype=np.float32)[labels[:num]],
        num_steps=request.num_steps,
        rule=rule,
        command=f"{command} --steps {request.num_steps} --samples {num} --lr {rule.learning_rate:g} "
        f"--weight-decay {rule.weight_decay:g}{_rule_options(rule)} --seed {request.seed}",
    )


def _rule(request: Request, variant: Variant) -> UpdateRule:
    """Return how the request's weights are updated.

    Raises:
        BadInput: a value is out of its range, or the steps are too few for an update.
    """
    small = DEFAULT_RATE_ADAM if request.optimizer == "adam" else DEFAULT_RATE
    rate = small if request.learning_rate is None else request.learning_rate
    if request.learning_rate is None and variant.trains_everything:
        rate = DEFAULT_RATE_FULL
    if request.num_steps < request.batch:
        raise BadInput(
            f"--steps {request.num_steps} are fewer than the {request.batch} samples of a batch: nothing is updated"
        )
    return UpdateRule(
        rate,
        weight_decay=request.weight_decay,
        optimizer=request.optimizer,
        momentum=request.momentum,
        batch=request.batch,
        clip=request.clip,
        schedule=request.schedule,
        num_updates=request.num_steps // max(request.batch, 1),
        loss=request.loss,
    )


def _rule_options(rule: UpdateRule) -> str:
    """Return the options that ask for `rule`, but for those that have their default."""
    usual = UpdateRule(rule.learning_rate)
    names = ("optimizer", "momentum", "batch", "clip", "schedule", "loss")
    given = {name: getattr(rule, name) for name in names if getattr(rule, name) != getattr(usual, name)}
    return "".join(f" --{name} {str(value).replace('_', '-')}" for name, value in given.items())


def _check(request: Request) -> None:
    if request.num_steps < 1 or (request.num_samples is not None and request.num_samples < 1):
        raise BadInput("--steps and --samples must be at least 1")
    _rule(request, request.variant or Variant("LP"))
    if request.from_run and (request.arch or request.size or request.num_classes):
        raise BadInput("--from RUN already says architecture, size and classes: leave out --arch, --size and --classes")
    if request.data and not request.from_run:
        raise BadInput("--data needs --from RUN: a net with random weights is deployed on random samples")


def _from_run(request: Request, run: Path) -> _Start:
    """Return the run's model and the first samples of its training split, shuffled by the seed."""
    model, config = load_run(run)
    variant = request.variant or config.variant
    freeze(model, variant)
    dataset = open_dataset(request.data or config.data)
    if config.multi_label:
        raise Unsupported(f"{run}: was trained on several labels per image, the device trains on one class")
    check_classes(config, dataset.classes, multi_label=dataset.multi_label, run_name=run, data_name=dataset.path)
    split = dataset.split(dataset.training_split)
    order = epoch_order(len(split), seed=request.seed, epoch=0)[: _most_samples(request)]
    images = replace(config.preprocessing, stored=dataset.size).apply(split.gather(order)).contiguous().numpy()
    command = f"tinyclf deploy --target {request.target.name} --from {run.name} {_variant_options(variant)}"
    return model, variant, images, split.labels[order], command


def _random(request: Request) -> _Start:
    """Return a net with random weights whose activations are in a natural range, random images and labels."""
    variant = request.variant or Variant("LP")
    arch, size, num_classes = request.arch or variant.default_arch, request.size or 128, request.num_classes or 2
    model = build_model(arch, num_classes=num_classes, size=size, seed=request.seed)
    freeze(model, variant)
    rng = np.random.default_rng(request.seed)
    calibrate_batchnorm(model, torch.from_numpy(_random_images(rng, NUM_CALIBRATION_IMAGES, size)))
    images = _random_images(rng, _most_samples(request), size)
    labels = rng.integers(0, num_classes, len(images))
    command = (
        f"tinyclf deploy --target {request.target.name} {_variant_options(variant)} --arch {arch} --size {size} "
        f"--classes {num_classes}"
    )
    return model, variant, images, labels, command


def _random_images(rng: np.random.Generator, num: int, size: int) -> NDArray[np.float32]:
    return rng.standard_normal((num, 3, size, size)).astype(np.float32)


def _variant_options(variant: Variant) -> str:
    return f"--variant {variant.name}" + (f" --k {variant.k}" if variant.name == "FT" else "")


def _most_samples(request: Request) -> int:
    return request.num_samples or min(request.num_steps, DEFAULT_SAMPLES)


def _num_samples(request: Request, model: nn.Module, images: NDArray[np.float32], rule: UpdateRule) -> int:
    """Return how many of `images` to link in: as asked for, else as many as fit the target."""
    if request.num_samples or request.target.memory_bytes is None:
        return len(images)
    _, channels, height, width = images.shape
    _, _, memory = _plan(model, (channels, height, width), rule)
    fitting = num_fitting_samples(memory, images[0].nbytes, request.target.memory_bytes)
    return min(len(images), max(fitting, 1))  # that one fits is checked later
