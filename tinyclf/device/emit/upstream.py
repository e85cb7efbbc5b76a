"""Upstream's PULP-TrainLib: which calls of a graph its kernels do, and which are left to ours, and why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.base.resources import resource_dir
from tinyclf.device.graph.ir import BlobOf, Call, DataOf, Graph, Node, Role, Tensor, gradient_name
from tinyclf.device.graph.kernels import KERNELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NOT_UPSTREAMS, _NOT_CHECKED = "upstream has no such function", "upstream's was not checked"


@dataclass(frozen=True)
class Upstream:
    """A checkout of PULP-TrainLib. `revision` is None where git does not know it."""

    home: Path
    revision: str | None

    @property
    def label(self) -> str:
        """Name the checkout."""
        return f"{self.home}, revision {self.revision[:7] if self.revision else 'unknown'}"


@dataclass(frozen=True)
class Choice:
    """Whose kernel a call gets; `reason` is empty where it is upstream's."""

    kernel: str
    reason: str

    @property
    def is_upstream(self) -> bool:
        """Tell whether it is upstream's."""
        return not self.reason


@dataclass(frozen=True)
class Linkage:
    """What a graph takes from a checkout: a choice for each call, and upstream's source files."""

    upstream: Upstream
    choices: tuple[Choice, ...]
    sources: tuple[str, ...]

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the C symbol of each call."""
        return tuple(c.kernel if c.is_upstream else own_symbol(c.kernel) for c in self.choices)


def own_symbol(kernel: str) -> str:
    """Return the name of our function beside upstream's of the name `kernel`; names that are only ours stay."""
    return f"tcl_{kernel}" if kernel.startswith("pulp_") else kernel


@cache
def table() -> dict[str, Any]:
    """Return external/pulp-trainlib/upstream.toml."""
    rows: dict[str, Any] = tomllib.loads((resource_dir("external/pulp-trainlib") / "upstream.toml").read_text())
    return rows


def find_upstream(home: str) -> Upstream:
    """Return the checkout in the folder `home`.

    Raises:
        BadInput: it holds none, or its path cannot stand in a makefile.
    """
    folder = Path(home).expanduser().resolve()
    needed = ("lib/include/pulp_train.h", *(f"lib/sources/{name}" for name in sorted(_all_sources())))
    missing = next((name for name in needed if not (folder / name).is_file()), None)
    if missing:
        raise BadInput(f"TRAINLIB_HOME={home} is not a checkout of PULP-TrainLib: it has no {missing}")
    if any(c in str(folder) for c in " #$:"):
        raise BadInput(f"TRAINLIB_HOME={home}: make cannot take a path with ' ', '#', '$' or ':'")
    return Upstream(folder, _revision(folder))


def warning(upstream: Upstream) -> str:
    """Return what to tell of a revision that was not tested, or ""."""
    tested = table()["revision"]
    if upstream.revision == tested:
        return ""
    return f"TRAINLIB_HOME: tested with revision {tested[:7]}, this is {upstream.label}; --execute tells if it agrees"


def _all_sources() -> set[str]:
    return {source for row in table()["kernels"].values() for source in row["sources"]}


def _revision(folder: Path) -> str | None:
    if not (folder / ".git").exists():  # git would look into the folders above
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def link(graph: Graph, upstream: Upstream) -> tuple[Graph, Linkage]:
    """Choose whose kernel each call gets; return the graph with the buffers that upstream's want, and the choices."""
    nodes = {node.name: node for node in graph.nodes}
    choices = tuple(_choose(graph, nodes[call.node], call) for call in graph.calls)
    rows = [table()["kernels"][c.kernel] if c.is_upstream else {} for c in choices]
    linked = graph
    for i, row in enumerate(rows):
        if "buffer" in row:
            linked = _with_buffer(linked, i, field=row["buffer"])
    sources = {source for row in rows for source in row.get("sources", ())}
    return linked, Linkage(upstream, choices, tuple(sorted(sources)))


def _with_buffer(graph: Graph, number: int, *, field: str) -> Graph:
    """Give call `number` room for its weights once more: that of their gradient if it comes later, else a tensor."""
    call, before = graph.calls[number], graph.calls[:number]
    node = next(n for n in graph.nodes if n.name == call.node)
    weight = _tensor(graph, node, "weight")
    buffer = graph.by_name.get(gradient_name(weight.name))
    is_free = buffer is not None and all(buffer.name not in other.writes for other in before)
    tensors = graph.tensors
    if buffer is None or not is_free or buffer.num_elements < weight.num_elements:
        buffer = Tensor(f"{node.name}.{field}", weight.shape, Role.SCRATCH)
        tensors = (*tensors, buffer)
    calls = (*before, replace(call, writes=(*call.writes, buffer.name)), *graph.calls[number + 1 :])
    wider = replace(node, attributes=(*node.attributes, (field, DataOf(buffer.name))))
    return replace(graph, tensors=tensors, nodes=tuple(wider if n is node else n for n in graph.nodes), calls=calls)


