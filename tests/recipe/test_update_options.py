"""Options of updates: the rule they ask for, and back."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

import click
import pytest

from tinyclf import cli
from tinyclf.base.errors import BadInput
from tinyclf.recipe.update_options import UpdateOptions, options_text
from tinyclf.recipe.update_rule import UpdateRule

GIVEN: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.05, "weight_decay": 1e-3, "momentum": 0.9, "batch": 4, "clip": 0.5},
    {"optimizer": "adam", "betas": (0.5, 0.99), "epsilon": 1e-6, "warmup": 3, "loss": "mse"},
    {"optimizer": "adamw", "betas": (0.8, 0.95), "epsilon": 1e-7, "weight_decay": 0.05},
    {"schedule": "step", "gamma": 0.3, "milestones": (0.25, 0.5)},
    {"schedule": "cosine", "batch": 7},
]


def _rule(options: UpdateOptions, *, reaches_everything: bool = False) -> UpdateRule:
    return options.rule(reaches_everything=reaches_everything, num_samples=30, asked="--steps 30")


@pytest.mark.parametrize("given", GIVEN)
def test_the_text_of_a_rule_asks_for_the_same_rule(given: dict[str, Any]) -> None:
    rule = _rule(UpdateOptions(**given))
    assert rule.num_updates == 30 // given.get("batch", 1)
    words, again = shlex.split(options_text(rule)), {}
    starts = [i for i, word in enumerate(words) if word.startswith("--")]
    for start, stop in zip(starts, [*starts[1:], len(words)], strict=True):
        name = {"lr": "learning_rate"}.get(words[start][2:], words[start][2:].replace("-", "_"))
        values = [part for word in words[start + 1 : stop] for part in word.split(",")]
        again[name] = _parsed(name, values)
    assert _rule(UpdateOptions(**again)) == rule


def _parsed(name: str, values: list[str]) -> Any:
    if name in ("optimizer", "schedule", "loss"):
        return values[0].replace("-", "_")
    if name in ("betas", "milestones"):
        return tuple(float(v) for v in values)
    return int(values[0]) if name in ("batch", "warmup") else float(values[0])


def test_default_rates() -> None:
    assert _rule(UpdateOptions()).learning_rate == 0.01
    assert _rule(UpdateOptions(optimizer="adam")).learning_rate == 0.001
    assert _rule(UpdateOptions(optimizer="adamw")).learning_rate == 0.001
    assert _rule(UpdateOptions(), reaches_everything=True).learning_rate == 0.001
    assert _rule(UpdateOptions(learning_rate=0.5), reaches_everything=True).learning_rate == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 31}, "--steps 30 are fewer than the 31 samples of a batch: nothing is updated"),
        ({"batch": 0}, "batch is 0"),
        ({"betas": (0.9, 0.9)}, "--betas is of adam and adamw: add --optimizer adam"),
        ({"epsilon": 1e-3}, "--epsilon is of adam"),
        ({"gamma": 0.5, "schedule": "cosine"}, "--gamma is of the step schedule"),
        ({"milestones": (0.5,)}, "--milestones is of the step schedule"),
        ({"learning_rate": 0.0}, "--lr must be above 0"),
    ],
)
def test_what_has_no_effect_or_is_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _rule(UpdateOptions(**given))


@pytest.mark.parametrize("command", ["deploy", "memory"])
def test_both_commands_offer_every_field_with_the_same_words(command: str) -> None:
    options = {p.name: p for p in cli.main.commands[command].params if isinstance(p, click.Option)}
    others = {p.name: p for p in cli.main.commands["deploy"].params if isinstance(p, click.Option)}
    given = cli.main.commands[command].make_context(command, ["--target", "host"]).params
    for field in fields(UpdateOptions):
        assert options[field.name].opts == others[field.name].opts
        assert options[field.name].help == others[field.name].help
        assert given[field.name] == field.default
    for name in ("cores", "l1"):
        assert options[name].help == others[name].help
