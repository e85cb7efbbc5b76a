"""The demo, as `make demo` runs it: the shift costs, adapting pays, and the C agrees with PyTorch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.kit.commands import run
from tinyclf.device.targets.target import find_target


def _percent(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, pattern
    return float(found[1])


@pytest.mark.target("host")
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other targets run the same step in test_cli_device; here they would only cost time.
    host = find_target("host")
    monkeypatch.setattr("tinyclf.device.targets.target.find_targets", lambda: {"host": host})
    monkeypatch.chdir(tmp_path)
    result = run("demo")
    assert result.exit_code == 0, result.output
    clean = _percent(r"eval demo/clean --data demo/digits --split test\naccuracy ([\d.]+)%", result.stdout)
    summary = result.stdout.split("=== Summary")[1]
    before, lp, ft = (
        _percent(rf"  {name}.* ([\d.]+)%", summary) for name in ("before adapting", "after LP", "after FT K=2")
    )
    assert clean >= 90
    assert clean - before >= 20, "the shift must cost the model at least 20 points"
    assert ft - before >= 10, "FT K=2 must gain at least 10 points"
    assert lp > before
    assert json.loads((tmp_path / "demo" / "host" / "report.json").read_text())["passed"]
    assert "What to do next" in summary
