"""A program before it is written: a graph, its plan, its values, and what a training run adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyclf.device.emit.upstream import Linkage
from tinyclf.device.graph.ir import (
    Graph,
)
from tinyclf.device.memory.kept_features import FeatureMemory
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.samples import Linked, ProgramSamples, Streamed
from tinyclf.device.tiles.plan import TilePlan, without_tiles

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingRun:
    """A whole training run on streamed samples: what main.c says of it.

    `number` names net, starting weights and settings, 64 bits; `weights_header` is what the weights file begins with;
    `checkpoint_every` counts steps, 0: no checkpoints.
    """

    number: int
    seed: int
    num_epochs: int
    checkpoint_every: int
    weights_header: bytes
    samples: Streamed

    @property
    def features(self) -> FeatureMemory | None:
        """Return what the run keeps of its samples."""
        return self.samples.features


@dataclass(frozen=True)
class Program:
    """What a project runs: a graph at its places in memory, with values, on samples.

    `values` has every parameter by name. `samples` (N, C, H, W) and `labels` (N, classes), one-hot, fill the graph's
    input and label in turn; both are None for a graph that has neither. `traced` names the tensors that are reported
    after the last call that writes them. With `training` the samples are streamed from a file, and nothing is traced.
    With `linkage` the graph is the one that `upstream.link` returned with it.
    With `tiles` the calls are done tile by tile in L1, else by plain kernels where the tensors lie.
    """

    graph: Graph
    plan: MemoryPlan
    values: Mapping[str, Array]
    samples: Array | None
    labels: Array | None
    num_steps: int
    traced: frozenset[str]
    training: TrainingRun | None = None
    linkage: Linkage | None = None  # with upstream's PULP-TrainLib; None: all kernels are ours
    tiles: TilePlan | None = None

    @property
    def operations(self) -> TilePlan:
        """Return the step in operations; one without tiles is a plan whose operations have no body."""
        return self.tiles or without_tiles(len(self.graph.calls))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the C function of each call."""
        return self.linkage.symbols if self.linkage else tuple(call.kernel for call in self.graph.calls)

    @property
    def source(self) -> ProgramSamples:
        """Return where the samples come from."""
        if self.training:
            return self.training.samples
        return Linked(0 if self.samples is None else len(self.samples))
