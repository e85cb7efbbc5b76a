"""Cycles of a training step in GVSoC: measures the set below and rewrites benchmarks/device.md and device.json.

Run by `make bench`. Simulated cycles are deterministic: a figure that changes has a cause in the code or the compiler.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tinyclf.deploy import emit_project, execute
from tinyclf.errors import TinyclfError
from tinyclf.ir import Graph
from tinyclf.jobs import Request, make_job
from tinyclf.targets import find_target, require_tools
from tinyclf.variants import Variant

HERE = Path(__file__).parent

# (architecture, variant, size)
SET = [
    ("mobilenet_wd4", Variant("LP"), 128),
    ("mobilenet_wd4", Variant("FT", 2), 128),
    ("mobilenet_wd4", Variant("FT", 2), 96),
    ("mobilenet_wd4", Variant("FT", 2), 64),
    ("fdmobilenet_wd4", Variant("FD"), 128),
    ("fdmobilenet_wd4", Variant("FT", 2), 128),
]


def num_macs(graph: Graph) -> int:
    """Count the multiply-accumulates of a step: each direction of a layer does outputs x weights / output channels."""
    nodes = {node.name: dict(node.fields) for node in graph.nodes}
    total = 0
    for call in graph.calls:
        fields = nodes[call.node]
        if "coeff" in fields:
            weight, output = (graph.by_name[fields[name].tensor] for name in ("coeff", "output"))
            total += output.num_elements * weight.num_elements // weight.shape[0]
    return total


def measure(arch: str, variant: Variant, size: int) -> dict[str, object]:
    """Run one verified step and return its row."""
    target = find_target("pulp")
    request = Request(
        target=target,
        variant=variant,
        arch=arch,
        size=size,
        num_classes=2,
        from_run=None,
        data=None,
        num_steps=1,
        num_samples=1,
        learning_rate=0.01,
        weight_decay=0.0,
        seed=0,
    )
    job = make_job(request)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        program = emit_project(job, target, project)
        report = execute(job, program, target, project)
    assert report.passed, [c for c in report.worst() if not c.passed]
    assert report.cycles is not None
    macs = num_macs(program.graph)
    return {
        "net": f"{arch} {variant.label}",
        "size": size,
        "macs": macs,
        "cycles": report.cycles[0],
        "macs_per_cycle": round(macs / report.cycles[0], 3),
    }


def main() -> None:
    """Measure the set and write both files."""
    target = find_target("pulp")
    require_tools(target)
    rows = []
    for arch, variant, size in SET:
        rows.append(measure(arch, variant, size))
        print(f"{rows[-1]}", flush=True)
    compiler = subprocess.run(
        ["clang-19", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    lines = [
        "# Cycles of a training step in GVSoC (pulp-open, 8 cores, float32, one sample, data in L2)",
        "",
        "Written by `make bench`; every step was verified against PyTorch. Kernels only: loading the sample and",
        f"reporting are not counted. MACs are those of convolutions and linear layers. Compiler: {compiler}.",
        "",
        "| net | size | MACs | cycles | MAC/clk |",
        "|---|---|---|---|---|",
        *(f"| {r['net']} | {r['size']} | {r['macs']:,} | {r['cycles']:,} | {r['macs_per_cycle']} |" for r in rows),
    ]
    (HERE / "device.md").write_text("\n".join(lines) + "\n")
    (HERE / "device.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except TinyclfError as error:
        sys.exit(f"error: {error}")
