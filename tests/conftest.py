"""Fixtures shared by the tests, and the count of tests by target."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.targets import LONG
from tinyclf.device.targets.target import Target, find_target, find_targets

REQUIRED = {name for name in os.environ.get("TINYCLF_REQUIRE", "").split(",") if name}
CCACHE = Path("/usr/lib/ccache")  # compilers by their own names, as Debian's package lays them out


def pytest_configure(config: pytest.Config) -> None:
    """Compile each emitted file once for all tests that emit it, from whichever folder, where ccache is installed."""
    if CCACHE.is_dir():
        os.environ["PATH"] = f"{CCACHE}{os.pathsep}{os.environ['PATH']}"
        os.environ["CCACHE_DIR"] = str(config.rootpath / ".pytest_cache" / "ccache")
        os.environ["CCACHE_NOHASHDIR"] = "1"
        os.environ["CCACHE_MAXSIZE"] = "500M"


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """Return the target, or skip with what is missing (TINYCLF_REQUIRE=host,qemu,pulp makes that a failure)."""
    found = find_target(request.param)
    missing = found.missing()
    if missing:
        reason = f"target {found.name}: missing {', '.join(missing)}"
        if found.name in REQUIRED:
            pytest.fail(f"{reason}, and TINYCLF_REQUIRE asks for it")
        pytest.skip(reason)
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Keep torch on one thread: tests run side by side, and several threads on a busy core are very slow."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep features of frozen nets apart from the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the digits, 32x32, once."""
    return _digits(tmp_path_factory, shifted=False)


@pytest.fixture(scope="session")
def shifted_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the digits as the device meets them, once."""
    return _digits(tmp_path_factory, shifted=True)


@pytest.fixture(scope="session")
def digits_run(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on the digits for four epochs, once: about 93% of the test split are right."""
    import torch

    from tinyclf.workstation.runs.config import config_from
    from tinyclf.workstation.training.loop import train

    torch.set_num_threads(1)
    config = config_from(options={"data": digits_dir, "epochs": 4, "threads": 1})
    return train(config, out=tmp_path_factory.mktemp("runs") / "digits")


def _digits(tmp_path_factory: pytest.TempPathFactory, *, shifted: bool) -> Path:
    from tinyclf.workstation.data import build_dataset

    out = tmp_path_factory.mktemp("data") / "digits"
    build_dataset("digits", out=out, options={"shifted": shifted})
    return out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip long tests unless asked for; note each test's target in its reports, from where the summary counts them."""
    for item in items:
        if not LONG and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long: make test-all runs it"))
        marker = item.get_closest_marker("target")
        item.user_properties.append(("target", marker.args[0] if marker else "python"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests ran on each target, and why any were skipped."""
    ran: Counter[str] = Counter()
    skipped: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            name = dict(report.user_properties).get("target", "python")
            if outcome == "skipped":
                skipped[name, report.longrepr[2].removeprefix("Skipped: ")] += 1
            elif report.when == "call":
                ran[name] += 1
    terminalreporter.section("tests by target")
    for name in ["python", *find_targets()]:
        terminalreporter.line(
            f"{name}: {ran[name]} ran, {sum(n for (t, _), n in skipped.items() if t == name)} skipped"
        )
    for (name, reason), count in sorted(skipped.items()):
        terminalreporter.line(f"skipped {count} of {name}: {reason}")
