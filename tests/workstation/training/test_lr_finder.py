"""The learning-rate finder: where it ends, what it suggests, and that training with that rate learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyclf.base.errors import BadInput
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.training.lr_finder import HIGHEST, LOWEST, _steepest, find_rate, write_range_test


def test_digits(digits_dir: Path, tmp_path: Path) -> None:
    config = config_from(options={"data": digits_dir, "threads": 1})
    found = find_rate(config)
    assert found == find_rate(config)
    assert found.rates[0] == LOWEST
    assert list(found.rates) == sorted(found.rates)
    assert found.rates[-1] <= HIGHEST
    assert 1e-3 < found.suggestion < 1
    assert min(found.losses) < found.losses[0]
    write_range_test(tmp_path, found)
    lines = (tmp_path / "lr_finder.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("lr,loss", len(found.rates) + 1)
    assert (tmp_path / "lr_finder.png").read_bytes().startswith(b"\x89PNG")


def test_where_the_loss_falls_fastest() -> None:
    rates = [10.0**e for e in range(-6, 2)]
    assert _steepest(rates, [1, 1, 1, 0.9, 0.4, 0.2, 0.3, 3]) == rates[4]
    with pytest.raises(BadInput, match="the loss does not fall at any learning rate"):
        _steepest(rates, [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7])
    with pytest.raises(BadInput, match="does not fall"):
        _steepest([], [])
