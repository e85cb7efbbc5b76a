"""Where the two halves meet: a run, or an architecture with random weights, becomes a job for the device."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinyclf.architectures import ARCHITECTURES
from tinyclf.deploy import Job, emit_project, num_fitting_samples
from tinyclf.elf import read_elf
from tinyclf.errors import BadInput, Unsupported
from tinyclf.feature_memory import feature_memory
from tinyclf.fitting import Setting, fitted
from tinyclf.ir import Graph
from tinyclf.lower import PLAIN, training_graph
from tinyclf.macs import num_macs as num_step_macs
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
from tinyclf.regions import RegionUse, linked_regions
from tinyclf.rules import UpdateRule
from tinyclf.starts import Request, check_request, start_of
from tinyclf.targets import ELF, build, l1_option, require_tools
from tinyclf.update_options import options_text
from tinyclf.variants import Variant

MOST_STEPS = 2**63 - 1
DEFAULT_SAMPLES = 4
NUM_CALIBRATION_IMAGES = 16


# Model (BatchNorm not folded), what is trained, images (N, C, H, W), labels (N,), the command that asks for it.
_Start = tuple[nn.Module, Variant, NDArray[np.float32], NDArray[np.int64], str]


@dataclass(frozen=True)
class Need:
    """What one training step of a net needs: its graph, where everything lies, and the sums.

    `num_parameters` are PyTorch's, with BatchNorm; `num_folded` are those that are deployed. `plain` is the step
    without recomputation: `graph` itself, unless activations are recomputed, at `recomputed_macs`. `setting` has the
    bytes of the features that are kept.
    """

    arch: str
    graph: Graph
    plan: MemoryPlan
    report: MemoryReport
    num_parameters: int
    num_folded: int
    plain: Graph
    setting: Setting

    @property
    def macs(self) -> int:
        """Count the multiply-accumulates of the step without recomputation."""
        return num_step_macs(self.plain)

    @property
    def recomputed_macs(self) -> int:
        """Count those that recomputation adds."""
        return num_step_macs(self.graph) - self.macs


def memory_of(
    variant: Variant,
    *,
    arch: str | None,
    size: int,
    num_classes: int,
    small_input: bool = False,
    rule: UpdateRule | None = None,
    recompute: bool = False,
    setting: Setting | None = None,
    cache: str = "off",
) -> Need:
    """Plan the memory of a training step of `arch` (None: the variant's default); no data or training is needed.

    `rule`: how weights are updated; None: by plain SGD. With `recompute`, activations are recomputed as far as it takes
    to fit the target of `setting`; without a target, or on one without limits, for the fewest bytes. `cache` other than
    "off": as in a training run, which streams the samples of `setting` and keeps features of them.

    Raises:
        DoesNotFit: not even the most recomputation fits.
        BadInput: see `feature_memory`.
    """
    setting = setting or Setting()
    arch = arch or variant.default_arch
    model = build_model(arch, num_classes=num_classes, size=size, small_input=small_input)
    freeze(model, variant)
    folded = fold_batchnorm(model)
    plain, plan, sums = _plan(folded, (3, size, size), rule)
    kept = feature_memory(plain, kind=cache, num_samples=setting.num_samples or 0)
    if kept:
        setting = setting.keeping(kept)
    graph = fitted(plain, setting) if recompute else plain
    if graph is not plain:
        plan = plan_memory(graph)
        naive = {name: value for name, value in sums.to_dict().items() if name.startswith("naive_")}
        sums = replace(report(graph, plan), **naive)  # of the plain step
    return Need(arch, graph, plan, sums, num_parameters(model), num_parameters(folded), plain, setting)


def linked_memory(request: Request, *, num_cores: int | None = None) -> tuple[RegionUse, ...]:
    """Emit and build what `request` asks for in a folder of its own; return what the linker placed in each region.

    `num_cores` None: the target's default.

    Raises:
        DoesNotFit: the target's memory is too small.
        ToolFailed: a tool is missing, or the build failed.
    """
    require_tools(request.target)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        emit_project(make_job(request), request.target, project, num_cores=num_cores)
        build(project, request.target)
        return linked_regions(request.target, read_elf(project / ELF))


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


def _lowered(model: nn.Module, *, size: int) -> tuple[nn.Module, str]:
    """Fold `model` and lower its LP step; return what was lowered, unfolded where folding fails, and the obstacle."""
    try:
        freeze(model, Variant("LP"))
        model = fold_batchnorm(model)
        training_graph(model, input_shape=(3, size, size))
    except Unsupported as error:
        return model, str(error)
    return model, ""


def _plan(
    folded: nn.Module, input_shape: tuple[int, int, int], rule: UpdateRule | None = None
) -> tuple[Graph, MemoryPlan, MemoryReport]:
    """Plan a training step; no byte of it depends on the learning rate."""
    graph = training_graph(folded, input_shape=input_shape, rule=rule or PLAIN)
    plan = plan_memory(graph)
    return graph, plan, report(graph, plan)


def default_project(request: Request) -> Path:
    """Return the folder that a project is written to when the user names none."""
    what = (
        request.from_run.name if request.from_run else request.arch or (request.variant or Variant("LP")).default_arch
    )
    variant = "" if request.variant is None else "-" + request.variant.slug
    return Path("deployed") / f"{request.target.name}-{what.replace(':', '.')}{variant}"


def make_job(request: Request) -> Job:
    """Build the model, fold its BatchNorm, and take the samples.

    Raises:
        BadInput: options that do not go together, or a run or dataset that cannot be read.
        Unsupported: the run was trained on several labels per image.
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
        recompute=request.recompute,
        command=f"{command} --steps {request.num_steps} --samples {num}{options_text(rule)} --seed {request.seed}"
        f"{' --recompute' if request.recompute else ''}{l1_option(request.target)}",
    )


