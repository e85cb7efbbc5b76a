"""How much of a net can be trained in a number of bytes, and what would let more of it: each figure computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from tinyclf.architectures import ARCHITECTURES
from tinyclf.budget import bytes_needed, least_bytes, recomputed_within
from tinyclf.errors import DoesNotFit
from tinyclf.ir import Graph
from tinyclf.lower import training_graph
from tinyclf.macs import num_macs
from tinyclf.memory import plan_memory
from tinyclf.models import blocks, build_model, fold_batchnorm, freeze, num_parameters
from tinyclf.rules import UpdateRule
from tinyclf.targets import Target
from tinyclf.variants import Variant

PLAIN = UpdateRule(0.01)  # no byte depends on the rate
SIZE_STEP, LEAST_SIZE = 16, 32  # pixels: the sizes that are tried


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
    """What fits a budget: the most that does, what comes next and does not, and other ways to train that much."""

    budget: int
    best: Option
    following: Option | None
    with_recomputation: Option | None  # the most that fits so, if that is more
    with_batch: Option | None  # the most that fits with gradients accumulated over a batch, where none was asked for
    ways: tuple[Option, ...]  # to train as much as `following`: recomputed, smaller images, narrower nets

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """Which net is to be trained where; `target` None: code and stacks are not counted."""

    arch: str
    size: int
    num_classes: int
    budget: int
    target: Target | None
    num_samples: int
    rule: UpdateRule = PLAIN


def most_that_fits(question: Question) -> Answer:
    """Return the most blocks that can be trained in the budget.

    Raises:
        DoesNotFit: not even the linear layer; says the least that is needed.
    """
    model = _build(question.arch, question)
    depths = _depths(model)
    graphs = [_graph(model, variant, question) for variant in depths]
    options = [_option(graph, variant, question) for graph, variant in zip(graphs, depths, strict=True)]
    fitting = [i for i, option in enumerate(options) if option.num_bytes <= question.budget]
    if not fitting:
        raise DoesNotFit(_nothing_fits(graphs[0], options[0], question))
    best = fitting[-1]
    batch = _in_batches(model, depths[: best + 1], question)
    if best == len(options) - 1:
        return Answer(question.budget, options[best], None, None, batch, ())
    low, high, recomputed = best + 1, len(options), None
    while low < high:  # what trains more needs more
        middle = (low + high) // 2
        found = _recomputed(graphs[middle], depths[middle], question)
        low, high, recomputed = (low, middle, recomputed) if found is None else (middle + 1, high, found)
    ways = [_recomputed(graphs[best + 1], depths[best + 1], question), _smaller(model, depths[best + 1], question)]
    ways += [_narrower(depths[best + 1], question)]
    return Answer(question.budget, options[best], options[best + 1], recomputed, batch, tuple(w for w in ways if w))


def _in_batches(model: nn.Module, depths: list[Variant], question: Question) -> Option | None:
    """Return the most that fits with gradients accumulated over a batch: its bytes do not depend on its size."""
    if question.rule.batch > 1:
        return None
    question = replace(question, rule=replace(question.rule, batch=2))
    for variant in reversed(depths):
        option = _option(_graph(model, variant, question), variant, question)
        if option.num_bytes <= question.budget:
            return option
    return None


def _depths(model: nn.Module) -> list[Variant]:
    """Return what can be trained, from the linear layer to everything."""
    return [Variant("LP"), *(Variant("FT", k) for k in range(1, len(blocks(model)) + 1)), Variant("full")]


def _build(arch: str, question: Question, *, size: int | None = None) -> nn.Module:
    with torch.device("meta"):  # shapes are enough
        return build_model(arch, num_classes=question.num_classes, size=size or question.size)


def _graph(model: nn.Module, variant: Variant, question: Question, *, size: int | None = None) -> Graph:
    freeze(model, variant)
    size = size or question.size
    return training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=question.rule)


def _option(graph: Graph, variant: Variant, question: Question, *, plain: Graph | None = None) -> Option:
    needed = bytes_needed(graph, plan_memory(graph), target=question.target, num_samples=question.num_samples)
    macs = num_macs(plain or graph)
    return Option(variant.label, question.arch, question.size, needed, num_macs(graph) - macs, macs)


def _recomputed(graph: Graph, variant: Variant, question: Question) -> Option | None:
    found = recomputed_within(graph, question.budget, target=question.target, num_samples=question.num_samples)
    return None if found is None else _option(found, variant, question, plain=graph)


def _smaller(model: nn.Module, variant: Variant, question: Question) -> Option | None:
    """Return the largest smaller image with which `variant` fits."""
    for size in range((question.size - 1) // SIZE_STEP * SIZE_STEP, LEAST_SIZE - 1, -SIZE_STEP):
        option = _option(_graph(model, variant, question, size=size), variant, replace(question, size=size))
        if option.num_bytes <= question.budget:
            return option
    return None


def _narrower(variant: Variant, question: Question) -> Option | None:
    """Return the widest narrower net of the same family with which `variant` fits."""
    row = ARCHITECTURES.get(question.arch)
    names = [name for name, other in ARCHITECTURES.items() if row and other.family == row.family]
    models = {name: _build(name, question) for name in names}
    sizes = {name: num_parameters(model) for name, model in models.items()}
    narrower = [name for name in names if sizes[name] < sizes[question.arch]]
    for name in sorted(narrower, key=lambda name: -sizes[name]):
        option = _option(_graph(models[name], variant, question), variant, replace(question, arch=name))
        if option.num_bytes <= question.budget:
            return option
    return None


def _nothing_fits(graph: Graph, option: Option, question: Question) -> str:
    """Say in a line what the linear layer needs at least, and with what it would fit."""
    least, _ = least_bytes(graph, target=question.target, num_samples=question.num_samples)
    variant = Variant("LP")
    ways = [_smaller(_build(question.arch, question), variant, question), _narrower(variant, question)]
    advice = [f"--size {ways[0].size}" if ways[0] else "", f"--arch {ways[1].arch}" if ways[1] else ""]
    named = " or ".join(a for a in advice if a) or "a smaller net (tinyclf models lists them)"
    return (
        f"training the linear layer of {question.arch} at {question.size}x{question.size} needs at least "
        f"{min(least, option.num_bytes):,} bytes, the budget is {question.budget:,}: try {named}"
    )
