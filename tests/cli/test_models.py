"""`tinyclf models`: the table, its JSON, patterns, nets of the user's own, and refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.kit.commands import check_refusal, run
from tests.kit.steps import training_graph
from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.device.graph.macs import num_macs as macs_of_graph
from tinyclf.device.run.program import make_program
from tinyclf.device.targets.target import find_target
from tinyclf.jobs.memory import MemoryRequest, memory_of
from tinyclf.jobs.networks import NetworkFacts, network_facts
from tinyclf.jobs.request import Request
from tinyclf.jobs.steps import make_job
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze, num_parameters


def test_the_table_of_some() -> None:
    result = run("models", "mobilenet_w*", "dscnn", "--size", 128)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == [
        "name",
        *(n for n in ARCHITECTURES if "mobilenet_w" in n[:11]),
        "dscnn",
    ]
    row = next(line for line in lines if line.startswith("mobilenet_wd4 "))
    assert re.split(r" {2,}", row) == ["mobilenet_wd4", "213,586", "13.3 M", "834 KiB", "417 KiB", "13", "yes", "yes"]
    assert "128x128 pixels, 2 classes." in result.stdout


def test_json_has_every_field_and_the_full_reason() -> None:
    (row,) = json.loads(run("models", "resnet8", "--size", 32, "--classes", 10, "--json").stdout)
    assert (row["num_parameters"], row["num_macs"], row["num_blocks"]) == (77_946, 12_501_632, 3)
    assert (row["fp32_bytes"], row["fp16_bytes"]) == (4 * 77_946, 2 * 77_946)
    assert row["published"] is False
    assert row["deployable"] == (row["obstacle"] == "")
    shown = run("models", "resnet8").stdout.splitlines()[1]
    assert shown.endswith("yes") if row["deployable"] else "no: " in shown


def test_small_input_is_counted() -> None:
    def macs(*options: str) -> int:
        found = json.loads(run("models", "mobilenet_wd4", "--size", 32, "--json", *options).stdout)[0]["num_macs"]
        assert isinstance(found, int)
        return found

    assert macs("--small-input") == pytest.approx(4 * macs(), rel=0.01)


def test_every_family_gets_a_verdict() -> None:
    names = ["mobilenetv2_wd4", "mobilenetv3_small_w7d20", "shufflenetv2_wd2", "squeezenet_v1_1", "efficientnet_b0"]
    result = run("models", "--size", 32, *names)
    assert result.exit_code == 0
    rows = result.stdout.split("\n\n")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == names
    assert all(re.search(r"(yes|no)  +(yes|no: \S.*)$", row) for row in rows)
    assert "0x" not in result.stdout, "an address of memory differs from run to run"


def test_without_a_name_all_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = network_facts("dscnn", size=64, num_classes=5)
    asked = []

    def same_facts(arch: str, **options: object) -> NetworkFacts:
        asked.append((arch, options))
        return replace(facts, name=arch)

    monkeypatch.setattr("tinyclf.jobs.networks.network_facts", same_facts)
    result = run("models", "--size", 64, "--classes", 5, "--small-input")
    assert result.exit_code == 0
    assert asked == [(name, {"size": 64, "num_classes": 5, "small_input": True}) for name in ARCHITECTURES]
    assert [line.split()[0] for line in result.stdout.splitlines()[1 : len(asked) + 1]] == list(ARCHITECTURES)


@pytest.mark.parametrize("arch", ["mobilenet_wd4", "fdmobilenet_wd4", "dscnn", "squeezenet_v1_1", "efficientnet_b0"])
def test_the_obstacle_is_what_lowering_says(arch: str) -> None:
    model = build_model(arch, num_classes=2, size=32)
    freeze(model, Variant("LP"))
    expected = ""
    try:
        training_graph(fold_batchnorm(model), input_shape=(3, 32, 32), rule=UpdateRule(0.01))
    except Unsupported as error:
        expected = str(error)
    found = network_facts(arch, size=32, num_classes=2).obstacle
    assert re.sub("0x[0-9a-f]+", "", found) == re.sub("0x[0-9a-f]+", "", expected)


def test_dscnn_and_mobilenets_can_be_deployed() -> None:
    for arch in ("dscnn", "mobilenet_w1", "fdmobilenet_wd4"):
        assert network_facts(arch, size=32, num_classes=2).obstacle == ""
    need = memory_of(MemoryRequest(Variant("FT", k=2), "dscnn", 32))
    assert need.num_folded == need.num_parameters - 64 * 9


def test_facts_need_no_weights_and_no_random_numbers() -> None:
    state = torch.get_rng_state()
    facts = network_facts("resnet50", size=224, num_classes=1000)
    assert torch.equal(torch.get_rng_state(), state)
    assert facts.num_parameters == 25_557_032
    assert torch.zeros(1).device.type == "cpu"


OWN = """
from collections import OrderedDict
from torch import nn

def net(*, num_classes, in_size):
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, output=nn.Linear(4, num_classes)))

def before(*, num_classes, in_size):
    features = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, output=nn.Linear(4, num_classes)))
"""


def test_a_net_of_the_users_own_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listed_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    rows = json.loads(run("models", "listed_nets:net", "listed_nets:before", "--size", 32, "--json").stdout)
    assert [(row["name"], row["num_macs"]) for row in rows] == [
        ("listed_nets:net", 30 * 30 * 4 * 27 + 8),
        ("listed_nets:before", 30 * 30 * 4 * 27 + 8),
    ]
    assert rows[0]["deployable"] is True
    assert rows[1]["obstacle"].startswith("BatchNorm 'features.0' cannot be folded")
    model = build_model("listed_nets:net", num_classes=2, size=32)
    assert num_parameters(model) == rows[0]["num_parameters"]


def test_a_net_of_the_users_own_is_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deployed_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    result = run("deploy", "--target", "host", "--arch", "deployed_nets:net", "--size", 32, "--classes", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    project = tmp_path / "deployed" / "host-deployed_nets.net"  # a colon would end a target in a makefile
    assert (project / "src" / "network.c").is_file()
    assert "output.weight" in (project / "src" / "network.c").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("models mobilenet_wd5", 1, "unknown architecture 'mobilenet_wd5': did you mean mobilenet_wd"),
        ("models vgg*", 1, r"unknown architecture 'vgg\*': .*`tinyclf models` lists all"),
        ("models dscnn --size 31", 1, "31x31 are too small for dscnn"),
        ("models dscnn --classes 1", 1, "a classifier needs at least 2"),
        ("models nowhere:net", 1, "architecture 'nowhere:net': cannot import nowhere"),
        ("models --size many", 2, "Invalid value for '--size'"),
    ],
)
def test_errors(arguments: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run(*arguments.split()), code=code, message=message, folder=tmp_path)


def test_facts_of_what_cannot_be_built() -> None:
    with pytest.raises(BadInput, match="too small"):
        network_facts("dscnn", size=16, num_classes=2)


def test_a_small_input_is_planned_and_deployed() -> None:
    def macs(*flag: str) -> int:
        figures = json.loads(run("memory", "--arch", "squeezenet_v1_1", "--size", 32, *flag, "--json").stdout)
        assert figures["small_input"] == bool(flag)
        assert isinstance(figures["macs"], int)
        return figures["macs"]

    small = macs("--small-input")
    assert small > 3 * macs()
    request = Request(find_target("host"), arch="squeezenet_v1_1", size=32, small_input=True)
    assert macs_of_graph(make_program(make_job(request)).graph) == small
    refusal = run("deploy", "--target", "host", "--from", "run", "--small-input")
    assert "leave out --arch, --size, --classes and --small-input" in refusal.stderr
