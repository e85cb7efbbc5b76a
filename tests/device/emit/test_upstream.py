"""Upstream's PULP-TrainLib: the table agrees with ours and with what upstream does, and projects build with both.

TINYCLF_TRAINLIB_HOME names a checkout for the tests that need one.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tests.device.lowering import test_layers
from tests.device.run import test_training as test_device_run
from tests.kit.targets import on_targets
from tinyclf.base.errors import BadInput, DoesNotFit, ToolFailed
from tinyclf.cli import main
from tinyclf.device import targets
from tinyclf.device.emit import upstream
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.emit.upstream import CONDITIONS, Upstream, find_upstream, link, own_symbol, summary, table, warning
from tinyclf.device.footprint.regions import code_bound, linked_regions
from tinyclf.device.graph.ir import gradient_name
from tinyclf.device.graph.kernels import KERNELS
from tinyclf.device.lowering.layer import Case
from tinyclf.device.lowering.layers import LAYERS
from tinyclf.device.reference.steps import relative_error
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program, program_regions
from tinyclf.device.run.project import write_project
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.run.training import emit_training, execute_training
from tinyclf.device.targets.elf import read_elf
from tinyclf.device.targets.target import Target, find_target
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

NEVER_RUN = {"always", "no_bias", "partly_trained"}  # small errors, or writes through a null pointer


@pytest.fixture
def checkout() -> Upstream:
    """Return the checkout, or skip."""
    home = os.environ.get("TINYCLF_TRAINLIB_HOME")
    if not home:
        pytest.skip("TINYCLF_TRAINLIB_HOME is not set: no checkout of PULP-TrainLib")
    return find_upstream(home)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Return a folder with the files of a checkout, all empty: enough to emit, not to build."""
    home = tmp_path / "PULP-TrainLib"
    sources = {s for row in table()["kernels"].values() for s in row["sources"]}
    for name in ("lib/include/pulp_train.h", *(f"lib/sources/{s}" for s in sources)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return home


def _job(variant: Variant, *, arch: str = "mobilenet_wd4", rule: UpdateRule | None = None, num_steps: int = 1) -> Job:
    model = build_model(arch, num_classes=2, size=32)
    freeze(model, variant)
    samples = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    labels = np.eye(2, dtype=np.float32)[:1]
    return Job(fold_batchnorm(model), samples, labels, num_steps, rule or UpdateRule(0.01), "tests")


# --- without a checkout -------------------------------------------------------------------------------------------


def test_the_table_names_functions_of_ours_and_conditions_that_exist() -> None:
    assert set(table()["kernels"]) <= set(KERNELS)
    assert all(name.startswith("pulp_") for name in table()["kernels"])
    conditions = {c for row in table()["kernels"].values() for c in row.get("wrong", {})}
    assert conditions == set(CONDITIONS)
    assert re.fullmatch(r"[0-9a-f]{40}", table()["revision"])


def test_every_kernel_that_a_graph_calls_is_in_the_table() -> None:
    called = {c.kernel for c in test_layers._cases_graph(combined=False)[0].calls}
    rules = (
        UpdateRule(0.1, momentum=0.9, batch=2, clip=1.0, loss="mse"),
        UpdateRule(0.1, optimizer="adam"),
        UpdateRule(0.1),
    )
    for rule in rules:
        called |= {c.kernel for c in make_program(_job(Variant("LP"), rule=rule)).graph.calls}
    assert called <= set(KERNELS)
    assert not [name for name in called - set(table()["kernels"]) if not KERNELS[name].ours]


@pytest.mark.parametrize(
    ("case", "kernel", "whose"),
    [
        (nn.Conv2d(4, 4, 1), "pulp_conv_pw_fp32_bw_input_grads_cl", ""),
        (nn.Conv2d(4, 6, 1), "pulp_conv_pw_fp32_bw_input_grads_cl", "C_in"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), "pulp_conv_dw_fp32_fw_cl", ""),
        (nn.Conv2d(4, 4, 3, stride=2, groups=4), "pulp_conv_dw_fp32_fw_cl", "stride"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), "pulp_conv_dw_fp32_bw_param_grads_cl", "padding"),
        (nn.Conv2d(4, 4, 3, stride=2, groups=4), "pulp_conv_dw_fp32_bw_input_grads_cl", "stride"),
        (nn.Conv2d(4, 2, 3, padding=1), "pulp_conv2d_fp32_bw_param_grads_cl", "bias gradient"),
        (nn.Conv2d(4, 2, 3, stride=2, padding=1), "pulp_conv2d_fp32_bw_param_grads_cl", ""),  # 8x8: only before
        (nn.Conv2d(4, 2, 3, bias=False), "pulp_conv2d_fp32_fw_cl", "blob"),
        (nn.Conv2d(4, 2, 5), "pulp_conv2d_fp32_bw_input_grads_cl", "3x3"),
        (nn.Conv2d(4, 2, 3, padding=(2, 1)), "pulp_conv2d_fp32_bw_input_grads_cl", "left and upper"),
    ],
)
def test_a_call_is_upstreams_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch, case: nn.Module, kernel: str, whose: str
) -> None:
    layer = next(layer for layer in LAYERS if isinstance(case, layer.torch_type) and layer.accepts(case))
    monkeypatch.setattr(test_layers, "_all_cases", lambda: [(layer, Case("case", case, (4, 8, 8)))])
    graph = test_layers._cases_graph(combined=False)[0]
    (choice,) = {c for c in link(graph, Upstream(Path("/x"), None))[1].choices if c.kernel == kernel}
    assert choice.is_upstream == (whose == "")
    assert whose in choice.reason


