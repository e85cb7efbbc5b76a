"""Our kernel library as an emitted project holds it: alone, or beside upstream's under names of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyclf.base.resources import resource_dir
from tinyclf.device.emit.upstream import Linkage, own_symbol, summary
from tinyclf.device.graph.headers import external_names
from tinyclf.device.graph.kernels import KERNELS

# What the templates name for other files: the net, its data, what it keeps.
_OF_THE_NET = ("network", "network_load", "network_step", "tcl_labels", "tcl_parameters", "tcl_samples", "tcl_state")
_OF_TILES = ("tiles", "fast")  # folders of sources that only a step on tiles calls


def library_files(*, in_tiles: bool, beside_upstream: bool) -> dict[str, bytes]:
    """Return our library, with what works on tiles if the step is `in_tiles`.

    Beside upstream's, headers lie with the sources, where only these find those of upstream's names, and our functions
    of upstream's names get names of their own.
    """
    library = resource_dir("external/pulp-trainlib")
    sources = [f for f in library.glob("src/**/*.[ch]") if in_tiles or f.relative_to(library).parts[1] not in _OF_TILES]
    files = sorted([*library.glob("include/*.h"), *sources])
    if not beside_upstream:
        return {f"trainlib/{f.relative_to(library).as_posix()}": f.read_bytes() for f in files}
    renaming = b'#include "tcl_own_names.h"\n#line 1\n'
    return {
        _beside_upstream(f.relative_to(library)): (renaming if f.match("src/plain/pulp_*.c") else b"") + f.read_bytes()
        for f in files
    }


def _beside_upstream(file: Path) -> str:
    """Return where a file of the library lies: with all others, or where a build finds it by its folder."""
    return f"trainlib/{file.as_posix()}" if file.parts[1] == "fast" else f"trainlib/src/{file.name}"


def names() -> list[str]:
    """Return the external names of a net and its kernels, which a build can prefix."""
    return sorted({*external_names(), *_OF_THE_NET, "tcl_weights_header"})


def linkage_context(linkage: Linkage) -> dict[str, Any]:
    """Return what the templates show of upstream's library and of ours beside it."""
    names = [name for name in KERNELS if own_symbol(name) != name]
    return {
        "home": linkage.upstream.home,
        "label": linkage.upstream.label,
        "sources": linkage.sources,
        "summary": summary(linkage),
        "renamed": [(name, own_symbol(name)) for name in names],
    }
