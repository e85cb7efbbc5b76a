"""What is trained down to layers, biases and channels: freezing, memory, C, and training on the host."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from torch import nn

from tests.cli.test_cli import run
from tests.device.run.test_training import _job as training_job
from tests.device.run.test_updates import RULES
from tests.device.run.test_updates import _execute as execute_updates
from tests.device.run.test_updates import _job as updates_job
from tests.kit.steps import training_graph
from tests.kit.targets import on_targets
from tinyclf.base.errors import BadInput, Interrupted, Unsupported
from tinyclf.device.graph.ir import Graph, Phase, Role
from tinyclf.device.lowering.lower import PLAIN
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.sums import summed
from tinyclf.device.run.files import read_weights
from tinyclf.device.run.program import make_program
from tinyclf.device.run.step_report import _without_frozen_channels
from tinyclf.device.run.training import emit_training, execute_training
from tinyclf.device.targets.target import Target
from tinyclf.recipe.channels import partial_parameters, set_trained_channels, trained_channels
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant, chosen_variant, parse_fractions
from tinyclf.workstation.nets.build import build_model, num_parameters
from tinyclf.workstation.nets.folding import fold_batchnorm
from tinyclf.workstation.nets.freezing import freeze, set_train_mode
from tinyclf.workstation.runs.config import TrainConfig, config_from, from_dict, to_dict
from tinyclf.workstation.runs.directory import load_run, read_run
from tinyclf.workstation.training.loop import resume, train
from tinyclf.workstation.training.optim import Average, keep_frozen_channels, make_optimizer

UNIT = "features.stage5.unit1"


def net(arch: str = "mobilenet_wd4") -> nn.Module:
    with torch.device("meta"):
        return build_model(arch, num_classes=3, size=32)


def names(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def refused(result: Result, message: str) -> None:
    """Assert an error of one line."""
    assert result.exit_code != 0
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr


# --- freezing -----------------------------------------------------------------------------------------------------


def test_layers_are_named_by_globs_and_take_their_batchnorm_along() -> None:
    model = net()
    freeze(model, Variant("layers", layers=("features.stage5.unit?", "output")))
    everything = [name for name, _ in model.named_parameters() if name.startswith(("features.stage5.", "output."))]
    assert names(model) == everything
    freeze(model, Variant("layers", layers=(f"{UNIT}.dw_conv.conv",)))
    dw = [f"{UNIT}.dw_conv.conv.weight", f"{UNIT}.dw_conv.bn.weight", f"{UNIT}.dw_conv.bn.bias"]
    assert names(model) == dw
    freeze(model, Variant("layers", layers=(f"{UNIT}.dw_conv.bn",)))
    assert names(model) == dw[1:], "a BatchNorm that is named can be alone"
    freeze(model, Variant("layers", layers=("*",)))
    assert len(names(model)) == len(list(model.parameters()))


@pytest.mark.parametrize("variant", [Variant("LP"), Variant("FT", 1), Variant("full")], ids=lambda v: v.name)
def test_bias_only_leaves_the_biases_of_what_a_variant_trains(variant: Variant) -> None:
    model = net()
    freeze(model, variant)
    biases = [name for name in names(model) if name.endswith("bias")]
    freeze(model, replace(variant, bias_only=True))
    assert names(model) == biases != []
    set_train_mode(model)
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)), "their weights are frozen"


def test_channels_are_the_first_ones_rounded_up_and_the_last_glob_counts() -> None:
    model = net()
    channels = (("*", 1 / 3), ("features.stage5.unit2.pw_conv.conv", 0.1), ("output", 1.0))
    freeze(model, Variant("FT", 1, channels=channels))
    unit = "features.stage5.unit2"
    thirds = dict.fromkeys((f"{unit}.dw_conv.conv", f"{unit}.dw_conv.bn"), math.ceil(256 / 3))
    tenths = dict.fromkeys((f"{unit}.pw_conv.conv", f"{unit}.pw_conv.bn"), 26)
    noted = {name: num for name, m in model.named_modules() if (num := trained_channels(m)) is not None}
    assert noted == thirds | tenths
    assert num_parameters(model, trained=True) == 86 * (9 + 2) + 26 * (256 + 2) + 3 * 257
    assert num_parameters(model) == num_parameters(model, trained=True) + num_parameters(model, trained=False)
    set_train_mode(model)
    training = [name for name, m in model.named_modules() if m.training and next(m.parameters(), None) is not None]
    assert training == ["output"], "the statistics of frozen channels must not move"
    freeze(model, Variant("FT", 1))
    assert partial_parameters(model) == {}, "freezing undoes an earlier one"


def test_a_fraction_that_rounding_lifts_adds_no_channel() -> None:
    model = nn.Sequential(OrderedDict(output=nn.Linear(2, 30)))
    for fraction, num in ((0.1, 3), (0.7, 21), (1 / 3, 10), (1e-9, 1), (0.99, None)):
        freeze(model, Variant("LP", channels=(("output", fraction),)))
        assert trained_channels(model.output) == num


def test_folding_keeps_what_is_trained() -> None:
    model = build_model("mobilenet_wd4", num_classes=3, size=32)
    variant = Variant("layers", layers=(f"{UNIT}.*",), channels=((f"{UNIT}.pw_conv.conv", 0.25),))
    freeze(model, variant)
    folded = fold_batchnorm(model)
    assert names(folded) == [f"{UNIT}.{c}_conv.conv.{p}" for c in ("dw", "pw") for p in ("weight", "bias")]
    assert partial_parameters(folded) == {f"{UNIT}.pw_conv.conv.{p}": 64 for p in ("weight", "bias")}
    freeze(model, replace(variant, bias_only=True))
    folded = fold_batchnorm(model)
    assert names(folded) == [f"{UNIT}.dw_conv.conv.bias", f"{UNIT}.pw_conv.conv.bias"]
    assert partial_parameters(folded) == {f"{UNIT}.pw_conv.conv.bias": 64}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            Variant("layers", layers=("head",)),
            r"no layer matches 'head'; layers with weights are in features.init_block, features.stage1, .*, output$",
        ),
        (Variant("layers", layers=("features.final_pool",)), r"'features.final_pool' has no weights to train; layers"),
        (
            Variant("LP", channels=(("features.*", 0.5),)),
            r"features.\*=0.5: matches no trained layer; trained is output$",
        ),
    ],
)
def test_what_matches_nothing_is_refused_with_what_is_there(variant: Variant, message: str) -> None:
    model = net()
    with pytest.raises(BadInput, match=message) as refusal:
        freeze(model, variant)
    assert "\n" not in str(refusal.value)
    assert all(p.requires_grad for p in model.parameters()), "a refusal changes nothing"


def test_what_cannot_be_narrowed_is_refused() -> None:
    with pytest.raises(BadInput, match=r"nothing to train, there is no bias in output$"):
        freeze(net("mobilenetv2_wd4"), Variant("LP", bias_only=True))
    model = nn.Sequential(OrderedDict(output=nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4))))
    with pytest.raises(Unsupported, match=r"'output.1' is no convolution, linear layer or BatchNorm: LayerNorm"):
        freeze(model, Variant("LP", channels=(("*", 0.5),)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("LP", {"layers": ("output",)}, "--layers and --variant LP both say what is trained"),
        ("layers", {}, "add --layers GLOB"),
        ("scratch", {"bias_only": True}, "or use --variant full"),
        ("LP", {"train_channels": ("output=0",)}, "output=0: the fraction must be above 0 and at most 1"),
        ("LP", {"train_channels": ("output=nan",)}, "output=nan: the fraction must be above 0"),
        ("LP", {"train_channels": ("output=1.5",)}, "output=1.5: the fraction must be above 0"),
        ("LP", {"train_channels": ("output",)}, "give GLOB=FRACTION"),
        (None, {"bias_only": True}, "--bias-only narrows what is trained: say what"),
        (None, {"train_channels": ("output=0.5",)}, "--train-channels narrows what is trained: say what"),
    ],
)
def test_selections_that_make_no_sense_are_refused(name: str | None, options: dict[str, tuple[str]], message: str):
    given = {"layers": (), "bias_only": False, "train_channels": (), **options}
    with pytest.raises(BadInput, match=message):
        chosen_variant(name, k=2, **given)


def test_labels_options_and_slugs() -> None:
    variant = Variant("layers", layers=("features.stage4.*", "output"), bias_only=True, channels=(("*", 0.25),))
    assert variant.label == "layers features.stage4.*,output bias-only channels *=0.25"
    assert variant.options == "--layers 'features.stage4.*' --layers output --bias-only --train-channels '*=0.25'"
    assert variant.slug == "layers-features.stage4.-output-bias-only-channels-0.25"
    assert (Variant("FT", 2).slug, Variant("FT", 2).kind) == ("FT-K2", "FT")
    assert Variant("FT", 2, bias_only=True).kind == "FT-bias-only"
    long = [Variant("layers", layers=tuple(f"features.stage{i}.*" for i in range(n))).slug for n in (8, 9)]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 70
    assert chosen_variant(None, k=2, layers=(), bias_only=False, train_channels=()) is None
    third = parse_fractions(Variant("LP", channels=(("a=b", 1 / 3),)).fractions)
    assert third == (("a=b", 1 / 3),), "to the bit"


# --- the graph and its memory -------------------------------------------------------------------------------------


def graph_of(variant: Variant, arch: str = "mobilenetv2_wd4", *, size: int = 64, rule: UpdateRule = PLAIN) -> Graph:
    model = build_model(arch, num_classes=3, size=size)
    freeze(model, variant)
    return training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=rule)


def test_bias_only_keeps_no_activation_but_those_of_relus() -> None:
    weights = Variant("FT", 3)
    graph, whole = graph_of(replace(weights, bias_only=True)), graph_of(weights)
    activations = {t.name for t in graph.tensors_of(Role.ACTIVATION, Role.INPUT)}
    readers = {call.kernel for call in graph.calls if call.phase is Phase.BACKWARD and activations & set(call.reads)}
    assert readers == {"tcl_relu6_fp32_bw_cl", "pulp_CrossEntropyLoss_backward"}
    assert not [c for c in graph.calls if c.kernel.startswith("pulp_conv") and c.kernel.endswith("param_grads_cl")]

    def kept(graph: Graph) -> int:
        """Return the bytes of activations that live into the backward pass."""
        plan = plan_memory(graph)
        begin = next(i for i, c in enumerate(graph.calls) if c.phase is Phase.BACKWARD)
        alive = [p.tensor for p in plan.placements if p.first < begin and p.stop > begin + 1]
        return sum(t.num_bytes for t in alive if t.role in (Role.ACTIVATION, Role.INPUT))

    assert kept(graph) < 0.9 * kept(whole)


@pytest.mark.parametrize("arch", ["mobilenet_wd4", "mobilenetv2_wd4"])
def test_bias_only_needs_less_memory_than_weights(arch: str) -> None:
    for variant in (Variant("full"), Variant("FT", 2)):
        for rule in (UpdateRule(0.01), UpdateRule(0.01, optimizer="adam")):
            of_weights, of_biases = (
                summed(graph, plan_memory(graph))
                for graph in (graph_of(v, arch, rule=rule) for v in (variant, replace(variant, bias_only=True)))
            )
            assert of_biases.gradients_most <= of_weights.gradients_most
            assert of_biases.activations_most <= of_weights.activations_most
            assert of_biases.total <= of_weights.total
            assert of_biases.optimizer_state == (2 * of_biases.parameters_trained if rule.optimizer == "adam" else 0)
            if variant.name == "full" or rule.optimizer == "adam":
                assert of_biases.total < of_weights.total


def test_state_shrinks_by_the_fraction() -> None:
    rule = UpdateRule(0.01, optimizer="adam", batch=4)
    whole, quarter = (
        summed(graph, plan_memory(graph))
        for graph in (
            graph_of(variant, "mobilenet_wd4", rule=rule)
            for variant in (Variant("FT", 1), Variant("FT", 1, channels=(("features.*", 0.25),)))
        )
    )
    head = 4 * 3 * 257
    assert quarter.parameters_trained - head == (whole.parameters_trained - head) / 4
    assert quarter.optimizer_state == 2 * quarter.parameters_trained
    assert quarter.accumulated_gradients == quarter.parameters_trained
    sums = [r.parameters_trained + r.parameters_frozen for r in (whole, quarter)]
    assert sums[0] == sums[1]


def test_what_lies_between_is_not_computed() -> None:
    graph = graph_of(Variant("layers", layers=("features.stage5.unit1.pw_conv",)), "mobilenet_wd4")
    backward = [(c.kernel, c.node) for c in graph.calls if c.phase is Phase.BACKWARD]
    grads = {re.sub(r"\.rows\d+$", "", node) for kernel, node in backward if "param_grads" in kernel}
    assert grads == {"features.stage5.unit1.pw_conv.conv", "features.stage5.unit1.pw_conv.conv.bias"}
    through = [node for kernel, node in backward if "input_grads" in kernel]
    unit = "features.stage5.unit2"
    assert through == ["output", f"{unit}.pw_conv.conv", f"{unit}.dw_conv.conv"], "and no gradient of its own input"


# --- on the device ------------------------------------------------------------------------------------------------


def sparse(model: nn.Module, *, bias_only: bool = False) -> nn.Module:
    """Let 5 of 6, 4 of 6, 3 of 10 and 2 of 3 channels be trained."""
    for name, num in (("conv", 5), ("depthwise", 4), ("pointwise", 3), ("output", 2)):
        set_trained_channels(model.get_submodule(name), num)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or not bias_only)
    return model


@on_targets("host")
@pytest.mark.parametrize("bias_only", [False, True], ids=["channels", "biases"])
@pytest.mark.parametrize("name", ["momentum", "adam", "batch 4", "clip, batch 4", "all"])
def test_every_update_leaves_frozen_channels(target: Target, name: str, bias_only: bool, tmp_path: Path) -> None:
    job = updates_job(RULES[name], num_updates=4)
    sparse(job.model, bias_only=bias_only)
    done = execute_updates(job, target, tmp_path / "p", "SANITIZE=address,undefined")
    frozen = {c.name: c.error for c in done.comparisons if c.name.endswith(", frozen channels")}
    trained = names(job.model)
    assert frozen == {f"{name}, frozen channels": 0.0 for name in trained}
    assert len(trained) == (4 if bias_only else 8)


@on_targets("qemu", "pulp")
def test_updates_of_channels_on_chips(target: Target, tmp_path: Path) -> None:
    job = updates_job(RULES["all"], num_updates=1)
    sparse(job.model)
    execute_updates(job, target, tmp_path / "p")


def test_one_bit_of_a_frozen_channel_is_found() -> None:
    job = updates_job(RULES["adam"], num_updates=1)
    sparse(job.model)
    program = make_program(job)
    device = {"conv.weight": program.values["conv.weight"].copy(), "loss": np.ones(1, np.float32)}
    trained, frozen = _without_frozen_channels(program, [device])
    assert [c.error for c in frozen] == [0.0]
    assert trained[0]["conv.weight"].shape == (5, 3, 3, 3)
    device["conv.weight"][5, 2, 2, 2] = np.nextafter(device["conv.weight"][5, 2, 2, 2], np.float32(1))
    assert _without_frozen_channels(program, [device])[1][0].error == math.inf
    device["conv.weight"] = -program.values["conv.weight"] * 0  # -0 and 0 are not the same bits
    assert _without_frozen_channels(program, [device])[1][0].error == math.inf


@on_targets("host", "pulp")
def test_a_training_run_hands_back_the_trained_channels_alone(target: Target, tmp_path: Path) -> None:
    channels = (("conv", 0.4), ("4", 0.6))
    job = replace(training_job(), variant=Variant("layers", layers=("conv", "4"), channels=channels))
    freeze(job.model, job.variant)
    program = emit_training(job, target, tmp_path / "p")
    done = execute_training(
        job, program, target, tmp_path / "p", *(["SANITIZE=address,undefined"] if target.name == "host" else [])
    )
    assert done.passed, done.checks
    header, values = read_weights(tmp_path / "p" / "weights.bin")
    shapes = {name: value.shape for name, value in values.items()}
    assert shapes == {"conv.weight": (4, 4, 1, 1), "conv.bias": (4,), "4.weight": (2, 96), "4.bias": (2,)}
    assert header.num_bytes == 4 * (16 + 4 + 2 * 96 + 2)
    assert header.trained == job.variant


@pytest.mark.target("host")
def test_trained_channels_come_back_into_a_run(digits_run: Path, tmp_path: Path) -> None:
    selection = ("--variant", "FT", "--k", 1, "--train-channels", "features.*=0.3", "--train-channels", "output=0.5")
    length = ("--samples", 4, "--test-samples", 4, "--epochs", 1, "--lr", 0.001)
    project = tmp_path / "p"
    result = run("deploy", "--target", "host", "--from", digits_run, *selection, *length, "--out", project, "--execute")
    assert result.exit_code == 0, result.output
    result = run("import-weights", digits_run, project / "weights.bin", "--out", tmp_path / "new")
    assert result.exit_code == 0, result.output
    model, described = load_run(tmp_path / "new")
    assert described.variant == Variant("FT", 1, channels=(("features.*", 0.3), ("output", 0.5)))
    limits = partial_parameters(model)
    folded = fold_batchnorm(load_run(digits_run)[0]).state_dict()
    assert len(limits) == 6
    for name, value in model.state_dict().items():
        num = limits.get(name, 0)
        assert torch.equal(value[num:], folded[name][num:]), name
        assert not torch.equal(value[:num], folded[name][:num]) or not num, name


# --- on the host --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_twenty_steps_leave_frozen_channels_to_the_bit(optimizer: str) -> None:
    model = build_model("dscnn", num_classes=3, size=32, seed=1)
    freeze(model, Variant("full", channels=(("*", 0.3),)))
    limits = partial_parameters(model)
    assert limits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = TrainConfig(variant=Variant("full"), optimizer=optimizer, lr=0.05, weight_decay=0.1, momentum=0.9)
    optim = make_optimizer(model, config)
    keep_frozen_channels(model, optim)
    average = Average(model, decay=0.9)
    set_train_mode(model)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        images, labels = torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4) % 3
        optim.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        parameters = dict(model.named_parameters())
        assert not any(parameters[name].grad[num:].any() for name, num in limits.items())
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optim.step()
        average.update()
    for weights in (model.state_dict(), average.state_dict()):
        for name, num in limits.items():
            assert torch.equal(weights[name][num:], before[name][num:]), name
            assert not torch.equal(weights[name][:num], before[name][:num]), name


@pytest.mark.parametrize(
    "selection",
    [{"layers": ("features.stage5.*",), "variant": "layers"}, {"variant": "LP", "bias_only": True}],
    ids=["layers", "biases"],
)
def test_a_new_last_layer_must_be_trained(
    selection: dict[str, object], digits_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    state = load_file(digits_run / "best.safetensors")
    other = {name: torch.zeros(7, *state[name].shape[1:]) for name in ("output.weight", "output.bias")}
    save_file(state | other, tmp_path / "w.safetensors")
    options = {**selection, "data": digits_dir, "weights": tmp_path / "w.safetensors", "threads": 1}
    with pytest.raises(BadInput, match=r"the last layer is new, .* leaves some of them frozen: train all"):
        train(config_from(options=options), out=tmp_path / "run")


SELECTION = {
    "variant": "FT",
    "k": 1,
    "train_channels": ("features.*=0.3", "output=0.5"),
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "ema": 0.9,
    "clip": 1.0,
    "epochs": 2,
    "threads": 1,
    "batch_size": 128,
}


def test_training_with_kept_features_stopped_and_resumed(digits_run: Path, digits_dir: Path, tmp_path: Path) -> None:
    config = config_from(options={**SELECTION, "data": digits_dir, "from_run": digits_run})
    straight = train(config, out=tmp_path / "straight")
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) == 9

    with pytest.raises(Interrupted):
        train(config, out=tmp_path / "stopped", should_stop=should_stop)
    resume(tmp_path / "stopped")
    ends = [load_file(path / "last.safetensors") for path in (straight, tmp_path / "stopped")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    model, described = load_run(straight)
    limits = partial_parameters(model)
    before = load_file(digits_run / "best.safetensors")
    changed = set()
    for name, value in ends[0].items():
        frozen = value[limits[name] :] if name in limits else value
        kept = before[name][limits[name] :] if name in limits else before[name]
        assert torch.equal(frozen, kept), f"{name}: statistics and frozen channels stay"
        changed |= {name} if not torch.equal(value, before[name]) else set()
    assert changed == set(limits)
    assert described.variant == Variant("FT", 1, channels=(("features.*", 0.3), ("output", 0.5)))
    assert "features of the frozen part are kept" in (straight / "train.log").read_text()
    assert r"FT K=1 channels features.\*=0.3,output=0.5" in (straight / "card.md").read_text()


def test_a_configuration_comes_back_whole() -> None:
    config = config_from(overrides=["variant=layers", "layers=features.stage5.*,output", "train_channels=*=0.25"])
    assert config.variant == Variant("layers", layers=("features.stage5.*", "output"), channels=(("*", 0.25),))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_train_takes_the_options_of_a_selection(tmp_path: Path) -> None:
    options = ("--layers", "features.stage5.*", "--layers", "output", "--bias-only", "--train-channels", "output=0.5")
    printed = run("train", *options, "--print-config").stdout
    (tmp_path / "run.yaml").write_text(printed)
    wanted = Variant("layers", layers=("features.stage5.*", "output"), bias_only=True, channels=(("output", 0.5),))
    assert config_from(file=tmp_path / "run.yaml").variant == wanted
    assert wanted.label in printed
    refused(run("train", "--variant", "LP", "--layers", "output"), "both say what is trained")


@pytest.mark.target("host")
def test_the_command_in_a_project_makes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--layers", "features.stage5.*", "--layers", "output", "--train-channels", "features.*=0.25")
    result = run("deploy", "--target", "host", "--size", 32, "--steps", 1, *options)
    assert result.exit_code == 0, result.output
    project = tmp_path / "deployed" / "host-mobilenet_wd4-layers-features.stage5.-output-channels-features.-0.25"
    main = (project / "src" / "main.c").read_text()
    command = next(line for line in main.splitlines() if "tinyclf deploy" in line).split("tinyclf deploy ")[1]
    assert "--layers 'features.stage5.*' --layers output --train-channels 'features.*=0.25' --arch" in command
    again = run("deploy", *shlex.split(command.removesuffix(" */")), "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "src" / "network.c").read_text() == (project / "src" / "network.c").read_text()


def test_memory_of_a_selection() -> None:
    options = ("memory", "--size", 32, "--momentum", 0.9, "--json")
    whole = json.loads(run(*options, "--layers", "output").stdout)
    assert whole["variant"] == "layers output"
    half = json.loads(run(*options, "--layers", "output", "--train-channels", "output=0.5").stdout)["bytes"]
    assert half["optimizer_state"] * 2 == whole["bytes"]["optimizer_state"] == 4 * 514
    biases = json.loads(run(*options, "--bias-only").stdout)
    assert (biases["variant"], biases["bytes"]["optimizer_state"]) == ("LP bias-only", 8)
    refused(run("memory", "--layers", "head"), "no layer matches 'head'")
    refused(run("deploy", "--target", "host", "--bias-only"), "say what, with --variant or --layers")


def test_runs_are_named_by_their_kind(digits_run: Path, digits_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"data": digits_dir, "from_run": digits_run, "variant": "LP", "bias_only": True, "epochs": 1}
    made = train(config_from(options={**options, "threads": 1}))
    assert made.name == "001-LP-bias-only-mobilenet_wd4"
    assert read_run(made).variant == Variant("LP", bias_only=True)
    before, after = (load_file(path / "best.safetensors") for path in (digits_run, made))
    assert [name for name, value in after.items() if not torch.equal(value, before[name])] == ["output.bias"]
