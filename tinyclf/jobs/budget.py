"""How much of a net can be trained in a number of bytes, and what would let more of it: each figure computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tinyclf.base.errors import BadInput, DoesNotFit, Unsupported
from tinyclf.device.footprint.fitting import least_bytes
from tinyclf.device.memory.samples import Streamed
from tinyclf.device.run.step import PlannedStep, plan_step
from tinyclf.jobs.memory import MemoryRequest
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import blocks, build_model, fold_batchnorm, freeze, num_parameters

SIZE_STEP, LEAST_SIZE = 16, 32  # pixels: the sizes that are tried
PARAMETER_BYTES = 4


@dataclass(frozen=True)
class Way:
    """A way to train that was computed: what is trained, of which net, and the bytes that it needs."""

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

    Ways with a batch accumulate gradients over one of any size; they are None where a batch is asked for.
    """

    budget: int
    best: Way
    following: Way | None
    with_recomputation: Way | None  # the most that fits so, if that is more
    with_batch: Way | None
    with_batch_and_recomputation: Way | None  # the most that fits so, if that is more than without recomputation
    ways: tuple[Way, ...]  # to train as much as `following`: recomputed, smaller images, narrower or other nets

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class _Candidate:
    """A training step that answers may name, what asks for it, and what is trained of that: what matches a layer."""

    request: MemoryRequest
    variant: Variant
    step: PlannedStep

    @cached_property
    def way(self) -> Way:
        """Return what answers say of it."""
        r, s = self.request, self.step
        return Way(self.variant.label, r.net, r.size, s.num_bytes, s.recomputed_macs, s.macs)

    def recomputed(self, budget: int) -> Way | None:
        """Return the way to train the same in the budget, with recomputation; None if that is not enough."""
        step = self.step.within(budget)
        return replace(self, step=step).way if step else None

    def fits(self, budget: int) -> bool:
        """Tell whether it fits as it is."""
        return self.way.num_bytes <= budget


def most_that_fits(request: MemoryRequest, *, budget: int) -> Answer:
    """Return the most blocks that can be trained in `budget` bytes.

    Of what `request` says is trained, only what narrows it counts; the rest is the answer.

    Raises:
        DoesNotFit: not even the linear layer; says the least that is needed.
        BadInput: fractions of channels that match no layer, or a cache where nothing is frozen.
    """
    request = replace(request, arch=request.net)
    depths = _Depths(request, budget)
    best = depths.last_that_fits()
    if best is None:
        raise DoesNotFit(_nothing_fits(depths[0], budget))
    in_batches = _in_batches(request, budget)
    if best == len(depths) - 1:
        return Answer(budget, depths[best].way, None, None, *in_batches, ())
    following, recomputed = depths[best + 1], depths.most_recomputed(best + 1)
    return Answer(budget, depths[best].way, following.way, recomputed, *in_batches, _ways(following, budget))


def _in_batches(request: MemoryRequest, budget: int) -> tuple[Way | None, Way | None]:
    """Return the most that fits with gradients accumulated over a batch, and with recomputation if that is more.

    Its bytes do not depend on the size of the batch.
    """
    if request.rule.batch > 1:
        return None, None
    depths = _Depths(replace(request, rule=replace(request.rule, batch=2)), budget)
    best = depths.last_that_fits()
    recomputed = depths.most_recomputed(0 if best is None else best + 1)
    return None if best is None else depths[best].way, recomputed


class _Depths:
    """What can be trained of a net, from the linear layer to everything; with a cache, what leaves a part frozen.

    Steps are computed when they are asked for. What trains more needs more: searches go by halves.
    """

    def __init__(self, request: MemoryRequest, budget: int) -> None:
        """Refuse fractions of channels that match nothing, even where everything is trained."""
        self._request, self._budget, self._model = request, budget, _build(request)
        self._candidates: dict[int, _Candidate] = {}
        names = [Variant("LP"), *(Variant("FT", k + 1) for k in range(len(blocks(self._model)))), Variant("full")]
        self._variants = [replace(v, bias_only=request.variant.bias_only) for v in names]
        freeze(self._model, replace(self._variants[-1], channels=request.variant.channels))
        while _keeps_features(request) and len(self) > 1 and not self._leaves_something(len(self) - 1):
            self._variants.pop()

    def __len__(self) -> int:
        return len(self._variants)

    def __getitem__(self, number: int) -> _Candidate:
        if number not in self._candidates:
            variant = replace(self._variants[number], channels=self._request.variant.channels)
            self._candidates[number] = _candidate(self._model, replace(self._request, variant=variant))
        return self._candidates[number]

    def _leaves_something(self, number: int) -> bool:
        """Tell whether something is frozen, of which features can be kept."""
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
            low, high = (middle + 1, high) if self[middle].fits(self._budget) else (low, middle)
        return low - 1 if low else None

    def most_recomputed(self, first: int) -> Way | None:
        """Return the most from step `first` on that fits with recomputation."""
        low, high, most = first, len(self), None
        while low < high:
            middle = (low + high) // 2
            found = self[middle].recomputed(self._budget)
            low, high, most = (low, middle, most) if found is None else (middle + 1, high, found)
        return most


