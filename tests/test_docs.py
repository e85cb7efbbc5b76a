"""What README and CHANGELOG say is so: commands parse, make targets exist, figures are what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_cli import parse

from tinyclf import __version__, cli
from tinyclf.jobs import memory_of
from tinyclf.targets import find_targets
from tinyclf.variants import VARIANTS, Variant

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _code_lines() -> list[str]:
    return [line.strip().split("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]


def test_commands_of_the_readme_parse() -> None:
    lines = [line for line in _code_lines() if line.startswith("tinyclf ")]
    assert len(lines) >= 7
    for line in lines:
        parse(line)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(_code_lines()) + " ".join(re.findall(r"`[^`]+`", README))))
    assert named >= {"demo", "test", "system", "bench-device", "format"}
    for name in named - {"run"}:  # `make run` is the emitted project's
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_command_target_and_variant_is_in_the_readme() -> None:
    for name in cli.main.commands:
        assert f"`tinyclf {name}" in README, name
    for name in find_targets():
        assert f"| `{name}` |" in README, name
    for name in VARIANTS:
        assert f"| `{name}" in README, name


@pytest.mark.parametrize(
    ("net", "arch", "variant"),
    [
        ("MobileNetV1-0.25 | LP", "mobilenet_wd4", Variant("LP")),
        ("MobileNetV1-0.25 | FT K=2", "mobilenet_wd4", Variant("FT", 2)),
        ("MobileNetV1-0.25 | full", "mobilenet_wd4", Variant("full")),
        ("FD-MobileNet-0.25 | FD", "fdmobilenet_wd4", Variant("FD")),
        ("FD-MobileNet-0.25 | FT K=2", "fdmobilenet_wd4", Variant("FT", 2)),
    ],
)
def test_memory_table_of_the_readme_is_what_the_command_says(net: str, arch: str, variant: Variant) -> None:
    r = memory_of(variant, arch=arch, size=128, num_classes=2).report
    figures = (r.parameters_trained, r.parameters_frozen, r.peak, r.total, r.naive_total)
    assert f"| {net} | {' | '.join(f'{f:,}' for f in figures)} |" in README


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"`((?:external|benchmarks|tests|datasets|deployers|tinyclf)/[^`]*)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / name).exists(), name


def test_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
