"""Where the cycles of a training step went: what each operation took on the target, did, and moved by DMA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclf.base.errors import BadInput, ToolFailed
from tinyclf.base.files import write_text, write_whole
from tinyclf.device.emit.program import Program
from tinyclf.device.graph.macs import macs_by_call
from tinyclf.device.targets.results import RECORD_CALL
from tinyclf.device.targets.target import Target
from tinyclf.device.tiles.plan import Op

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

CYCLES, STALLS = "PROFILE=1", "PROFILE=2"  # for make: report the cycles of each operation; also its DMA stalls
JSON_FILE, PICTURE_FILE = "profile.json", "profile.png"

Record = tuple[int, int, "NDArray[Any]"]  # id, step, words of 32 bits, as read_records gives them


@dataclass(frozen=True)
class OpProfile:
    """One operation of a step: calls that are done on the same tiles, or one call that computes where tensors lie.

    `layer` is the node of the call with the most MACs, `kernels` are those of its calls in order, each once. Bytes are
    those that the DMA moves, of all tiles. `predicted_cycles` and `stall_cycles` are None where there are no tiles. A
    stall: all cores have computed and wait for the DMA; up to 120 cycles of each wait, one a tile, are the measuring's.
    """

    layer: str
    kernels: tuple[str, ...]
    phase: str
    num_tiles: int
    cycles: int
    macs: int
    loaded_bytes: int
    stored_bytes: int
    predicted_cycles: int | None
    stall_cycles: int | None

    @property
    def macs_per_cycle(self) -> float:
        """Return MACs per cycle."""
        return self.macs / max(self.cycles, 1)


@dataclass(frozen=True)
class Profile:
    """A training step on a target, operation by operation; `peak` is the most MACs per cycle of its cores."""

    target: str
    num_cores: int
    step: int
    peak: float
    ops: tuple[OpProfile, ...]

    @property
    def total(self) -> OpProfile:
        """Return the sums over all operations; predicted cycles only if all tiled ones have them."""
        predicted = [op.predicted_cycles for op in self.ops if op.predicted_cycles is not None]
        stalls = [op.stall_cycles for op in self.ops if op.stall_cycles is not None]
        return OpProfile(
            layer="step",
            kernels=(),
            phase="",
            num_tiles=sum(op.num_tiles for op in self.ops),
            cycles=sum(op.cycles for op in self.ops),
            macs=sum(op.macs for op in self.ops),
            loaded_bytes=sum(op.loaded_bytes for op in self.ops),
            stored_bytes=sum(op.stored_bytes for op in self.ops),
            predicted_cycles=sum(predicted) if predicted else None,
            stall_cycles=sum(stalls) if stalls else None,
        )

    def share(self, op: OpProfile) -> float:
        """Return which share of the peak an operation, or `total`, reaches."""
        return op.macs_per_cycle / self.peak

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON types."""

        def row(op: OpProfile) -> dict[str, Any]:
            figures = {"macs_per_cycle": round(op.macs_per_cycle, 3), "share_of_peak": round(self.share(op), 3)}
            return {**asdict(op), **figures}

        total = {name: value for name, value in row(self.total).items() if name not in ("layer", "kernels", "phase")}
        about = {"target": self.target, "num_cores": self.num_cores, "step": self.step, "peak": self.peak}
        return {**about, "total": total, "operations": [row(op) for op in self.ops]}


def require_clock(target: Target) -> float:
    """Return the most MACs per cycle of all cores of a target that is cycle-accurate.

    Raises:
        BadInput: it is not, or its target.toml does not say.
    """
    if not target.counts_cycles or target.macs_per_cycle is None:
        raise BadInput(f"--profile: target {target.name} is not cycle-accurate: profile on --target pulp")
    return target.macs_per_cycle


def moved_bytes(op: Op) -> tuple[int, int]:
    """Return the bytes that the DMA loads and stores for an operation: each operand's tile whenever it is another.

    A tile that is loaded early counts for the operation that uses it.
    """
    loaded = stored = 0
    for operand in (o for o in op.operands if o.tensor and (o.load or o.store)):
        before = None
        for index in op.indices():
            tile = operand.ranges(index)
            if tile != before:
                num_bytes = operand.tile_bytes(index)
                loaded += num_bytes * operand.load
                stored += num_bytes * operand.store
            before = tile
    return loaded, stored


def make_profile(program: Program, target: Target, records: Sequence[Record], *, num_cores: int) -> Profile:
    """Return the profile of the first step that does every operation: the last one of the first batch.

    `records` are those of a program that was built with `CYCLES` or `STALLS`.

    Raises:
        BadInput: `target` is not cycle-accurate.
        ToolFailed: no step of the run did every operation, or the program was built otherwise.
    """
    peak = min(require_clock(target), num_cores)  # a core does one MAC in a cycle
    ops = program.tiles.ops if program.tiles else tuple(Op((i,)) for i in range(len(program.graph.calls)))
    steps: dict[int, list[NDArray[Any]]] = {}
    for record, number, words in records:
        if record == RECORD_CALL:
            steps.setdefault(number, []).append(words)
    step = next((number for number, measured in sorted(steps.items()) if len(measured) == len(ops)), None)
    if step is None:
        raise ToolFailed(f"the run did not report the cycles of a step's {len(ops)} operations")
    macs = macs_by_call(program.graph)
    rows = (_row(program, op, macs, words) for op, words in zip(ops, steps[step], strict=True))
    return Profile(target.name, num_cores, step, peak, tuple(rows))


