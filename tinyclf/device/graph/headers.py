"""The structs and the external names of the kernel library, as its headers declare them."""

from __future__ import annotations

import re
from functools import cache

from tinyclf.base.resources import resource_dir


@cache
def _declarations(*, but: str = "") -> str:
    """Return what the headers declare, without comments; leave out headers whose names begin with `but`."""
    headers = sorted(resource_dir("external/pulp-trainlib").glob("include/*.h"))
    texts = [f.read_text() for f in headers if not but or not f.name.startswith(but)]
    return re.sub(r"/\*.*?\*/", "", "\n".join(texts), flags=re.DOTALL)


@cache
def struct_members() -> dict[str, tuple[str, ...]]:
    """Return the names of the members of each struct that declares one a line."""
    found = re.finditer(r"^struct (\w+) \{\n(.*?)^\};", _declarations(), re.DOTALL | re.MULTILINE)
    return {m[1]: tuple(re.findall(r"(\w+)(?:\[[^]]*\])*;", m[2])) for m in found}


@cache
def external_names() -> frozenset[str]:
    """Return the functions and variables that are declared for others, but those of the port."""
    text = _declarations(but="port")
    functions = re.findall(r"^(?!static|typedef)[a-z][\w ]*?[ *]+(\w+)\([^;{]*\);", text, re.MULTILINE)
    variables = re.findall(r"^extern [^;(]*?(\w+)(?:\[\])?(?: __attribute__\(\(\w+\)\))?;", text, re.MULTILINE)
    return frozenset((*functions, *variables))
