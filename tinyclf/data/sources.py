"""Sources of images: one file each in datasets/, found and loaded here by path.

A source is a file `datasets/<name>.py` whose docstring says what it is, and which defines

    OPTIONS = {"size": (32, "width and height in pixels"), ...}    name -> (default, help)
    def classes(options) -> Sequence[str]                          the class names, in the order of the labels
    def build(options) -> Iterator[(split, image, label)]          image: (size, size, 3) uint8 RGB; label: int

`options` is a dict with a value for every name in OPTIONS. The type of a default (bool, int, float, str) is the type
of the option; a type in place of a default means that the user must give it. Each name becomes an option of
`tinyclf data build <name>`. Heavy imports belong inside the functions; `build` must depend on its options alone, and
raises BadInput for values it cannot use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclf.data.manifest import Manifest
from tinyclf.data.shards import Sample, write_dataset
from tinyclf.errors import BadInput
from tinyclf.resources import resource_dir


@dataclass(frozen=True)
class Source:
    """A loaded source file; `options` maps a name to (default or type, help)."""

    name: str
    doc: str
    options: dict[str, tuple[Any, str]]
    classes: Callable[[dict[str, Any]], Sequence[str]]
    build: Callable[[dict[str, Any]], Iterator[Sample]]

    def complete(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return `given` with the defaults filled in.

        Raises:
            BadInput: an option that the source does not have, or one that is missing.
        """
        unknown = sorted(set(given) - set(self.options))
        if unknown:
            raise BadInput(f"source '{self.name}' has no option '{unknown[0]}': it has {', '.join(self.options)}")
        options = {name: given.get(name, default) for name, (default, _) in self.options.items()}
        missing = [name for name, value in options.items() if isinstance(value, type)]
        if missing:
            raise BadInput(f"source '{self.name}' needs --{missing[0].replace('_', '-')}")
        return options


def source_names() -> list[str]:
    """Return the names of the sources in datasets/, sorted."""
    return sorted(file.stem for file in resource_dir("datasets").glob("*.py") if not file.name.startswith("_"))


def load_source(name: str) -> Source:
    """Load `datasets/<name>.py`.

    Raises:
        BadInput: there is no such source.
    """
    if name not in source_names():
        raise BadInput(f"unknown source '{name}': choose one of {', '.join(source_names())}")
    file = resource_dir("datasets") / f"{name}.py"
    # By path, under a name of its own: an importable `datasets` would shadow the package of that name.
    spec = importlib.util.spec_from_file_location(f"tinyclf_source_{name}", file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Source(name, module.__doc__ or name, module.OPTIONS, module.classes, module.build)


def build_dataset(name: str, *, out: Path, options: dict[str, Any]) -> Manifest:
    """Write the images of source `name` as the dataset folder `out`; options that are not given take their defaults.

    Raises:
        BadInput: unknown source or option, `out` exists, or the source cannot be read.
    """
    source = load_source(name)
    complete = source.complete(options)
    classes = source.classes(complete)
    return write_dataset(source.build(complete), out=out, classes=classes, source=name, options=complete)
