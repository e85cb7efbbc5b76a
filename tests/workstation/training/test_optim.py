"""Optimisers, learning rates and the running average: against closed forms and torch's own optimisers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, freeze
from tinyclf.workstation.runs.config import config_from, resolve
from tinyclf.workstation.training.optim import Average, make_optimizer, rate_at


def rates(*overrides: str, num: int = 1000) -> list[float]:
    config = resolve(config_from(overrides=["lr=1", *overrides]))
    return [rate_at(config, done / num) for done in range(num + 1)]


def test_cosine_rises_and_falls_to_nothing() -> None:
    found = rates()
    assert found[0] == 0
    assert found[-1] == pytest.approx(0)
    assert 0.9 < max(found) <= 1
    assert found.index(max(found)) == pytest.approx(100, abs=1)
    assert found[500] == pytest.approx(0.5)


def test_the_other_schedules() -> None:
    assert rates("schedule=constant", "warmup=0.5")[250::250] == [0.5, 1, 1, 1]
    assert rates("schedule=exponential", "warmup=0", "gamma=0.01")[::500] == pytest.approx([1, 0.1, 0.01])
    found = rates("schedule=step", "warmup=0", "gamma=0.1", "milestones=[0.25, 0.5]")
    assert [found[i] for i in (0, 249, 250, 499, 500, 1000)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_only_what_is_trained_is_updated(optimizer: str, kind: type) -> None:
    model = build_model("mobilenet_wd4", num_classes=3, size=32)
    freeze(model, Variant("FT", k=1))
    config = resolve(config_from(overrides=[f"optimizer={optimizer}", "weight_decay=0.1", "no_decay=bias,norm"]))
    made = make_optimizer(model, config)
    assert isinstance(made, kind)
    decayed, exempt = made.param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for g in made.param_groups for p in g["params"]} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    assert all(names[id(p)].endswith(("bn.weight", "bias")) for p in exempt["params"])
    assert all(names[id(p)].endswith(("conv.weight", "output.weight")) for p in decayed["params"])


def test_globs_without_decay() -> None:
    model = build_model("mobilenet_wd4", num_classes=3, size=32)
    config = resolve(config_from(overrides=["no_decay=*.dw_conv.*"]))
    num = sum(p.numel() for p in make_optimizer(model, config).param_groups[1]["params"])
    assert num == sum(p.numel() for name, p in model.named_parameters() if ".dw_conv." in name)
    with pytest.raises(BadInput, match=r"no trained parameter matches 'nothing\*'"):
        make_optimizer(model, resolve(config_from(overrides=["no_decay=nothing*"])))


def test_the_average_follows_its_formula() -> None:
    linear, norm, frozen = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 1).requires_grad_(False)
    model = nn.Sequential(linear, norm, frozen)
    assert norm.running_mean is not None
    average = Average(model, decay=0.8)
    expected, first = linear.weight.detach().clone(), frozen.weight.clone()
    for step in range(1, 30):
        with torch.no_grad():
            linear.weight.add_(torch.randn(2, 2, generator=torch.Generator().manual_seed(step)))
            norm.running_mean.add_(1.0)
        average.update()
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * linear.weight.detach()
    live = linear.weight.detach().clone()
    with average.applied():
        assert torch.allclose(linear.weight, expected, atol=1e-6)
        assert 0 < norm.running_mean[0] < 29
        assert torch.equal(frozen.weight, first)
    assert torch.equal(linear.weight, live)
    assert norm.running_mean[0] == 29


def test_the_average_is_saved_and_restored() -> None:
    def grown(average: Average, model: nn.Linear, steps: int) -> None:
        for _ in range(steps):
            with torch.no_grad():
                model.weight.mul_(1.1)
            average.update()

    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.load_state_dict(first.state_dict())
    whole, part = Average(first, decay=0.9), Average(second, decay=0.9)
    grown(whole, first, 7)
    grown(part, second, 4)
    again = Average(second, decay=0.9)
    again.load_state_dict(part.state_dict())
    grown(again, second, 3)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert math.isfinite(float(whole.state_dict()["weight"].sum()))
