"""Predicted bytes are linked bytes, for every region of every target; ELF files are read as binutils reads them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from benchmarks.code_size import link
from tests.kit.targets import on_targets
from tinyclf.base.errors import BadInput, DoesNotFit, ToolFailed
from tinyclf.device import targets
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.footprint.regions import RegionUse, linked_regions, predict_regions
from tinyclf.device.memory.kept_features import feature_memory
from tinyclf.device.memory.plan import Placed
from tinyclf.device.memory.samples import Linked
from tinyclf.device.run.files import Samples
from tinyclf.device.run.job import Job, TrainingJob
from tinyclf.device.run.program import make_program, program_regions, require_fit
from tinyclf.device.run.project import write_project
from tinyclf.device.run.step import target_tiles
from tinyclf.device.run.steps import emit_project
from tinyclf.device.run.training import make_training_program
from tinyclf.device.targets.elf import Elf, read_elf
from tinyclf.device.targets.project import ELF
from tinyclf.device.targets.target import Target, find_target, with_l1
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

NETS = ("mobilenet_wd4", "fdmobilenet_wd4", "dscnn")
VARIANTS = (Variant("LP"), Variant("FT", 1), Variant("FT", 2), Variant("full"))
MORE = (
    *(("mobilenetv2_wd4", v) for v in (Variant("LP"), Variant("FT", 2), Variant("full"))),
    *(("resnet8", v) for v in (Variant("LP"), Variant("FT", 1), Variant("full"))),
    ("fdmobilenet_wd2", Variant("FT", 2)),
    ("mobilenet_wd4", Variant("full", bias_only=True)),
    ("fdmobilenet_wd4", Variant("layers", layers=("features.stage4.*", "output"))),
    ("mobilenet_wd4", Variant("FT", 2, channels=(("features.*", 0.3), ("output", 0.5)))),
)
PLAIN = UpdateRule(0.01)
ADAM = UpdateRule(0.01, optimizer="adam", batch=4, schedule="cosine", num_updates=9)
TOO_HIGH = 1.2  # a bound of code and constants may be this many times what is linked


def _model(arch: str, variant: Variant, size: int) -> nn.Module:
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    return fold_batchnorm(model)


def _job(
    arch: str, variant: Variant, *, size: int, num_samples: int = 1, recompute: bool = False, rule: UpdateRule = PLAIN
) -> Job:
    samples = np.zeros((num_samples, 3, size, size), np.float32)
    labels = np.eye(2, dtype=np.float32)[np.zeros(num_samples, int)]
    return Job(_model(arch, variant, size), samples, labels, rule.batch, rule, "tests", recompute=recompute)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for projects that are built one after the other where their kernels are the same."""
    return tmp_path_factory.mktemp("projects")


def _program(job: Job, target: Target) -> Program:
    """Return the program of a job for a target; one that recomputes does so as much as it can."""
    program = make_program(job)
    return replace(program, tiles=target_tiles(Placed(program.graph, program.plan), target, traced=program.traced))


def _predicted(program: Program, target: Target, num_cores: int | None) -> tuple[RegionUse, ...]:
    return predict_regions(target, program.graph, program.plan, samples=program.source, num_cores=num_cores)


def _check(program: Program, target: Target, elf: Elf, *, num_cores: int | None = None) -> None:
    predicted, linked = _predicted(program, target, num_cores), linked_regions(target, elf)
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
    num_samples = 0 if program.samples is None else len(program.samples)
    sample_bytes = 0 if program.samples is None else program.samples[0].nbytes + 8
    assert actual["samples"] == expected["samples"] == num_samples * sample_bytes
    assert actual["stack"] == expected["stack"]
    for name in ("tiles", "kept features"):
        assert actual.get(name) == expected.get(name)
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
@pytest.mark.parametrize(
    ("arch", "variant"),
    [*((arch, variant) for arch in NETS for variant in VARIANTS), *MORE],
    ids=lambda v: v if isinstance(v, str) else v.label,
)
def test_predicted_bytes_are_linked_bytes(target: Target, arch: str, variant: Variant, projects: Path) -> None:
    num_fitting = 0
    for size in (32, 96, 128) if arch in NETS and not variant.is_narrowed else (32, 96):
        program = _program(_job(arch, variant, size=size, num_samples=1 if size > 32 else 3), target)
        predicted = _predicted(program, target, None)[0]
        if predicted.num_bytes is None or predicted.total <= predicted.num_bytes:
            _check(program, target, link(program, target, projects))
            num_fitting += 1
    assert (num_fitting >= 1) == (arch != "fdmobilenet_wd2" or target.name != "pulp")