def test_a_transposed_weight_takes_the_place_of_its_gradient() -> None:
    """Of a frozen weight, or where it is computed in blocks, there is none: it takes room of its own."""
    whole = UpdateRule(0.01, clip=1.0)  # waits for all gradients
    plain = make_program(_job(Variant("FT", 1), rule=whole))
    linked = make_program(_job(Variant("FT", 1), rule=whole), upstream=Upstream(Path("/x"), None))
    assert linked.plan.arena_bytes == plain.plan.arena_bytes
    name = "features.stage5.unit2.pw_conv.conv"
    writers = [c.kernel for c in linked.graph.calls if gradient_name(f"{name}.weight") in c.writes]
    assert writers == ["pulp_conv_pw_fp32_bw_input_grads_cl", "pulp_conv_pw_fp32_bw_param_grads_cl"]
    model = build_model("mobilenet_wd4", num_classes=2, size=32)
    freeze(model, Variant("FT", 2))
    job = _job(Variant("FT", 2))
    dict(job.model.named_modules())[name].weight.requires_grad_(requires_grad=False)
    frozen = make_program(job, upstream=Upstream(Path("/x"), None))
    blocks = make_program(_job(Variant("FT", 1)), upstream=Upstream(Path("/x"), None))
    for program in (frozen, blocks):
        assert f"{name}.transpose_buffer" in program.graph.by_name


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, stand_in: Path) -> None:
    with pytest.raises(BadInput, match=r"is not a checkout of PULP-TrainLib: it has no lib/include/pulp_train\.h"):
        find_upstream(str(tmp_path))
    spaced = tmp_path / "my checkout"
    shutil.copytree(stand_in, spaced)
    with pytest.raises(BadInput, match="make cannot take a path"):
        find_upstream(str(spaced))
    (stand_in / "lib/sources/pulp_matmul_fp32.c").unlink()
    with pytest.raises(BadInput, match=r"it has no lib/sources/pulp_matmul_fp32\.c"):
        find_upstream(str(stand_in))


def test_another_revision_than_the_tested_one_gets_a_warning(stand_in: Path) -> None:
    assert "tested with revision 7bfc760" in warning(find_upstream(str(stand_in)))
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "other"]):
        subprocess.run(["git", "-C", str(stand_in), *command], check=True)
    other = find_upstream(str(stand_in))
    assert other.revision is not None
    assert other.revision[:7] in warning(other)
    assert "\n" not in warning(other)
    assert warning(Upstream(stand_in, table()["revision"])) == ""


