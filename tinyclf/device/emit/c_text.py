"""How Python values are written in C: identifiers, literals of numbers, and places in arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from tinyclf.device.graph.dtypes import BLOCK, DataType, num_blocks


def c_identifiers(names: Iterable[str]) -> dict[str, str]:
    """Return a C identifier for each name, unique among them: other characters become "_"."""
    taken: set[str] = set()
    result = {}
    for name in names:
        base = identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
        number = 2
        while identifier in taken:
            identifier = f"{base}_{number}"
            number += 1
        taken.add(identifier)
        result[name] = identifier
    return result


def float_literal(value: float) -> str:
    """Return a C literal that gives exactly the float nearest to `value`: nine digits tell all floats apart."""
    assert math.isfinite(value), f"{value} has no C literal"
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def c_place(block: str, offset: int, dtype: DataType, first: int = 0) -> str:
    """Return as C text where the element `first` of a tensor lies which begins `offset` bytes into an array."""
    if dtype is BLOCK:
        return f"{block} + {num_blocks(offset) + first}"
    assert offset % dtype.num_bytes == 0, f"{dtype.name} at {offset}"
    return f"({dtype.c_type} *)(void *){block} + {offset // dtype.num_bytes + first}"
