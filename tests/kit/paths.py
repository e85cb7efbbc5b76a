"""Where things lie that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"  # real photographs and weights, where they are at hand
KIT = ROOT / "tests" / "kit"
LIBRARY = ROOT / "external" / "pulp-trainlib"


def include_flags(*inner: str) -> list[str]:
    """Return the flags with which C finds the library's headers, and inner loops in these folders."""
    return [f"-I{LIBRARY / 'include'}", *(f"-I{LIBRARY / 'src/fast' / folder}" for folder in inner)]
