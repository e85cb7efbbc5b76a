"""Numbers of bytes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from tinyclf.base.errors import BadInput

MOST_BYTES = 2**63 - 1  # of an address space
_UNITS = {"": 1, "b": 1, "bytes": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SHOWN = 20  # characters of what is refused


def parse_bytes(text: str) -> int:
    """Return the bytes of a figure like "512KiB", "1.5 MiB", "400KB", "1GiB" or "65536".

    Raises:
        BadInput: it is none, or less than 1 or more than an address space has.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if match is None or unit is None or (num_bytes := Decimal(match[1]) * unit) < 1:
        raise BadInput(f"'{shown}' is not a number of bytes: write for instance 512KiB, 1.5MiB, 400KB or 65536")
    if num_bytes > MOST_BYTES:
        raise BadInput(f"'{shown}' is more bytes than there are addresses: give at most {MOST_BYTES:,}")
    return int(num_bytes)
