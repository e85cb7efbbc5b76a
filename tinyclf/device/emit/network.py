"""What the template of network.c shows: tensors, layers, calls and blobs as C names and literals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from tinyclf.device.emit.args import c_fields
from tinyclf.device.emit.c_text import c_identifiers, c_place, float_literal
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.tiles import (
    call_rows,
    direct_nodes,
    num_ops_before,
    tile_context,
)
from tinyclf.device.graph.dtypes import BLOCK, num_blocks, num_words
from tinyclf.device.graph.ir import (
    PERSISTENT,
    Attribute,
    BlobOf,
    DataOf,
    Graph,
    Node,
    Role,
    RuleOf,
    Tensor,
    gradient_name,
)
from tinyclf.device.graph.kernels import KERNELS, args_struct
from tinyclf.device.memory.samples import kept_features
from tinyclf.recipe.optimizers import OPTIMIZERS
from tinyclf.recipe.update_rule import UpdateRule

# Role of the tensor that is loaded for each step, the C name of the linked block that it comes from, the block's file.
_SAMPLE_BLOCKS = ((Role.INPUT, "tcl_samples", "samples.bin"), (Role.LABEL, "tcl_labels", "labels.bin"))


def _num_frozen(program: Program) -> int | None:
    """Count the rows of the table of calls before which kept features come in."""
    features = kept_features(program.source)
    if features is None:
        return None
    num = features.num_frozen_calls
    return num_ops_before(program.graph, program.operations, num)


def _traces(program: Program) -> list[tuple[Tensor, ...]]:
    """Return for each call the traced tensors that it is the last to write."""
    last = {name: i for i, call in enumerate(program.graph.calls) for name in call.writes}
    return [
        tuple(program.graph.by_name[name] for name in call.writes if name in program.traced and last[name] == i)
        for i, call in enumerate(program.graph.calls)
    ]


def _network(program: Program, traces: list[tuple[Tensor, ...]]) -> dict[str, Any]:
    """Return what the templates of network.c show: blobs, args, calls and traces, each as finished C text."""
    graph, tiles = program.graph, program.operations
    used = direct_nodes(graph, tiles)
    nodes = tuple(node for node in graph.nodes if node.name in used)
    node_ids = c_identifiers(n.name for n in nodes)
    blobs = _blobs(replace(graph, nodes=nodes))
    blob_ids = dict(zip(blobs, c_identifiers([_blob_name(*b) for b in blobs]).values(), strict=True))

    def place(tensor: Tensor, first: int = 0) -> str:
        """Return where a tensor lies, or its channels from `first` on."""
        elements = first * (tensor.num_elements // max(tensor.shape[0], 1))
        return c_place(_block(tensor), program.plan.offsets[tensor.name], tensor.dtype, elements)

    def words(tensor: Tensor) -> str:
        """Return where a tensor lies that is reported, in whole words."""
        return place(tensor) if tensor.dtype is BLOCK else f"({BLOCK.c_type} const *)(void const *)({place(tensor)})"

    def text(value: Attribute) -> str:
        if isinstance(value, BlobOf):
            return f"&blob_{blob_ids[_blob_key(value, graph)]}"
        if isinstance(value, DataOf):
            return place(graph.by_name[value.tensor], value.first)
        if isinstance(value, RuleOf):
            return "&rule"
        if value is None:
            return "NULL"
        return float_literal(value) if isinstance(value, float) else str(value)

    def args(node: Node) -> dict[str, Any]:
        fields = [(field, text(value)) for field, value in c_fields(node)]
        return {"id": f"args_{node_ids[node.name]}", "struct": args_struct(node.kind), "fields": fields}

    return {
        "arena_size": num_blocks(program.plan.arena_bytes),
        "state_size": num_blocks(program.plan.state_bytes),
        "kernel_headers": _kernel_headers(graph, used),
        "rule": _rule(graph.rule) if graph.rule and graph.reads_rule else None,
        "num_calls_within_batch": num_ops_before(graph, tiles, graph.num_calls_within_batch),
        "tiles": tile_context(graph, tiles, place, float_literal, num_frozen=_num_frozen(program)),
        "blobs": [
            _blob(
                graph.by_name[tensor],
                blob_ids[tensor, grad, num, first],
                graph.by_name[grad] if grad else None,
                place,
                num=num,
                first=first,
            )
            for tensor, grad, num, first in blobs
        ],
        "args": [args(node) for node in nodes],
        "calls": call_rows(graph, tiles, program.symbols, node_ids, traces),
        "copier": "tcl_tile_copy" if tiles.in_tiles else "memcpy",
        "traces": [{"place": words(t), "dim": num_words(t.num_bytes), "name": t.name} for ts in traces for t in ts],
        "loads": [
            {"place": place(t), "dim": t.num_elements, "block": block, "file": file, "type": t.dtype.c_type}
            for role, block, file in _SAMPLE_BLOCKS
            for t in graph.tensors_of(role)
        ],
    }


# Beginnings of the names of headers that pulp_train.h includes, or the template for more than a call.
_INCLUDED_ANYWAY = ("pulp_", "tcl_update_fp32.h")


def _kernel_headers(graph: Graph, nodes: Collection[str]) -> list[str]:
    """Return the headers of the kernels that are called with the args of `nodes`."""
    headers = {KERNELS[call.kernel].header for call in graph.calls if call.node in nodes}
    return sorted(header for header in headers if not header.startswith(_INCLUDED_ANYWAY))


def _block(tensor: Tensor) -> str:
    """Return the C name of the array that holds a tensor."""
    if tensor.role in PERSISTENT:
        return "tcl_state"
    return "tcl_parameters" if tensor.role is Role.PARAMETER else "arena"


def _rule(rule: UpdateRule) -> dict[str, Any]:
    """Return the fields of struct tcl_rule that are constant and not 0, as text, and the step schedule's milestones."""
    values: dict[str, float | int] = {
        "learning_rate": rule.learning_rate,
        "weight_decay": rule.weight_decay,
        "clip": rule.clip,
        "batch": rule.batch,
        "warmup": rule.warmup,
    }
    values |= OPTIMIZERS[rule.optimizer].fields(rule)
    if rule.schedule == "cosine":
        values |= {"cosine": 1, "num_updates": rule.num_updates}
    milestones = rule.steps_down if rule.schedule == "step" else ()
    fields = [(name, float_literal(v) if isinstance(v, float) else str(v)) for name, v in values.items() if v]
    if milestones:
        fields += [("gamma", float_literal(rule.gamma)), ("num_milestones", str(len(milestones)))]
        fields.append(("milestones", "milestones"))
    return {"fields": fields, "milestones": milestones}


