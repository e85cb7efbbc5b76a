"""What is emitted: reproducible, readable, at the places that the plan says, and refused where it does not fit."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit.paths import ROOT
from tests.kit.step_jobs import step_job
from tinyclf.base.errors import BadInput, DoesNotFit, ToolFailed
from tinyclf.device import targets
from tinyclf.device.emit.c_text import c_identifiers, float_literal
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.ir import Role
from tinyclf.device.run.program import make_program, program_regions
from tinyclf.device.run.project import write_project
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.results import read_results
from tinyclf.device.targets.target import find_target, find_targets
from tinyclf.recipe.variant import Variant

_EMIT = """
import hashlib, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
import torch
torch.set_num_threads(1)
from tests.kit.step_jobs import step_job
from tinyclf.device.run.steps import emit_project
from tinyclf.recipe.variant import Variant
from tinyclf.device.targets.target import find_target
out = Path(sys.argv[2])
emit_project(step_job(Variant("FT", 2)), find_target("qemu"), out)
for file in sorted(p for p in out.rglob("*") if p.is_file()):
    print(file.relative_to(out), hashlib.sha256(file.read_bytes()).hexdigest())
"""


def test_emission_is_reproducible_in_two_folders_and_with_two_hash_seeds(tmp_path: Path) -> None:
    listings = []
    for seed in ("1", "2"):
        arguments = [sys.executable, "-c", _EMIT, str(ROOT), str(tmp_path / seed / "project")]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        listings.append(done.stdout)
    assert listings[0] == listings[1]
    assert "src/network.c" in listings[0]
    assert "data/parameters.bin" in listings[0]


def test_arena_and_parameters_are_the_plans() -> None:
    program = make_program(step_job(Variant("FT", 1)))
    files = emit(program, target=find_target("host"), num_cores=8, command="tests")
    network = files["src/network.c"].decode()
    assert f"static float arena[{program.plan.arena_bytes // 4}]" in network
    assert f"tcl_parameters[{program.plan.parameter_bytes // 4}];" in files["src/data.h"].decode()
    assert len(files["data/parameters.bin"]) == program.plan.parameter_bytes
    for tensor in program.graph.tensors_of(Role.PARAMETER):
        offset = program.plan.offsets[tensor.name]
        stored = np.frombuffer(files["data/parameters.bin"], "<f4", tensor.num_elements, offset)
        np.testing.assert_array_equal(stored, program.values[tensor.name].ravel(), err_msg=tensor.name)


def test_emission_does_not_ask_whether_there_are_tiles() -> None:
    """A step without tiles is a plan whose operations have no body; only `Program.operations` tells them apart."""
    asked = []
    for file in (ROOT / "tinyclf" / "device" / "emit").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            tests = [node.test] if isinstance(node, ast.If | ast.IfExp) else []
            tests += node.values if isinstance(node, ast.BoolOp) else []
            tests += [node.left] if isinstance(node, ast.Compare) else []
            asked += [ast.unparse(node) for test in tests if re.search(r"(^|\.)tiles$", ast.unparse(test))]
    assert asked == ["self.tiles or without_tiles(len(self.graph.calls))"]


def test_every_kernel_symbol_stands_whole_in_the_sources() -> None:
    program = make_program(step_job(Variant("full")))
    files = emit(program, target=find_target("host"), num_cores=8, command="tests")
    headers = b"".join(content for name, content in files.items() if name.endswith(".h")).decode()
    for call in program.graph.calls:
        assert re.search(rf"\bvoid {call.kernel}\(void \*", headers), call.kernel


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-30, 0.1, 3.4e38, 1 / 3, 1e-45, 123456789.0])
def test_float_literals_give_the_same_float(value: float) -> None:
    literal = float_literal(value)
    assert literal.endswith("f")
    assert "." in literal or "e" in literal
    assert np.float32(literal[:-1]) == np.float32(value)


def test_identifiers_are_unique() -> None:
    assert c_identifiers(["a.b", "a_b", "a-b", "c"]) == {"a.b": "a_b", "a_b": "a_b_2", "a-b": "a_b_3", "c": "c"}


def test_a_net_that_is_too_large_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        DoesNotFit,
        match=r"training needs [\d,]+ bytes of L2 .* target pulp has 1,605,632: try fewer --samples, --recompute, a",
    ):
        emit_project(step_job(Variant("full"), size=128), find_target("pulp"), tmp_path / "project")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"is not a project that tinyclf wrote"):
        write_project({"a": b""}, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    write_project({"trace.json": b"[]", "old": b""}, tmp_path / "ours")
    write_project({"trace.json": b"[]", "new": b""}, tmp_path / "ours")
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == ["new", "trace.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "ours"]  # nothing half written is left


def test_an_old_project_stands_until_the_new_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "p"
    write_project({"trace.json": b"[]", "old": b""}, out)

    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_project({"trace.json": b"[]", "new": fails}, out)
    removed, rename = [], Path.rename

    def rename_once(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_once)
    with pytest.raises(KeyboardInterrupt):
        write_project({"trace.json": b"[]", "new": b""}, out)
    assert sorted(p.name for p in out.iterdir()) == ["old", "trace.json"]
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: removed.append((out / "new").exists()))
    write_project({"trace.json": b"[]", "new": lambda path: path.write_bytes(b"whole")}, out)
    assert removed[0], "the old project is removed before the new one stands"
    assert (out / "new").read_bytes() == b"whole"


def test_cores_and_stacks_count_in_what_has_to_fit(tmp_path: Path) -> None:
    qemu = find_target("qemu")
    program = make_program(step_job(Variant("LP")), qemu)
    (ram,) = program_regions(program, qemu)
    small = replace(qemu, regions=(replace(qemu.regions[0], num_bytes=ram.total),))
    emit_project(step_job(Variant("LP")), small, tmp_path / "p")
    with pytest.raises(DoesNotFit, match=r"bytes of RAM .*stack 131,072"):
        emit_project(step_job(Variant("LP")), small, tmp_path / "q", num_cores=8)
    assert not (tmp_path / "q").exists()


@pytest.mark.target("host")
def test_what_make_has_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("run:\n\tsleep 1000 & echo $$! > pid; wait\n")
    with pytest.raises(ToolFailed, match="did not end within 2 s"):
        targets.start(tmp_path, timeout_s=2)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):  # the kernel may take a moment
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the process that make has started goes on")


@pytest.mark.target("host")
def test_numbers_of_64_bits_are_in_the_c(tmp_path: Path) -> None:
    host = find_target("host")
    emit_project(replace(step_job(Variant("LP")), num_steps=2**63 - 1), host, tmp_path / "p")
    assert "num_steps = 9223372036854775807u;" in (tmp_path / "p" / "src" / "main.c").read_text()
    targets.build(tmp_path / "p", host)
    records = np.array([0x7, 0, 0xFFFFFFFF, 0x1], dtype="<u4").tobytes()
    (tmp_path / "p" / "build" / "results.bin").write_bytes(records)
    assert [(i, step) for i, step, _ in targets.read_records(tmp_path / "p")] == [(7, 2**33 - 1)]


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emit_project(step_job(Variant("LP")), find_target("qemu"), tmp_path / "project")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolFailed, match=r"missing: .*qemu-system-riscv32 \(from: qemu-system-misc\)"):
        targets.build(tmp_path / "project", find_target("qemu"))


def test_gvsoc_is_found_in_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GVSOC_HOME", str(tmp_path))
    assert targets.find_tool("gvsoc") is None
    tool = tmp_path / "install" / "bin" / "gvsoc"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert targets.find_tool("gvsoc") == str(tool)


@pytest.mark.target("host")
def test_results_that_end_early_are_refused(tmp_path: Path) -> None:
    host = find_target("host")
    job = step_job(Variant("LP"))
    execute(job, emit_project(job, host, tmp_path / "project"), host, tmp_path / "project")
    file = tmp_path / "project" / "build" / "results.bin"
    whole = file.read_bytes()
    assert len(read_results(tmp_path / "project").steps) == job.num_steps
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 4, len(whole) - 12):
        file.write_bytes(whole[:size])
        with pytest.raises(ToolFailed, match="the results end early"):
            read_results(tmp_path / "project")
    file.unlink()
    with pytest.raises(ToolFailed, match="left no results"):
        read_results(tmp_path / "project")


@pytest.mark.target("host")
def test_a_kernel_that_fails_its_contract_stops_the_run(tmp_path: Path) -> None:
    host = find_target("host")
    emit_project(step_job(Variant("LP")), host, tmp_path / "project")
    network = tmp_path / "project" / "src" / "network.c"
    text = network.read_text()
    broken = text.replace(".stride_h = 2", ".stride_h = 1", 1)
    assert broken != text
    network.write_text(broken)
    targets.build(tmp_path / "project", host)
    with pytest.raises(ToolFailed, match=r"tcl_window\.h:\d+: check failed"):
        targets.run(tmp_path / "project")


def test_every_target_says_what_it_needs() -> None:
    assert set(find_targets()) >= {"host", "qemu", "pulp"}
    for target in find_targets().values():
        assert target.description
        assert target.tools
        assert {"port.c", "port.mk", "build.mk", "dma.c"} <= set(target.port_files())
    with pytest.raises(BadInput, match="unknown target 'arduino': choose one of host, pulp, qemu"):
        find_target("arduino")


def test_torch_is_not_needed_to_find_targets() -> None:
    code = "from tinyclf.device.targets.target import find_targets; find_targets(); import sys; "
    code += "sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    assert "torch" in sys.modules
    assert torch.get_num_threads() == 1
