"""Every benchmark runs at a tiny size; what it finds is not looked at. test_ledger and test_emission run the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import code_size, loading, training
from tinyclf.device.run.program import make_program
from tinyclf.device.targets.target import find_target
from tinyclf.workstation.data import Item, write_dataset


def test_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SECONDS", 0.01)
    monkeypatch.setattr(loading, "ROUNDS", 1)
    monkeypatch.setattr(loading, "BATCH_SIZE", 4)
    loading.write(tmp_path, num=16)
    rates = loading.measure(tmp_path)
    assert len(rates) == 8
    assert min(rates.values()) > 0


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ROUNDS", 1)
    monkeypatch.setattr(training, "EPOCHS", 1)
    monkeypatch.setattr(training, "BATCH_SIZE", 2)
    (ratio,) = training.loop_ratios(tmp_path, threads=1)
    assert ratio > 0
    splits = (("train", 64), ("validation", 4), ("test", 4))
    rng = np.random.default_rng(0)
    images = [(split, rng.integers(0, 256, (32, 32, 3), np.uint8)) for split, num in splits for _ in range(num)]
    items = [Item(split, pixels, i % 2) for i, (split, pixels) in enumerate(images)]
    write_dataset(items, out=tmp_path / "data", classes=["a", "b"], source="tests", size=32)
    ratios = training.cache_ratios(tmp_path / "data", tmp_path, threads=1)
    assert {variant: len(found) for variant, found in ratios.items()} == {"LP": 1, "FT": 1}


@pytest.mark.target("qemu")
def test_code_size(tmp_path: Path) -> None:
    target = find_target("qemu")
    jobs = [code_size.make_job("dscnn", variant, size=32) for variant in code_size.VARIANTS[:3]]
    programs = [make_program(job, target) for job in jobs]
    values, worst = code_size.fit(programs, target, tmp_path)
    assert worst >= 1
    assert values[0] > code_size.MARGIN
