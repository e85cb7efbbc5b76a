"""The structs of the kernel library, as its headers declare them."""

from __future__ import annotations

import re
from functools import cache

from tinyclf.base.resources import resource_dir


@cache
def struct_members() -> dict[str, tuple[str, ...]]:
    """Return the names of the members of each struct that declares one a line."""
    headers = sorted(resource_dir("external/pulp-trainlib").glob("include/*.h"))
    text = re.sub(r"/\*.*?\*/", "", "\n".join(f.read_text() for f in headers), flags=re.DOTALL)
    found = re.finditer(r"^struct (\w+) \{\n(.*?)^\};", text, re.DOTALL | re.MULTILINE)
    return {m[1]: tuple(re.findall(r"(\w+)(?:\[[^]]*\])*;", m[2])) for m in found}
