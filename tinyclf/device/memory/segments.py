"""Which activations to recompute: the choice of segments that costs the fewest MACs within a number of bytes.

The forward pass is cut into segments; each keeps all its activations, or only what other segments read. What is live
while segment i runs, forward, repeated or backward, is what the segments before it keep plus its own working set, so
that a dynamic programme over the cuts finds the cheapest choice. Working sets are measured on the transformed graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from tinyclf.device.graph.ir import Graph, Phase
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.memory.placement import lifetimes, max_live
from tinyclf.device.memory.recompute import (
    Segment,
    boundaries,
    num_forward_calls,
    plain_name,
    recompute,
    recompute_unchecked,
)


@dataclass(frozen=True)
class _Choice:
    """A segment that is recomputed, or one layer that is not.

    `kept`: bytes that it leaves for the backward pass. `live`: most bytes live in it; `live_forward`: in its first
    pass. `macs`: what is repeated.
    """

    segment: Segment
    recomputed: bool
    kept: int
    live: int
    live_forward: int
    macs: int


@dataclass(frozen=True)
class _Path:
    """Choices up to a cut: the sums of what they keep and cost."""

    kept: int
    macs: int
    segments: tuple[Segment, ...]


class SegmentSearch:
    """The choices of one training step; `cheapest` picks among them.

    The first `num_frozen_calls` calls are never repeated: later epochs may leave them out, see kept_features.py.
    """

    def __init__(self, graph: Graph, *, num_frozen_calls: int = 0) -> None:
        self.graph = graph
        self._cuts = tuple(cut for cut in boundaries(graph) if cut >= num_frozen_calls)

    def cheapest(self, live_bytes: int) -> Graph | None:
        """Return the step that recomputes the fewest MACs with at most `live_bytes` live at once; None if none can."""
        if self._plain.live_before(self._cuts[0]) > live_bytes:
            return None  # no choice changes that
        limit = live_bytes
        while limit >= self._most_of_a_call and (path := self._cheapest_path(limit)):
            graph = recompute(self.graph, path.segments)
            excess = max_live(lifetimes(graph)) - live_bytes
            if excess <= 0:
                return graph
            limit -= max(excess, live_bytes // 100)  # where segments share more than the programme knows
        return None

    def least(self) -> Graph:
        """Return a step with the fewest bytes live at once that recomputation reaches, to one part in 200."""
        best, low = self.graph, 0
        high = max_live(lifetimes(best))
        while high - low > high // 200:
            graph = self.cheapest((low + high) // 2)
            if graph is None:
                low = (low + high) // 2 + 1
            else:
                best, high = graph, max_live(lifetimes(graph))
        return best

    def _cheapest_path(self, limit: int) -> _Path | None:
        """Return the cheapest choices from the first cut to the last; what is live with them stays within `limit`."""
        fronts: dict[int, list[_Path]] = {cut: [] for cut in self._cuts}
        fronts[self._cuts[0]] = [_Path(self._kept_before, 0, ())]
        for cut, following in pairwise(self._cuts):
            for choice in self._choices[cut]:
                for path in fronts[cut]:
                    if path.kept + choice.live <= limit:
                        segments = (*path.segments, choice.segment) if choice.recomputed else path.segments
                        fronts[choice.segment.stop].append(
                            _Path(path.kept + choice.kept, path.macs + choice.macs, segments)
                        )
            # Choices only lead forward: the front of the next cut is complete, but for what recomputes all before it.
            fronts[following] = _undominated([*fronts[following], *self._nested(fronts[following], following, limit)])
        return min(fronts[self._cuts[-1]], key=lambda path: path.macs, default=None)

    def _nested(self, front: list[_Path], stop: int, limit: int) -> list[_Path]:
        """Return the path that drops all before the cut `stop` and, when repeating it, chooses as the best of `front`.

        When it is repeated all behind it is done, so that what fits as a step of its own fits there.
        """
        whole = [c for c in self._choices[self._cuts[0]] if c.recomputed and c.segment.stop == stop]
        if not whole or not front or self._kept_before + whole[0].live_forward > limit:
            return []
        best = min(front, key=lambda path: path.macs)
        segment = Segment(self._cuts[0], stop, best.segments)
        return [_Path(self._kept_before + whole[0].kept, whole[0].macs + best.macs, (segment,))]

    @cached_property
    def _plain(self) -> _Profile:
        return _Profile(self.graph)

    @cached_property
    def _kept_before(self) -> int:
        """Return the bytes that calls before the first cut keep for the backward pass, whatever is chosen."""
        return self._plain.kept_before(self._cuts[0])

    @cached_property
    def _most_of_a_call(self) -> int:
        """Return the most bytes of the arena that a call works on: no recomputation gets below."""
        sizes = {span.tensor.name: span.tensor.num_bytes for span in lifetimes(self.graph)}
        return max(sum(sizes.get(name, 0) for name in {*call.reads, *call.writes}) for call in self.graph.calls)

    @cached_property
    def _choices(self) -> dict[int, list[_Choice]]:
        """Return the choices that begin at each cut: the next layer kept, or some layers recomputed."""
        base = num_macs(self.graph)
        found: dict[int, list[_Choice]] = {}
        plain = self._plain
        for i, first in enumerate(self._cuts[:-1]):
            own = Segment(first, self._cuts[i + 1])
            found[first] = [plain.choice(own, plain, recomputed=False, macs=0)]
            for stop in self._cuts[i + 2 :]:
                segment = Segment(first, stop)
                graph = recompute_unchecked(self.graph, [segment])
                if len(graph.calls) == len(self.graph.calls):
                    continue  # the backward pass needs nothing of it
                macs = num_macs(graph) - base
                found[first].append(_Profile(graph).choice(segment, plain, recomputed=True, macs=macs))
        return found


class _Profile:
    """What of a step is live when, by the part of the forward pass that wrote it."""

    def __init__(self, graph: Graph) -> None:
        num_forward = num_forward_calls(graph)
        self._num_calls = len(graph.calls)
        # The forward call that each call belongs to, by its node; updates and the like belong to the call before.
        of_node = {plain_name(call.node): i for i, call in enumerate(graph.calls[:num_forward])}
        self._position: list[int] = []
        for i, call in enumerate(graph.calls):
            at = (
                i
                if i < num_forward
                else num_forward - 1
                if call.phase is Phase.LOSS
                else of_node.get(plain_name(call.node))
            )
            self._position.append(self._position[-1] if at is None else at)
        self._loss = num_forward
        self._spans = lifetimes(graph)
        self._writer: dict[str, int] = {}
        for i, call in enumerate(graph.calls[:num_forward]):
            for name in call.writes:
                self._writer.setdefault(name, i)

    def choice(self, segment: Segment, plain: _Profile, *, recomputed: bool, macs: int) -> _Choice:
        """Measure `segment`; `plain` is the step that recomputes nothing."""
        live = self._live(segment)
        return _Choice(
            segment=segment,
            recomputed=recomputed,
            kept=self.kept_before(segment.stop) - plain.kept_before(segment.first),
            live=max(n for n, at in zip(live, self._position, strict=True) if segment.first <= at < segment.stop),
            live_forward=max(live[segment.first : segment.stop]),
            macs=macs,
        )

    def live_before(self, stop: int) -> int:
        """Return the most bytes live in the forward calls before `stop`; 0 if there is none."""
        return max(self._live(Segment(0, stop))[:stop], default=0)

    def kept_before(self, stop: int) -> int:
        """Return the bytes live at the loss that forward calls before `stop` wrote."""
        spans = [s for s in self._spans if s.first <= self._loss < s.stop]
        return sum(s.tensor.num_bytes for s in spans if self._writer.get(s.tensor.name, stop) < stop)

    def _live(self, segment: Segment) -> list[int]:
        """Return the bytes live in each call, but for those that calls before `segment` keep for the backward pass."""
        changes = [0] * (self._num_calls + 1)
        for s in self._spans:
            is_kept = s.first <= self._loss < s.stop
            if is_kept and self._writer.get(s.tensor.name, segment.first) < segment.first:
                continue
            changes[s.first] += s.tensor.num_bytes
            changes[s.stop] -= s.tensor.num_bytes
        return list(accumulate(changes[:-1]))


def _undominated(paths: list[_Path]) -> list[_Path]:
    """Return the paths that no other beats in both bytes and MACs."""
    front: list[_Path] = []
    for path in sorted(paths, key=lambda p: (p.kept, p.macs)):
        if not front or path.macs < front[-1].macs:
            front.append(path)
    return front