def _row(program: Program, op: Op, macs: Sequence[int], words: NDArray[Any]) -> OpProfile:
    cycles, waited = (int(value) for value in words.view("<u8"))
    calls = [program.graph.calls[i] for i in op.calls]
    most = max(op.calls, key=lambda i: macs[i])  # of equals the first
    loaded, stored = moved_bytes(op)
    return OpProfile(
        layer=program.graph.calls[most].node,
        kernels=tuple(dict.fromkeys(call.kernel for call in calls)),
        phase=calls[0].phase.value,
        num_tiles=op.num_tiles if op.body else 0,
        cycles=cycles,
        macs=sum(macs[i] for i in op.calls),
        loaded_bytes=loaded,
        stored_bytes=stored,
        predicted_cycles=op.cycles if op.body else None,
        stall_cycles=waited if op.body else None,
    )


# --- shown ------------------------------------------------------------------------------------------------------------


def table_lines(profile: Profile) -> list[str]:
    """Return the profile as a table for people, its sums last."""
    total = profile.total
    width = max(len(op.layer) for op in (*profile.ops, total))
    head = f"{'layer':<{width}}  {'phase':<8} {'tiles':>5} {'cycles':>10} {'MACs':>11} {'MAC/clk':>7} {'of peak':>7}"
    lines = [f"{head} {'DMA bytes':>10} {'predicted':>10} {'DMA stall':>9}  calls"]
    for op in (*profile.ops, total):
        rate = f"{op.macs_per_cycle:7.2f} {profile.share(op):7.0%}" if op.macs else f"{'-':>7} {'-':>7}"
        predicted, stall = ("-" if n is None else f"{n:,}" for n in (op.predicted_cycles, op.stall_cycles))
        lines.append(
            f"{op.layer:<{width}}  {op.phase:<8} {op.num_tiles:>5} {op.cycles:>10,} {op.macs:>11,} {rate} "
            f"{op.loaded_bytes + op.stored_bytes:>10,} {predicted:>10} {stall:>9}  {' + '.join(op.kernels)}".rstrip()
        )
    cores = "1 core" if profile.num_cores == 1 else f"{profile.num_cores} cores"
    peak = f"peak: {profile.peak:g} MAC/clk"
    lines.append(f"step {profile.step} on {profile.target}, {cores}; {peak}; stall: all cores wait for the DMA alone")
    return lines


def write_profile(profile: Profile, project: Path) -> None:
    """Write profile.json and profile.png into `project`."""
    write_text(project / JSON_FILE, json.dumps(profile.to_dict(), indent=1) + "\n")
    figure = plot_profile(profile)
    write_whole(project / PICTURE_FILE, lambda temporary: figure.savefig(temporary, format="png", dpi=100))


def plot_profile(profile: Profile) -> Figure:
    """Draw a bar for each operation, in the order of the step: its cycles, of these the DMA stall, and MAC/clk."""
    from matplotlib.figure import Figure  # slow to import, and only pictures need it
    from matplotlib.patches import Patch

    colours = {"forward": "#66c2a5", "loss": "#e5c494", "backward": "#fc8d62", "update": "#8da0cb"}
    places = range(len(profile.ops))
    figure = Figure(figsize=(11, 1.8 + 0.24 * len(profile.ops)), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, [op.cycles / 1000 for op in profile.ops], color=[colours[op.phase] for op in profile.ops])
    axes.barh(places, [(op.stall_cycles or 0) / 1000 for op in profile.ops], color="black", height=0.25)
    for place, op in zip(places, profile.ops, strict=True):
        if op.macs:
            axes.text(op.cycles / 1000, place, f" {op.macs_per_cycle:.2f}", va="center", fontsize=7)
    axes.set_yticks(places, [op.layer for op in profile.ops], fontsize=7)
    axes.set_ylim(len(profile.ops) - 0.4, -0.6)  # the first operation on top
    axes.margins(x=0.08)
    total = profile.total
    axes.set_xlabel(f"thousand cycles; at the bars: MAC/clk, peak {profile.peak:g}")
    axes.set_title(f"{profile.target}: {total.cycles:,} cycles, {total.macs_per_cycle:.2f} MAC/clk", fontsize=10)
    used = [phase for phase in colours if any(op.phase == phase for op in profile.ops)]
    patches = [Patch(color=colours[phase], label=phase) for phase in used]
    axes.legend(handles=[*patches, Patch(color="black", label="DMA stall")], loc="best")
    return figure
