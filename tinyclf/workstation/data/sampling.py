"""In which order the images of a split are visited: one value that gives every epoch's batches, from any position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput

ORDERS = ("sequential", "shuffled", "balanced")
PIECES = 8  # at least so many places of the dataset are mixed in a window


@dataclass(frozen=True)
class Sampler:
    """The order of a split of `num_images`; it depends on these values alone, on every machine.

    `order`: sequential; shuffled, by seed and epoch; balanced, drawn with replacement so that every class is expected
    equally often (`labels` says who is who). `rank` of `world` processes takes every world-th image of the epoch:
    disjoint, together all of it; sizes differ by at most one. `window` images are mixed at a time where a dataset is
    larger than memory, 0: all; the order is then that of pieces of shards (`shard_sizes`), mixed within the window.
    `merge_single`: a last batch of one image joins the one before it: BatchNorm in train mode cannot take it.
    """

    num_images: int
    batch_size: int
    seed: int = 0
    order: str = "shuffled"
    rank: int = 0
    world: int = 1
    window: int = 0
    shard_sizes: tuple[int, ...] = ()
    labels: Sequence[int] | NDArray[np.int64] = ()
    merge_single: bool = False

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise BadInput(f"order '{self.order}': choose one of {', '.join(ORDERS)}")
        if not 0 <= self.rank < self.world:
            raise BadInput(f"rank {self.rank} of {self.world}: ranks count from 0")
        if self.num_images < self.world:
            raise BadInput(f"{self.num_images} images for {self.world} processes: each needs at least one")
        if self.order == "balanced" and (self.window or len(self.labels) != self.num_images):
            raise BadInput("a balanced order draws from all images, and needs their labels: leave out --window")
        if self.window and sum(self.shard_sizes) != self.num_images:
            raise BadInput(f"the shards hold {sum(self.shard_sizes)} images, the split {self.num_images}")

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """Return what this rank visits in `epoch`, in order."""
        return self._all_indices(epoch)[self.rank :: self.world]

    def _all_indices(self, epoch: int) -> NDArray[np.int64]:
        if self.order == "sequential":
            return np.arange(self.num_images)
        if self.order == "balanced":
            return _balanced(np.asarray(self.labels), _generator(self.seed, epoch))
        if self.window:
            return _windowed(self.shard_sizes, self.window, _generator(self.seed, epoch))
        return epoch_order(self.num_images, seed=self.seed, epoch=epoch)

    def num_batches(self) -> int:
        """Return how many batches there are in an epoch: the same number for every rank."""
        return len(self.bounds)

    def num_images_of(self, batch: int) -> int:
        """Return how many images all ranks together have in batch number `batch` of an epoch."""
        first, last = self.bounds[batch]
        return last - first

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Where the batches of all ranks together are cut; in the last one, too, every rank has an image."""
        least = max(self.world, 2 if self.merge_single else 1)
        return batch_bounds(self.num_images, batch_size=self.batch_size * self.world, least=least)

    def batches(self, position: Position) -> Iterator[tuple[Position, NDArray[np.int64]]]:
        """Yield what is left of the epoch from `position` on: (position after this batch, indices of the batch).

        The indices of a batch are ascending: that is how files are read fastest, and training does not mind.
        """
        indices = self._all_indices(position.epoch)
        bounds = self.bounds
        for number in range(position.batch, len(bounds)):
            first, last = bounds[number]
            after = Position(position.epoch, number + 1) if number + 1 < len(bounds) else Position(position.epoch + 1)
            yield after, np.sort(indices[first:last][self.rank :: self.world])

    def save(self, position: Position) -> dict[str, Any]:
        """Return `position` as JSON can hold it, with what it is a position of."""
        return {**asdict(position), **self._identity()}

    def restore(self, state: dict[str, Any]) -> Position:
        """Return the position that `save` wrote.

        Raises:
            BadInput: it was saved by a sampler with another order.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise BadInput(
                    f"the saved position has {name} {state.get(name)}, now it is {value}: begin the epoch anew"
                )
        return Position(int(state["epoch"]), int(state["batch"]))

    def _identity(self) -> dict[str, Any]:
        names = ("num_images", "batch_size", "seed", "order", "rank", "world", "window", "merge_single")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Position:
    """Where an epoch stands: `batch` batches of it are behind."""

    epoch: int = 0
    batch: int = 0


def epoch_order(num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order (num_images,) in which `epoch` visits the images; it depends on the arguments alone."""
    return _generator(seed, epoch).permutation(num_images)


def batch_bounds(num_images: int, *, batch_size: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut 0 .. num_images into half-open ranges of `batch_size`; the last may be smaller.

    One of less than `least` images joins the one before it.
    """
    firsts = list(range(0, num_images, batch_size))
    if len(firsts) > 1 and num_images - firsts[-1] < least:
        firsts.pop()
    return list(zip(firsts, [*firsts[1:], num_images], strict=True))


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))


def _balanced(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many as there are, each class with the same chance, and within a class each image."""
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    by_class = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    drawn = rng.choice(present, len(labels))
    within = (rng.random(len(labels)) * counts[drawn]).astype(np.int64)
    chosen: NDArray[np.int64] = by_class[starts[drawn] + within]
    return chosen


def _windowed(shard_sizes: Sequence[int], window: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cut shards into pieces, put the pieces in random order, and mix the images within each window."""
    piece = max(1, window // PIECES)
    starts = np.cumsum([0, *shard_sizes])
    pieces = [
        np.arange(first, min(first + piece, end))
        for start, end in pairwise(starts.tolist())
        for first in range(start, end, piece)
    ]
    in_order = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
    cuts = range(0, len(in_order), window)
    return np.concatenate([rng.permutation(in_order[first : first + window]) for first in cuts])
