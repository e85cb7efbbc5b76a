"""Two nets in one program: each with its own prefix, linked together, they give what each gives alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.kit.paths import LIBRARY
from tests.kit.targets import on_targets
from tinyclf.device import targets
from tinyclf.device.run.job import Job
from tinyclf.device.run.project import write_project
from tinyclf.device.run.steps import emit_project
from tinyclf.device.targets.results import RECORD_END, read_records
from tinyclf.device.targets.target import Target, find_target, with_l1
from tinyclf.recipe.update_rule import UpdateRule

NUM_STEPS, NUM_SAMPLES = 3, 2
MAIN = f"""#include "port.h"
{{declarations}}
void tcl_main(void)
{{{{
    for (int step = 0; step < {NUM_STEPS}; step++) {{{{
{{calls}}
    }}}}
}}}}
"""
FOR_BOTH = "void {p}network_load(int sample);\nvoid {p}network_step(uint64_t step);\n"
CALLS = f"        {{p}}network_load(step % {NUM_SAMPLES});\n        {{p}}network_step((uint64_t)step);\n"

Values = list[tuple[int, int, bytes]]  # record, step, words


def _job(number: int) -> Job:
    """Return one of two jobs that share nothing: not the net, the image, the classes nor the optimizer."""
    torch.manual_seed(number)
    rng = np.random.default_rng(number)
    if number == 0:
        depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ReLU(), depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )
        rule, size, num_classes = UpdateRule(0.01, optimizer="adam", batch=2), 8, 2
    else:
        model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU6(), nn.Flatten(), nn.Linear(5 * 9, 3))
        rule, size, num_classes = UpdateRule(0.1), 6, 3
    return Job(
        model=model,
        samples=rng.standard_normal((NUM_SAMPLES, 3, size, size)).astype(np.float32),
        labels=np.eye(num_classes, dtype=np.float32)[rng.integers(0, num_classes, NUM_SAMPLES)],
        num_steps=NUM_STEPS,
        rule=rule,
        command="tests",
    )


def _values(project: Path) -> Values:
    """Return what a run reported but its cycles and its end."""
    return [(record, step, words.tobytes()) for record, step, words in read_records(project) if record >= 0]


def _together(projects: dict[str, Path], target: Target, folder: Path) -> None:
    """Build and run a program of the nets of both projects, which take turns."""
    for prefix, project in projects.items():
        targets.build(project, target, f"PREFIX={prefix}", "BUILD=prefixed", "lib")
    texts = {
        name: "".join(text.format(p=p) for p in projects)
        for name, text in (("declarations", FOR_BOTH), ("calls", CALLS))
    }
    files = {f"port/{name}": content for name, content in target.port_files().items()}
    files |= {
        f"trainlib/include/{name}": (LIBRARY / "include" / name).read_bytes() for name in ("port.h", "port_dma.h")
    }
    files["src/main.c"] = MAIN.format(**texts).encode()
    libraries = " ".join(str(project / "prefixed/tinyclf.a") for project in projects.values())
    makefile = f"NUM_CORES ?= {target.num_cores}\ninclude port/build.mk\nLIBS := {libraries} $(LIBS)\n"
    write_project(files | {"Makefile": makefile.encode()}, folder)
    targets.build(folder, target)
    targets.start(folder)


@on_targets()
@pytest.mark.parametrize("l1", ["off", "36KiB"])
def test_two_nets_in_one_program_give_what_each_gives_alone(target: Target, l1: str, tmp_path: Path) -> None:
    target = with_l1(target, l1)
    projects = {f"net{number}_": tmp_path / f"net{number}" for number in (0, 1)}
    alone = []
    for number, project in enumerate(projects.values()):
        emit_project(_job(number), target, project)
        targets.build(project, target)
        targets.start(project)
        assert read_records(project)[-1][0] == RECORD_END
        alone.append(_values(project))
    _together(projects, target, tmp_path / "both")
    both = _values(tmp_path / "both")
    per_step = [[[row for row in values if row[1] == step] for step in range(NUM_STEPS)] for values in alone]
    assert all(per_step[0])
    assert all(per_step[1])
    assert both == [row for step in range(NUM_STEPS) for values in per_step for row in values[step]]


@pytest.mark.target("host")
@pytest.mark.parametrize("l1", ["off", "36KiB"])
def test_every_external_symbol_has_the_prefix(l1: str, tmp_path: Path) -> None:
    host = with_l1(find_target("host"), l1)
    emit_project(_job(0), host, tmp_path / "p")
    targets.build(tmp_path / "p", host, "PREFIX=a_", "lib")
    symbols = _defined(tmp_path / "p/build/tinyclf.a")
    assert {"a_network_step", "a_tcl_parameters", "a_tcl_run", "a_pulp_linear_fp32_fw_cl"} <= symbols
    assert {name for name in symbols if not name.startswith("a_")} == set()


def _defined(archive: Path) -> set[str]:
    listing = subprocess.run(["nm", "-g", "--defined-only", archive], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^[0-9a-f]+ \w (\w+)$", listing, re.MULTILINE))
