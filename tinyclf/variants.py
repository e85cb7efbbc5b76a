"""What is trained: the variants, as values that need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclf.errors import BadInput

# variant -> does it start from trained weights
VARIANTS = {
    "scratch": False,  # everything is trained, from random weights
    "full": True,  # everything
    "LP": True,  # the linear layer (linear probe)
    "FD": True,  # the linear layer of an FD-MobileNet
    "FT": True,  # the last K depthwise-separable blocks and the linear layer
}


@dataclass(frozen=True)
class Variant:
    """What is trained: a name of `VARIANTS`, and for FT the number of blocks `k`."""

    name: str
    k: int = 2

    def __post_init__(self) -> None:
        if self.name not in VARIANTS:
            raise BadInput(f"unknown variant '{self.name}': choose one of {', '.join(VARIANTS)}")
        if self.k < 0:
            raise BadInput(f"k is {self.k}: the number of unfrozen blocks cannot be negative")

    @property
    def label(self) -> str:
        """Return the name as tables show it, for instance "FT K=2"."""
        return f"FT K={self.k}" if self.name == "FT" else self.name

    @property
    def needs_weights(self) -> bool:
        """Tell whether training starts from trained weights."""
        return VARIANTS[self.name]

    @property
    def trains_everything(self) -> bool:
        """Tell whether every parameter is trained."""
        return self.name in ("scratch", "full")

    @property
    def default_arch(self) -> str:
        """Return the architecture that is built when the user names none."""
        return "fdmobilenet_wd4" if self.name == "FD" else "mobilenet_wd4"
