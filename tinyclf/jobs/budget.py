"""How much of a net can be trained in a number of bytes, and what would let more of it: each figure computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from tinyclf.base.errors import BadInput, DoesNotFit, Unsupported
from tinyclf.device.footprint.fitting import Setting, bytes_needed, least_bytes, recomputed_within
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.lowering.lower import PLAIN, training_graph
from tinyclf.device.memory.kept_features import feature_memory
from tinyclf.device.memory.planner import plan_memory
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import blocks, build_model, fold_batchnorm, freeze, num_parameters

SIZE_STEP, LEAST_SIZE = 16, 32  # pixels: the sizes that are tried
PARAMETER_BYTES = 4


@dataclass(frozen=True)
class Option:
    """A training step that was computed: what is trained, of which net, and the bytes that it needs."""

    variant: str
    arch: str
    size: int  # pixels
    num_bytes: int
    recomputed_macs: int  # on top of the step's own
    macs: int  # of the step without recomputation

    @property
    def cost(self) -> str:
        """Say what recomputation costs, or nothing."""
        return f", {self.recomputed_macs / self.macs:+.1%} MACs" if self.recomputed_macs else ""


@dataclass(frozen=True)
class Answer:
    """What fits a budget: the most that does, what comes next and does not, and other ways to train that much.

    Options with a batch accumulate gradients over one of any size; they are None where the question asks for a batch.
    """

    budget: int
    best: Option
    following: Option | None
    with_recomputation: Option | None  # the most that fits so, if that is more
    with_batch: Option | None
    with_batch_and_recomputation: Option | None  # the most that fits so, if that is more than without recomputation
    ways: tuple[Option, ...]  # to train as much as `following`: recomputed, smaller images, narrower or other nets

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """Which net is to be trained where, and how; what is trained is the answer.

    `bias_only` and `channels` narrow it, as in `Variant`. `cache` other than "off": in a training run, which streams
    the samples of `setting` and keeps features of them.
    """

    arch: str
    size: int
    num_classes: int
    budget: int
    setting: Setting = Setting()
    rule: UpdateRule = PLAIN
    cache: str = "off"
    bias_only: bool = False
    channels: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class _Step:
    """A training step that answers may name, and how much memory it needs."""

    variant: Variant
    graph: Graph
    setting: Setting
    option: Option


def most_that_fits(question: Question) -> Answer:
    """Return the most blocks that can be trained in the budget.

    Raises:
        DoesNotFit: not even the linear layer; says the least that is needed.
        BadInput: fractions of channels that match no layer, or a cache where nothing is frozen.
    """
    depths = _Depths(question)
    best = depths.last_that_fits()
    if best is None:
        raise DoesNotFit(_nothing_fits(depths[0], question))
    in_batches = _in_batches(question)
    if best == len(depths) - 1:
        return Answer(question.budget, depths[best].option, None, None, *in_batches, ())
    following, recomputed = depths[best + 1], depths.most_recomputed(best + 1)
    ways = _ways(following, question)
    return Answer(question.budget, depths[best].option, following.option, recomputed, *in_batches, ways)


def _in_batches(question: Question) -> tuple[Option | None, Option | None]:
    """Return the most that fits with gradients accumulated over a batch, and with recomputation if that is more.

    Its bytes do not depend on the size of the batch.
    """
    if question.rule.batch > 1:
        return None, None
    depths = _Depths(replace(question, rule=replace(question.rule, batch=2)))
    best = depths.last_that_fits()
    recomputed = depths.most_recomputed(0 if best is None else best + 1)
    return None if best is None else depths[best].option, recomputed


class _Depths:
    """What can be trained of a net, from the linear layer to everything; with a cache, what leaves a part frozen.

    Steps are computed when they are asked for. What trains more needs more: searches go by halves.
    """

    def __init__(self, question: Question) -> None:
        """Refuse fractions of channels that match nothing, even where everything is trained."""
        self._question, self._model = question, _build(question.arch, question)
        self._steps: dict[int, _Step] = {}
        names = [Variant("LP"), *(Variant("FT", k + 1) for k in range(len(blocks(self._model)))), Variant("full")]
        self._variants = [replace(v, bias_only=question.bias_only) for v in names]
        freeze(self._model, replace(self._variants[-1], channels=question.channels))
        while question.cache != "off" and len(self) > 1 and not self._keeps_something(len(self) - 1):
            self._variants.pop()

    def __len__(self) -> int:
        return len(self._variants)

    def __getitem__(self, number: int) -> _Step:
        if number not in self._steps:
            self._steps[number] = _step(self._model, self._variants[number], self._question)
        return self._steps[number]

    def _keeps_something(self, number: int) -> bool:
        try:
            _ = self[number]
        except BadInput:
            return False
        return True

    def last_that_fits(self) -> int | None:
        """Return the number of the last step that fits; the next does not."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            fits = self[middle].option.num_bytes <= self._question.budget
            low, high = (middle + 1, high) if fits else (low, middle)
        return low - 1 if low else None

    def most_recomputed(self, first: int) -> Option | None:
        """Return the most from step `first` on that fits with recomputation."""
        low, high, most = first, len(self), None
        while low < high:
            middle = (low + high) // 2
            found = _recomputed(self[middle], self._question.budget)
            low, high, most = (low, middle, most) if found is None else (middle + 1, high, found)
        return most


