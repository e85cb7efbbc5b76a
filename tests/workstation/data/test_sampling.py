"""Sampling and loading: every order is whole, the same everywhere, and goes on exactly where it stopped."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import (
    Item,
    Loader,
    Position,
    Preprocessing,
    Sampler,
    Split,
    make_loader,
    open_dataset,
    parse_augmentations,
    write_dataset,
)
from tinyclf.workstation.data.sampling import batch_bounds, epoch_order

SHARDS = (40, 40, 40, 17)
NUM = sum(SHARDS)
ORDER = [8, 5, 6, 0, 9, 1, 4, 3, 7, 2]
WINDOWED = [0, 7, 6, 1, 4, 8, 3, 9, 5, 2]
KINDS: dict[str, dict[str, Any]] = {
    "sequential": {"order": "sequential"},
    "shuffled": {"order": "shuffled"},
    "window": {"window": 32, "shard_sizes": SHARDS},
}


PLAIN = Preprocessing(32, 32)


def sampler(kind: str = "shuffled", **given: Any) -> Sampler:
    return Sampler(**{"num_images": NUM, "batch_size": 8, "seed": 3, **KINDS[kind], **given})


def test_order_depends_on_seed_and_epoch() -> None:
    order = epoch_order(100, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, epoch_order(100, seed=1, epoch=2))
    assert not np.array_equal(order, epoch_order(100, seed=2, epoch=1))


def test_the_order_of_today_is_that_of_tomorrow() -> None:
    """These figures hold on every machine; a change of numpy or of ours that moves them breaks saved positions."""
    assert epoch_order(10, seed=1, epoch=2).tolist() == ORDER
    assert sampler("window", num_images=10, shard_sizes=(5, 5), window=6).indices(2).tolist() == WINDOWED


@pytest.mark.parametrize(
    ("num_images", "merge", "sizes"),
    [
        (8, False, [4, 4]),
        (9, False, [4, 4, 1]),
        (9, True, [4, 5]),
        (10, True, [4, 4, 2]),
        (1, True, [1]),
        (3, False, [3]),
    ],
)
def test_batch_bounds(num_images: int, merge: bool, sizes: list[int]) -> None:
    bounds = batch_bounds(num_images, batch_size=4, least=2 if merge else 1)
    assert [last - first for first, last in bounds] == sizes
    assert [index for first, last in bounds for index in range(first, last)] == list(range(num_images))


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_every_image_once(kind: str) -> None:
    first, second = (sampler(kind).indices(epoch) for epoch in (1, 2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(NUM))
    assert np.array_equal(first, sampler(kind).indices(1))
    if kind != "sequential":
        assert not np.array_equal(first, second)
        assert not np.array_equal(first, sampler(kind, seed=4).indices(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_are_disjoint_and_together_the_epoch(kind: str, world: int) -> None:
    parts = [sampler(kind, rank=rank, world=world).indices(5) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(NUM))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("num_images", [137, 129, 130, 128, 3, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_have_batches_in_step_and_see_every_image_once(num_images: int, world: int) -> None:
    ranks = [Sampler(num_images=num_images, batch_size=8, rank=r, world=world, merge_single=True) for r in range(world)]
    seen = []
    for batch, parts in enumerate(zip(*(list(given.batches(Position(2))) for given in ranks), strict=True)):
        assert len({after for after, _ in parts}) == 1
        sizes = [len(indices) for _, indices in parts]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == ranks[0].num_images_of(batch)
        seen += [index for _, indices in parts for index in indices.tolist()]
    assert sorted(seen) == list(range(num_images))


def test_two_ranks_have_the_batches_of_one_with_twice_the_batch() -> None:
    one = Sampler(num_images=137, batch_size=16, seed=5)
    two = [Sampler(num_images=137, batch_size=8, seed=5, rank=rank, world=2) for rank in (0, 1)]
    for (_, whole), (_, first), (_, second) in zip(
        one.batches(Position(3)), *(given.batches(Position(3)) for given in two), strict=True
    ):
        assert whole.tolist() == sorted([*first.tolist(), *second.tolist()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_restored_position_goes_on_with_what_is_left(kind: str, rank: int) -> None:
    given = sampler(kind, rank=rank, world=2)
    everything = list(given.batches(Position(4)))
    assert len(everything) == given.num_batches()
    for _, indices in everything:
        assert indices.tolist() == sorted(indices.tolist())
    seen = np.concatenate([indices for _, indices in everything])
    assert sorted(seen.tolist()) == sorted(given.indices(4).tolist())
    assert everything[-1][0] == Position(5, 0)
    for stop in range(len(everything) - 1):
        state = json.loads(json.dumps(given.save(everything[stop][0])))
        position = sampler(kind, rank=rank, world=2).restore(state)
        left = list(given.batches(position))
        assert [indices.tolist() for _, indices in left] == [indices.tolist() for _, indices in everything[stop + 1 :]]


def test_a_position_of_another_order_is_refused() -> None:
    state = sampler().save(Position(1, 2))
    others: tuple[tuple[dict[str, Any], str], ...] = (
        ({"seed": 4}, "seed 3, now it is 4"),
        ({"batch_size": 16}, "batch_size 8, now it is 16"),
    )
    for given, message in others:
        with pytest.raises(BadInput, match=message):
            sampler(**given).restore(state)


def test_balanced_draws_classes_equally_often() -> None:
    labels = np.array([0] * 900 + [2] * 90 + [3] * 10)  # nobody is of class 1
    given = Sampler(num_images=1000, batch_size=10, order="balanced", labels=labels)
    drawn = np.concatenate([given.indices(epoch) for epoch in range(30)])
    counts = np.bincount(labels[drawn], minlength=4)
    assert counts[1] == 0
    assert np.abs(counts[[0, 2, 3]] / 30_000 - 1 / 3).max() < 0.015
    per_image = np.bincount(drawn, minlength=1000)
    assert per_image[990:].min() > 800, "each of the ten is drawn about 1,000 times"
    assert np.array_equal(given.indices(7), given.indices(7))
    assert not np.array_equal(given.indices(7), given.indices(8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": "sorted"}, "order 'sorted': choose one of"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"num_images": 2, "world": 3}, "2 images for 3 processes"),
        ({"order": "balanced"}, "needs their labels"),
        ({"window": 8, "shard_sizes": (3,)}, "the shards hold 3 images, the split 137"),
    ],
)
def test_samplers_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        sampler(**given)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    rng = np.random.default_rng(0)
    items = [Item("train", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), i % 2) for i in range(1000)]
    out = tmp_path_factory.mktemp("data") / "d"
    write_dataset(items, out=out, classes=["a", "b"], source="test", size=32, shard_size=300)
    return open_dataset(out).split("train")


def batches_of(loader: Loader, position: Position) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images, labels) for _, images, labels in loader.batches(position)]


@pytest.mark.parametrize("window", [None, 1, 100])
def test_the_loader_gives_the_images_of_the_order(split: Split, window: int | None) -> None:
    loader = make_loader(split, PLAIN, batch_size=32, seed=5, window_mib=window, merge_single=True)
    order = np.concatenate([indices for _, indices in loader.sampler.batches(Position(3))])
    assert sorted(order.tolist()) == list(range(1000))
    parts = batches_of(loader, Position(3))
    assert len(parts) == len(loader)
    assert torch.equal(torch.cat([images for images, _ in parts]), PLAIN.apply(split.gather(order)))
    assert torch.equal(torch.cat([labels for _, labels in parts]), torch.from_numpy(split.labels[order]))


@pytest.mark.parametrize("window", [None, 1])
def test_the_loader_goes_on_in_the_midst_of_an_epoch(split: Split, window: int | None) -> None:
    loader = make_loader(
        split, PLAIN, batch_size=32, window_mib=window, augmentations=parse_augmentations("flip,shift=2,erase,contrast")
    )
    everything = batches_of(loader, Position(2))
    for stop in (1, 9, len(everything) - 1):
        left = batches_of(loader, Position(2, stop))
        assert len(left) == len(everything) - stop
        for (images, labels), (due_images, due_labels) in zip(left, everything[stop:], strict=True):
            assert torch.equal(images, due_images)
            assert torch.equal(labels, due_labels)


def test_a_window_mixes_shards(split: Split) -> None:
    loader = make_loader(split, PLAIN, batch_size=16, window_mib=1)
    window = loader.sampler.window
    assert 32 <= window < 200
    shards = [set((loader.sampler.indices(1)[i : i + window] // 300).tolist()) for i in range(0, 1000, window)]
    assert np.mean([len(found) for found in shards]) > 2


def test_a_window_too_small_for_a_batch(split: Split) -> None:
    with pytest.raises(BadInput, match="--window 1 MiB: a batch needs 4 MiB: use --window 4"):
        make_loader(split, PLAIN, batch_size=512, window_mib=1)


MEMORY = """
import resource, sys
from pathlib import Path
from tinyclf.workstation.data import Position, make_loader, open_dataset
import numpy as np
window = int(sys.argv[2])
split = open_dataset(Path(sys.argv[1])).split("train")
from tinyclf.workstation.data import Preprocessing
loader = make_loader(split, Preprocessing(128, 128), batch_size=32, window_mib=window)
list(zip(range(1), loader.sampler.batches(Position(0))))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(images.nbytes for _, _, images in loader.read(Position(0)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, total / 2**20)
"""


def test_memory_stays_within_the_window(tmp_path: Path) -> None:
    rng = random.Random(0)
    items = (Item("train", np.full((128, 128, 3), rng.randrange(256), np.uint8), i % 2) for i in range(4000))
    write_dataset(items, out=tmp_path / "d", classes=["a", "b"], source="test", size=128, shard_size=1500)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "d"), "48"], capture_output=True, text=True, check=True
    )
    grown, total = map(float, done.stdout.split())
    assert total > 180
    assert grown < 48 + 8, "the window, and a little for batches and the allocator"