def test_the_network_calls_both_and_ours_clash_with_none_of_upstreams(stand_in: Path, tmp_path: Path) -> None:
    program = make_program(_job(Variant("FT", 1)), upstream=find_upstream(str(stand_in)))
    files = emit(program, target=find_target("pulp"), num_cores=8, command="tests")
    calls = re.findall(r"^    \{(\w+), &args", files["src/network.c"].decode(), re.MULTILINE)
    assert {"pulp_conv_pw_fp32_fw_cl", "tcl_pulp_conv_dw_fp32_bw_param_grads_cl", "tcl_bias_fp32_fw_cl"} <= set(calls)
    assert set(calls) == set(program.linkage.symbols) if program.linkage else False
    write_project(files, tmp_path / "project")
    for source in sorted((tmp_path / "project/trainlib/src").glob("pulp_*.c")):
        object_file = tmp_path / f"{source.stem}.o"
        command = ["cc", "-std=c99", "-DNUM_CORES=1", "-I../../port", "-c", source.name, "-o", str(object_file)]
        subprocess.run(command, cwd=source.parent, check=True)
        symbols = subprocess.run(["nm", "-g", object_file], capture_output=True, text=True, check=True).stdout
        defined = re.findall(r" [TDB] (\w+)$", symbols, re.MULTILINE)
        assert defined, source
        assert all(name.startswith("tcl_") for name in defined), (source, defined)


def test_a_training_run_calls_both_too(stand_in: Path, tmp_path: Path) -> None:
    job = test_device_run._job(cache="fp32")
    pulp, found = find_target("pulp"), find_upstream(str(stand_in))
    program = emit_training(job, pulp, tmp_path / "project", upstream=found)
    calls = re.findall(r"^    \{(\w+), &args", (tmp_path / "project/src/network.c").read_text(), re.MULTILINE)
    assert {"pulp_conv_pw_fp32_fw_cl", "tcl_pulp_linear_fp32_fw_cl"} <= set(calls)
    assert program.tiles is None
    assert f"TRAINLIB_HOME = {stand_in}" in (tmp_path / "project/Makefile").read_text()
    with pytest.raises(BadInput, match="holds no run with these options"):
        emit_training(job, pulp, tmp_path / "project", resume=True)


def test_memory_is_predicted_for_the_kernels_that_are_linked(stand_in: Path, tmp_path: Path) -> None:
    pulp, found = find_target("pulp"), find_upstream(str(stand_in))
    job = _job(Variant("FT", 1))
    program = make_program(job, pulp, upstream=found)
    ours, linked = program_regions(make_program(job, pulp), pulp), program_regions(program, pulp)
    assert "tiles" in dict(ours[1].parts)
    assert "tiles" not in dict(linked[1].parts)
    assert pulp.upstream_code is not None
    code = dict(linked[0].parts)["code and constants"]
    assert code == code_bound(
        replace(pulp, l1_bytes=None, code=pulp.upstream_code), program.graph, program.plan, is_run=False
    )
    small = replace(pulp, regions=(replace(pulp.regions[0], num_bytes=linked[0].total - 1), pulp.regions[1]))
    with pytest.raises(DoesNotFit, match=r"training needs [\d,]+ bytes of L2"):
        emit_project(job, small, tmp_path / "p", upstream=found)


def test_the_command_says_whose_kernels_a_project_calls(
    monkeypatch: pytest.MonkeyPatch, stand_in: Path, tmp_path: Path
) -> None:
    def deploy(target: str, home: Path) -> str:
        monkeypatch.setenv("TRAINLIB_HOME", str(home))
        options = ["--target", target, "--size", "32", "--out", str(tmp_path / "out")]
        return CliRunner().invoke(main, ["deploy", *options]).output

    assert "TRAINLIB_HOME is ignored: target host uses our kernels only" in deploy("host", tmp_path / "nowhere")
    assert "is not a checkout of PULP-TrainLib" in deploy("pulp", tmp_path / "nowhere")
    said = deploy("pulp", stand_in)
    assert "revision unknown: 57 of 86 calls are upstream's" in said
    assert "  pulp_linear_fp32_fw_cl: ours, upstream's ignores the bias" in said
    assert "warning: TRAINLIB_HOME: tested with revision 7bfc760" in said
    assert "- pulp_linear_fp32_fw_cl: ours, upstream's ignores the bias" in (tmp_path / "out/README.md").read_text()


