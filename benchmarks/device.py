"""Cycles of a training step in GVSoC: measures the ledger below and rewrites benchmarks/device.md and device.json.

Run by `make bench-device`. Simulated cycles are deterministic: a figure that changes has a cause in the code or the
compiler. tests/test_ledger.py measures some rows again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyclf.base.errors import TinyclfError
from tinyclf.device.graph.macs import macs_by_call
from tinyclf.device.run.files import Samples
from tinyclf.device.run.job import Job, TrainingJob
from tinyclf.device.run.step import plan_step
from tinyclf.device.run.training import emit_training, execute_training
from tinyclf.device.targets.target import Target, find_target, require_tools
from tinyclf.jobs.request import Request
from tinyclf.jobs.steps import make_job
from tinyclf.recipe.variant import Variant

HERE = Path(__file__).parent
JSON_FILE = HERE / "device.json"
NUM_CACHED = 2  # samples of a run that keeps features: the first epoch computes them, the second is measured


@dataclass(frozen=True)
class Step:
    """A training step of the ledger, of one sample and 2 classes.

    `is_cached`: the frozen part's features come from memory, kept in an earlier epoch; only what is computed behind
    them counts as MACs. `most_cycles` and `least_rate`, in MAC/clk, are requirements, None where there is none.
    """

    arch: str
    variant: Variant
    size: int
    recompute: bool = False
    is_cached: bool = False
    most_cycles: int | None = None
    least_rate: float | None = None

    @property
    def net(self) -> str:
        """Return the name of the row, without the size."""
        extras = [*(["--recompute"] if self.recompute else []), *(["cached"] if self.is_cached else [])]
        return " ".join([self.arch, self.variant.label, *extras])


LEDGER = (
    Step("mobilenet_wd4", Variant("LP"), 128, most_cycles=5_000_000),
    Step("mobilenet_wd4", Variant("LP"), 96),
    Step("mobilenet_wd4", Variant("FT", 1), 96),
    Step("mobilenet_wd4", Variant("FT", 2), 128, most_cycles=6_600_000),
    Step("mobilenet_wd4", Variant("FT", 2), 96, most_cycles=4_100_000),
    Step("mobilenet_wd4", Variant("FT", 2), 64),
    Step("mobilenet_wd4", Variant("FT", 10), 96, least_rate=2.2),  # the deepest that fits without recomputation
    Step("mobilenet_wd4", Variant("full"), 96, recompute=True, least_rate=2.2),
    Step("mobilenet_wd4", Variant("FT", 1), 128, is_cached=True, least_rate=2.4),
    Step("mobilenet_wd4", Variant("FT", 1), 96, is_cached=True, least_rate=2.4),
    Step("fdmobilenet_wd4", Variant("FD"), 128, most_cycles=1_700_000),
    Step("fdmobilenet_wd4", Variant("FT", 2), 128),
)


def measure(step: Step) -> dict[str, Any]:
    """Run a step within a training run, compare that with PyTorch, and return its row."""
    target = find_target("pulp")
    request = Request(
        target=target,
        variant=step.variant,
        arch=step.arch,
        size=step.size,
        num_classes=2,
        num_samples=NUM_CACHED if step.is_cached else 1,
        learning_rate=0.01 if not step.recompute else None,
        recompute=step.recompute,
    )
    job = make_job(request)
    with tempfile.TemporaryDirectory() as folder:
        macs, cycles = _run(job, step, target, Path(folder) / "project")
    return {
        "net": step.net,
        "size": step.size,
        "macs": macs,
        "cycles": cycles,
        "macs_per_cycle": round(macs / cycles, 3),
        "most_cycles": step.most_cycles,
        "least_macs_per_cycle": step.least_rate,
    }


def _run(job: Job, step: Step, target: Target, project: Path) -> tuple[int, int]:
    """Return the MACs of a step, without those that are repeated, and its cycles: on average over those of an epoch."""
    samples = Samples(job.samples, job.labels.argmax(axis=1), job.samples[:0], np.zeros(0, dtype=np.int64))
    training = TrainingJob(
        model=job.model,
        variant=step.variant,
        samples=samples,
        num_classes=job.labels.shape[1],
        num_epochs=2 if step.is_cached else 1,
        checkpoint_every=0,
        rule=job.rule,
        seed=0,
        source=0,
        command=job.command,
        cache="fp32" if step.is_cached else "off",
        recompute=step.recompute,
    )
    program = emit_training(training, target, project)
    report = execute_training(training, program, target, project)
    assert report.passed, report.checks
    assert report.cycles is not None
    num_passed = report.features.num_frozen_calls if report.features else 0
    last = report.cycles[-len(job.samples) :]
    _, channels, height, width = job.samples.shape
    plain = plan_step(job.model, image=(channels, height, width), rule=job.rule).plain
    return sum(macs_by_call(plain)[num_passed:]), round(sum(last) / len(last))


def shortfalls(row: dict[str, Any]) -> list[str]:
    """Return the requirements that a row does not meet, in words; none is well."""
    found = []
    name = f"{row['net']} {row['size']}"
    most, least = row["most_cycles"], row["least_macs_per_cycle"]
    if most is not None and row["cycles"] > most:
        found.append(f"{name}: {row['cycles']:,} cycles, at most {most:,} are required")
    if least is not None and row["macs"] < least * row["cycles"]:
        found.append(f"{name}: {row['macs'] / row['cycles']:.3f} MAC/clk, at least {least:g} are required")
    return found


def _required(row: dict[str, Any]) -> str:
    if row["most_cycles"] is not None:
        return f"at most {row['most_cycles']:,} cycles"
    return "" if row["least_macs_per_cycle"] is None else f"at least {row['least_macs_per_cycle']:g} MAC/clk"


def main() -> None:
    """Measure the ledger and write both files."""
    require_tools(find_target("pulp"))
    rows = []
    for step in LEDGER:
        rows.append(measure(step))
        print(rows[-1], *shortfalls(rows[-1]), flush=True)
    compiler = subprocess.run(
        ["clang-19", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    lines = [
        "# Cycles of a training step in GVSoC (pulp-open, 8 cores, float32, one sample, data in L2, tiles in L1)",
        "",
        "Written by `make bench-device`. Steps of training runs (`deploy --epochs`), whose losses and weights were",
        "compared with PyTorch's; the sample is in L2 when a step begins. MACs are those of convolutions and linear",
        "layers, without those that recomputation repeats. cached: a later epoch with `--cache fp32`, which fetches",
        f"the frozen features of the sample and computes only what lies behind. Compiler: {compiler}.",
        "",
        "| net | size | MACs | cycles | MAC/clk | required |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['net']} | {r['size']} | {r['macs']:,} | {r['cycles']:,} | {r['macs_per_cycle']} | {_required(r)} |"
            for r in rows
        ),
    ]
    (HERE / "device.md").write_text("\n".join(lines) + "\n")
    JSON_FILE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except TinyclfError as error:
        sys.exit(f"error: {error}")
