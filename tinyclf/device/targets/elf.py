"""What an ELF file says of its memory: sections that are loaded or reserved, and symbols with their sizes.

Source of the layout: the System V ABI's object file format, https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tinyclf.base.errors import BadInput

_SHT_SYMTAB = 2
_SHF_ALLOC, _SHF_EXECINSTR = 0x2, 0x4


@dataclass(frozen=True)
class Section:
    """A section that takes memory when the program runs. `num_bytes` does not count the gap behind it."""

    name: str
    address: int
    num_bytes: int
    is_code: bool


@dataclass(frozen=True)
class Elf:
    """The allocated sections of a linked program, by address, and the sizes in bytes of its sized symbols."""

    sections: tuple[Section, ...]
    symbol_bytes: dict[str, int]


def read_elf(file: Path) -> Elf:
    """Read a little-endian ELF file of 32 or 64 bits.

    Raises:
        BadInput: it is none, or is cut.
    """
    data = file.read_bytes()
    if data[:4] != b"\x7fELF" or data[4:5] not in (b"\x01", b"\x02") or data[5:6] != b"\x01":
        raise BadInput(f"{file}: not a little-endian ELF file")
    try:
        return _read(data, is_64=data[4] == 2)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise BadInput(f"{file}: the ELF file is cut or damaged ({error})") from error


def _read(data: bytes, *, is_64: bool) -> Elf:
    # ELF header: offset of the section headers, their size and number, the one that holds their names.
    (table,) = struct.unpack_from("<Q" if is_64 else "<I", data, 0x28 if is_64 else 0x20)
    size, count, names_index = struct.unpack_from("<3H", data, 0x3A if is_64 else 0x2E)
    # Section header: name, type, flags, address, offset, size, link, info, alignment, entry size.
    layout = "<IIQQQQIIQQ" if is_64 else "<10I"
    headers = [struct.unpack_from(layout, data, table + i * size) for i in range(count)]
    names_offset = headers[names_index][4]
    sections = [
        Section(_text(data, names_offset + name), address, num_bytes, bool(flags & _SHF_EXECINSTR))
        for name, _, flags, address, _, num_bytes, *_ in headers
        if flags & _SHF_ALLOC and num_bytes
    ]
    symbols: dict[str, int] = {}
    for _, kind, _, _, offset, num_bytes, link, _, _, entry in headers:
        if kind == _SHT_SYMTAB:
            strings = headers[link][4]
            for at in range(offset, offset + num_bytes, entry):
                # Symbols: name, info, other, section, value, size in 64 bits; name, value, size, ... in 32.
                name = struct.unpack_from("<I", data, at)[0]
                (length,) = struct.unpack_from("<Q" if is_64 else "<I", data, at + (16 if is_64 else 8))
                if length:
                    symbols[_text(data, strings + name)] = length
    return Elf(tuple(sorted(sections, key=lambda s: s.address)), symbols)


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
