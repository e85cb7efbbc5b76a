"""Numbers of bytes: what is read, exactly, and what is refused in one line."""

from __future__ import annotations

import pytest

from tinyclf.base.errors import BadInput
from tinyclf.base.sizes import MOST_BYTES, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512KiB", 524_288),
        ("1.5 MiB", 1_572_864),
        ("400KB", 400_000),
        ("2mb", 2_000_000),
        ("65536", 65_536),
        (" 2GiB ", 2**31),
        ("0.25gb", 250_000_000),
        ("9007199254740993", 2**53 + 1),
        (str(MOST_BYTES), MOST_BYTES),
    ],
)
def test_bytes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "12 apples", "-5", "0", "1e6", "KiB", "0.5", "\u0663KiB", "nan", "1_000"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is not a number of bytes: write for instance 512KiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", [str(MOST_BYTES + 1), "9" * 400, "9" * 10_000 + "GiB", "9000000000GiB"])
def test_more_bytes_than_there_are_addresses_are_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(BadInput, match=r"is more bytes than there are addresses: give at most 9,223,") as raised:
        parse_bytes(text)
    assert len(str(raised.value)) < 120
