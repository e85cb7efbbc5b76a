"""Upstream's library for tests of emission: a checkout of it, and a folder that looks like one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinyclf.device.emit.upstream import Upstream, find_upstream, table


@pytest.fixture
def checkout() -> Upstream:
    """Return the checkout, or skip."""
    home = os.environ.get("TINYCLF_TRAINLIB_HOME")
    if not home:
        pytest.skip("TINYCLF_TRAINLIB_HOME is not set: no checkout of PULP-TrainLib")
    return find_upstream(home)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Return a folder with the files of a checkout, all empty: enough to emit, not to build."""
    home = tmp_path / "PULP-TrainLib"
    sources = {s for row in table()["kernels"].values() for s in row["sources"]}
    for name in ("lib/include/pulp_train.h", *(f"lib/sources/{s}" for s in sources)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return home