# --- with a checkout, in GVSoC ------------------------------------------------------------------------------------

_all_cases = test_layers._all_cases


def _more_cases():
    """Return the layers' cases, and some for conditions that none of them meets."""
    conv = next(layer for layer in LAYERS if layer.__name__ == "Conv2d")
    more = (
        Case("conv 2->3 9x8 5x5 p0", nn.Conv2d(2, 3, 5), (2, 9, 8)),
        Case("conv 2->3 10x7 s3 p1", nn.Conv2d(2, 3, 3, stride=3, padding=1), (2, 10, 7)),
        Case("conv 3->4 9x9 2x2 s2 p0", nn.Conv2d(3, 4, 2, stride=2), (3, 9, 9)),
    )
    return [*_all_cases(), *((conv, case) for case in more)]


def _run_cases(checkout: Upstream, project: Path, monkeypatch: pytest.MonkeyPatch, num_cores: int):
    monkeypatch.setattr(test_layers, "_all_cases", _more_cases)
    graph, values, expected, labels = test_layers._cases_graph(combined=False)
    graph, linkage = link(graph, checkout)
    graph, plan = test_layers._with_gaps(graph)
    traced = frozenset(name for call in graph.calls for name in call.writes)
    program = Program(graph, plan, values, None, None, test_layers.NUM_STEPS, traced, linkage=linkage)
    pulp = find_target("pulp")
    write_project(emit(program, target=pulp, num_cores=num_cores, command="tests"), project)
    targets.build(project, pulp)
    results = targets.run(project)
    errors = [{n: relative_error(step[n], value) for n, value in expected.items()} for step in results.steps]
    untouched = np.ones(plan.arena_bytes // 4, dtype=bool)
    for p in plan.placements:
        if p.tensor.name != "arena":
            untouched[p.offset // 4 : p.end // 4] = False
    return program, labels, errors, [step["arena"][untouched] for step in results.steps]


@on_targets("pulp")
@pytest.mark.parametrize("num_cores", [1, 8])
def test_all_layers_match_pytorch(
    target: Target, checkout: Upstream, num_cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, labels, errors, beside = _run_cases(checkout, tmp_path / "cases", monkeypatch, num_cores)
    assert len(errors) == test_layers.NUM_STEPS
    for step_errors, gaps in zip(errors, beside, strict=True):
        assert {labels[n]: e for n, e in step_errors.items() if not e <= test_layers.TOLERANCE} == {}
        assert not gaps.any(), "a kernel wrote beside its output"
    assert program.linkage is not None
    assert {c.kernel for c in program.linkage.choices if c.is_upstream} >= {
        name for name in table()["kernels"] if name.startswith("pulp_conv") or name.startswith("pulp_avgpool")
    }


@on_targets("pulp")
def test_upstream_is_wrong_where_the_table_says(
    target: Target, checkout: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = {(c.kernel, i): c for i, c in enumerate(_choices(monkeypatch, checkout))}
    daring = copy.deepcopy(table())
    for row in daring["kernels"].values():
        row["wrong"] = {c: reason for c, reason in row.get("wrong", {}).items() if c in NEVER_RUN}
    monkeypatch.setattr(upstream, "table", lambda: daring)
    program, labels, errors, _ = _run_cases(checkout, tmp_path / "cases", monkeypatch, 8)
    assert program.linkage is not None
    num_wrong = 0
    for i, (call, choice) in enumerate(zip(program.graph.calls, program.linkage.choices, strict=True)):
        if choice.is_upstream and not honest[choice.kernel, i].is_upstream:
            worst = max(errors[0].get(name, 0.0) for name in call.writes)
            assert worst > 0.01, f"{[labels.get(n, n) for n in call.writes]}: {choice.kernel} is right after all"
            num_wrong += 1
    assert num_wrong > 20


def _choices(monkeypatch: pytest.MonkeyPatch, checkout: Upstream):
    with monkeypatch.context() as patch:
        patch.setattr(test_layers, "_all_cases", _more_cases)
        return link(test_layers._cases_graph(combined=False)[0], checkout)[1].choices


@on_targets("pulp")
@pytest.mark.parametrize(
    ("variant", "loss"), [(Variant("LP"), "mse"), (Variant("FT", 1), "cross_entropy")], ids=["LP mse", "FT 1"]
)
def test_a_net_trains_as_in_pytorch(
    target: Target, checkout: Upstream, variant: Variant, loss: str, tmp_path: Path
) -> None:
    rule = UpdateRule(0.01, weight_decay=1e-3, loss=loss)
    job = _job(variant, arch="fdmobilenet_wd4", rule=rule, num_steps=2)
    program = emit_project(job, target, tmp_path / "project", upstream=checkout)
    report = execute(job, program, target, tmp_path / "project")
    assert report.passed, [c for c in report.comparisons if not c.passed]
    assert program.linkage is not None
    assert any("pulp_gradient_descent_fp32: upstream" in line for line in summary(program.linkage))


@on_targets("pulp")
@pytest.mark.parametrize("cache", ["off", "int8"])
def test_a_training_run_is_pytorchs(target: Target, checkout: Upstream, cache: str, tmp_path: Path) -> None:
    job = test_device_run._job(cache=cache)
    program = emit_training(job, target, tmp_path / "project", upstream=checkout)
    report = execute_training(job, program, target, tmp_path / "project")
    assert report.passed, report.checks
    assert program.linkage is not None
    assert "pulp_conv_pw_fp32_fw_cl: upstream" in summary(program.linkage)


@on_targets("pulp")
@pytest.mark.parametrize("variant", [Variant("LP"), Variant("full")], ids=lambda v: v.label)
def test_no_more_is_linked_than_predicted(target: Target, checkout: Upstream, variant: Variant, tmp_path: Path) -> None:
    program = emit_project(_job(variant, arch="resnet8"), target, tmp_path / "p", upstream=checkout)
    targets.build(tmp_path / "p", target)
    predicted = program_regions(program, target)
    linked = linked_regions(target, read_elf(tmp_path / "p" / targets.ELF))
    assert linked[0].total <= predicted[0].total
    assert linked[1].parts == predicted[1].parts


@on_targets("pulp")
def test_upstreams_cross_entropy_loses_a_nearly_certain_prediction(
    target: Target, checkout: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daring = copy.deepcopy(table())
    for row in daring["kernels"].values():
        row.get("wrong", {}).pop("always", None)
    monkeypatch.setattr(upstream, "table", lambda: daring)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model[2].weight.data = torch.tensor([[7.0, 1.0, 1.0], [-7.0, 1.0, 1.0]])
    samples = np.array([1.0, 0.3, 0.0], dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((1, 3, 2, 2), np.float32)
    job = Job(model, samples, np.eye(2, dtype=np.float32)[:1], 1, UpdateRule(0.01), "tests")
    program = emit_project(job, target, tmp_path / "project", upstream=checkout)
    report = execute(job, program, target, tmp_path / "project")
    assert not next(c for c in report.comparisons if c.name == "2.weight.grad").passed


@on_targets("pulp")
def test_structs_that_differ_do_not_compile(target: Target, checkout: Upstream, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(checkout.home / "lib", changed / "lib")
    header = changed / "lib/include/pulp_linear_fp32.h"
    text = header.read_text()
    assert text.count("int skip_wg_grad;") == 1
    header.write_text(text.replace("int skip_wg_grad;", "int added; int skip_wg_grad;"))
    job = _job(Variant("LP"))
    emit_project(job, target, tmp_path / "project", upstream=find_upstream(str(changed)))
    with pytest.raises(ToolFailed, match="Linear_args"):
        targets.build(tmp_path / "project", target)


def test_own_names_hold_the_whole_symbol() -> None:
    assert own_symbol("pulp_relu_fp32_fw_cl") == "tcl_pulp_relu_fp32_fw_cl"
    assert own_symbol("tcl_add_fp32_cl") == "tcl_add_fp32_cl"
