"""Images per second from a dataset folder, next to a DataLoader over JPEG files and one .pt file per image.

Run by `python -m benchmarks.loading`; rewrites benchmarks/loading.md. 20,000 generated images of 128x128 in every form,
in one run. Ours run in one process held to one core; the DataLoader has two workers on all cores. Files were just
written, so all are read from the page cache. Images are the batches of a shuffled epoch, 128 at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tinyclf.workstation.data import (
    MEAN,
    STD,
    Item,
    Position,
    Preprocessing,
    make_loader,
    open_dataset,
    parse_augmentations,
    write_dataset,
)

HERE = Path(__file__).parent
SIZE, BATCH_SIZE = 128, 128
AUGMENT = "flip,shift=4,brightness,contrast"
SECONDS = 8.0  # at most, for one measurement
ROUNDS = 3  # the fastest counts


def picture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return something like a photograph: soft shapes and a little noise."""
    soft = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    return (np.asarray(soft, np.int16) + rng.integers(-6, 7, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)


class Folder(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """What most people write: a file per image, decoded and normalised in `__getitem__`."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.files[index].suffix == ".pt":
            return torch.load(self.files[index], weights_only=True), 0
        pixels = np.array(Image.open(self.files[index]).convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float().div(255)
        return (image - self.mean) / self.std, 0


def write(root: Path, *, num: int) -> None:
    """Write the same images as a dataset folder, as JPEG files and as float32 .pt files."""
    for name in ("jpg", "pt"):
        (root / name).mkdir()

    def items() -> Iterator[Item]:
        rng = np.random.default_rng(0)
        for index in range(num):
            pixels = picture(rng)
            Image.fromarray(pixels).save(root / "jpg" / f"{index:05d}.jpg", quality=90)
            torch.save(torch.from_numpy(pixels).permute(2, 0, 1).float().div(255), root / "pt" / f"{index:05d}.pt")
            yield Item("train", pixels, index % 2)

    write_dataset(items(), out=root / "shards", classes=["a", "b"], source="generated", size=SIZE)


def rate(batches: Callable[[], Iterable[Any]], *, rounds: int = ROUNDS) -> float:
    """Return images per second of the fastest round."""
    best = 0.0
    for _ in range(rounds):
        begin, num = time.perf_counter(), 0
        for batch in batches():
            num += len(batch)
            if time.perf_counter() - begin > SECONDS:
                break
        best = max(best, num / (time.perf_counter() - begin))
    return best


def _copied(target: NDArray[np.uint8], source: NDArray[np.uint8]) -> NDArray[np.uint8]:
    np.copyto(target, source)
    return target


def measure(root: Path) -> dict[str, float]:
    """Return images per second of every way."""
    split = open_dataset(root / "shards").split("train")
    preprocessing = Preprocessing(SIZE, SIZE)
    plain = make_loader(split, preprocessing, batch_size=BATCH_SIZE)
    augmented = make_loader(split, preprocessing, batch_size=BATCH_SIZE, augmentations=parse_augmentations(AUGMENT))
    window = make_loader(split, preprocessing, batch_size=BATCH_SIZE, window_mib=256)
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    source, target = (np.full((4096, split.image_bytes), fill, np.uint8) for fill in (1, 2))
    rates = {
        "plain copy in memory (numpy)": rate(lambda: (_copied(target, source) for _ in range(5))),
        "ours, uint8": rate(lambda: (images for _, _, images in plain.read(Position(1)))),
        "ours, float, normalised": rate(lambda: (images for _, images, _ in plain.batches(Position(1)))),
        f"ours, augmented ({AUGMENT})": rate(lambda: (images for _, images, _ in augmented.batches(Position(1)))),
    }
    os.sched_setaffinity(0, cores)
    rates["ours, uint8, window of 256 MiB"] = rate(lambda: (images for _, _, images in window.read(Position(1))))
    for name, folder, workers in (
        ("DataLoader, JPEG files, 2 workers", "jpg", 2),
        (".pt file per image, 2 workers", "pt", 2),
        (".pt file per image, no worker", "pt", 0),
    ):
        files = Folder(sorted((root / folder).iterdir()))
        given: Any = torch.utils.data.DataLoader(files, batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
        rates[name] = rate(lambda given=given: (images for images, _ in given), rounds=1)  # type: ignore[misc]
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20_000, help="images (default 20,000)")
    num = parser.parse_args().num
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), num=num)
        rates = measure(Path(folder))
    jpeg = rates["DataLoader, JPEG files, 2 workers"]
    lines = [
        f"# Loading {num:,} images of {SIZE}x{SIZE}",
        "",
        "Written by `python -m benchmarks.loading`, which says what is measured. The ratios are to the DataLoader over",
        "JPEG files, which gives the same as `ours, float, normalised`.",
        "",
        "| what | images/s | ratio |",
        "|---|---|---|",
        *(f"| {name} | {value:,.0f} | {value / jpeg:,.1f} |" for name, value in rates.items()),
    ]
    print("\n".join(lines))
    (HERE / "loading.md").write_text("\n".join(lines) + "\n")
    bounds = {"ours, uint8": max(150e3, 20 * jpeg), "ours, float, normalised": 25e3}
    missed = [
        f"{name}: {rates[name]:,.0f} images/s, {least:,.0f} are due"
        for name, least in bounds.items()
        if rates[name] < least
    ]
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
