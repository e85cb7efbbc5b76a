"""Predicted bytes are linked bytes, for every region of every target; ELF files are read as binutils reads them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import on_targets

from tinyclf import targets
from tinyclf.deploy import Job, emit_project, make_program, write_project
from tinyclf.elf import Elf, read_elf
from tinyclf.emit import Program, TrainingRun, emit
from tinyclf.errors import BadInput, DoesNotFit
from tinyclf.models import build_model, fold_batchnorm, freeze
from tinyclf.regions import linked_regions, predict_regions
from tinyclf.rules import UpdateRule
from tinyclf.targets import ELF, Target, find_target, find_targets, with_l1
from tinyclf.tile_plan import target_tiles
from tinyclf.variants import Variant

NETS = ("mobilenet_wd4", "fdmobilenet_wd4", "dscnn")
VARIANTS = (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full"))
PLAIN = UpdateRule(0.01)
TOO_HIGH = 1.2  # a bound of code and constants may be this many times what is linked


def _job(
    arch: str, variant: Variant, *, size: int, num_samples: int = 1, recompute: bool = False, rule: UpdateRule = PLAIN
) -> Job:
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    samples = np.zeros((num_samples, 3, size, size), np.float32)
    labels = np.eye(2, dtype=np.float32)[np.zeros(num_samples, int)]
    return Job(fold_batchnorm(model), samples, labels, rule.batch, rule, "tests", recompute=recompute)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each target where projects are built one after the other: kernels are compiled once."""
    return {name: tmp_path_factory.mktemp("projects") / name for name in find_targets()}


def _program(job: Job, target: Target) -> Program:
    """Return the program of a job for a target; one that recomputes does so as much as it can."""
    program = make_program(job)
    return replace(program, tiles=target_tiles(program.graph, program.plan, target, traced=program.traced))


def _link(program: Program, target: Target, project: Path) -> Elf:
    for name, content in emit(program, target=target, num_cores=target.num_cores, command="tests").items():
        file = project / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    targets.build(project, target)
    return read_elf(project / ELF)


def _check(program: Program, target: Target, elf: Elf) -> None:
    assert program.samples is not None
    predicted = predict_regions(target, program.graph, program.plan, num_samples=len(program.samples))
    linked = linked_regions(target, elf)
    assert [r.name for r in predicted] == [r.name for r in linked]
    for p, a in zip(predicted[1:], linked[1:], strict=True):
        assert dict(p.parts) == dict(a.parts)
        assert sum(size or 0 for _, size in p.parts) == p.total
    expected, actual = dict(predicted[0].parts), dict(linked[0].parts)
    assert actual["parameters"] == program.plan.parameter_bytes
    assert actual["state"] == program.plan.state_bytes
    assert actual["arena"] == program.plan.arena_bytes
    data = (
        "parameters, frozen",
        "parameters, trained",
        "activations",
        "gradients",
        "optimizer state",
        "accumulated gradients",
        "buffers",
        "gaps",
    )
    assert sum(expected[name] or 0 for name in data) == actual["parameters"] + actual["state"] + actual["arena"]
    assert actual["samples"] == expected["samples"] == program.samples.nbytes + 8 * len(program.samples)
    assert actual["stack"] == expected["stack"]
    assert actual.get("tiles") == expected.get("tiles")
    tiles = [dict(region.parts).get("tiles") for region in linked]
    assert (target.tile_bytes in tiles) if program.tiles else not any(tiles)
    code, bound = (actual["code"] or 0) + (actual["constants"] or 0), expected["code and constants"]
    if target.code is None:
        assert bound is None
    else:
        assert bound is not None
        assert code <= bound <= TOO_HIGH * code, f"{code} linked, at most {bound}: run python -m benchmarks.code_size"
    if predicted[0].num_bytes is not None:
        assert linked[0].total <= predicted[0].total <= predicted[0].num_bytes


@on_targets()
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.label)
@pytest.mark.parametrize("arch", NETS)
def test_predicted_bytes_are_linked_bytes(
    target: Target, arch: str, variant: Variant, compiled: dict[str, Path]
) -> None:
    num_fitting = 0
    for size in (32, 96, 128):
        job = _job(arch, variant, size=size, num_samples=1 if size > 32 else 3)
        program = _program(job, target)
        predicted = predict_regions(target, program.graph, program.plan, num_samples=len(job.samples))[0]
        if predicted.num_bytes is None or predicted.total <= predicted.num_bytes:
            _check(program, target, _link(program, target, compiled[target.name]))
            num_fitting += 1
    assert num_fitting >= 1


@on_targets()
@pytest.mark.parametrize("l1", ["96KiB", "off"])
def test_bytes_of_tiles_are_linked_as_predicted(target: Target, l1: str, tmp_path: Path) -> None:
    target = with_l1(target, "48KiB" if l1 != "off" and target.tile_region else l1)
    program = _program(_job("dscnn", Variant("FT", 2), size=32), target)
    _check(program, target, _link(program, target, tmp_path / "p"))


