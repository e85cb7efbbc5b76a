"""Where a program's samples come from, as one value: linked into it, or streamed from a file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyclf.device.graph.ir import Graph
from tinyclf.device.memory.kept_features import FeatureMemory, feature_memory


@dataclass(frozen=True)
class Linked:
    """`num` samples are linked into a program of single steps, which takes them in turn.

    `is_most`: fewer will do where so many do not fit.
    """

    num: int = 1
    is_most: bool = False


@dataclass(frozen=True)
class Streamed:
    """A training run reads `num` samples from a file, and keeps frozen features of them as `cache` says.

    `features`: what these are, known once the step is.
    """

    num: int
    cache: str = "off"
    features: FeatureMemory | None = None

    def of_step(self, graph: Graph) -> Streamed:
        """Return the samples with the features that a run of `graph` keeps of them.

        Raises:
            BadInput, DoesNotFit: see `feature_memory`.
        """
        return replace(self, features=feature_memory(graph, kind=self.cache, num_samples=self.num))


ProgramSamples = Linked | Streamed


def kept_features(samples: ProgramSamples) -> FeatureMemory | None:
    """Return the features that are kept of samples; None: of none."""
    return samples.features if isinstance(samples, Streamed) else None


def num_linked(samples: ProgramSamples) -> int:
    """Count the samples that lie in the program itself."""
    return samples.num if isinstance(samples, Linked) else 0
