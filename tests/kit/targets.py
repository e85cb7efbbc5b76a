"""Tests on targets, and tests that take long."""

from __future__ import annotations

import os
from collections.abc import Collection

import pytest

from tinyclf.device.targets.target import find_targets

COSTS = find_targets()["pulp"].costs  # by which tests cut tiles
LONG = bool(os.environ.get("TINYCLF_LONG"))  # set by `make test-all`


def on_targets(*names: str, long: Collection[str] = ()) -> pytest.MarkDecorator:
    """Run a test on each target, all of deployers/ by default; it takes the argument `target`.

    On those of `long` it runs when long tests are asked for.
    """
    params = [
        pytest.param(name, marks=[pytest.mark.target(name), *([pytest.mark.long] if name in long else [])])
        for name in names or find_targets()
    ]
    return pytest.mark.parametrize("target", params, indirect=True)