@on_targets("pulp")
def test_full_training_at_96_fits_pulp_with_recomputation(target: Target, compiled: dict[str, Path]) -> None:
    job = _job("mobilenet_wd4", Variant("full"), size=96, recompute=True)
    program = make_program(job, target)
    _check(program, target, _link(program, target, compiled[target.name]))
    with pytest.raises(DoesNotFit, match=r"bytes of L2 .*, target pulp has 1,605,632: try --recompute, a smaller --k"):
        emit_project(_job("mobilenet_wd4", Variant("full"), size=96), target, compiled["host"])
    with pytest.raises(DoesNotFit, match=r"needs at least [\d,]+ bytes with all recomputation"):
        make_program(_job("mobilenet_wd4", Variant("full"), size=160, recompute=True), target)


@on_targets()
def test_a_recomputing_step_is_linked_as_predicted(target: Target, compiled: dict[str, Path]) -> None:
    program = _program(_job("mobilenet_wd4", Variant("full"), size=32, recompute=True), target)
    assert any(t.name.endswith(".pass1") for t in program.graph.tensors)
    _check(program, target, _link(program, target, compiled[target.name]))


@on_targets()
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        UpdateRule(0.01, optimizer="adam", batch=4),
        UpdateRule(0.01, momentum=0.9, weight_decay=0.1),
        UpdateRule(0.01, clip=1.0),
    ],
    ids=["adam in batches", "momentum", "clip"],
)
def test_what_an_update_keeps_is_linked_as_predicted(
    target: Target, rule: UpdateRule, recompute: bool, compiled: dict[str, Path]
) -> None:
    program = _program(_job("dscnn", Variant("FT", 2), size=32, rule=rule, recompute=recompute), target)
    assert program.plan.state_bytes > 0 or rule.clip
    _check(program, target, _link(program, target, compiled[target.name]))


@on_targets()
def test_elf_files_are_read_as_binutils_reads_them(target: Target, tmp_path: Path) -> None:
    prefix = "" if target.name == "host" else "riscv64-unknown-elf-"
    program = make_program(_job("dscnn", Variant("LP"), size=32))
    write_project(emit(program, target=target, num_cores=2, command="tests"), tmp_path / "p")
    targets.build(tmp_path / "p", target)
    elf = read_elf(tmp_path / "p" / ELF)
    size = subprocess.run([f"{prefix}size", "-A", tmp_path / "p" / ELF], capture_output=True, text=True, check=True)
    rows = [line.split() for line in size.stdout.splitlines() if line.startswith(".")]
    sizes = {name: (int(num_bytes), int(address)) for name, num_bytes, address in rows}
    assert {s.name: (s.num_bytes, s.address) for s in elf.sections}.items() <= sizes.items()
    assert {".text", ".rodata", ".data", ".bss"} <= {s.name for s in elf.sections}
    listing = subprocess.run([f"{prefix}nm", "-S", tmp_path / "p" / ELF], capture_output=True, text=True, check=True)
    symbols = {c[3]: int(c[1], 16) for line in listing.stdout.splitlines() if len(c := line.split()) == 4}
    for name in ("arena", "tcl_parameters", "tcl_samples", "tcl_labels", "tcl_main"):
        assert elf.symbol_bytes[name] == symbols[name], name


def test_a_file_that_is_no_elf_or_is_cut_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "program.elf"
    file.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(BadInput, match=r"program.elf: not a little-endian ELF file"):
        read_elf(file)
    file.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(33))
    with pytest.raises(BadInput, match=r"program.elf: the ELF file is cut or damaged"):
        read_elf(file)


def test_regions_of_pulp_are_l2_and_l1() -> None:
    program = make_program(_job("dscnn", Variant("LP"), size=32))
    l2, l1 = predict_regions(find_target("pulp"), program.graph, program.plan, num_samples=2)
    assert (l2.name, l1.name) == ("L2", "L1")
    assert l1.parts == (("tiles", 48 * 1024), ("stack", 8 * 2048))
    one = predict_regions(find_target("pulp"), program.graph, program.plan, num_samples=1, num_cores=1)
    assert l2.total - one[0].total == 3 * 32 * 32 * 4 + 8
    assert one[1].total == 48 * 1024 + 2048
    off = predict_regions(with_l1(find_target("pulp"), "off"), program.graph, program.plan, num_samples=1)
    assert off[1].parts == (("stack", 8 * 2048),)


@on_targets("qemu", "pulp")
def test_a_training_run_links_no_more_than_predicted(target: Target, tmp_path: Path) -> None:
    step = _program(_job("dscnn", Variant("FT", 1), size=32), target)
    run = TrainingRun(run=1, seed=1, num_epochs=1, checkpoint_every=1, weights_header=bytes(1024))
    program = replace(step, samples=None, labels=None, traced=frozenset(), training=run)
    predicted = dict(predict_regions(target, program.graph, program.plan, num_samples=None)[0].parts)
    linked = dict(linked_regions(target, _link(program, target, tmp_path))[0].parts)
    assert linked["samples"] == predicted["samples"] == 0
    code, bound = (linked["code"] or 0) + (linked["constants"] or 0), predicted["code and constants"]
    assert bound is not None
    assert code <= bound <= TOO_HIGH * code
