"""What README and CHANGELOG say is so: commands parse, make targets exist, figures are what the commands print."""

from __future__ import annotations

import ast
import json
import re

import pytest

from tests.cli.test_cli import parse
from tests.kit import kernel_docs
from tests.kit.paths import ROOT
from tinyclf import __version__, cli
from tinyclf.device.targets.target import find_targets
from tinyclf.jobs.memory import MemoryRequest, memory_of
from tinyclf.recipe.variant import VARIANTS, Variant

README = (ROOT / "README.md").read_text()
DOCS = {file.name: file.read_text() for file in (ROOT / "docs").glob("*.md")}


def _code_lines(*texts: str) -> list[str]:
    lines = [line for text in texts or (README,) for line in text.splitlines() if line.startswith("    ")]
    return [line.strip().split("  #")[0].strip() for line in lines]


def test_commands_of_readme_and_docs_parse() -> None:
    lines = [line for line in _code_lines(README, *DOCS.values()) if line.startswith("tinyclf ")]
    assert len(lines) >= 20
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
def test_memory_table_of_the_docs_is_what_the_command_says(net: str, arch: str, variant: Variant) -> None:
    r = memory_of(MemoryRequest(variant, arch)).sums
    figures = (r.parameters_trained, r.parameters_frozen, r.peak, r.total, r.naive_total)
    assert f"| {net} | {' | '.join(f'{f:,}' for f in figures)} |" in DOCS["memory.md"]
    if net in ("MobileNetV1-0.25 | LP", "MobileNetV1-0.25 | FT K=2", "MobileNetV1-0.25 | full"):
        assert f"{r.total:,}" in README


def test_files_that_readme_and_docs_name_exist() -> None:
    for folder, text in ((ROOT, README), *((ROOT / "docs", text) for text in DOCS.values())):
        for name in re.findall(r"`((?:external|benchmarks|tests|datasets|deployers|tinyclf)/[^`{*]*)`", text):
            assert (ROOT / name).exists(), name
        for name in re.findall(r"\]\(([^)h][^)]*)\)", text):
            assert (folder / name).exists(), name


def test_the_readme_stays_short() -> None:
    assert len(README.encode()) < 10_000


def test_the_list_of_modules_says_what_each_says_of_itself() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", (ROOT / "docs" / "modules.md").read_text(), re.MULTILINE)
    said = {}
    for file in (ROOT / "tinyclf").rglob("*.py"):
        name = ".".join(file.relative_to(ROOT / "tinyclf").with_suffix("").parts).removesuffix(".__init__")
        charter = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        if not name.startswith("_") and file.name != "__init__.py":
            said[name] = charter
    assert len(rows) == len(dict(rows))
    assert dict(rows) == said


def test_cycles_in_the_readme_are_the_ledgers() -> None:
    rows = {(r["net"], r["size"]): r for r in json.loads((ROOT / "benchmarks" / "device.json").read_text())}

    def millions(net: str, size: int, digits: int) -> str:
        return f"{rows[net, size]['cycles'] / 1e6:.{digits}f}"

    text, device = " ".join(README.split()), " ".join(DOCS["device.md"].split())
    cached, whole = millions("mobilenet_wd4 FT K=1 cached", 96, 2), millions("mobilenet_wd4 FT K=1", 96, 2)
    assert f"then take {cached} instead of {whole} million cycles a step of pulp-open" in device
    lp, ft = rows["mobilenet_wd4 LP", 128], rows["mobilenet_wd4 FT K=2", 128]
    assert f"trains a sample in {millions(lp['net'], 128, 1)} million cycles of pulp-open" in text
    assert f"FT K=2 in {millions(ft['net'], 128, 1)} million" in text
    assert f"({lp['macs_per_cycle']:.1f} and {ft['macs_per_cycle']:.1f} MAC/clk of the chip's 4)" in text


def test_the_table_of_kernels_is_the_tables() -> None:
    assert kernel_docs.FILE.read_text() == kernel_docs.text(), "run python -m tests.kit.kernel_docs"


def test_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
