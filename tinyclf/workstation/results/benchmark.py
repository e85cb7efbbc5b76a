"""The benchmark of runs: size, work, latency on the CPU and quality of each, as a Markdown table for a report."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tinyclf import __version__
from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import open_dataset
from tinyclf.workstation.metrics import Metrics, MultiMetrics
from tinyclf.workstation.metrics.tables import decimal
from tinyclf.workstation.nets.build import model_size_bytes, num_macs, num_parameters
from tinyclf.workstation.results.classifiers import INPUT, open_session
from tinyclf.workstation.results.evaluate import check_classes, evaluate
from tinyclf.workstation.results.onnx_graph import fold_for_export, to_onnx
from tinyclf.workstation.runs.directory import BEST_FILE, RUN_FILE, RunConfig, load_run

NUM_CALLS, NUM_WARM_UP = 100, 20
MARKS = ("<!-- bench -->", "<!-- /bench -->")


@dataclass(frozen=True)
class Latency:
    """Mean and standard deviation of separate calls, in milliseconds."""

    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class Row:
    """One run; `memory` are the bytes of a training step on the device per variant, None: it cannot be deployed."""

    path: Path
    run: RunConfig
    num_parameters: int
    num_macs: int
    fp16_bytes: int
    pytorch: Latency
    onnx_runtime: Latency
    metrics: Metrics | MultiMetrics
    memory: Mapping[str, int | None]


def find_runs(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the run directories in `root` and below it, sorted: those with weights, and those without any yet.

    Raises:
        BadInput: there is none with weights.
    """
    found = sorted(file.parent for file in root.rglob(RUN_FILE))
    finished = [path for path in found if (path / BEST_FILE).is_file()]
    if not finished:
        raise BadInput(f"{root}: no run directory in it: tinyclf train writes one, or name the runs")
    return finished, [path for path in found if path not in finished]


def measure_run(
    path: Path, *, split: str, memory: Callable[[RunConfig], Mapping[str, int | None]], num_calls: int = NUM_CALLS
) -> Row:
    """Measure the model of a run directory or checkpoint on a split of its own dataset, and on one CPU thread.

    `memory` gives the bytes of a training step on the device, per variant.

    Raises:
        BadInput, Unsupported: the run or its dataset cannot be read, or the net cannot be exported.
    """
    model, run = load_run(path)
    dataset = open_dataset(run.data)
    check_classes(run, dataset.classes, multi_label=dataset.multi_label, run_name=path, data_name=dataset.path)
    part = dataset.split(split)
    metrics = evaluate(model, part, run.preprocessing)
    image = run.preprocessing.apply(part.gather([0])).contiguous()
    graph = to_onnx(fold_for_export(model)[0], size=run.size)
    session = open_session(graph.SerializeToString(), name=str(path), threads=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            pytorch = latency(lambda: model(image), num_calls=num_calls)
        feed = {INPUT: image.numpy()}
        onnx_runtime = latency(lambda: session.run(None, feed), num_calls=num_calls)
    finally:
        torch.set_num_threads(threads)
    return Row(
        path=path,
        run=run,
        num_parameters=num_parameters(model),
        num_macs=num_macs(model, run.size),
        fp16_bytes=model_size_bytes(model, 2),
        pytorch=pytorch,
        onnx_runtime=onnx_runtime,
        metrics=metrics,
        memory=memory(run),
    )


def latency(call: Callable[[], object], *, num_calls: int = NUM_CALLS) -> Latency:
    """Time separate calls, after `NUM_WARM_UP` that are not counted."""
    for _ in range(NUM_WARM_UP):
        call()
    times = []
    for _ in range(num_calls):
        begin = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - begin) / 1e6)
    return Latency(float(np.mean(times)), float(np.std(times)))


# --- the report -------------------------------------------------------------------------------------------------------


def to_markdown(rows: Sequence[Row], *, split: str) -> str:
    """Return the table, and below it how it was measured."""
    variants = list(rows[0].memory)
    header = [
        "run",
        "architecture",
        "trained",
        "input",
        "fp16 KiB",
        "parameters",
        "MACs",
        "PyTorch ms",
        "ONNX Runtime ms",
        "accuracy",
        "F1",
        "ROC AUC",
        *(f"{variant} KiB" for variant in variants),
    ]
    lines = [header, ["---", "---", "---", *["---:"] * (len(header) - 3)], *(_cells(row, variants) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{_conditions(split, variants)}\n"


def _cells(row: Row, variants: Sequence[str]) -> list[str]:
    metrics, needs = row.metrics, [row.memory[variant] for variant in variants]
    return [
        _escaped(row.path.as_posix()),
        _escaped(row.run.arch),
        row.run.variant.label,
        f"{row.run.size}x{row.run.size}",
        f"{row.fp16_bytes / 2**10:,.0f}",
        f"{row.num_parameters:,}",
        f"{row.num_macs / 1e6:,.2f} M",
        str(row.pytorch),
        str(row.onnx_runtime),
        f"{metrics.accuracy:.1%}",
        decimal(metrics.macro_f1),
        decimal(metrics.auc),
        *("-" if need is None else f"{need / 2**10:,.0f}" for need in needs),
    ]


def _conditions(split: str, variants: Sequence[str]) -> str:
    import onnxruntime as ort  # type: ignore[import-untyped]

    return (
        f"Quality: split {split} of each run's dataset; F1 is the mean over the classes, ROC AUC of two classes that "
        f"of the second, of more the mean of each against the rest. Latency: one image, "
        f"one thread, mean and standard deviation of {NUM_CALLS} calls on {cpu_name()}; PyTorch {torch.__version__} "
        f"eager in float32, ONNX Runtime {ort.__version__} with BatchNorm folded. {', '.join(variants)}: memory of one "
        f"training step on the device by what is trained, `-` where the net cannot be deployed. "
        f"Written by `tinyclf bench` {__version__}."
    )


def cpu_name() -> str:
    """Return the name of this machine's processor, or at least its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def check_marks(file: Path) -> str:
    """Return the text of a file that has both `MARKS`, each once and in this order.

    Raises:
        BadInput: it has not, or it cannot be read.
    """
    if not file.is_file():
        raise BadInput(f"--update {file}: no such file: --out writes a new one")
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"--update {file}: is not text in UTF-8") from error
    first, last = MARKS
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise BadInput(f"--update {file}: needs one line {first} and below it one line {last}: the table goes between")
    return text


def between_marks(text: str, content: str) -> str:
    """Return `text`, which `check_marks` has passed, with what is between the marks replaced by `content`."""
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n{content}{MARKS[1]}{after}"