def _keeps_features(request: MemoryRequest) -> bool:
    samples = request.around.samples
    return isinstance(samples, Streamed) and samples.cache != "off"


# --- candidates -----------------------------------------------------------------------------------------------------


def _build(request: MemoryRequest) -> nn.Module:
    with torch.device("meta"):  # shapes are enough
        return build_model(
            request.net, num_classes=request.num_classes, size=request.size, small_input=request.small_input
        )


def _candidate(model: nn.Module, request: MemoryRequest) -> _Candidate:
    """Return the step that `request` asks for, without fractions of channels that match no layer; `model` is its net.

    Raises:
        BadInput: there are not so many blocks, or a cache has nothing frozen to keep.
        Unsupported: a layer cannot be lowered.
    """
    variant = _narrowed(model, request.variant)
    freeze(model, variant)
    image = (3, request.size, request.size)
    step = plan_step(fold_batchnorm(model), image=image, rule=request.rule, around=request.around)
    return _Candidate(request, variant, step)


def _narrowed(model: nn.Module, variant: Variant) -> Variant:
    """Return `variant` with those fractions of channels that match a layer of it."""
    matching = []
    for pair in variant.channels:
        try:
            freeze(model, replace(variant, channels=(pair,)))
        except BadInput:
            continue
        matching.append(pair)
    return replace(variant, channels=tuple(matching))


# --- other ways -----------------------------------------------------------------------------------------------------


def _ways(candidate: _Candidate, budget: int) -> tuple[Way, ...]:
    """Return ways to train as much as `candidate` does within the budget."""
    ways = [candidate.recomputed(budget), *_other_nets(candidate.request, budget)]
    return tuple(way for way in ways if way) or _other_family(candidate.request, budget)


def _other_nets(request: MemoryRequest, budget: int) -> list[Way | None]:
    """Return the largest smaller image, and the widest narrower net of the same family, with which it fits."""
    sizes = range((request.size - 1) // SIZE_STEP * SIZE_STEP, LEAST_SIZE - 1, -SIZE_STEP)
    row = ARCHITECTURES.get(request.net)
    names = [name for name, other in ARCHITECTURES.items() if row and other.family == row.family]
    num = {name: _num_parameters(name, request) for name in names}
    narrower = sorted((name for name in names if num[name] < num[request.net]), key=lambda name: -num[name])
    return [
        _first_that_fits((replace(request, size=size) for size in sizes), budget),
        _first_that_fits((replace(request, arch=name) for name in narrower), budget),
    ]


def _other_family(request: MemoryRequest, budget: int) -> tuple[Way, ...]:
    """Return the largest of the other families' smallest nets with which as much training fits, or nothing.

    Fractions of channels name layers of the net that was asked about: with them there is none.
    """
    row = ARCHITECTURES.get(request.net)
    smallest: dict[str, tuple[int, str]] = {}
    for name, other in ARCHITECTURES.items():
        if not request.variant.channels and (row is None or other.family != row.family):
            found = _num_parameters(name, request), name
            smallest[other.family] = min(found, smallest.get(other.family, found))
    names = [name for num, name in sorted(smallest.values(), reverse=True) if num * PARAMETER_BYTES <= budget]
    way = _first_that_fits((replace(request, arch=name) for name in names), budget)
    return (way,) if way else ()


def _num_parameters(arch: str, request: MemoryRequest) -> int:
    return num_parameters(_build(replace(request, arch=arch)))


def _first_that_fits(requests: Iterable[MemoryRequest], budget: int) -> Way | None:
    """Return the first that fits; a net that has not what is to be trained, or cannot be lowered, does not."""
    for request in requests:
        try:
            candidate = _candidate(_build(request), request)
        except (BadInput, Unsupported):
            continue
        if candidate.fits(budget):
            return candidate.way
    return None


def _nothing_fits(candidate: _Candidate, budget: int) -> str:
    """Say in a line what the linear layer, which `candidate` trains, needs at least, and with what it would fit."""
    request, step = candidate.request, candidate.step
    least = min(least_bytes(step.placed, step.around), step.num_bytes)
    size, narrower = _other_nets(request, budget)
    advice = [f"--size {size.size}"] if size else []
    advice += [f"--arch {narrower.arch}"] if narrower else []
    if _keeps_features(request):
        streamed = replace(request, around=replace(request.around, samples=Streamed(0)))
        advice += ["no --cache or fewer --samples"] if _first_that_fits([streamed], budget) else []
    if not advice:
        advice = [f"--arch {other.arch}" for other in _other_family(request, budget)]
    named = " or ".join(advice) or "a smaller net (tinyclf models lists them)"
    return (
        f"training the linear layer of {request.net} at {request.size}x{request.size} needs at least {least:,} bytes, "
        f"the budget is {budget:,}: try {named}"
    )
