"""What is trained: the variants and what narrows them, as values that need no torch."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinyclf.base.errors import BadInput

# variant -> does it start from trained weights
VARIANTS = {
    "scratch": False,  # everything is trained, from random weights
    "full": True,  # everything
    "LP": True,  # the linear layer (linear probe)
    "FD": True,  # the linear layer of an FD-MobileNet
    "FT": True,  # the last K depthwise-separable blocks and the linear layer
    "layers": True,  # the layers that globs name
}
LONGEST_SLUG = 60
USUAL_K = 2


@dataclass(frozen=True)
class Variant:
    """What is trained: a name of `VARIANTS`, for FT the number of blocks `k`, and what narrows that.

    Where `k` means nothing it is `USUAL_K`, whatever was given: `Variant("LP", 0) == Variant("LP")`.
    `layers` are names or globs of modules, for the variant "layers" alone: each stands for the layers with weights in
    the modules that it matches ("output", "features.stage4.*"). A BatchNorm goes with the convolution before it.
    `bias_only` leaves of that the biases, the head's too. `channels` are pairs of a glob and a fraction in (0, 1]: of
    the layers it matches only the first ceil(fraction * outputs) output channels are trained, weight and bias; where
    several match, the last counts. Of the rest of the layer no bit changes.
    """

    name: str
    k: int = USUAL_K
    layers: tuple[str, ...] = ()
    bias_only: bool = False
    channels: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in VARIANTS:
            raise BadInput(f"unknown variant '{self.name}': choose one of {', '.join(VARIANTS)}")
        if self.k < 0:
            raise BadInput(f"k is {self.k}: the number of unfrozen blocks cannot be negative")
        if self.layers and self.name != "layers":
            raise BadInput(f"--layers and --variant {self.name} both say what is trained: give one of them")
        if self.name == "layers" and not self.layers:
            raise BadInput("the variant layers trains the layers that you name: add --layers GLOB")
        if self.name == "scratch" and self.is_narrowed:
            raise BadInput(
                "scratch starts from random weights and trains them all: leave out --bias-only and --train-channels "
                "or use --variant full"
            )
        for glob, fraction in self.channels:
            if not 0 < fraction <= 1:
                raise BadInput(f"--train-channels {glob}={fraction:g}: the fraction must be above 0 and at most 1")
        for glob in (*self.layers, *(glob for glob, _ in self.channels)):
            if not glob or re.search(r"[\s,]", glob):
                raise BadInput(f"'{glob}' names no layer: names and globs have no spaces and no commas")
        if self.name != "FT":
            object.__setattr__(self, "k", USUAL_K)

    @property
    def is_narrowed(self) -> bool:
        """Tell whether of the chosen layers only biases, or only some channels, are trained."""
        return self.bias_only or bool(self.channels)

    @property
    def kind(self) -> str:
        """Return what sort of selection this is, in a few letters, for instance "FT-bias-only"."""
        narrowed = {"bias-only": self.bias_only, "channels": bool(self.channels)}
        return "-".join([self.name, *(word for word, holds in narrowed.items() if holds)])

    @property
    def label(self) -> str:
        """Return the name as tables show it, for instance "FT K=2" or "layers output bias-only"."""
        parts = [f"FT K={self.k}" if self.name == "FT" else self.name]
        if self.layers:
            parts.append(",".join(self.layers))
        if self.bias_only:
            parts.append("bias-only")
        if self.channels:
            parts.append("channels " + ",".join(self.fractions))
        return " ".join(parts)

    @property
    def slug(self) -> str:
        """Return the label as a part of a file name, for instance "FT-K2"; a long one is cut, and numbered by a CRC."""
        text = re.sub(r"[^\w.]+", "-", self.label.replace("=", "")).strip("-.")
        if len(text) <= LONGEST_SLUG:
            return text
        return f"{text[:LONGEST_SLUG].rstrip('-.')}-{zlib.crc32(self.label.encode()):08x}"

    @property
    def options(self) -> str:
        """Return the options of the command line that ask for this."""
        words = [f"--layers {shlex.quote(glob)}" for glob in self.layers] or [f"--variant {self.name}"]
        if self.name == "FT":
            words.append(f"--k {self.k}")
        if self.bias_only:
            words.append("--bias-only")
        return " ".join([*words, *(f"--train-channels {shlex.quote(text)}" for text in self.fractions)])

    @property
    def fractions(self) -> tuple[str, ...]:
        """Return `channels` as `parse_fractions` reads them."""
        return tuple(f"{glob}={fraction!r}" for glob, fraction in self.channels)

    @property
    def needs_weights(self) -> bool:
        """Tell whether training starts from trained weights."""
        return VARIANTS[self.name]

    @property
    def reaches_everything(self) -> bool:
        """Tell whether every layer has a part in what is trained."""
        return self.name in ("scratch", "full")

    @property
    def trains_everything(self) -> bool:
        """Tell whether every parameter is trained."""
        return self.reaches_everything and not self.is_narrowed

    @property
    def default_arch(self) -> str:
        """Return the architecture that is built when the user names none."""
        return "fdmobilenet_wd4" if self.name == "FD" else "mobilenet_wd4"


_LABEL = re.compile(
    r"(?P<name>\S+)( K=(?P<k>-?\d+))?( (?P<layers>(?<=layers )\S+))?(?P<bias> bias-only)?( channels (?P<channels>\S+))?"
)


def label_fields(text: str) -> dict[str, Any]:
    """Return the fields of the variant that has the label `text`; those that it does not name are left out.

    A bare name, such as "FT" or "layers", is a label too: the rest may be said elsewhere.

    Raises:
        BadInput: it is no label.
    """
    found = _LABEL.fullmatch(" ".join(text.split()))
    if not found or (found["name"] not in VARIANTS):
        raise BadInput(f"unknown variant '{text}': choose one of {', '.join(VARIANTS)}")
    fields: dict[str, Any] = {"name": found["name"]}
    if found["k"]:
        fields["k"] = int(found["k"])
    if found["layers"]:
        fields["layers"] = tuple(found["layers"].split(","))
    if found["bias"]:
        fields["bias_only"] = True
    if found["channels"]:
        fields["channels"] = parse_fractions(found["channels"].split(","))
    return fields


def parse_variant(label: str) -> Variant:
    """Return the variant that has this label, for instance "FT K=2" or "layers output bias-only".

    Raises:
        BadInput: there is none.
    """
    return Variant(**label_fields(label))


def parse_fractions(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return pairs of a glob and a fraction from texts such as "features.stage4.*=0.25".

    Raises:
        BadInput: a text is not of that form.
    """
    return tuple(_parse_fraction(text) for text in texts)


def _parse_fraction(text: str) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        fraction = float(number)
    except ValueError:
        fraction = None
    if not glob or fraction is None:
        raise BadInput(f"--train-channels {text}: give GLOB=FRACTION, for instance features.stage4.*=0.25")
    return glob, fraction


def chosen_variant(
    name: str | None, *, k: int, layers: Sequence[str], bias_only: bool, train_channels: Sequence[str]
) -> Variant | None:
    """Return what options of the command line ask for; None where they leave it open.

    Raises:
        BadInput: they do not go together, or narrow what nobody named.
    """
    if name is None and layers:
        name = "layers"
    if name is None:
        if bias_only or train_channels:
            option = "--bias-only" if bias_only else "--train-channels"
            raise BadInput(f"{option} narrows what is trained: say what, with --variant or --layers")
        return None
    return Variant(name, k, tuple(layers), bias_only, parse_fractions(train_channels))