_BlobKey = tuple[str, str | None, int | None, int]  # tensor, its gradient, how many channels (None: all), the first


def _blob_key(field: BlobOf, graph: Graph) -> _BlobKey:
    return field.tensor, _gradient_of(field, graph), field.channels, field.first


def _gradient_of(field: BlobOf, graph: Graph) -> str | None:
    """Return the gradient that a field names, or else the usual one, unless that is of another part of the tensor."""
    if field.gradient:
        return field.gradient
    tensor, usual = graph.by_name[field.tensor], graph.by_name.get(gradient_name(field.tensor))
    num = tensor.num_elements
    if field.channels is not None and tensor.trained_channels is not None:
        num = num // tensor.shape[0] * field.channels
    return usual.name if usual and usual.num_elements == num else None


def _blobs(graph: Graph) -> list[_BlobKey]:
    """Return the blobs that nodes point to, in the order of the tensors."""
    fields = (value for node in graph.nodes for _, value in node.attributes if isinstance(value, BlobOf))
    keys = dict.fromkeys(_blob_key(field, graph) for field in fields)
    order = {t.name: i for i, t in enumerate(graph.tensors)}
    return sorted(keys, key=lambda key: order[key[0]])


def _blob_name(tensor: str, gradient: str | None, channels: int | None, first: int) -> str:
    """Name a blob by its tensor, by its gradient where that is not its own, and by its channels if not all."""
    name = tensor if gradient in (None, gradient_name(tensor)) else f"{tensor} with {gradient}"
    return name if channels is None else f"{name} channels {first} to {first + channels - 1}"


def _blob(
    tensor: Tensor, identifier: str, grad: Tensor | None, place: Any, *, num: int | None, first: int
) -> dict[str, Any]:
    """Return a blob of `num` channels as text. W and H are the last two dimensions, also of a weight."""
    channels, *plane = (*tensor.shape, 1, 1, 1)[: max(len(tensor.shape), 3)]
    return {
        "id": f"blob_{identifier}",
        "name": tensor.name if num is None else f"{tensor.name}, channels {first} to {first + num - 1}",
        "data": place(tensor, first),
        "diff": place(grad, first if grad.shape[0] == tensor.shape[0] else 0) if grad else "NULL",
        "dim": tensor.num_elements if num is None else tensor.num_elements // channels * num,
        "W": plane[-1],
        "H": plane[-2],
        "C": channels if num is None else num,
    }
