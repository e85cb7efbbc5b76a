"""What a program needs in each memory region of a target: predicted from the plan, and as the linker placed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyclf.device.footprint.tables import plain_bytes, tile_bodies, tile_bytes
from tinyclf.device.graph.ir import Graph, Role
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.samples import ProgramSamples, Streamed, kept_features, num_linked
from tinyclf.device.memory.sums import summed
from tinyclf.device.memory.trained_pieces import trained_block_bytes
from tinyclf.device.targets.elf import Elf
from tinyclf.device.targets.target import CODE, CONSTANTS, STATE, Region, Target

_PARAMETERS, _STATE, _ARENA, _SAMPLES = "tcl_parameters", "tcl_state", "arena", ("tcl_samples", "tcl_labels")  # symbols
_KEPT_FEATURES, _TILES = "tcl_kept_features", ("tcl_l1", "tcl_l1_walk")
DEPTHWISE_BODIES = "tcl_tile_dw_"


@dataclass(frozen=True)
class RegionUse:
    """The bytes of a region by what they are for, in a fixed order; None: known only once it is built."""

    name: str
    num_bytes: int | None  # what the region has; None: as much as wanted
    parts: tuple[tuple[str, int | None], ...]

    @property
    def total(self) -> int:
        """Sum up what is known."""
        return sum(size for _, size in self.parts if size)

    @property
    def summary(self) -> str:
        """Say the parts in a line, without those that are 0."""
        return ", ".join(f"{name} {size:,}" for name, size in self.parts if size)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        parts = {name.replace(", ", "_").replace(" ", "_"): size for name, size in self.parts}
        return {"region": self.name, "has": self.num_bytes, **parts, "total": self.total}


def predict_regions(
    target: Target,
    graph: Graph,
    plan: MemoryPlan,
    *,
    samples: ProgramSamples,
    num_cores: int | None = None,
) -> tuple[RegionUse, ...]:
    """Return what each region of `target` will hold.

    Parameters, state, arena, samples and stacks are what will be linked; code and constants are at most what is said,
    and counted with the code, their tables too. Each lies in the region of its role: frozen weights where constants do.
    """
    parts = [
        *_data_parts(graph, plan, samples),
        (CODE, "code and constants", code_bound(target, graph, plan, is_run=isinstance(samples, Streamed))),
    ]
    if target.is_split:
        # What is written has its first values among the constants, from which the start of a program copies them.
        parts.append((CONSTANTS, "first values", trained_block_bytes(graph, plan)))
    tiles = () if target.tile_bytes is None else (("tiles", target.tile_bytes),)
    uses = []
    for region in target.regions:
        held: dict[str, int | None] = {}
        for role, name, size in parts:
            if role in region.holds:
                held[name] = size if name not in held else (held[name] or 0) + (size or 0)
        own = tiles if region.name == _tile_region(target) else ()
        stack = ("stack", _stack(region, target, num_cores))
        uses.append(RegionUse(region.name, region.num_bytes, (*held.items(), *own, stack)))
    return tuple(uses)


def _data_parts(graph: Graph, plan: MemoryPlan, samples: ProgramSamples) -> list[tuple[str, str, int | None]]:
    """Return the data of a program: the role of each part, what it is for and its bytes.

    A parameter that is trained in part is written, and lies with the trained ones as a whole.
    """
    sums, features = summed(graph, plan), kept_features(samples)
    kept = sums.optimizer_state + sums.accumulated_gradients
    gaps = sums.total - sums.parameters_frozen - sums.parameters_trained - kept - sums.max_live
    frozen = sum(t.num_bytes for t in graph.tensors_of(Role.PARAMETER) if not t.trained)
    frozen_gaps = plan.parameter_bytes - trained_block_bytes(graph, plan) - frozen
    sample_bytes = sum(t.num_bytes for t in graph.tensors_of(Role.INPUT, Role.LABEL))
    return [
        (CONSTANTS, "parameters, frozen", frozen),
        (STATE, "parameters, frozen", sums.parameters_frozen - frozen),
        (STATE, "parameters, trained", sums.parameters_trained),
        (STATE, "activations", sums.activations_at_peak),
        (STATE, "gradients", sums.gradients_at_peak),
        (STATE, "optimizer state", sums.optimizer_state),
        (STATE, "accumulated gradients", sums.accumulated_gradients),
        (STATE, "buffers", sums.buffers_at_peak),
        (STATE, "gaps", gaps - frozen_gaps),
        (CONSTANTS, "gaps", frozen_gaps),
        (CONSTANTS, "samples", num_linked(samples) * sample_bytes),
        *([(STATE, "kept features", features.num_bytes)] if features and features.num_bytes else []),
    ]


def _tile_region(target: Target) -> str:
    """Return the name of the region that tiles lie in."""
    return target.tile_region or target.region_of(STATE).name


def _stack(region: Region, target: Target, num_cores: int | None) -> int:
    return region.stack_bytes + region.core_stack_bytes * (num_cores or target.num_cores)


def code_bound(target: Target, graph: Graph, plan: MemoryPlan, *, is_run: bool) -> int | None:
    """Return the most bytes that code and constants take on `target`; None: not known before it is built.

    Tables are counted, code is bounded. `is_run`: of a training run on streamed samples, in place of single steps.
    """
    bound = target.code
    if bound is None:
        return None
    more = (bound.training_run if is_run else 0) + (bound.rule if graph.reads_rule else 0)
    if target.tile_bytes is None:
        num_kernels = len({call.kernel for call in graph.calls})
        return more + bound.base + bound.kernel * num_kernels + plain_bytes(graph, plan, is_run=is_run)
    if bound.tiles is None:
        return None
    bodies = tile_bodies(graph, plan, is_run=is_run)
    num_depthwise = sum(body.startswith(DEPTHWISE_BODIES) for body in bodies)
    code = bound.tiles.base + bound.tiles.body * len(bodies) + bound.tiles.depthwise * num_depthwise
    return more + code + tile_bytes(graph, plan, is_run=is_run)


def linked_regions(target: Target, elf: Elf) -> tuple[RegionUse, ...]:
    """Return what the linker placed in each region of `target`; constants include tables and padding."""
    uses = []
    sizes = [elf.symbol_bytes[name] for name in _TILES if name in elf.symbol_bytes]
    tiles = (("tiles", sum(sizes)),) if sizes else ()
    for region in target.regions:
        own = tiles if region.name == _tile_region(target) else ()
        sections = [s for s in elf.sections if _lies_in(s.address, region)]
        used = sum(s.num_bytes for s in sections)
        if region.origin is not None and sections:
            used = sections[-1].address + sections[-1].num_bytes - region.origin
        stack = sum(s.num_bytes for s in sections if s.name in (".stacks", ".fc_stack"))
        if not region.holds:
            rest = used - sum(size for _, size in own)
            uses.append(RegionUse(region.name, region.num_bytes, (*own, ("stack", rest))))
            continue
        code = sum(s.num_bytes for s in sections if s.is_code)
        data = (
            ("parameters", elf.symbol_bytes.get(_PARAMETERS, 0)),
            ("state", elf.symbol_bytes.get(_STATE, 0)),
            ("arena", elf.symbol_bytes.get(_ARENA, 0)),
            ("samples", sum(elf.symbol_bytes.get(name, 0) for name in _SAMPLES)),
            *((("kept features", elf.symbol_bytes[_KEPT_FEATURES]),) if _KEPT_FEATURES in elf.symbol_bytes else ()),
            ("code", code),
            *own,
        )
        rest = used - stack - sum(size for _, size in data)
        uses.append(RegionUse(region.name, region.num_bytes, (*data, ("constants", rest), ("stack", stack))))
    return tuple(uses)


def _lies_in(address: int, region: Region) -> bool:
    if region.origin is None or region.num_bytes is None:
        return True
    return region.origin <= address < region.origin + region.num_bytes
