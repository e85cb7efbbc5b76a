"""Where every byte of a training step lies, as a plain value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tinyclf.device.graph.ir import Graph
from tinyclf.device.memory.placement import Placement, peak_of


@dataclass(frozen=True)
class MemoryPlan:
    """The arena's placements, and offsets in two blocks of their own: the parameters (trained first), the state.

    The state is what is kept from step to step beside the parameters. All in bytes.
    """

    placements: tuple[Placement, ...]
    parameter_offsets: tuple[tuple[str, int], ...]
    arena_bytes: int
    parameter_bytes: int
    max_live: int
    state_offsets: tuple[tuple[str, int], ...] = ()
    state_bytes: int = 0

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Return the offset of every tensor, in its own block."""
        return {p.tensor.name: p.offset for p in self.placements} | dict(self.parameter_offsets + self.state_offsets)

    @property
    def peak(self) -> int:
        """Return the last byte of the arena that is used."""
        return peak_of(self.placements)


@dataclass(frozen=True)
class Placed:
    """A training step with the places of its tensors."""

    graph: Graph
    plan: MemoryPlan
