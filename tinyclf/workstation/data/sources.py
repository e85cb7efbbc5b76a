"""Sources of images: one file each in datasets/, found and loaded here by path; or any import path module:function.

A source is a file `datasets/<name>.py` whose docstring says what it is (its first line is the short help), and which
defines

    OPTIONS = {"shifted": (False, "Rotate and invert."), ...}   name -> (default, help); may be empty
    def classes(options) -> Sequence[str]                       class names; label names where there are several labels
    def build(options) -> Iterator[Item]                        lazy, in an order that depends on the options alone

and, where it needs them,

    SIZE = 32                                                   the default of --size
    def multi_label(options) -> bool                            an item has one 0/1 per label name
    def provenance(options) -> Mapping[str, Any]                revision, addresses, licence: recorded in the manifest
    def resume(options, done) -> Iterator[Item]                 `build` without the first done[split] items of each
                                                                split; for sources where passing over items is slow

The type of a default (bool, int, float, str) is the type of the option; a type in place of a default means that the
user must give it; `()` is an option that can be given several times, as a tuple of strings. Each name becomes an option
of `tinyclf data build <name>`. `options` holds a value for every name in OPTIONS and in COMMON (which the builder
takes care of; a source may read options["seed"], ["size"] or ["split"]), and options["wants"], a function: wants(split)
is False when no further item of that split will be used. Heavy imports belong inside the functions. `build` raises
BadInput for values it cannot use; it does not decode: the builder decodes, crops, resizes and writes.

A plug-in is named `package.module:function`: the function is its `build`, the other names are attributes of the
function or else of its module.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.base.plugins import load_object
from tinyclf.base.resources import resource_dir

COMMON: dict[str, tuple[Any, str]] = {
    "size": (128, "Width and height of the images written, in pixels."),
    "crop": ("squash", "To a square: squash changes the aspect ratio, centre cuts the sides off."),
    "split": ((), "Build only this split; can be given several times. Default: all that the source has."),
    "limit": (0, "Images per split; 0: all."),
    "balance": (False, "Equal numbers of every class in each split; what is too many is left out."),
    "shard_size": (4096, "Images per shard."),
    "seed": (0, "Seed of whatever the source draws at random."),
    "strict": (False, "Stop at an image that cannot be read; otherwise it is listed, counted and left out."),
}
"""Options of every source, name -> (default, help); the builder takes care of them."""


@dataclass(frozen=True)
class Item:
    """One image as a source yields it; the builder decodes, resizes and writes it.

    `image`: an image file, the content of one, or decoded RGB (H, W, 3) uint8. `label`: the class index; where there
    are several labels, one 0/1 per label name. `tags`: further integer columns, the same for all items of a split.
    `name` says where it comes from, for the list of images left out.
    """

    split: str
    image: Path | bytes | NDArray[np.uint8]
    label: int | tuple[int, ...]
    tags: Mapping[str, int] = field(default_factory=dict)
    name: str = ""


Options = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A loaded source; `options` maps the names of its own options to (default or type, help)."""

    name: str
    doc: str
    options: dict[str, tuple[Any, str]]
    classes: Callable[[Options], Sequence[str]]
    build: Callable[[Options], Iterator[Item]]
    multi_label: Callable[[Options], bool] = lambda _: False
    provenance: Callable[[Options], Mapping[str, Any]] = lambda _: {}
    resume: Callable[[Options, Mapping[str, int]], Iterator[Item]] | None = None
    size: int = COMMON["size"][0]

    @property
    def all_options(self) -> dict[str, tuple[Any, str]]:
        """Return the source's own options and then the common ones, with this source's default size."""
        return {**self.options, **COMMON, "size": (self.size, COMMON["size"][1])}

    def complete(self, given: Options) -> Options:
        """Return `given` with the defaults filled in.

        Raises:
            BadInput: an option that the source does not have, or one that is missing.
        """
        known = self.all_options
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise BadInput(f"source '{self.name}' has no option '{unknown[0]}': it has {', '.join(known)}")
        options = {name: given.get(name, default) for name, (default, _) in known.items()}
        missing = [name for name, value in options.items() if isinstance(value, type)]
        if missing:
            raise BadInput(f"source '{self.name}' needs --{missing[0].replace('_', '-')}")
        return options


def source_names() -> list[str]:
    """Return the names of the sources in datasets/, sorted."""
    return sorted(_source_files())


def _source_files() -> dict[str, Path]:
    """Map the name of each source to its file; an underscore in the file's name is a hyphen in the source's."""
    files = resource_dir("datasets").glob("*.py")
    return {file.stem.replace("_", "-"): file for file in files if not file.name.startswith("_")}


def load_source(name: str) -> Source:
    """Load the source `name` of datasets/, or a plug-in `module:function`.

    Raises:
        BadInput: there is no such source, or the plug-in lacks something.
    """
    if ":" in name:
        return _load_plug_in(name)
    file = _source_files().get(name)
    if file is None:
        raise BadInput(
            f"unknown source '{name}': choose one of {', '.join(source_names())}, or give package.module:function"
        )
    module = load_file(file)
    return _source(name, module, module.build)


def load_file(file: Path) -> ModuleType:
    """Load a Python file of datasets/ by its path; a source uses it for what it shares with another.

    Under a name of its own: an importable `datasets` would shadow the package of that name.
    """
    spec = importlib.util.spec_from_file_location(f"tinyclf_source_{file.stem}", file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _load_plug_in(name: str) -> Source:
    function = load_object(name, what="source")
    module_name, _, function_name = name.partition(":")
    if not callable(function):
        raise BadInput(f"source '{name}': {module_name} has no function '{function_name}'")
    return _source(name, sys.modules[module_name], function)


def _source(name: str, module: ModuleType, build: Callable[..., Any]) -> Source:
    found = {
        key: value
        for key in ("classes", "multi_label", "provenance", "resume")
        if (value := getattr(build, key, getattr(module, key, None))) is not None
    }
    if "classes" not in found:
        raise BadInput(f"source '{name}': {module.__name__} has no function 'classes' that gives the class names")
    return Source(
        name=name,
        doc=(build.__doc__ if ":" in name else None) or module.__doc__ or name,
        options=dict(getattr(build, "OPTIONS", getattr(module, "OPTIONS", {}))),
        build=build,
        size=getattr(build, "SIZE", getattr(module, "SIZE", COMMON["size"][0])),
        **found,
    )
