"""Where the files that belong to the package lie: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_INSTALLED = _PACKAGE / "_resources"
_CHECKOUT = _PACKAGE.parent


def resource_dir(name: str) -> Path:
    """Return the folder `name` (for instance "templates" or "external/pulp-trainlib")."""
    root = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    folder = root / name
    assert folder.is_dir(), f"{folder} is missing: the installation of tinyclf is broken"
    return folder
