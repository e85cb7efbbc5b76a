"""The import rule: which package of tinyclf may import which. Arrows point down, and there is no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.paths import ROOT

PACKAGE = ROOT / "tinyclf"

# Package: the packages that it may import, beside itself, `base` and `recipe`. Those of a row stand above it.
ALLOWED = {
    "base": "",
    "recipe": "",
    "workstation.data": "",
    "workstation.metrics": "",
    "workstation.nets": "",
    "workstation.runs": "data nets",
    "workstation.results": "data metrics nets runs",
    "workstation.training": "data nets results runs",
    "device.graph": "",
    "device.targets": "graph",
    "device.memory": "graph",
    "device.tiles": "graph memory targets",
    "device.lowering": "graph",
    "device.footprint": "graph memory targets tiles",
    "device.emit": "graph memory targets tiles",
    "device.reference": "lowering",
    "device.run": "emit footprint graph lowering memory reference targets tiles",
    "jobs": "device.* workstation.*",
    "cli": "device.* jobs workstation.*",
    "__main__": "cli",
}
NEEDS_NO_TORCH = (
    "base",
    "recipe",
    "device.graph",
    "device.memory",
    "device.targets",
    "device.footprint",
    "device.tiles",
    "device.emit",
    "workstation.metrics",
)


def _files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def _module(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def _package(module: str) -> str:
    """Return the package of a module: one of the two halves' floors, or one of the others."""
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if first in ("device", "workstation") and rest else first


def _imported_names(file: Path) -> Iterator[str]:
    """Yield what a file imports of tinyclf for use at run time, inside functions too, as module or module.name."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in typing_only:
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("tinyclf."))
        elif isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            assert not node.level, f"{file} imports relatively"
            if node.module and node.module.split(".")[0] == "tinyclf":
                yield from (f"{node.module}.{alias.name}".partition(".")[2] for alias in node.names)


def _imports(file: Path) -> set[str]:
    """Return the modules of tinyclf that a file imports."""
    modules = {_module(f) for f in _files()}
    return {n if n in modules else n.rpartition(".")[0] for n in _imported_names(file)} - {"", _module(file)}


def _allowed(package: str) -> set[str]:
    half = package.partition(".")[0]
    below = list(ALLOWED)[: list(ALLOWED).index(package)]
    allowed = {package, *[name for name in ("base", "recipe") if name in below]}
    for word in ALLOWED[package].split():
        if word.endswith("*"):
            allowed |= {name for name in ALLOWED if name.startswith(word[:-1])}
        else:
            allowed.add(word if word in ALLOWED else f"{half}.{word}")
    assert allowed <= {*below, package}, f"{package} may import what stands below it"
    return allowed


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_the_rule_allows(package: str) -> None:
    allowed = _allowed(package)
    for file in _files():
        if _package(_module(file)) == package:
            for module in _imports(file):
                assert _package(module) in allowed, f"{_module(file)} imports {module}"


def test_every_package_is_in_the_rule_and_none_is_forgotten() -> None:
    assert {_package(_module(file)) for file in _files()} - {"device", "workstation"} == set(ALLOWED)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Packages that only list what their modules offer are left out: their modules do not import them."""
    graph = {_module(file): _imports(file) for file in _files() if file.name != "__init__.py"}
    while leaves := [module for module, imported in graph.items() if not imported & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"a circle among {sorted(graph)}"


def test_modules_do_not_import_the_package_around_them() -> None:
    for file in _files():
        module = _module(file)
        if file.name != "__init__.py":
            parents = {module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)}
            assert not parents & _imports(file), module


def test_what_needs_no_torch_knows_none() -> None:
    for file in _files():
        if _package(_module(file)) in NEEDS_NO_TORCH:
            text = file.read_text()
            assert "import torch" not in text, file
            assert "from torch" not in text, file


def test_one_module_lowers_cuts_rows_and_tiles() -> None:
    """Whoever needs a step asks `device.run.step`, which shows the flow."""
    stages = {
        f"device.{s}" for s in ("lowering.lower.training_graph", "memory.rows.cut_rows", "tiles.planner.plan_tiles")
    }
    users = {_module(file): found for file in _files() if (found := stages & set(_imported_names(file)))}
    assert users == {"device.run.step": stages}


def test_one_noun_says_what_is_asked_for_and_one_what_is_done() -> None:
    """Of what users ask for, and of what is done for them, there are no synonyms."""
    synonyms = ("Asked", "Question", "Request", "Settings?", "Job", "Step", "Need", "Option", "Start")
    classes = [n.name for f in _files() for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.ClassDef)]
    used = {noun for noun in synonyms for name in classes if re.search(f"{noun}$", name)}
    assert used == {"Request", "Job", "Step"}


def test_only_the_command_line_prints_or_exits() -> None:
    for file in _files():
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        if _package(_module(file)) != "cli":
            assert not names & {"print", "sys.exit", "exit", "click.echo"}, file


def test_files_stay_small_and_open_with_a_sentence() -> None:
    for file in _files():
        text = file.read_text()
        assert len(text.splitlines()) <= 400, f"{file} has grown too long"
        assert ast.get_docstring(ast.parse(text)), f"{file} does not say what it is for"
