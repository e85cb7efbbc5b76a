"""The classes of layers: those that the modules of this package define, each with its torch type and test cases."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tinyclf.device.lowering.layer import Case, Layer, Lowered


def _layers() -> Iterator[type[Layer]]:
    """Yield the classes that lower a type of module, in the order of the files and in each of its text."""
    own = Path(__file__)
    for module in sorted(f.stem for f in own.parent.glob("[!_]*.py") if f.stem not in (own.stem, "lower")):
        for value in vars(import_module(f"{__package__}.{module}")).values():
            if isinstance(value, type) and issubclass(value, Layer) and "torch_type" in vars(value):
                yield value


# At most one of them accepts a module: a test holds it.
LAYERS: tuple[type[Layer], ...] = tuple(dict.fromkeys(_layers()))

__all__ = ["LAYERS", "Case", "Layer", "Lowered"]
