"""What a body of tiles (tcl_tile.h) is: how it is cut, and what it takes for granted of a tile's operands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tile:
    """A body, and its contract; a name of a dimension is "SLOT.rows" or "SLOT.columns".

    Attributes:
        symbol: of the C function.
        kind: which function of tiles/ lays it out; "map": element by element, with nothing more to say of it.
        outputs: whichever comes first and is there is what is summed.
        alike: the same ranges in each tile, where both are there.
        sums: what each output takes all of; operands alike say nothing of it, but for those that it follows.
        loads: of a map, the slots of what its call reads, in order.
        calls: the body that it does its parts by, which comes into the program with it.
        fields: of a map or of whole planes, attributes of the node that fields of struct tcl_layer of those names are.
    """

    symbol: str
    kind: str
    outputs: tuple[str, ...]
    alike: Pairs = ()
    sums: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


def both(*pairs: tuple[str, str]) -> Pairs:
    """Return for pairs of slots that their rows and their columns are alike."""
    return tuple((f"{a}.{axis}", f"{b}.{axis}") for a, b in pairs for axis in ("rows", "columns"))


def elementwise(symbol: str, output: str, *others: str, kind: str) -> Tile:
    """Return a body that works element by element, as tiles/ lays out what is of `kind`."""
    return Tile(symbol, kind, (output,), tuple((f"{output}.columns", f"{slot}.columns") for slot in others))


def map_tile(symbol: str, loads: Iterable[str], store: str, *, fields: tuple[str, ...] = ()) -> Tile:
    """Return a body that computes each element of what its call writes from the same elements of what it reads.

    For example ("MASK", "DY") and "DX" for a backward pass that reads the forward pass's output and its gradient.
    """
    slots = tuple(loads)
    alike = tuple((f"{store}.columns", f"{slot}.columns") for slot in slots)
    return Tile(symbol, "map", (store,), alike, loads=slots, fields=fields)


OF_W: Pairs = (("W.rows", "Y.rows"), ("X.rows", "W.columns"), ("B.rows", "Y.rows"))
OF_GROUPS: Pairs = (("W.rows", "Y.rows"), ("B.rows", "Y.rows"))
MASKED = both(("MASK", "DX"))
UPDATED = both(("W", "W_NEW"), ("B", "B_NEW"), ("DW", "W_NEW"), ("DB", "B_NEW"))
GRADS: Pairs = (
    ("DW.rows", "DY.rows"),
    ("DW.columns", "X.rows"),
    ("W_NEW.rows", "DY.rows"),
    ("W_NEW.columns", "X.rows"),
)
GRADS_OF_GROUPS: Pairs = (("DW.rows", "DY.rows"), ("W_NEW.rows", "DY.rows"))
OF_PARAMETERS = ("DW", "W_NEW", "DB")
