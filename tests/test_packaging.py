"""The wheel works outside of the checkout: it brings templates, ports, kernels and sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.kit.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    arguments = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    subprocess.run([sys.executable, *arguments], check=True)
    (built,) = out.glob("tinyclf-*.whl")
    return built


def test_wheel_holds_everything_that_a_checkout_has(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("templates", "deployers", "external/pulp-trainlib", "datasets"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"tinyclf/_resources/{file.relative_to(ROOT).as_posix()}" in names
    assert not [n for n in names if n.startswith(("tests/", "datasets/", "templates/"))]


@pytest.mark.target("host")
def test_wheel_in_a_fresh_environment_deploys(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, cwd=tmp_path, env=environment
    )
    # The packages it depends on (torch alone has 190 MB) are those of this environment; tinyclf itself is the wheel's.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [python, "-c", "import tinyclf; print(tinyclf.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    ).stdout
    assert where.startswith(str(tmp_path)), where
    command = [str(tmp_path / "venv" / "bin" / "tinyclf"), "deploy", "--target", "host", "--size", "32", "--steps", "2"]
    done = subprocess.run(
        [*command, "--out", "project", "--execute"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "project" / "report.json").read_text())["passed"]
    built = subprocess.run(
        [command[0], "data", "build", "digits", "--out", "digits"], check=False, cwd=tmp_path, env=environment
    )
    assert built.returncode == 0
