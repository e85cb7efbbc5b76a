"""When each tensor lives and where it lies: lifetimes, the lower bound of any placement, greedy placement in one arena.

Time is counted in calls. A tensor lives from the call that first writes it to the one that last reads it, half-open:
[first, last + 1). Inputs and labels live from the start, outputs to the end. Parameters, and what is kept from step to
step (optimizer state, accumulated gradients), live always, outside the arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from tinyclf.device.graph.dtypes import aligned
from tinyclf.device.graph.ir import Graph, Role, Tensor


@dataclass(frozen=True)
class Lifetime:
    """When a tensor's bytes are in use: calls [first, stop)."""

    tensor: Tensor
    first: int
    stop: int


@dataclass(frozen=True)
class Placement:
    """A tensor's lifetime and its byte offset in the arena."""

    tensor: Tensor
    first: int
    stop: int
    offset: int

    @property
    def end(self) -> int:
        """Return the offset of the first byte behind the tensor."""
        return self.offset + self.tensor.num_bytes


def lifetimes(graph: Graph) -> list[Lifetime]:
    """Return the lifetime of every tensor of the arena, in the graph's order."""
    first: dict[str, int] = {t.name: 0 for t in graph.tensors_of(Role.INPUT, Role.LABEL)}
    stop: dict[str, int] = {}
    for step, call in enumerate(graph.calls):
        for name in call.writes:
            first.setdefault(name, step)
        for name in (*call.reads, *call.writes):
            stop[name] = step + 1
    stop.update({name: len(graph.calls) for name in graph.outputs})
    arena = [t for t in graph.tensors if t.is_in_arena and t.name in first]
    return [Lifetime(t, first[t.name], stop.get(t.name, 1)) for t in arena]


def max_live(spans: Iterable[Lifetime]) -> int:
    """Return the most bytes in use at one call: no placement can need less."""
    changes: dict[int, int] = {}
    for span in spans:
        changes[span.first] = changes.get(span.first, 0) + span.tensor.num_bytes
        changes[span.stop] = changes.get(span.stop, 0) - span.tensor.num_bytes
    live = most = 0
    for step in sorted(changes):
        live += changes[step]
        most = max(most, live)
    return most


def _place_in_order(spans: Iterable[Lifetime]) -> tuple[Placement, ...]:
    """Give each tensor, in the order given, the lowest offset that is free throughout its life."""
    placed: list[Placement] = []
    for span in spans:
        taken = sorted((p for p in placed if p.first < span.stop and span.first < p.stop), key=lambda p: p.offset)
        offset = 0
        for other in taken:
            if offset + span.tensor.num_bytes <= other.offset:
                break
            offset = max(offset, aligned(other.end, span.tensor.dtype.alignment))
        placed.append(Placement(span.tensor, span.first, span.stop, offset))
    return tuple(sorted(placed, key=lambda p: (p.first, p.offset)))


# Greedy placement in one fixed order can end a third above the lower bound on a chain of layers: each order below is
# best on some net.
_ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda s: (-s.tensor.num_bytes, s.first - s.stop, s.first),  # largest first
    lambda s: (s.tensor.num_bytes * (s.first - s.stop), s.first),  # largest bytes x time first
    lambda s: (s.first - s.stop, -s.tensor.num_bytes, s.first),  # longest-lived first
    lambda s: (s.first, -s.tensor.num_bytes),  # in order of time: best possible where all have one size
    lambda s: (-s.stop, -s.tensor.num_bytes),  # backwards in time
)
_TRIALS = 100  # of the search that follows where no order comes near the bound
_NEAR = 1.001  # of the lower bound: what is left is not worth a search
_FAR = 1.02  # of the lower bound: worth a search from every order
_FEW = 64  # tensors that a thorough search is quick for, under a second; it also starts from random orders
_RESTARTS = 4
_THOROUGH_TRIALS = 300


def place(spans: list[Lifetime], bound: int) -> tuple[Placement, ...]:
    """Place greedily in several orders, then search on from the best, until one comes near the lower bound `bound`.

    The same spans give the same placement: the search is seeded.
    """
    enough = max(aligned(bound), int(_NEAR * bound))
    starts: list[tuple[tuple[Placement, ...], list[Lifetime]]] = []
    for key in _ORDERS:
        order = sorted(spans, key=key)
        starts.append((_place_in_order(order), order))
        if peak_of(starts[-1][0]) <= enough:
            return starts[-1][0]
    starts.sort(key=lambda start: peak_of(start[0]))
    found = [_search(*starts[0], enough)]
    for start in starts[1:]:
        if peak_of(found[-1]) <= _FAR * bound:
            break
        found.append(_search(*start, enough))
    best = min(found, key=peak_of)
    if len(spans) <= _FEW and peak_of(best) > _FAR * _bound_with_gaps(spans):
        best = min(best, _search_from_anywhere(spans, enough), key=peak_of)
    return best


def _bound_with_gaps(spans: list[Lifetime]) -> int:
    """Return the most bytes in use at one call with the gaps that alignment leaves below all but the highest tensor.

    Of many small tensors this lies well above `max_live`: three floats each need the bytes of four.
    """
    most = 0
    for step in {span.first for span in spans}:
        live = [s.tensor for s in spans if s.first <= step < s.stop]
        least = min(t.dtype.alignment for t in live)
        most = max(most, sum(aligned(t.num_bytes, least) for t in live) - max(-t.num_bytes % least for t in live))
    return most


def _search_from_anywhere(spans: list[Lifetime], enough: int) -> tuple[Placement, ...]:
    """Search from random orders: swap two tensors of the order or move one, as long as that does not raise the peak."""
    rng, best = Random(0), _place_in_order(spans)
    for _ in range(_RESTARTS):
        order = rng.sample(spans, len(spans))
        found = _place_in_order(order)
        for _ in range(_THOROUGH_TRIALS):
            if peak_of(found) <= enough:
                break
            changed, i, j = list(order), rng.randrange(len(order)), rng.randrange(len(order))
            if rng.random() < 0.5:
                changed[i], changed[j] = changed[j], changed[i]
            else:
                changed.insert(j, changed.pop(i))
            placements = _place_in_order(changed)
            if peak_of(placements) <= peak_of(found):
                found, order = placements, changed
        best = min(best, found, key=peak_of)
    return best


def _search(best: tuple[Placement, ...], order: list[Lifetime], enough: int) -> tuple[Placement, ...]:
    """Move a tensor that reaches the peak forward in the order, at random, as long as that keeps the peak."""
    rng = Random(0)
    for _ in range(_TRIALS):
        peak = peak_of(best)
        if peak <= enough:
            break
        highest = rng.choice([p.tensor for p in best if p.end == peak])
        position = next(i for i, span in enumerate(order) if span.tensor is highest)
        moved = order[:position] + order[position + 1 :]
        moved.insert(rng.randrange(position + 1), order[position])
        placements = _place_in_order(moved)
        if peak_of(placements) <= peak:
            best, order = placements, moved
    return best


def peak_of(placements: Iterable[Placement]) -> int:
    """Return the last byte that is used."""
    return max((p.end for p in placements), default=0)
