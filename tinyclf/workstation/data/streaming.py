"""Reading a split that is larger than memory: a window of batches at a time, the next one read ahead by a thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.shards import Split

MIB = 1 << 20
Key = TypeVar("Key")


def window_images(split: Split, *, window_mib: int, batch_size: int) -> int:
    """Return how many images are mixed at a time so that what is held stays within `window_mib` MiB.

    Two windows are held, the current one and the next, and a quarter of one while it is read.

    Raises:
        BadInput: not even a batch fits.
    """
    batch_bytes = batch_size * split.image_bytes
    num_batches = int(window_mib * MIB / 2.25 / batch_bytes)
    if num_batches < 1:
        least = -(-int(batch_bytes * 2.25) // MIB)
        raise BadInput(f"--window {window_mib} MiB: a batch needs {least} MiB: use --window {least}")
    return num_batches * batch_size


def read_ahead(
    split: Split, batches: Iterable[tuple[Key, NDArray[np.int64]]], *, batches_per_window: int
) -> Iterator[tuple[Key, NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield (key, indices, images) of each batch; images are read a window at a time, one window ahead.

    Files are read, not mapped: mapped pages would count as memory of this process.
    """
    remaining = iter(batches)
    with ThreadPoolExecutor(1) as thread:

        def begin() -> tuple[list[tuple[Key, NDArray[np.int64]]], Future[NDArray[np.uint8]]] | None:
            window = list(islice(remaining, batches_per_window))
            if not window:
                return None
            return window, thread.submit(_read, split, np.concatenate([indices for _, indices in window]))

        following = begin()
        while following:
            window, future = following
            images = future.result()
            following = begin()
            first = 0
            for key, indices in window:
                # A copy: a view in the hands of the caller would keep the whole window alive.
                yield key, indices, images[first : first + len(indices)].copy()
                first += len(indices)
            del images


def _read(split: Split, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the images at `wanted`, in that order, reading runs of neighbours at once."""
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    images = np.empty((len(wanted), *split.shards[0].shape[1:]), np.uint8)
    cuts = np.searchsorted(ascending, split.starts)
    most = max(1, len(wanted) // 8)  # images read at once
    for shard, start, first, last in zip(split.shards, split.starts, cuts, cuts[1:], strict=False):
        if first == last:
            continue
        assert isinstance(shard, np.memmap)
        assert shard.filename is not None
        with open(shard.filename, "rb", buffering=0) as stream:
            ends = np.flatnonzero(np.diff(ascending[first:last]) != 1) + 1
            for part in np.split(np.arange(first, last), ends):
                for piece in range(0, len(part), most):
                    places = part[piece : piece + most]
                    stream.seek(shard.offset + int(ascending[places[0]] - start) * split.image_bytes)
                    rows = np.fromfile(stream, np.uint8, len(places) * split.image_bytes)
                    images[order[places]] = rows.reshape(len(places), *images.shape[1:])
    return images