def _rule(request: Request, variant: Variant) -> UpdateRule:
    """Return how the request's weights are updated.

    Raises:
        BadInput: see `UpdateOptions.rule`.
    """
    num = request.num_steps
    return request.rule(reaches_everything=variant.reaches_everything, num_samples=num, asked=f"--steps {num}")


def _check(request: Request) -> None:
    if not 1 <= request.num_steps <= MOST_STEPS:
        raise BadInput("--steps must be in 1 .. 2^63 - 1")
    check_request(request)
    _rule(request, request.variant or Variant("LP"))
    if request.data and not request.from_run:
        raise BadInput("--data needs --from RUN: a net with random weights is deployed on random samples")


def _from_run(request: Request, run: Path) -> _Start:
    """Return the run's model and the first samples of its training split, shuffled by the seed."""
    start = start_of(run, request)
    training = start.training
    num = request.num_samples or min(_usual_samples(request), len(training))
    images, labels = start.take(training, num, option="--samples", seed=request.seed)
    command = f"tinyclf deploy --target {request.target.name} --from {run.name} {start.variant.options}"
    return start.model, start.variant, images, labels, command


def _random(request: Request) -> _Start:
    """Return a net with random weights whose activations are in a natural range, random images and labels."""
    variant = request.variant or Variant("LP")
    arch, size, num_classes = request.arch or variant.default_arch, request.size or 128, request.num_classes or 2
    model = build_model(arch, num_classes=num_classes, size=size, seed=request.seed)
    freeze(model, variant)
    rng = np.random.default_rng(request.seed)
    calibrate_batchnorm(model, torch.from_numpy(_random_images(rng, NUM_CALIBRATION_IMAGES, size)))
    images = _random_images(rng, request.num_samples or _usual_samples(request), size)
    labels = rng.integers(0, num_classes, len(images))
    command = (
        f"tinyclf deploy --target {request.target.name} {variant.options} --arch {arch} --size {size} "
        f"--classes {num_classes}"
    )
    return model, variant, images, labels, command


def _random_images(rng: np.random.Generator, num: int, size: int) -> NDArray[np.float32]:
    return rng.standard_normal((num, 3, size, size)).astype(np.float32)


def _usual_samples(request: Request) -> int:
    """Return how many samples there are where the user says nothing, if so many fit."""
    return min(request.num_steps, DEFAULT_SAMPLES)


def _num_samples(request: Request, model: nn.Module, images: NDArray[np.float32], rule: UpdateRule) -> int:
    """Return how many of `images` to link in: as asked for, else as many as fit the target."""
    if request.num_samples or request.target.memory_bytes is None:
        return len(images)
    if request.recompute:
        return 1  # whoever recomputes is short of bytes
    _, channels, height, width = images.shape
    graph, plan, _ = _plan(model, (channels, height, width), rule)
    fitting = num_fitting_samples(graph, plan, request.target)
    return min(len(images), max(fitting, 1))  # that one fits is checked later