# --- steps ----------------------------------------------------------------------------------------------------------


def _build(arch: str, question: Question) -> nn.Module:
    with torch.device("meta"):  # shapes are enough
        return build_model(arch, num_classes=question.num_classes, size=question.size)


def _step(model: nn.Module, variant: Variant, question: Question) -> _Step:
    """Return the step that trains `variant` of `model`, which is of the question's architecture.

    Raises:
        BadInput: there are not so many blocks, or a cache has nothing frozen to keep.
        Unsupported: a layer cannot be lowered.
    """
    variant = _narrowed(model, variant, question.channels)
    freeze(model, variant)
    shape = (3, question.size, question.size)
    graph = training_graph(fold_batchnorm(model), input_shape=shape, rule=question.rule)
    setting = question.setting
    kept = feature_memory(graph, kind=question.cache, num_samples=setting.num_samples or 0)
    if kept:
        setting = setting.keeping(kept)
    needed, macs = bytes_needed(graph, plan_memory(graph), setting), num_macs(graph)
    return _Step(variant, graph, setting, Option(variant.label, question.arch, question.size, needed, 0, macs))


def _narrowed(model: nn.Module, variant: Variant, channels: tuple[tuple[str, float], ...]) -> Variant:
    """Return `variant` with those fractions of channels that match a layer of it."""
    matching = []
    for pair in channels:
        try:
            freeze(model, replace(variant, channels=(pair,)))
        except BadInput:
            continue
        matching.append(pair)
    return replace(variant, channels=tuple(matching))


def _recomputed(step: _Step, budget: int) -> Option | None:
    graph = recomputed_within(step.graph, budget, step.setting)
    if graph is None:
        return None
    needed = bytes_needed(graph, plan_memory(graph), step.setting)
    return replace(step.option, num_bytes=needed, recomputed_macs=num_macs(graph) - step.option.macs)


# --- other ways -----------------------------------------------------------------------------------------------------


def _ways(step: _Step, question: Question) -> tuple[Option, ...]:
    """Return ways to train as much as `step` does within the budget."""
    ways = [_recomputed(step, question.budget), *_other_nets(step.variant, question)]
    return tuple(way for way in ways if way) or _other_family(step.variant, question)


def _other_nets(variant: Variant, question: Question) -> list[Option | None]:
    """Return the largest smaller image, and the widest narrower net of the same family, with which `variant` fits."""
    sizes = range((question.size - 1) // SIZE_STEP * SIZE_STEP, LEAST_SIZE - 1, -SIZE_STEP)
    row = ARCHITECTURES.get(question.arch)
    names = [name for name, other in ARCHITECTURES.items() if row and other.family == row.family]
    num = {name: _num_parameters(name, question) for name in names}
    narrower = sorted((name for name in names if num[name] < num[question.arch]), key=lambda name: -num[name])
    return [
        _first_that_fits(variant, (replace(question, size=size) for size in sizes)),
        _first_that_fits(variant, (replace(question, arch=name) for name in narrower)),
    ]


def _other_family(variant: Variant, question: Question) -> tuple[Option, ...]:
    """Return the largest of the other families' smallest nets with which `variant` fits, or nothing.

    Fractions of channels name layers of the net that was asked about: with them there is none.
    """
    row = ARCHITECTURES.get(question.arch)
    smallest: dict[str, tuple[int, str]] = {}
    for name, other in ARCHITECTURES.items():
        if not question.channels and (row is None or other.family != row.family):
            found = _num_parameters(name, question), name
            smallest[other.family] = min(found, smallest.get(other.family, found))
    names = [name for num, name in sorted(smallest.values(), reverse=True) if num * PARAMETER_BYTES <= question.budget]
    option = _first_that_fits(variant, (replace(question, arch=name) for name in names))
    return (option,) if option else ()


def _num_parameters(arch: str, question: Question) -> int:
    return num_parameters(_build(arch, question))


def _first_that_fits(variant: Variant, questions: Iterable[Question]) -> Option | None:
    """Return the first of the nets with which `variant` fits; one that has not that, or cannot be lowered, does not."""
    for question in questions:
        try:
            step = _step(_build(question.arch, question), variant, question)
        except (BadInput, Unsupported):
            continue
        if step.option.num_bytes <= question.budget:
            return step.option
    return None


def _nothing_fits(step: _Step, question: Question) -> str:
    """Say in a line what the linear layer, which `step` trains, needs at least, and with what it would fit."""
    least, _ = least_bytes(step.graph, step.setting)
    size, narrower = _other_nets(step.variant, question)
    streamed = replace(question, cache="off", setting=replace(question.setting, num_samples=None))
    uncached = _first_that_fits(step.variant, [streamed]) if question.cache != "off" else None
    advice = [f"--size {size.size}"] if size else []
    advice += [f"--arch {narrower.arch}"] if narrower else []
    advice += ["no --cache or fewer --samples"] if uncached else []
    if not advice:
        advice = [f"--arch {other.arch}" for other in _other_family(step.variant, question)]
    named = " or ".join(advice) or "a smaller net (tinyclf models lists them)"
    return (
        f"training the linear layer of {question.arch} at {question.size}x{question.size} needs at least "
        f"{min(least, step.option.num_bytes):,} bytes, the budget is {question.budget:,}: try {named}"
    )
