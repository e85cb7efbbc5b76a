"""What a source of images gives, without a build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclf.workstation.data import Item


def items(name: str, **given: Any) -> list[Item]:
    """Return all items of a source with the options given."""
    from tinyclf.workstation.data import load_source

    source = load_source(name)
    return list(source.build({**source.complete(given), "wants": lambda split: True}))


def class_names(name: str, **given: Any) -> list[str]:
    """Return the class names of a source with the options given."""
    from tinyclf.workstation.data import load_source

    source = load_source(name)
    return list(source.classes(source.complete(given)))
