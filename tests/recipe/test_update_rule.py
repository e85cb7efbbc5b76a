"""Update rules: rates as PyTorch's schedulers give them, the same in C, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tests.kit.targets import on_targets
from tinyclf.base.errors import BadInput
from tinyclf.device import targets
from tinyclf.device.emit.network import _rule
from tinyclf.device.emit.project import emit
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.target import Target
from tinyclf.recipe.update_rule import UpdateRule

COUNTS = [0, 1, 2, 3, 4, 5, 6, 19, 20, 21, 49, 50, 51, 74, 75, 99, 100, 101, 5_000_000_000]

RULES = [
    UpdateRule(0.1),
    UpdateRule(0.1, schedule="cosine", num_updates=100),
    UpdateRule(0.1, schedule="cosine", num_updates=1),
    UpdateRule(0.1, schedule="cosine", num_updates=100_003, warmup=5),
    UpdateRule(0.3, schedule="step", num_updates=100),
    UpdateRule(0.3, schedule="step", num_updates=30, gamma=0.5, milestones=(0.7, 0.1), warmup=50),
    UpdateRule(0.01, batch=7, schedule="cosine", num_updates=14),
    UpdateRule(0.001, optimizer="adam"),
    UpdateRule(0.001, optimizer="adamw", weight_decay=0.1),
    UpdateRule(0.001, optimizer="adam", beta1=0.0, beta2=0.99999),
]


def _scheduled(make: Any, num: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, rates = make(optimizer), []
    for _ in range(num):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_rates_are_those_of_torchs_schedulers() -> None:
    cosine = UpdateRule(0.1, schedule="cosine", num_updates=40)
    expected = _scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40), 41)
    np.testing.assert_allclose([cosine.rate(u) for u in range(41)], expected, rtol=1e-12, atol=1e-17)
    assert cosine.rate(100) == cosine.rate(40)
    step = UpdateRule(0.1, schedule="step", num_updates=10, milestones=(0.3, 0.7), gamma=0.2)
    assert step.steps_down == (3, 7)  # 0.7 * 10 is above 7 in floating point
    expected = _scheduled(lambda o: lr_scheduler.MultiStepLR(o, milestones=[3, 7], gamma=0.2), 12)
    np.testing.assert_allclose([step.rate(u) for u in range(12)], expected, rtol=1e-12)
    warm = UpdateRule(0.1, warmup=5)
    expected = _scheduled(lambda o: lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=4), 8)
    np.testing.assert_allclose([warm.rate(u) for u in range(8)], expected, rtol=1e-12)


def _main(rules: list[UpdateRule]) -> str:
    """Return a program that reports what tcl_rule_at sets, for each rule and each count of samples."""
    tables, structs = [], []
    for i, rule in enumerate(rules):
        text = _rule(rule)
        if text["milestones"]:
            numbers = ", ".join(str(m) for m in text["milestones"])
            tables.append(f"static uint64_t const milestones{i}[] = {{{numbers}}};")
        fields = (f".{name} = {f'milestones{i}' if name == 'milestones' else value}" for name, value in text["fields"])
        structs.append("{" + ", ".join(fields) + "},")
    counts = ", ".join(f"{n}u" if n < 2**32 else f"{n}ull" for n in COUNTS)
    return "\n".join(
        [
            '#include "port.h"',
            '#include "tcl_run.h"',
            '#include "tcl_update_fp32.h"',
            *tables,
            f"static struct tcl_rule rules[] = {{{''.join(structs)}}};",
            f"static uint64_t const counts[] = {{{counts}}};",
            "void tcl_main(void)",
            "{",
            f"    for (int i = 0; i < {len(rules)}; i++)",
            f"        for (int j = 0; j < {len(COUNTS)}; j++) {{",
            "            struct tcl_rule *const r = &rules[i];",
            "            tcl_rule_at(r, counts[j]);",
            "            float const values[] = {r->rate, (float)r->sample, r->gradient_scale, r->correction1,",
            "                                    r->correction2};",
            f"            tcl_record(0, (uint64_t)(i * {len(COUNTS)} + j), values, 5);",
            "        }",
            f"    tcl_record(TCL_RECORD_END, {len(rules) * len(COUNTS)}, NULL, 0);",
            "}",
        ]
    )


@on_targets()
def test_rates_in_c_are_pythons(target: Target, tmp_path: Path) -> None:
    job = Job(
        model=nn.Sequential(nn.Flatten(), nn.Linear(1, 2)),
        samples=np.ones((1, 1, 1, 1), np.float32),
        labels=np.eye(2, dtype=np.float32)[:1],
        num_steps=1,
        rule=UpdateRule(0.1),
        command="tests",
    )
    files = emit(make_program(job), target=target, num_cores=target.num_cores, command="tests")
    trace = json.dumps([{"tensor": "rule", "shape": [5]}])
    write_project({**files, "src/main.c": _main(RULES).encode(), "trace.json": trace.encode()}, tmp_path / "p")
    targets.build(tmp_path / "p", target)
    steps = iter(targets.run(tmp_path / "p").steps)
    for rule in RULES:
        for count in COUNTS:
            update, sample = divmod(count, rule.batch)
            expected = [rule.rate(update) / rule.learning_rate, sample, 1 / rule.batch]
            rate, *others = next(steps)["rule"]
            np.testing.assert_allclose([rate / rule.learning_rate, *others[:2]], expected, rtol=1e-6, atol=1e-7)
            if rule.optimizer in ("adam", "adamw"):
                corrections = [1 - rule.beta1 ** (update + 1), (1 - rule.beta2 ** (update + 1)) ** 0.5]
                np.testing.assert_allclose(others[2:], corrections, rtol=1e-6)
    assert next(steps, None) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0}, r"--lr must be above 0"),
        ({"learning_rate": float("nan")}, r"--lr must be above 0"),
        ({"weight_decay": -1}, r"--weight-decay not below"),
        ({"optimizer": "lion"}, r"unknown optimizer 'lion': choose one of sgd, adam, adamw"),
        ({"schedule": "linear"}, r"unknown schedule 'linear': choose one of constant, step, cosine"),
        ({"loss": "hinge"}, r"unknown loss 'hinge': choose one of cross_entropy, mse"),
        ({"momentum": 1.0}, r"momentum is 1: give 0 or more, and less than 1"),
        ({"momentum": float("nan")}, r"momentum is nan"),
        ({"optimizer": "adam", "momentum": 0.9}, r"momentum is of sgd, adam has its own"),
        ({"optimizer": "adam", "beta2": 1.0}, r"beta2 is 1"),
        ({"optimizer": "adam", "epsilon": 0.0}, r"epsilon is 0"),
        ({"batch": 0}, r"batch is 0: an update needs at least 1 sample"),
        ({"batch": 2**31}, r"batch is 2147483648"),
        ({"clip": -0.5}, r"clip is -0.5"),
        ({"clip": float("inf")}, r"clip is inf"),
        ({"schedule": "cosine"}, r"schedule cosine needs the length of the run"),
        ({"schedule": "step", "num_updates": 9, "milestones": (0.5, 1.5)}, r"milestones: give shares"),
        ({"warmup": -1}, r"warmup is -1"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        UpdateRule(**{"learning_rate": 0.1, **values})