def summary(linkage: Linkage) -> list[str]:
    """Return one line for each kernel and reason, in the order of the calls: whose it is, for how many, and why."""
    counts: dict[Choice, int] = {}
    for choice in linkage.choices:
        counts[choice] = counts.get(choice, 0) + 1
    totals: dict[str, int] = {}
    for choice, num in counts.items():
        totals[choice.kernel] = totals.get(choice.kernel, 0) + num
    lines = []
    for choice, num in counts.items():
        share = "" if num == totals[choice.kernel] else f" in {num} of {totals[choice.kernel]} calls"
        lines.append(
            f"{choice.kernel}: " + (f"upstream{share}" if choice.is_upstream else f"ours{share}, {choice.reason}")
        )
    return lines


def _choose(graph: Graph, node: Node, call: Call) -> Choice:
    row = table()["kernels"].get(call.kernel)
    if row is None:
        usual = _NOT_CHECKED if call.kernel.startswith("pulp_") else _NOT_UPSTREAMS
        return Choice(call.kernel, KERNELS[call.kernel].ours or usual)
    reasons = (reason for condition, reason in row.get("wrong", {}).items() if CONDITIONS[condition](graph, node))
    return Choice(call.kernel, next(reasons, ""))


# --- conditions of upstream.toml ----------------------------------------------------------------------------------


def _tensor(graph: Graph, node: Node, attribute: str) -> Tensor:
    """Return the tensor that an attribute is, of the shape that the call sees."""
    value = node[attribute]
    assert isinstance(value, BlobOf), f"{node.name}.{attribute} is no blob"
    tensor = graph.by_name[value.tensor]
    return tensor if value.channels is None else replace(tensor, shape=(value.channels, *tensor.shape[1:]))


def _has_bias(graph: Graph, node: Node) -> bool:
    return node.get("bias") is not None


def _has_padding(graph: Graph, node: Node) -> bool:
    return any(node.window().padding)


def _has_stride(graph: Graph, node: Node) -> bool:
    return node.window().stride != (1, 1)


def _has_padded_tap(graph: Graph, node: Node) -> bool:
    """Tell whether the kernel's last tap meets padding: only where it does not, upstream sums the bias gradient."""
    sizes, kernel, outputs = (_tensor(graph, node, name).shape[-2:] for name in ("input", "weight", "output"))
    top, _, left, _ = node.window().padding
    first = [taps - 1 - pad for taps, pad in zip(kernel, (top, left), strict=True)]
    last = [f + stride * (num - 1) for f, stride, num in zip(first, node.window().stride, outputs, strict=True)]
    return min(first) < 0 or any(place >= size for place, size in zip(last, sizes, strict=True))


def _partly_trained(graph: Graph, node: Node) -> bool:
    """Tell whether the weight or the bias has no place for a gradient."""
    blobs = [value for name, value in node.attributes if name in ("weight", "bias") and isinstance(value, BlobOf)]
    return any((blob.gradient or gradient_name(blob.tensor)) not in graph.by_name for blob in blobs)


CONDITIONS: Mapping[str, Callable[[Graph, Node], bool]] = {
    "always": lambda graph, node: True,
    "bias": _has_bias,
    "no_bias": lambda graph, node: not _has_bias(graph, node),
    "padding": _has_padding,
    "stride": _has_stride,
    "bias_and_padded_tap": lambda graph, node: _has_bias(graph, node) and _has_padded_tap(graph, node),
    "partly_trained": _partly_trained,
    "unequal_channels": lambda graph, node: (
        _tensor(graph, node, "input").shape[0] != _tensor(graph, node, "output").shape[0]
    ),
    "unequal_padding": lambda graph, node: node.window().padding[0] != node.window().padding[2],
    "unpadded_not_3x3": lambda graph, node: (
        not _has_padding(graph, node)
        and not _has_stride(graph, node)
        and _tensor(graph, node, "weight").shape[-2:] != (3, 3)
    ),
    "unpadded_stride": lambda graph, node: not _has_padding(graph, node) and _has_stride(graph, node),
}
