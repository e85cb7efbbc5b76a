"""Decoding in several processes: the results come in the order of the items, whatever process was faster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import ToolFailed
from tinyclf.workstation.data.images import Corrupt, to_pixels
from tinyclf.workstation.data.selection import Group

CHUNK = 16  # images, or one group, that are sent to a process at once
AHEAD = 3  # chunks per process that are under way

Decoded = NDArray[np.uint8] | str
"""Pixels (size, size, 3), or why there are none."""

Images = list[tuple[Any, ...]]


def decode(
    groups: Iterator[Group], *, size: int, crop: str, num_workers: int
) -> Iterator[tuple[Group, tuple[Decoded, ...]]]:
    """Yield each group with its decoded images, in order; with `num_workers` 1 in this process.

    Raises:
        ToolFailed: a worker process was killed.
    """
    if num_workers == 1:
        for group in groups:
            (decoded,) = decode_chunk([tuple(item.image for item in group.items)], size, crop)
            yield group, decoded
        return
    # Spawned, not forked: torch's threads may be running in this process.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield from _in_order(groups, pool, size=size, crop=crop, most=num_workers * AHEAD)
    except BrokenProcessPool as error:
        raise ToolFailed(
            "a process that decodes images was killed (out of memory?): use fewer --num-workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    groups: Iterator[Group], pool: ProcessPoolExecutor, *, size: int, crop: str, most: int
) -> Iterator[tuple[Group, tuple[Decoded, ...]]]:
    under_way: deque[tuple[list[Group], Future[list[tuple[Decoded, ...]]]]] = deque()
    while True:
        while len(under_way) < most and (chunk := _next_chunk(groups)):
            images = [tuple(item.image for item in group.items) for group in chunk]
            under_way.append((chunk, pool.submit(decode_chunk, images, size, crop)))
        if not under_way:
            return
        chunk, future = under_way.popleft()
        yield from zip(chunk, future.result(), strict=True)


def _next_chunk(groups: Iterator[Group]) -> list[Group]:
    chunk = list(islice(groups, 1))
    more = CHUNK // len(chunk[0].items) - 1 if chunk else 0
    return chunk + list(islice(groups, max(0, more)))


def decode_chunk(images: Images, size: int, crop: str) -> list[tuple[Decoded, ...]]:
    """Decode the images of several groups."""
    return [tuple(_decode_one(image, size, crop) for image in group) for group in images]


def _decode_one(image: Any, size: int, crop: str) -> Decoded:
    try:
        return to_pixels(image, size=size, crop=crop)
    except Corrupt as error:
        return str(error)


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, even if it was killed and could tell nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