@on_targets()
@pytest.mark.parametrize("l1", ["96KiB", "off"])
def test_other_l1_and_cores_are_linked_as_predicted(target: Target, l1: str, projects: Path) -> None:
    target = with_l1(target, "48KiB" if l1 != "off" and target.tile_region else l1)
    cases = [("dscnn", Variant("FT", 2)), ("resnet8", Variant("full")), ("mobilenetv2_wd4", Variant("LP"))]
    for arch, variant in cases:
        program = _program(_job(arch, variant, size=32), target)
        _check(program, target, link(program, target, projects, num_cores=3), num_cores=3)


@on_targets("pulp")
def test_full_training_at_96_fits_pulp_with_recomputation(target: Target, projects: Path) -> None:
    job = _job("mobilenet_wd4", Variant("full"), size=96, recompute=True)
    program = make_program(job, target)
    _check(program, target, link(program, target, projects))
    with pytest.raises(DoesNotFit, match=r"bytes of L2 .*, target pulp has 1,605,632: try --recompute, a smaller --k"):
        emit_project(_job("mobilenet_wd4", Variant("full"), size=96), target, projects / "none")
    with pytest.raises(DoesNotFit, match=r"needs at least [\d,]+ bytes with all recomputation"):
        make_program(_job("mobilenet_wd4", Variant("full"), size=160, recompute=True), target)


@on_targets()
def test_a_recomputing_step_is_linked_as_predicted(target: Target, projects: Path) -> None:
    program = _program(_job("mobilenet_wd4", Variant("full"), size=32, recompute=True), target)
    assert any(t.name.endswith(".pass1") for t in program.graph.tensors)
    _check(program, target, link(program, target, projects))


@on_targets()
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "rule",
    [ADAM, UpdateRule(0.01, momentum=0.9, weight_decay=0.1), UpdateRule(0.01, clip=1.0)],
    ids=["adam in batches", "momentum", "clip"],
)
def test_what_an_update_keeps_is_linked_as_predicted(
    target: Target, rule: UpdateRule, recompute: bool, projects: Path
) -> None:
    program = _program(_job("dscnn", Variant("FT", 2), size=32, rule=rule, recompute=recompute), target)
    assert program.plan.state_bytes > 0 or rule.clip
    _check(program, target, link(program, target, projects))


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
    l2, l1 = predict_regions(find_target("pulp"), program.graph, program.plan, samples=Linked(2))
    assert (l2.name, l1.name) == ("L2", "L1")
    assert l1.parts == (("tiles", 48 * 1024), ("stack", 8 * 2048))
    one = predict_regions(find_target("pulp"), program.graph, program.plan, samples=Linked(1), num_cores=1)
    assert l2.total - one[0].total == 3 * 32 * 32 * 4 + 8
    assert one[1].total == 48 * 1024 + 2048
    off = predict_regions(with_l1(find_target("pulp"), "off"), program.graph, program.plan, samples=Linked(1))
    assert off[1].parts == (("stack", 8 * 2048),)


@on_targets()
@pytest.mark.parametrize(
    ("arch", "variant"),
    [("dscnn", Variant("FT", 1)), ("mobilenet_wd4", Variant("FT", 2)), ("mobilenetv2_wd4", Variant("LP"))],
    ids=lambda v: v if isinstance(v, str) else v.label,
)
@pytest.mark.parametrize(
    ("cache", "rule"), [("off", PLAIN), ("fp32", PLAIN), ("int8", ADAM)], ids=["plain", "fp32", "int8 with adam"]
)
def test_a_training_run_is_linked_as_predicted(
    target: Target, arch: str, variant: Variant, cache: str, rule: UpdateRule, projects: Path
) -> None:
    images, labels = np.zeros((7, 3, 32, 32), np.float32), np.zeros(7, np.int64)
    job = TrainingJob(
        model=_model(arch, variant, 32),
        variant=variant,
        samples=Samples(images, labels, images[:2], labels[:2]),
        num_classes=2,
        num_epochs=2,
        checkpoint_every=3,
        rule=rule,
        seed=1,
        source=1,
        command="tests",
        cache=cache,
    )
    program = make_training_program(job, target)
    if any(r.num_bytes is not None and r.total > r.num_bytes for r in program_regions(program, target)):
        with pytest.raises(DoesNotFit, match="training needs"):
            require_fit(program, target)
        with pytest.raises(ToolFailed, match="will not fit in region"):  # and so says the linker
            link(program, target, projects / "too large")
        return
    kept = feature_memory(program.graph, kind=cache, num_samples=7)
    elf = link(program, target, projects / "training")
    assert elf.symbol_bytes.get("tcl_kept_features", 0) == (kept.num_bytes if kept else 0)
    _check(program, target, elf)
