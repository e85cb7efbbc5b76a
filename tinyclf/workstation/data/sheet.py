"""A contact sheet: images with captions, such as those of a split with their labels, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.base.files import write_whole
from tinyclf.workstation.data.shards import Split

COLUMNS = 8
LEAST_WIDTH = 96  # pixels of a cell, so that a label can be read
TEXT_HEIGHT = 16
FONT_SIZE = 11
GAP = 4


def write_sheet(split: Split, file: Path, *, most: int, seed: int) -> int:
    """Draw up to `most` images, chosen by `seed` and in their order, into `file`; return how many.

    Raises:
        BadInput: `most` is less than 1 or more than 10,000, or `file` is no .png.
    """
    if not 1 <= most <= 10_000:
        raise BadInput(f"--max {most}: must be 1 to 10,000")
    if file.suffix.lower() != ".png":
        raise BadInput(f"--out {file}: a PNG is written, its name must end in .png")
    num = min(most, len(split))
    chosen = np.sort(np.random.default_rng([seed]).permutation(len(split))[:num])
    captions = [[_caption(split, int(index))] for index in chosen]
    draw_sheet(split.gather(chosen), captions, file, least_width=LEAST_WIDTH)
    return num


def draw_sheet(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    captions: Sequence[Sequence[str]],
    file: Path,
    *,
    least_width: int,
) -> None:
    """Draw square images (H, H, 3) of one size, at least one, in rows of `COLUMNS`, into `file`.

    Each has its lines of caption below, shortened to its width; small images are enlarged to `least_width` pixels.
    """
    from PIL import Image, ImageDraw

    size, num = len(images[0]), len(images)
    side = size * (-(-least_width // size) if size < least_width else 1)
    columns, rows = min(COLUMNS, num), -(-num // COLUMNS)
    cell = (side + GAP, side + TEXT_HEIGHT * max(map(len, captions)) + GAP)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    for place, (pixels, lines) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + place % COLUMNS * cell[0], GAP + place // COLUMNS * cell[1]
        picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        for row, line in enumerate(lines):
            draw.text((left, top + side + row * TEXT_HEIGHT), _shortened(line, font, side), fill="black", font=font)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda temporary: sheet.save(temporary, format="PNG"))


def _font() -> Any:
    """Return a font that has the letters of most languages: the one that comes with matplotlib."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_SIZE)


def _shortened(text: str, font: Any, width: int) -> str:
    """Return `text`, or as much of its beginning as fits into `width` pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return f"{text}…"


def _caption(split: Split, index: int) -> str:
    label = split.labels[index]
    if label.ndim:
        return " ".join(name for name, value in zip(split.classes, label, strict=True) if value) or "-"
    return split.classes[int(label)]
