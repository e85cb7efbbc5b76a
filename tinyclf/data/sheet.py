"""A contact sheet: images of a split with their labels, as one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyclf.data.shards import Split
from tinyclf.errors import BadInput
from tinyclf.files import write_whole

COLUMNS = 8
LEAST_WIDTH = 96  # pixels of a cell, so that a label can be read
TEXT_HEIGHT = 16
GAP = 4


def write_sheet(split: Split, file: Path, *, most: int, seed: int) -> int:
    """Draw up to `most` images, chosen by `seed` and in their order, into `file`; return how many.

    Raises:
        BadInput: `most` is less than 1 or more than 10,000, or `file` is no .png.
    """
    from PIL import Image, ImageDraw

    if not 1 <= most <= 10_000:
        raise BadInput(f"--max {most}: must be 1 to 10,000")
    if file.suffix.lower() != ".png":
        raise BadInput(f"--out {file}: a PNG is written, its name must end in .png")
    num = min(most, len(split))
    chosen = np.sort(np.random.default_rng([seed]).permutation(len(split))[:num])
    size = split.manifest.size
    scale = -(-LEAST_WIDTH // size) if size < LEAST_WIDTH else 1
    side = size * scale
    columns, rows = min(COLUMNS, num), -(-num // COLUMNS)
    cell = (side + GAP, side + TEXT_HEIGHT + GAP)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (index, pixels) in enumerate(zip(chosen, split.gather(chosen), strict=True)):
        left, top = GAP + place % COLUMNS * cell[0], GAP + place // COLUMNS * cell[1]
        picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        draw.text((left, top + side + 2), _caption(split, int(index))[: side // 6], fill="black")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda temporary: sheet.save(temporary, format="PNG"))
    return num


def _caption(split: Split, index: int) -> str:
    label = split.labels[index]
    if label.ndim:
        text = " ".join(name for name, value in zip(split.classes, label, strict=True) if value) or "-"
    else:
        text = split.classes[label]
    return text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own font can draw
