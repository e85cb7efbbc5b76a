"""Training against a bare loop over one batch, and with kept features against without: `python -m benchmarks.training`.

Machines are noisy: each ratio is of two things measured in turns, in one run; the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyclf.workstation.data import Item, Preprocessing, build_dataset, open_dataset, write_dataset
from tinyclf.workstation.nets.build import build_model
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.training.loop import Observer, train

PHOTOGRAPHS = Path(__file__).parent.parent.parent / "shared" / "data" / "caltech_faces128"
REPORT = Path(__file__).with_suffix(".md")
BATCH_SIZE, ROUNDS, EPOCHS = 32, 5, 10


def bare_loop(data: Path, *, num_steps: int, threads: int) -> float:
    """Return the images/s of steps over one batch that is held in memory."""
    torch.set_num_threads(threads)
    split = open_dataset(data).split("train")
    images = Preprocessing(128, 128).apply(split.gather(np.arange(BATCH_SIZE)))
    labels = torch.from_numpy(split.labels[:BATCH_SIZE])
    model = build_model("mobilenet_wd4", num_classes=2, size=128).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-3, fused=True)
    begin = time.perf_counter()
    for step in range(num_steps + 2):
        if step == 2:
            begin = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return num_steps * BATCH_SIZE / (time.perf_counter() - begin)


def trained(data: Path, out: Path, **options: Any) -> tuple[float, float, list[str]]:
    """Train; return the seconds of all epochs, with their validation, the images/s of the last, and the notes."""
    seconds: list[float] = []
    speeds: list[float] = []
    notes: list[str] = []

    def on_epoch(_: object, took: float, images_per_s: float) -> None:
        seconds.append(took)
        speeds.append(images_per_s)

    observer = Observer(on_epoch=on_epoch, on_note=notes.append)
    train(config_from(options={"data": data, **options}), out=out, observer=observer)
    return sum(seconds), speeds[-1], notes


def loop_ratios(folder: Path, *, threads: int) -> list[float]:
    """Return the speed of training as a share of the bare loop's, in each round."""
    rng = np.random.default_rng(0)
    num = 20 * BATCH_SIZE
    items = [
        Item(split, rng.integers(0, 256, (128, 128, 3), dtype=np.uint8), i % 2)
        for split, n in (("train", num), ("validation", 2))
        for i in range(n)
    ]
    write_dataset(items, out=folder / "random", classes=["a", "b"], source="benchmark", size=128)
    ratios = []
    for number in range(ROUNDS):
        bare = bare_loop(folder / "random", num_steps=20, threads=threads)
        options = {"epochs": 2, "threads": threads, "lr": 0.01}
        _, speed, _ = trained(folder / "random", folder / f"loop-{number}", **options)
        bare = (bare + bare_loop(folder / "random", num_steps=20, threads=threads)) / 2
        ratios.append(speed / bare)
        print(f"bare loop {bare:,.0f} images/s, training {speed:,.0f}: {ratios[-1]:.1%}")
    return ratios


def cache_ratios(data: Path, folder: Path, *, threads: int) -> dict[str, list[float]]:
    """Return how many times faster ten epochs are with features that are there already, by variant and round."""
    size = open_dataset(data).size
    start = {"epochs": 1, "threads": threads, "size": size}
    trained(data, folder / "start", **start)
    found: dict[str, list[float]] = {}
    for variant in ("LP", "FT"):
        common = {"variant": variant, "from_run": folder / "start", "epochs": EPOCHS, "threads": threads}
        common["feature_dir"] = folder / "features"
        trained(data, folder / f"{variant}-first", **common)
        for number in range(ROUNDS):
            without, _, _ = trained(data, folder / f"{variant}-{number}-off", keep_features="off", **common)
            with_, _, notes = trained(data, folder / f"{variant}-{number}-on", **common)
            assert "found there" in notes[0], notes
            found.setdefault(variant, []).append(without / with_)
            print(
                f"{variant}: {EPOCHS} epochs {without:.2f} s without, {with_:.3f} s with: {without / with_:.1f} times"
            )
    return found


def main() -> None:
    threads = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        if PHOTOGRAPHS.is_dir():
            build_dataset("folder", out=data, options={"from": str(PHOTOGRAPHS)}, num_workers=2)
        else:
            build_dataset("digits", out=data)
        what = f"{PHOTOGRAPHS.name}, 128x128" if PHOTOGRAPHS.is_dir() else "digits, 32x32"
        loop = loop_ratios(folder, threads=threads)
        cache = cache_ratios(data, folder, threads=threads)
    middle = statistics.median
    lines = [
        "# Training",
        "",
        "Written by `python -m benchmarks.training`, which says what is measured: one thread, medians of "
        f"{ROUNDS} rounds,",
        "the lowest in brackets.",
        "",
        "| what | ratio | at least |",
        "|---|---|---|",
        "| images/s of training mobilenet_wd4 at 128x128, to those of a bare loop over one batch | "
        f"{middle(loop):.1%} ({min(loop):.1%}) | 90 % |",
        *(
            f"| {EPOCHS} epochs of {variant} on {what}, with kept features against without | "
            f"{middle(cache[variant]):.1f} ({min(cache[variant]):.1f}) | {least} |"
            for variant, least in (("LP", 20), ("FT", 2.5))
        ),
        "",
    ]
    REPORT.write_text("\n".join(lines))
    print(f"wrote {REPORT}")


if __name__ == "__main__":
    main()
