"""Sections of a TOML file as dataclasses: every key is there, of the right type, and no other; else one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tinyclf.base.errors import BadInput

Section = TypeVar("Section")

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read_section(kind: type[Section], table: Mapping[str, Any], where: str) -> Section:
    """Return a table of TOML as the dataclass `kind`, whose fields are the keys; `where` names the table in errors.

    Raises:
        BadInput: a key is missing, unknown or of another type; a number is below 0.
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    names = {f.name: f for f in fields(kind)}
    for key in table:
        if key not in names:
            raise BadInput(f"{where}: unknown key '{key}': one of {', '.join(names)}")
    for name, field in names.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise BadInput(f"{where}: the key '{name}' is missing")
    values = {key: _value(hints[key], value, key, where) for key, value in table.items()}
    return kind(**values)


def _value(hint: Any, value: Any, key: str, where: str) -> Any:
    """Return a value of TOML as the type `hint` says."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for kind in kinds:
        if is_dataclass(kind) and isinstance(value, dict):
            assert isinstance(kind, type)
            return read_section(kind, value, f"{where} [{key}]")
        if get_origin(kind) is dict and isinstance(value, dict):
            inner = get_args(kind)[1]
            return {name: _value(inner, part, name, f"{where} [{key}]") for name, part in value.items()}
        if get_origin(kind) is tuple and isinstance(value, list):
            return tuple(_value(get_args(kind)[0], part, key, where) for part in value)
        if kind in _NAMES and _is_a(kind, value):
            if kind in (int, float) and value < 0:
                raise BadInput(f"{where}: '{key}' is {value}: it must be 0 or more")
            return value
    wanted = " or ".join(_name(kind) for kind in kinds if kind is not type(None))
    raise BadInput(f"{where}: '{key}' is {value!r}: it must be {wanted}")


def _name(kind: Any) -> str:
    """Return in words what a value must be."""
    return f"a list, each {_name(get_args(kind)[0])}" if get_origin(kind) is tuple else _NAMES.get(kind, "a section")


def _is_a(kind: type, value: Any) -> bool:
    """Tell whether a value is of a plain type: a whole number is a number too, true is none."""
    return type(value) is kind or (kind is float and type(value) is int)
