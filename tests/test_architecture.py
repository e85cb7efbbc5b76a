"""The import rule: which module of tinyclf may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tinyclf

ROOT = Path(tinyclf.__file__).parent

# Anyone may import these; they import nothing of tinyclf but each other.
LEAVES = {
    "architectures",
    "channels",
    "errors",
    "files",
    "plugins",
    "resources",
    "rules",
    "sizes",
    "update_options",
    "variants",
}

ALLOWED = {
    # workstation half
    "tiny_nets": set(),
    "zoo": set(),
    "freezing": set(),
    "folding": set(),
    "weights": {"freezing", "zoo"},
    "models": {"folding", "freezing", "tiny_nets", "weights", "zoo"},
    "data": set(),
    "config": {"data"},
    "runs": {"config", "data", "models"},
    "metrics": set(),
    "finegrained": {"metrics"},
    "plots": {"metrics"},
    "card": set(),
    "evaluate": {"data", "finegrained", "metrics", "runs"},
    "report": {"card", "config", "data", "evaluate", "models", "plots", "runs"},
    "optim": {"config"},
    "losses": {"config"},
    "parallel": {"config"},
    "features": {"data"},
    "session": {"config", "data", "features", "losses", "models", "optim", "parallel", "runs"},
    "state": {"data", "runs", "session"},
    "logs": {"runs"},
    "lr_finder": {"config", "data", "models", "session"},
    "train": {"config", "logs", "models", "optim", "parallel", "report", "runs", "session", "state"},
    "classifiers": {"data", "runs"},
    "onnx_graph": {"classifiers", "data", "models"},
    "export": {"classifiers", "data", "evaluate", "onnx_graph", "runs"},
    "predictions": {"classifiers", "data", "metrics"},
    "benchmark": {"classifiers", "data", "evaluate", "metrics", "models", "onnx_graph", "runs"},
    # device half
    "ir": set(),
    "tracing": set(),
    "layers": {"ir", "tracing"},
    "backward": {"ir", "layers"},
    "updates": {"ir", "layers"},
    "fuse": {"ir", "placement"},
    "lower": {"backward", "fuse", "ir", "layers", "tracing", "updates"},
    "placement": {"ir"},
    "memory": {"ir", "placement"},
    "lifetimes_view": {"ir", "memory"},
    "macs": {"ir"},
    "recompute": {"ir"},
    "segments": {"ir", "macs", "placement", "recompute"},
    "elf": set(),
    "upstream_memory": {"ir"},
    "tile": set(),
    "tile_kinds": {"tile"},
    "tile_check": {"ir", "memory", "tile"},
    "tile_fuse": {"ir", "memory", "tile", "tile_kinds"},
    "tile_plan": {"ir", "memory", "targets", "tile", "tile_check", "tile_fuse", "tile_kinds", "tile_table"},
    "tile_table": {"tile"},
    "tuning": {"deploy", "profiling", "targets", "tile", "tile_plan", "tile_table"},
    "emit_tiles": {"ir", "tile"},
    "program_tables": {"ir", "memory", "tile", "tile_fuse", "traces", "trained_block"},
    "regions": {"elf", "ir", "memory", "program_tables", "targets"},
    "fitting": {"feature_memory", "ir", "memory", "regions", "segments", "targets"},
    "targets": set(),
    "trained_block": {"ir", "memory"},
    "upstream": {"ir"},
    "library": {"upstream"},
    "feature_memory": {"ir"},
    "emit": {
        "emit_tiles",
        "feature_memory",
        "ir",
        "library",
        "memory",
        "targets",
        "tile",
        "trained_block",
        "upstream",
    },
    "traces": {"ir"},
    "golden": {"tracing"},
    "verdicts": set(),
    "profiling": {"emit", "macs", "targets", "tile"},
    "deploy": {
        "emit",
        "feature_memory",
        "fitting",
        "golden",
        "ir",
        "lower",
        "memory",
        "regions",
        "targets",
        "tile_plan",
        "traces",
        "upstream",
        "verdicts",
    },
    "device_files": set(),
    "quantized_features": {"tracing"},
    "reference_run": {"golden", "quantized_features"},
    "training_report": {"feature_memory", "verdicts"},
    "device_run": {
        "deploy",
        "device_files",
        "emit",
        "feature_memory",
        "fitting",
        "golden",
        "ir",
        "lower",
        "quantized_features",
        "reference_run",
        "targets",
        "trained_block",
        "training_report",
        "upstream",
        "verdicts",
    },
    # where they meet
    "starts": {"data", "evaluate", "models", "runs", "targets"},
    "budget": {"feature_memory", "fitting", "ir", "lower", "macs", "memory", "models", "targets"},
    "training_jobs": {"data", "device_files", "device_run", "evaluate", "models", "runs", "starts", "targets"},
    "jobs": {
        "deploy",
        "elf",
        "feature_memory",
        "fitting",
        "ir",
        "lower",
        "macs",
        "memory",
        "models",
        "regions",
        "starts",
        "targets",
    },
}


def _modules() -> dict[str, list[Path]]:
    """Return the files of each module; a package is one module."""
    found: dict[str, list[Path]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        found.setdefault(file.relative_to(ROOT).parts[0].removesuffix(".py"), []).append(file)
    return found


def _imports(file: Path) -> set[str]:
    """Return the modules of tinyclf that a file imports for use at run time, inside functions too."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("tinyclf.")}


@pytest.mark.parametrize("module", [m for m in _modules() if m not in ("__init__", "__main__", "cli")])
def test_modules_import_only_what_the_rule_allows(module: str) -> None:
    imported = set().union(*(_imports(file) for file in _modules()[module])) - {module, "__version__"}
    allowed = LEAVES if module in LEAVES else LEAVES | ALLOWED[module]
    assert imported <= allowed, f"{module} imports {imported - allowed}"


def test_every_module_is_in_the_rule_and_none_is_forgotten() -> None:
    assert set(_modules()) - {"__init__", "__main__", "cli"} == LEAVES | set(ALLOWED)


def test_nobody_imports_the_command_line() -> None:
    for module, files in _modules().items():
        if module not in ("cli", "__main__"):
            assert "cli" not in set().union(*(_imports(file) for file in files)), module


def test_what_needs_no_torch_knows_none() -> None:
    for module in (
        "ir",
        "macs",
        "memory",
        "feature_memory",
        "targets",
        "upstream",
        "library",
        "device_files",
        "verdicts",
        "emit",
        "metrics",
        "finegrained",
        "plots",
        "card",
        *LEAVES,
    ):
        text = "".join(file.read_text() for file in _modules()[module])
        assert "import torch" not in text, module
        assert "from torch" not in text, module


def test_only_the_command_line_prints_or_exits() -> None:
    for module, files in _modules().items():
        for file in files:
            calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
            names = {ast.unparse(call.func) for call in calls}
            if module != "cli":
                assert not names & {"print", "sys.exit", "exit", "click.echo"}, file


def test_files_stay_small_and_open_with_a_sentence() -> None:
    for files in _modules().values():
        for file in files:
            text = file.read_text()
            assert len(text.splitlines()) <= 400, f"{file} has grown too long"
            if text:
                assert ast.get_docstring(ast.parse(text)), f"{file} does not say what it is for"
