"""Whole training steps on every target against PyTorch: logits, loss, every gradient and every updated weight."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.kit.targets import on_targets
from tinyclf.device.graph.kernels import KERNELS
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.lowering.layers import LAYERS
from tinyclf.device.reference.steps import _PIECES, _kink, cross_entropy, relative_error, training_steps
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program
from tinyclf.device.run.step_report import Report
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target, find_target, with_l1
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, calibrate_batchnorm, fold_batchnorm, freeze

SEED = 7

MACS_PER_CYCLE = 4  # of pulp-open: four FPUs


def _job(arch: str, variant: Variant, *, size: int, num_steps: int, num_samples: int, num_classes: int = 2) -> Job:
    """Return a job with random weights in a natural range, random images and labels."""
    rng = np.random.default_rng(SEED)
    model = build_model(arch, num_classes=num_classes, size=size, seed=SEED)
    calibrate_batchnorm(model, torch.from_numpy(rng.standard_normal((16, 3, size, size)).astype(np.float32)))
    freeze(model, variant)
    return Job(
        model=fold_batchnorm(model),
        samples=rng.standard_normal((num_samples, 3, size, size)).astype(np.float32),
        labels=np.eye(num_classes, dtype=np.float32)[rng.integers(0, num_classes, num_samples)],
        num_steps=num_steps,
        rule=UpdateRule(0.01, weight_decay=1e-3),
        command="tests",
    )


def _execute(job: Job, target: Target, project: Path, *variables: str) -> Report:
    report = execute(job, emit_project(job, target, project), target, project, *variables)
    failed = [f"{c}" for c in report.comparisons if not c.passed or c.drifted]
    assert not failed, failed[:10]
    trained = [name for name, p in job.model.named_parameters() if p.requires_grad]
    relus = {c.name for c in report.comparisons if c.name.endswith(".output")}
    assert len(report.comparisons) == job.num_steps * (2 + 2 * len(trained) + len(relus))
    assert report.num_ties <= 10, "so many inputs of ReLUs cannot lie within rounding of zero"
    for actual, expected in report.losses:
        assert actual == pytest.approx(expected, rel=1e-4)
    return report


NETS = [
    pytest.param("mobilenet_wd4", Variant("LP"), id="mobilenet-LP"),
    pytest.param("mobilenet_wd4", Variant("FT", 2), id="mobilenet-FT2"),
    pytest.param("fdmobilenet_wd4", Variant("FD"), id="fdmobilenet-LP"),
    pytest.param("fdmobilenet_wd4", Variant("FT", 2), id="fdmobilenet-FT2"),
]


@on_targets("host")
@pytest.mark.parametrize(("arch", "variant"), NETS)
def test_ten_steps_at_128(target: Target, arch: str, variant: Variant, tmp_path: Path) -> None:
    job = _job(arch, variant, size=128, num_steps=10, num_samples=4)
    report = _execute(job, target, tmp_path / "project")
    first, last = report.losses[0][1], report.losses[8][1]  # the same sample, eight steps apart
    assert first != pytest.approx(last, rel=1e-3), "nothing was learnt: the steps do not test the update"


@on_targets("qemu")
@pytest.mark.parametrize(("arch", "variant"), NETS)
def test_two_steps_at_128(target: Target, arch: str, variant: Variant, tmp_path: Path) -> None:
    _execute(_job(arch, variant, size=128, num_steps=2, num_samples=2), target, tmp_path / "project")


@on_targets("pulp")
@pytest.mark.parametrize(("size", "num_steps"), [(128, 1), (64, 2)])
@pytest.mark.parametrize(("arch", "variant"), NETS)
def test_steps_in_gvsoc(target: Target, arch: str, variant: Variant, size: int, num_steps: int, tmp_path: Path) -> None:
    job = _job(arch, variant, size=size, num_steps=num_steps, num_samples=num_steps)
    report = _execute(job, target, tmp_path / "project")
    assert report.cycles is not None
    assert len(report.cycles) == num_steps
    assert min(report.cycles) > num_macs(make_program(job).graph) / MACS_PER_CYCLE, "faster than the chip's FPUs"


TILED = [p for p in NETS if p.values[1].name == "FT"]


@on_targets("host")
@pytest.mark.parametrize("l1", ["32KiB", "64KiB", "128KiB"])
@pytest.mark.parametrize(("arch", "variant"), TILED)
def test_two_steps_at_128_on_tiles(target: Target, arch: str, variant: Variant, l1: str, tmp_path: Path) -> None:
    job = _job(arch, variant, size=128, num_steps=2, num_samples=2)
    _execute(job, with_l1(target, l1), tmp_path / "project")


@on_targets("qemu")
@pytest.mark.parametrize("l1", ["32KiB", "64KiB", "128KiB"])
def test_a_step_on_tiles_in_qemu(target: Target, l1: str, tmp_path: Path) -> None:
    arch = "fdmobilenet_wd4" if l1 == "64KiB" else "mobilenet_wd4"
    job = _job(arch, Variant("FT", 2), size=64, num_steps=1, num_samples=1)
    _execute(job, with_l1(target, l1), tmp_path / "project")


@on_targets("pulp")
@pytest.mark.parametrize("arch", ["mobilenet_wd4", "fdmobilenet_wd4"])
def test_a_step_in_half_of_l1(target: Target, arch: str, tmp_path: Path) -> None:
    job = _job(arch, Variant("FT", 2), size=64, num_steps=1, num_samples=1)
    _execute(job, with_l1(target, "32KiB"), tmp_path / "project")


# Nets with sums, ReLU6, strided shortcuts and 5x5 windows: architecture, variant, size.
MORE_NETS = [
    pytest.param("mobilenetv2_wd4", Variant("LP"), 96, id="mobilenetv2-LP"),
    pytest.param("mobilenetv2_wd4", Variant("FT", 2), 96, id="mobilenetv2-FT2"),
    pytest.param("resnet8", Variant("full"), 32, id="resnet8-full"),
    pytest.param("dscnn", Variant("full"), 32, id="dscnn-full"),
]


@on_targets("host")
@pytest.mark.parametrize(("arch", "variant", "size"), MORE_NETS)
def test_ten_steps_of_other_nets(target: Target, arch: str, variant: Variant, size: int, tmp_path: Path) -> None:
    job = _job(arch, variant, size=size, num_steps=10, num_samples=4)
    report = _execute(job, target, tmp_path / "project")
    first, last = report.losses[0][1], report.losses[8][1]  # the same sample, eight steps apart
    assert first != pytest.approx(last, rel=1e-3), "nothing was learnt: the steps do not test the update"


@on_targets("pulp")
@pytest.mark.parametrize(
    ("arch", "variant", "size"),
    [
        pytest.param(*net.values, marks=[pytest.mark.long] * str(net.id).endswith("full"), id=net.id)
        for net in MORE_NETS
    ],
)
def test_two_steps_of_other_nets_in_gvsoc(
    target: Target, arch: str, variant: Variant, size: int, tmp_path: Path
) -> None:
    _execute(_job(arch, variant, size=size, num_steps=2, num_samples=2), target, tmp_path / "project")


@on_targets("host")
@pytest.mark.parametrize(
    ("arch", "variant"), [("mnasnet_b1", Variant("FT", 1)), ("resnet18_wd4", Variant("full"))], ids=["5x5", "maxpool"]
)
def test_nets_with_larger_windows_and_maximum_pooling(
    target: Target, arch: str, variant: Variant, tmp_path: Path
) -> None:
    # At 0.01 the second step of MnasNet starts so far away that it amplifies the rounding of the first.
    job = _job(arch, variant, size=32, num_steps=2, num_samples=2)
    _execute(replace(job, rule=replace(job.rule, learning_rate=0.001)), target, tmp_path / "project")


@on_targets("host")
@pytest.mark.parametrize("arch", ["mobilenet_wd4", "fdmobilenet_wd4"])
@pytest.mark.parametrize(
    "variant", [Variant("FT", 0), Variant("FT", 1), Variant("FT", 3), Variant("full")], ids=lambda v: v.label
)
def test_other_depths_on_a_smaller_input(target: Target, arch: str, variant: Variant, tmp_path: Path) -> None:
    job = _job(arch, variant, size=64, num_steps=3, num_samples=3, num_classes=5)
    _execute(job, target, tmp_path / "project")


@on_targets()
def test_one_core(target: Target, tmp_path: Path) -> None:
    job = _job("fdmobilenet_wd4", Variant("FT", 1), size=32, num_steps=2, num_samples=2)
    report = _execute(job, target, tmp_path / "project", "NUM_CORES=1")
    assert report.num_cores == 1


@on_targets("host", "pulp")
@pytest.mark.parametrize("cores", [3, 7])
def test_odd_numbers_of_cores_on_tiles(target: Target, cores: int, tmp_path: Path) -> None:
    job = _job("fdmobilenet_wd4", Variant("FT", 1), size=32, num_steps=2, num_samples=2)
    report = _execute(job, with_l1(target, "32KiB"), tmp_path / "project", f"NUM_CORES={cores}")
    assert report.num_cores == cores


@on_targets("host")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_a_step_runs_clean_under_sanitizers(target: Target, sanitizer: str, tmp_path: Path) -> None:
    job = _job("mobilenet_wd4", Variant("full"), size=32, num_steps=1, num_samples=1)
    _execute(job, target, tmp_path / "project", f"SANITIZE={sanitizer}")


@on_targets()
@pytest.mark.parametrize("logit", [0.0, 5.0, 12.0, 40.0, 70.0, 300.0])
@pytest.mark.parametrize("right", [True, False])
def test_cross_entropy_of_certain_predictions(target: Target, logit: float, right: bool, tmp_path: Path) -> None:
    # One weight carries the whole logit; the input gradient of the loss is softmax - label, tiny when it is right.
    model = nn.Sequential(OrderedDict(flat=nn.Flatten(), output=nn.Linear(1, 4)))
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor([[0.25 * logit], [-1.0], [logit], [0.5]]))
        model.output.bias.zero_()
    job = Job(
        model=model,
        samples=np.ones((1, 1, 1, 1), dtype=np.float32),
        labels=np.array([[0, 0, 1, 0] if right else [0, 0, 0, 1]], dtype=np.float32),
        num_steps=2,
        rule=UpdateRule(0.1, weight_decay=0.01),
        command="tests",
    )
    report = execute(job, emit_project(job, target, tmp_path / "p"), target, tmp_path / "p")
    assert report.passed, report.worst()


@on_targets("host")
def test_a_run_that_amplifies_rounding_drifts_but_each_step_is_right(target: Target, tmp_path: Path) -> None:
    # Full training with a batch of one at this rate is chaotic: after ten steps the rounding of the first is large.
    job = _job("mobilenet_wd4", Variant("full"), size=32, num_steps=10, num_samples=4, num_classes=10)
    job = replace(job, rule=replace(job.rule, learning_rate=0.003))
    report = execute(job, emit_project(job, target, tmp_path / "p"), target, tmp_path / "p")
    assert report.passed, [c for c in report.worst() if not c.passed]
    assert report.drifted
    assert not [c for c in report.comparisons if c.step == 0 and c.drifted]


@pytest.mark.target("host")
def test_a_value_that_was_not_reported_fails(tmp_path: Path) -> None:
    host = find_target("host")
    job = _job("fdmobilenet_wd4", Variant("LP"), size=32, num_steps=1, num_samples=1)
    program = emit_project(job, host, tmp_path / "p")
    trace = tmp_path / "p" / "trace.json"
    trace.write_text(trace.read_text().replace("output.weight.grad", "output.other.grad"))
    failed = [c.name for c in execute(job, program, host, tmp_path / "p").comparisons if not c.passed]
    assert failed == ["output.weight.grad"]


def test_cross_entropy_of_the_reference_is_torchs() -> None:
    generator = torch.Generator().manual_seed(3)
    for num_classes in (2, 5, 10):
        logits = (3 * torch.randn(num_classes, generator=generator, dtype=torch.float64)).requires_grad_()
        for target in (
            *torch.eye(num_classes, dtype=torch.float64),
            torch.full((num_classes,), 1 / num_classes).double(),
        ):
            expected = nn.functional.cross_entropy(logits[None], target[None])
            actual = cross_entropy(logits, target)
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
            (ours,), (theirs,) = (torch.autograd.grad(loss, logits) for loss in (actual, expected))
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    certain = torch.tensor([50.0, 0.0], dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(certain, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert loss.item() == pytest.approx(np.exp(-50.0), rel=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(loss, certain)[0], [-np.exp(-50.0), np.exp(-50.0)], rtol=1e-12)


def test_golden_is_the_optimizer_of_torch() -> None:
    job = _job("fdmobilenet_wd4", Variant("FT", 1), size=32, num_steps=3, num_samples=2)
    steps = training_steps(
        job.model,
        job.samples,
        job.labels,
        num_steps=3,
        rule=job.rule,
    ).steps
    frozen = [name for name, p in job.model.named_parameters() if not p.requires_grad]
    assert frozen
    assert not set(frozen) & set(steps[0])
    # By hand: w -= lr * (g + wd * w), and the bias's gradient is softmax - label.
    before, after, grad = steps[0]["output.bias"], steps[1]["output.bias"], steps[1]["output.bias.grad"]
    np.testing.assert_allclose(after, before - 0.01 * (grad + 1e-3 * before), rtol=1e-12)
    softmax = np.exp(steps[1]["logits"]) / np.exp(steps[1]["logits"]).sum()
    np.testing.assert_allclose(grad, softmax - job.labels[1], rtol=1e-9)
    assert steps[1]["loss"][0] == pytest.approx(-np.log(softmax[job.labels[1].argmax()]), rel=1e-9)


def test_only_ties_at_the_kink_follow_the_device() -> None:
    # One pixel a channel: 1e-6 is a tie beside 1.0, 0.01 is not. The device says that neither is positive.
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 1), relu=nn.ReLU(), flat=nn.Flatten(), out=nn.Linear(3, 2)))
    with torch.no_grad():
        model.conv.weight.copy_(torch.tensor([1.0, 1e-6, 0.01]).reshape(3, 1, 1, 1))
        model.conv.bias.zero_()
    device = {"y": np.array([1.0, 0.0, 0.0], dtype=np.float32).reshape(3, 1, 1)}

    def gradient(**options):
        trajectory = training_steps(
            model,
            np.ones((1, 1, 1, 1), dtype=np.float32),
            np.array([[1, 0]], dtype=np.float32),
            num_steps=1,
            rule=UpdateRule(0.1),
            **options,
        )
        return trajectory.steps[0]["conv.bias.grad"] != 0, trajectory.num_ties

    np.testing.assert_array_equal(gradient()[0], [True, True, True])
    follows, num_ties = gradient(kinks={"relu": "y"}, device_steps=[device], tie=1e-4)
    np.testing.assert_array_equal(follows, [True, False, True])
    assert num_ties == 1


def test_ties_of_relu6_and_maximum_pooling_follow_the_device_too() -> None:
    # ReLU6: 6 - 1e-6 is a tie with 6, 5.9 is none. Pooling: 1 + 1e-6 is a tie with 1, 1.1 is none.
    cases = [
        (nn.ReLU6(), [[6 - 1e-6, 5.9]], [[6.0, 6.0]], [[0, 1]], 1),
        (nn.ReLU6(), [[6 + 1e-6, 7.0]], [[5.999, 5.0]], [[1, 0]], 1),
        (nn.MaxPool2d((1, 2)), [[1 + 1e-6, 1.0]], [[1.0, 1.5]], [[0, 1]], 1),
        (nn.MaxPool2d((1, 2)), [[1.1, 1.0]], [[1.0, 1.5]], [[1, 0]], 0),
        (nn.MaxPool2d((1, 2)), [[-1.0, -1.0]], [[-1.0, -1.0]], [[1, 0]], 0),
    ]
    for module, x, device, passes, ties in cases:
        kink = _kink(module, 1e-4)
        kink.device = torch.tensor([device])
        value = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
        expected = module(value.detach())
        y = kink(value)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        y.backward(torch.ones_like(y))
        assert value.grad is not None
        np.testing.assert_array_equal(value.grad[0, 0], passes, err_msg=f"{module} {x}")
        assert kink.num_ties == ties
        kink.device = None
        assert torch.equal(kink(value), expected)


@pytest.mark.parametrize(
    ("module", "x", "device", "slopes", "ties"),
    [
        (nn.LeakyReLU(0.25), [1e-6, -1e-6, 1.0], [-1e-7, 1e-6, -0.25], [0.25, 1, 1], 2),
        (nn.Hardsigmoid(), [3 - 1e-6, 3 + 1e-6, 2.9], [1.0, 0.999, 1.0], [0, 1 / 6, 1 / 6], 2),
        (nn.Hardsigmoid(), [-3 - 1e-6, -3 + 1e-6, -2.9], [1e-7, 0.0, 0.0], [1 / 6, 0, 1 / 6], 2),
        (nn.Hardswish(), [3 - 1e-6, 3 + 1e-6, 2.7], [3.0, 2.999, 3.0], [1, 1.5, 1.4], 2),  # by the input
        (nn.Hardswish(), [-3 - 1e-6, -3 + 1e-6, -2.7], [-2.999, -3.0, -3.0], [-0.5, 0, -0.4], 2),
    ],
)
def test_ties_of_other_activations_follow_the_device(
    module: nn.Module, x: list[float], device: list[float], slopes: list[float], ties: int
) -> None:
    kink = _kink(module, 1e-4)
    kink.device = torch.tensor([[device]])
    value = torch.tensor([[[x]]], dtype=torch.float64, requires_grad=True)
    expected = module(value.detach())
    y = kink(value)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=2e-6)
    y.backward(torch.ones_like(y))
    assert value.grad is not None
    np.testing.assert_allclose(value.grad[0, 0, 0], slopes, atol=1e-5)
    assert kink.num_ties == ties
    kink.device = None
    torch.testing.assert_close(kink(value), expected, rtol=1e-12, atol=1e-12)


def test_the_reference_bends_where_the_kernels_do() -> None:
    bent = set()
    for layer in LAYERS:
        for row in KERNELS.values():
            if row.layer == layer.kind and row.kink and row.kink.places:
                for case in layer.cases():
                    pieces = _PIECES[type(case.module)](case.module)
                    assert (pieces.of, pieces.places) == (row.kink.of, row.kink.places), layer
                    bent.add(type(case.module))
    assert bent == set(_PIECES)


def test_comparison_fails_on_every_kind_of_difference() -> None:
    expected = np.array([1.0, -2.0, 0.5])
    assert relative_error(expected.astype(np.float32), expected) == 0.0
    assert relative_error(expected + np.array([0, 0.02, 0]), expected) == pytest.approx(0.01)
    for wrong in (np.array([1.0, np.nan, 0.5]), np.array([1.0, np.inf, 0.5]), np.zeros(2), np.zeros((3, 1))):
        assert relative_error(wrong, expected) == float("inf")
    assert relative_error(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_error(np.array([0, 1e-9, 0]), np.zeros(3)) == float("inf")
    assert relative_error(np.array([1e-5]), np.array([2e-5]), least_scale=1.0) == pytest.approx(1e-5)


@pytest.mark.target("host")
def test_a_wrong_update_is_found(tmp_path: Path) -> None:
    host = find_target("host")
    job = _job("fdmobilenet_wd4", Variant("FT", 1), size=32, num_steps=2, num_samples=2)
    program = emit_project(job, host, tmp_path / "project")
    report = execute(replace(job, rule=replace(job.rule, learning_rate=0.0101)), program, host, tmp_path / "project")
    assert not report.passed
    names = {c.name for c in report.comparisons if not c.passed}
    assert "output.bias" in names
    assert not any(c.name.endswith(".grad") and c.step == 0 and not c.passed for c in report.comparisons)
