"""What a node is, as its args struct in C says it: the only place that knows how C spells attributes."""

from __future__ import annotations

from tinyclf.device.graph.headers import struct_members
from tinyclf.device.graph.ir import Attribute, Node, Window
from tinyclf.device.graph.kernels import args_struct

# What an attribute is called in structs that do not call it by its own name.
_SPELLINGS = {
    "weight": ("coeff", "weights"),
    "bias": ("bias", "biases"),
    "weight_decay": ("weight_decay_lambda",),
    "loss": ("wr_loss",),
}
_FLAGS = {"bias": ("USE_BIASES", "use_biases")}  # what says that an attribute is there, in structs that ask
# Fields of windows: a name, whose value it is, and what it is where there is none.
_WINDOW = (
    ("Hker", "kernel", 0, None),
    ("Wker", "kernel", 1, None),
    ("Hstride", "stride", 0, None),
    ("Wstride", "stride", 1, None),
    ("Lpad", "padding", 2, 0),
    ("Rpad", "padding", 3, 0),
    ("Upad", "padding", 0, 0),
    ("Dpad", "padding", 1, 0),
    ("stride_h", "stride", 0, None),
    ("stride_w", "stride", 1, None),
    ("dilation_h", "dilation", 0, 1),
    ("dilation_w", "dilation", 1, 1),
)


def c_fields(node: Node) -> list[tuple[str, Attribute]]:
    """Return the fields of a node's struct that are named, in order, with the attributes that they are."""
    members = struct_members()[args_struct(node.kind)]
    fields: list[tuple[str, Attribute]] = []
    for name, value in node.attributes:
        if isinstance(value, Window):
            fields += _window_fields(node, value, members)
            continue
        spelled = next((field for field in (*_SPELLINGS.get(name, ()), name) if field in members), None)
        assert spelled, f"struct {args_struct(node.kind)} has no field for the {name} of {node.name}"
        fields.append((spelled, value))
        fields += [(flag, 1) for flag in _FLAGS.get(name, ()) if flag in members]
    return fields


def _window_fields(node: Node, window: Window, members: tuple[str, ...]) -> list[tuple[str, Attribute]]:
    """Return the fields of a window; what a struct has no field for is as it is where there is none."""
    fields: list[tuple[str, Attribute]] = []
    for field, part, number, usual in _WINDOW:
        value: int = getattr(window, part)[number]
        assert field in members or usual in (None, value), f"struct {args_struct(node.kind)} has no field {field}"
        if field in members:
            fields.append((field, value))
    return fields
